//! The queue that mail is taken from now.

use std::sync::{Mutex, PoisonError};

use crate::queue::Queue;

/// The queue, once known; its clones share what is known of lost claims.
#[derive(Default)]
pub struct CurrentQueue(Mutex<Option<Queue>>);

impl CurrentQueue {
    /// The queue that mail is taken from, once known.
    pub fn get(&self) -> Option<Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Says which queue mail is taken from now.
    pub fn set(&self, queue: Queue) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(queue);
    }
}
