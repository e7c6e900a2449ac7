//! The queue: how a mail travels through Redis without being lost or sent twice.
