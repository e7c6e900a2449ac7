//! Waiting for mail without polling.

use std::time::Duration;

use super::Queue;

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// A mail was moved into `arrived`: claim.
    Arrived,
    /// Nothing came within the limit: claim all the same, since another process may have left something.
    Quiet,
    /// Redis can't be waited on now (down, or at maxmemory); at least a second has passed. Try a claim.
    Failed,
}

/// Waits for mail on dedicated connections, one per list.
pub struct Arrivals {}

impl Arrivals {
    /// Starts the tasks; they connect when first needed, and end when this is dropped.
    pub fn spawn(_queue: &Queue) -> Self {
        todo!()
    }

    /// Resolves when something may be claimable, after `limit` at the latest. Cancel-safe.
    pub async fn wait(&mut self, _limit: Duration) -> Wake {
        todo!()
    }
}
