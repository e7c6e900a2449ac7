//! The controller: watches relays and worker pods, divides each mail server's budget among them, and shows how things
//! stand. Reading order is execution order: `reconcile` has the turn as one function, and each of its steps a folder.
//!
//! | folder or file | step |
//! |---|---|
//! | `observe` | I/O: relays, mail servers, namespaces and pods, by a watch each; what Redis says of itself; who was heard of when |
//! | `plan` | pure: what the servers of a relay are, borrowed ones among them; which relay may work, which pods share which budget; one server, one ledger |
//! | `drive` | I/O: each pool's ledger; the policy that it should have is pure (`shares`, `idle`, `saturation`) |
//! | `publish` | I/O: the relays' records |
//! | `status` | pure, what the status of a relay and of a mail server says; and I/O, the only writer of those objects and their Events |
//! | `housekeeping` | I/O beside the turns: mail of dead workers, how much of it there is, old dead letters |
//! | `lead` | who leads, under which epoch; what must outlive Redis |
//! | `world`, `trouble` | what the leader knows; why something stands still |
//! | `dev` | the same without Kubernetes: objects from files, workers as processes |
//! | `reconcile`, `run` | the loop of the turns, the only writer of ledgers and records; the process |
//!
//! A controller that is dead, doubled or stale makes shares unfair, never too many: what says who gets what (INIT, OPEN,
//! POLICY) carries the epoch of its leadership, and the ledger refuses older ones. What takes back (REAP, CLEAR) is right
//! whoever says it: it names the ledger's token and the very state that was proven to be over.

mod api_server;
pub mod dev;
mod drive;
#[cfg(test)]
mod fixtures;
mod housekeeping;
mod lead;
mod metrics;
mod observe;
mod plan;
mod publish;
mod reconcile;
mod run;
mod status;
mod trouble;
mod world;

pub use api_server::ClientError;
pub use drive::{ApplyError, Deposed, Driven, Happening, Incident, Pool, Turn};
pub use housekeeping::{Expired, discard_expired, keep_records};
pub use observe::{Safety, StoreFacts, Topology, ask, judge};
pub use plan::{
    Candidate, Known, Lenders, Owned, Ownership, Plan, PoolPlan, RelayKey, RelayPlan, Stall, StallReason, Standing,
    plan, stand,
};
pub use publish::{Records, highest_epoch};
pub use run::{ControllerError, ControllerOptions, Replica, run};
pub use status::mirror;
