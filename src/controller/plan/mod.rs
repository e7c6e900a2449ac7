//! Step 2, pure: which relay may work, which pods share which budget, which pool waits for which.

mod candidates;
mod decide;
mod ownership;
mod pool;
mod relay;
mod selection;
mod succession;

pub use candidates::{Candidates, unreadable};
pub use decide::{Plan, plan};
pub use ownership::{Owned, Ownership};
pub use pool::PoolPlan;
pub use relay::{Candidate, RelayKey, RelayPlan, Stall, StallReason, pools_of};
pub use succession::{Known, Standing, stand};
