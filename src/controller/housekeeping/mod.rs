//! What is done beside the turns for the relays' mail: claims of dead workers, mail that nobody comes for, old dead letters, and how
//! much of that there is.

mod calls;
mod claims;
mod cleanup;
mod retention;

pub use calls::call_who_rests;
pub use claims::recover_claims;
pub use cleanup::watch_cleanup;
pub use retention::{Expired, discard_expired, expire_dead_letters, keep_records};
