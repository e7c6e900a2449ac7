//! Which mails may be sent beside others, and which must be sent alone.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// More than sessions can ever be.
const EVERYBODY: u32 = 1 << 20;

/// One permit for each mail being sent; all of them for a mail that must be sent alone.
pub struct Admission(Arc<Semaphore>);

impl Admission {
    /// Nothing is being sent yet.
    pub fn new() -> Self {
        Self(Arc::new(Semaphore::new(EVERYBODY as usize)))
    }

    /// Waits until a mail may be sent: with others, or with nothing beside it.
    pub async fn admit(&self, alone: bool) -> Option<OwnedSemaphorePermit> {
        let permits = if alone { EVERYBODY } else { 1 };
        // The semaphore is never closed.
        Arc::clone(&self.0).acquire_many_owned(permits).await.ok()
    }
}
