//! The worker: slot, claim, send, settle.
