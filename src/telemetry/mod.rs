//! Log, metrics and the HTTP listener: a leaf that imports nothing of ours.
