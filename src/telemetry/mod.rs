//! What the processes tell of themselves: log lines, metrics, and the HTTP port that shows both kinds of health.
//!
//! A leaf: it imports nothing of ours.

pub mod http;
pub mod log;
pub mod metrics;
