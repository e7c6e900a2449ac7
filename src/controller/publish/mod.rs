//! Step 4, I/O: the relays' records, from which the workers know what to do, and when a deleted relay is let go.

mod publisher;
mod records;
mod release;

pub use publisher::Publisher;
pub use records::{Records, highest_epoch};
pub use release::keep_released;
