//! Claim ids whose fate is not known yet.

use std::{sync::PoisonError, time::Duration};

use tokio::time::Instant;

use crate::queue::{ClaimId, Queue, handle::Orphan};

/// How long a claim id whose answer was lost is asked for: longer than any socket buffer delays a command.
const ORPHAN_AGE: Duration = Duration::from_secs(120);

/// Claim ids on their way. Unless it is said to be settled, dropping it leaves them to the next call.
pub(super) struct Pending<'a> {
    queue: &'a Queue,
    pub old: Vec<Orphan>,
    pub fresh: Vec<Orphan>,
    pub found: Vec<ClaimId>,
    /// What Redis has, read or not.
    pub seen: Vec<ClaimId>,
    /// Bytes of the longest that was not read, since it did not fit.
    pub unread: usize,
    settled: bool,
}

impl<'a> Pending<'a> {
    pub(super) fn new(queue: &'a Queue, process: &str, max: usize) -> Self {
        let since = Instant::now();
        let fresh = (0..max).map(|_| Orphan { process: process.to_owned(), id: ClaimId::random(), since }).collect();
        let mut orphans = queue.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        // No more at once than were asked for; all for none.
        let mut old = Vec::new();
        orphans.retain(|orphan| {
            let mine = orphan.process == process && (max == 0 || old.len() < max);
            if mine {
                old.push(orphan.clone());
            }
            !mine
        });
        let ids = old.iter().chain(&fresh).map(|orphan: &Orphan| orphan.id.clone());
        queue.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).extend(ids);
        Self { queue, old, fresh, found: Vec::new(), seen: Vec::new(), unread: 0, settled: false }
    }

    pub(super) fn fresh(&self) -> Vec<ClaimId> {
        self.fresh.iter().map(|orphan| orphan.id.clone()).collect()
    }

    /// This claim stays ours until there is room for its payload, or it is given back.
    pub(super) fn put_off(&mut self, process: &str, id: ClaimId) {
        self.found.retain(|found| *found != id);
        self.fresh.retain(|fresh| fresh.id != id);
        self.old.retain(|old| old.id != id);
        self.seen.push(id.clone());
        self.old.push(Orphan { process: process.to_owned(), id, since: Instant::now() });
    }

    pub(super) fn settled(&mut self) {
        self.settled = true;
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let mut on_the_way = self.queue.on_the_way.lock().unwrap_or_else(PoisonError::into_inner);
        for orphan in self.old.iter().chain(&self.fresh) {
            on_the_way.remove(&orphan.id);
        }
        drop(on_the_way);
        if self.settled {
            self.fresh.clear();
            // What was not there may still come: a command can lie in a socket while a later one overtakes it.
            // What was seen there and not read is there until it is read, however long it takes.
            self.old.retain(|orphan| {
                let may_come = self.seen.contains(&orphan.id) || orphan.since.elapsed() < ORPHAN_AGE;
                !self.found.contains(&orphan.id) && may_come
            });
        }
        let mut orphans = self.queue.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.append(&mut self.old);
        orphans.append(&mut self.fresh);
    }
}
