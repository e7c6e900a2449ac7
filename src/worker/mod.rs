//! The worker: one process in each pod that sends mail through its share of the budget.
//!
//! Mail flows in the order of these steps: a slot of the lease ([`fleet`](self) opens sessions while mail waits and
//! slots are free), a session on it (`sender`), a claim for the free session (`intake`), one mail transaction, and its
//! settlement (`outcome` decides, `settle` repeats until Redis has heard it). `follow` keeps the relay's record at hand,
//! `upkeep` brings due mail back and reports, `recover` resolves what an older process of the pod left, and
//! `supervisor` starts the process again when it dies.

mod backoff;
mod breaker;
mod context;
mod credentials;
mod fleet;
mod follow;
mod host;
mod intake;
mod outcome;
mod recover;
mod run;
mod sender;
mod server;
mod settle;
mod settle_time;
mod strangers;
pub mod supervisor;
mod upkeep;
mod withhold;

pub use host::{Guard, Host, Machine};
pub use run::{Draining, Worker, WorkerError, WorkerOptions, run};
