//! The controller: watches relays and worker pods, divides each mail server's budget among them, and shows how things
//! stand. Reading order is execution order.
//!
//! | file | step |
//! |---|---|
//! | `observe` | I/O: relays and pods, by two watches |
//! | `plan` | pure: which relay may work, which pods share which budget |
//! | `shares`, `succession`, `topology` | pure: the policy each ledger should have; who was heard of when; one server, one ledger; how long the Redis that was left may go on |
//! | `apply`, `records`, `marking` | I/O: one pool's ledger; the relays' records; what must outlive Redis |
//! | `pools` | the loop of the steps so far: the only writer of ledgers and records |
//! | `claims`, `cleanup`, `retention`, `safety` | I/O beside it: mail of dead workers, how much of it there is, old dead letters, how Redis keeps its data |
//! | `status`, `conditions` | pure: what a relay's status says |
//! | `debts` | pure: whose status is written next |
//! | `mirror` | pure: what of the ledgers is shown in the statuses, and read back by the next leader |
//! | `events` | pure: what is worth an Event; and publishing it |
//! | `relays` | I/O: the only writer of `MailRelay` objects |
//! | `leader`, `run` | who leads, under which epoch; the process |
//!
//! A controller that is dead, doubled or stale makes shares unfair, never too many: what says who gets what (INIT, OPEN,
//! POLICY) carries the epoch of its leadership, and the ledger refuses older ones. What takes back (REAP, CLEAR) is right
//! whoever says it: it names the ledger's token and the very state that was proven to be over.

mod apply;
mod claims;
mod cleanup;
mod conditions;
mod debts;
mod events;
mod evidence;
mod leader;
mod marking;
mod metrics;
pub mod mirror;
mod observe;
mod plan;
mod pools;
mod records;
mod relays;
mod retention;
mod run;
mod safety;
mod saturation;
mod shares;
mod status;
mod succession;
mod topology;

pub use apply::{ApplyError, Deposed, Driven, Happening, Incident, Pool, Turn};
pub use plan::{Candidate, Owned, Ownership, Plan, PoolPlan, RelayKey, RelayPlan, Stall, plan};
pub use records::{Records, highest_epoch};
pub use retention::{Expired, discard_expired, keep_records};
pub use run::{ControllerError, ControllerOptions, Replica, run};
pub use safety::{Safety, StoreFacts, ask, judge};
pub use succession::{Known, Standing, stand};
pub use topology::Topology;
