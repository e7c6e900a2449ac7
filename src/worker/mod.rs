//! The worker: one process in each pod that sends mail through its share of the budget.

mod backoff;
mod breaker;
mod follow;
pub mod supervisor;
