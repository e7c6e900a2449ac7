//! The worker: one process in each pod that sends mail through its share of the budget.
//!
//! Mail flows in the order of these steps: a slot of the lease ([`fleet`](self) opens sessions while mail waits and
//! slots are free), a session on it (`sender`), a claim for the free session (`intake`), one mail transaction, and its
//! settlement (`outcome` decides, `settle` repeats until Redis has heard it). `follow` keeps the relay's record at hand,
//! `upkeep` brings due mail back and reports, `recover` resolves the claims and `inheritance` the connections that an older
//! process of the pod left. `supervisor` starts the process again when it dies, and has the kernel prove how the dead one's
//! connections end (`connection_file`, `kernel_sockets`, `witness`).

mod admission;
mod backoff;
mod breaker;
mod connection_file;
mod credentials;
mod current_queue;
mod deadline;
mod deaths;
mod fleet;
mod follow;
mod guard;
mod host;
mod inheritance;
mod intake;
mod kernel_sockets;
mod memory;
mod outcome;
mod pace;
mod recover;
mod requests;
mod run;
mod sender;
mod server;
mod settle;
mod settle_time;
mod strangers;
pub mod supervisor;
mod suspects;
mod upkeep;
mod withhold;
mod witness;

pub use host::{Guard, Host, Machine};
pub use kernel_sockets::{Ends, TcpState};
pub use run::{Draining, Worker, WorkerError, WorkerOptions, run};
pub use witness::Witness;
