//! What became of a mail that was sent to the queue.

use serde::Serialize;

use crate::queue::Enqueued;

/// One accepted mail.
#[derive(Serialize)]
pub(super) struct Sent {
    /// Of the earlier mail when this one is a duplicate.
    pub(super) id: String,
    duplicate: bool,
    /// The earlier mail has other recipients or another content.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    differs: bool,
}

impl From<Enqueued> for Sent {
    fn from(enqueued: Enqueued) -> Self {
        Self { id: enqueued.id, duplicate: enqueued.duplicate, differs: enqueued.differs }
    }
}

impl Sent {
    /// Says so when the mail was dropped though the earlier one is another.
    pub(super) fn warn(&self, line: Option<usize>) {
        if self.differs {
            tracing::warn!(
                line,
                mail.first = self.id,
                "the mail was dropped as a duplicate of an earlier one with its id or key, but it is another mail: its recipients or its content differ"
            );
        }
    }
}
