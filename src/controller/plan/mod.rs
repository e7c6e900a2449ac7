//! Step 2, pure: which relay may work, which pods share which budget, which pool waits for which.

mod candidates;
mod decide;
mod lenders;
mod ownership;
mod pool;
mod relay;
mod selection;
mod server;
mod succession;

pub use candidates::{Candidate, Candidates, unreadable};
pub use decide::{Plan, plan};
pub use lenders::{KnownLenders, Lenders, pools_named_by};
pub use ownership::{Owned, Ownership};
pub use pool::PoolPlan;
pub use relay::{RelayKey, RelayPlan, Stall, StallReason};
pub use server::ServerPlan;
pub use succession::{Known, Standing, stand};
