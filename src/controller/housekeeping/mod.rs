//! What is done beside the turns for the relays' mail: claims of dead workers, old dead letters, and how much of that there is.

mod claims;
mod cleanup;
mod retention;

pub use claims::recover_claims;
pub use cleanup::watch_cleanup;
pub use retention::{Expired, discard_expired, expire_dead_letters, keep_records};
