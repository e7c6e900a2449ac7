//! Who leads, under which epoch, and what is written down of that.

mod election;
mod epoch;
mod error;
mod marking;
mod opened_pools;

pub use election::Election;
pub use epoch::{begin, known_pools, mirrors};
pub use error::LeaderError;
pub use marking::Marking;
pub use opened_pools::OpenedPools;
