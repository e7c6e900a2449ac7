//! The handle on one queue, and what time it is there.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{At, ClaimId, QueueNames, Room};
use crate::{
    mail::UnixMillis,
    store::{Store, StoreError},
    system,
};

/// How long a script may take: `committing` may wait for an fsync.
pub const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

/// One queue in one Redis; clones share everything.
#[derive(Clone)]
pub struct Queue {
    pub(super) store: Store,
    pub(super) names: QueueNames,
    /// Claim ids whose fate is not known here: the answer to a claim was lost. The next claim asks for them.
    pub(super) orphans: Arc<Mutex<Vec<Orphan>>>,
    /// Claim ids of calls that are under way: a long mail takes its time until it is read.
    pub(super) on_the_way: Arc<Mutex<BTreeSet<ClaimId>>>,
    /// The number of the last take here.
    takes: Arc<AtomicU64>,
    /// For the mails that are claimed here.
    pub(super) room: Room,
    /// What Redis' clock said when it was heard last, and when that was.
    heard: Arc<Mutex<Option<(UnixMillis, Instant)>>>,
}

/// A claim id that Redis may or may not have given a mail to.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub process: String,
    pub id: ClaimId,
    pub since: Instant,
}

impl Queue {
    /// A queue under these names; nothing is sent.
    pub fn new(store: Store, names: QueueNames) -> Self {
        Self {
            store,
            names,
            orphans: Arc::default(),
            on_the_way: Arc::default(),
            takes: Arc::default(),
            room: Room::default(),
            heard: Arc::default(),
        }
    }

    /// The same for a process that may hold no more mail than this room has place for.
    pub fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// The names of its keys.
    pub fn names(&self) -> &QueueNames {
        &self.names
    }

    /// What time it is for Redis, about: from what it said last. For what people read; scripts ask Redis themselves.
    pub fn estimate(&self, at: impl Into<At>) -> UnixMillis {
        match (at.into(), *self.heard.lock().unwrap_or_else(PoisonError::into_inner)) {
            (At::Fixed(now), _) => now,
            (At::Redis, Some((said, when))) => said.after(when.elapsed()),
            (At::Redis, None) => UnixMillis::now(),
        }
    }

    pub(super) fn heard(&self, time: UnixMillis) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// The number of the next take, greater than all before in this process: by the clock, since the queue may have had
    /// another handle before this one.
    pub(super) fn take_number(&self) -> String {
        let clock = u64::try_from(system::boot_clock().as_nanos()).unwrap_or(u64::MAX);
        let next = |last: u64| clock.max(last.saturating_add(1));
        let last = self.takes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |last| Some(next(last)));
        format!("{:016x}", last.map_or(clock, next))
    }

    /// Asks Redis for its time, for [`Queue::estimate`].
    pub async fn ask_time(&self) -> Result<UnixMillis, StoreError> {
        let (seconds, micros): (u64, u64) = self.store.query(&redis::cmd("TIME"), SCRIPT_LIMIT).await?;
        let time = UnixMillis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000));
        self.heard(time);
        Ok(time)
    }

    /// What time `at` is; for Redis' own it is asked.
    pub async fn time(&self, at: At) -> Result<UnixMillis, StoreError> {
        match at {
            At::Redis => self.ask_time().await,
            At::Fixed(now) => Ok(now),
        }
    }

    pub(super) fn garbled(&self, detail: String) -> StoreError {
        StoreError::Garbled { address: self.store.address().to_owned(), detail }
    }
}
