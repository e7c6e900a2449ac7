//! Step 3, I/O: brings each pool's ledger to what the plan says.

mod act;
mod error;
mod idle;
mod incident;
mod pool;
mod pools;
mod rest;
mod saturation;
mod settled;
mod shares;
mod step;
mod turn;

pub use error::{ApplyError, Deposed};
pub use incident::{Happening, Incident};
pub use pool::Pool;
pub use pools::{Outcome, Pools, Round};
pub use turn::{Driven, Turn};
