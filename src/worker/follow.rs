//! Follows the record in which the controller tells the workers what the relay is.
//!
//! The announcement is a hint, the record is the truth: it is read again on every announcement, after every
//! reconnection, and now and then. Without Redis the last record stays in force; what may be opened under it is
//! bounded by the leases.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::backoff::Backoff;
use crate::{
    api::{ReadError, Reason, RelayRecord, Unavailable, record_key},
    store::{Store, StoreError},
};

/// How long Redis may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);
/// How often the record is read although nobody announced a change.
const READ_AGAIN: Duration = Duration::from_secs(300);

/// The record in force; `None` until the first one was read.
pub type Followed = watch::Receiver<Option<Arc<RelayRecord>>>;

/// Why the record that is there now is not in force; `None` while it is.
pub type Refused = watch::Receiver<Option<Unavailable>>;

/// Follows the record of a relay in a task of its own that ends when nobody listens any more.
pub fn follow(store: Store, namespace: &str, name: &str) -> (Followed, Refused) {
    let (sender, receiver) = watch::channel(None);
    let (refuse, refused) = watch::channel(None);
    let key = record_key(namespace, name);
    let follower = Follower { store, key, sender, refuse, complained: AtomicBool::new(false) };
    tokio::spawn(follower.run());
    (receiver, refused)
}

struct Follower {
    store: Store,
    key: String,
    sender: watch::Sender<Option<Arc<RelayRecord>>>,
    refuse: watch::Sender<Option<Unavailable>>,
    /// Whether the present trouble with the record was logged already.
    complained: AtomicBool,
}

impl Follower {
    async fn run(self) {
        let mut announcements = self.store.subscribe(&self.key);
        let mut backoff = Backoff::new();
        loop {
            let again = match self.read().await {
                Ok(()) => {
                    backoff.reset();
                    READ_AGAIN
                }
                Err(error) => {
                    let delay = backoff.next();
                    tracing::debug!(%error, retry_ms = delay.as_millis(), "cannot read the relay's record");
                    delay
                }
            };
            tokio::select! {
                () = self.sender.closed() => return,
                _ = announcements.next() => {}
                () = tokio::time::sleep(again) => {}
            }
        }
    }

    async fn read(&self) -> Result<(), StoreError> {
        let text: Option<Vec<u8>> = self.store.query(redis::cmd("GET").arg(&self.key), ANSWER_LIMIT).await?;
        let read = text.map(|text| RelayRecord::read(&text));
        let refused = read.as_ref().and_then(|read| read.as_ref().err()).map(|error| Unavailable {
            reason: if matches!(error, ReadError::Newer(_)) { Reason::NewerVersion } else { Reason::RecordUnreadable },
            message: format!("the record {}: {error}", self.key),
        });
        self.refuse.send_if_modified(|told| std::mem::replace(told, refused.clone()) != refused);
        match read {
            Some(Ok(record)) => {
                self.complained.store(false, Ordering::Relaxed);
                offer(&self.sender, record);
            }
            Some(Err(error)) if !self.complained.swap(true, Ordering::Relaxed) => {
                tracing::error!(record.key = self.key, %error, "the relay's record cannot be read; the last good one stays in force");
            }
            None if self.sender.borrow().is_none() && !self.complained.swap(true, Ordering::Relaxed) => {
                tracing::info!(record.key = self.key, "waiting for the controller to publish this relay's record");
            }
            Some(Err(_)) | None => {}
        }
        Ok(())
    }
}

/// Puts a record in force unless a later leader's is.
fn offer(sender: &watch::Sender<Option<Arc<RelayRecord>>>, record: RelayRecord) {
    sender.send_if_modified(|current| {
        if current.as_ref().is_some_and(|current| !supersedes(&record, current)) {
            return false;
        }
        tracing::info!(
            relay.generation = record.generation,
            record.epoch = record.epoch,
            record.revision = record.revision,
            "the relay's record is in force"
        );
        *current = Some(Arc::new(record));
        true
    });
}

/// A record of the same object counts only when it is later; a new object of that name always does.
fn supersedes(new: &RelayRecord, current: &RelayRecord) -> bool {
    new.uid != current.uid || (new.epoch, new.revision) > (current.epoch, current.revision)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use super::*;
    use crate::api::ResolvedSpec;

    fn record(uid: &str, epoch: u64, revision: u64) -> RelayRecord {
        let spec: ResolvedSpec =
            serde_json::from_str(r#"{"servers":[{"name":"primary","host":"smtp.example.com"}]}"#).unwrap();
        RelayRecord { schema: 1, epoch, revision, uid: uid.into(), generation: 1, stalled: None, lease_ms: 6_000, spec }
    }

    #[test]
    fn a_late_leaders_record_does_not_replace_its_successors() {
        let (sender, receiver) = watch::channel(None);
        for (epoch, revision, in_force) in
            [(2, 1, (2, 1)), (1, 9, (2, 1)), (2, 1, (2, 1)), (2, 2, (2, 2)), (3, 1, (3, 1))]
        {
            offer(&sender, record("a", epoch, revision));
            let current = receiver.borrow().clone().unwrap();
            assert_eq!((current.epoch, current.revision), in_force);
        }
    }

    #[test]
    fn a_new_relay_of_the_same_name_starts_afresh() {
        assert!(supersedes(&record("b", 1, 1), &record("a", 5, 5)));
    }
}
