//! What is counted: from before `connect()` until the server's end was seen, or a SYNC took it along as withheld (R4).

use std::time::Duration;

use super::{Counted, Holder, Stage, count};
use crate::lease::{
    clock::BootTime,
    connections::{Entry, Note},
};

impl Holder {
    /// How many slots count here (R4).
    pub fn counted(&self) -> u32 {
        count(self.slots.len() + self.unclean.iter().filter(|unclean| !unclean.sent).count())
    }

    /// How many slots may have a socket of ours: counted, and not given up as unclean.
    pub fn held(&self) -> usize {
        self.slots.len()
    }

    /// Whether [`Holder::count`] would give a slot.
    pub fn may_count(&self, now: BootTime) -> bool {
        let lives = self.stage == Stage::Held && !self.closing;
        lives && self.counted() < self.limit && self.has_time(now, self.timing.start_margin)
    }

    /// Counts one more slot, if the limit and the time allow (R4). To be called before `connect()`.
    pub fn count(&mut self, now: BootTime) -> Option<u64> {
        self.tick(now);
        self.may_count(now).then(|| {
            self.resting = false;
            let slot = self.numbers.0.draw();
            self.slots.insert(slot, Counted::default());
            slot
        })
    }

    /// Where the slot's connection is written down.
    pub fn set_entry(&mut self, slot: u64, entry: Entry) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.entry = Some(entry);
        }
    }

    /// What became of connections that are written down, since this was last asked.
    pub fn take_notes(&mut self) -> Vec<Note> {
        std::mem::take(&mut self.notes)
    }

    /// The server's end was seen, though the slot is not given back yet: it counts, but should this process die, nothing of
    /// its connection is left to be found.
    pub fn ended(&mut self, slot: u64) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            self.notes.extend(counted.entry.take().map(Note::Ended));
        }
    }

    /// The slot's session is over: EOF was read, or `connect()` failed (R4).
    pub fn release(&mut self, slot: u64) {
        if let Some(counted) = self.slots.remove(&slot) {
            self.notes.extend(counted.entry.map(Note::Ended));
            self.tell_of_free();
        }
    }

    pub(super) fn tell_of_free(&mut self) {
        let kept = self.entitlement.min(self.wanted());
        let others_wait = !self.recovering && self.claim > self.granted.min(kept);
        self.due |= others_wait || self.closing || (self.stage == Stage::Abandoned && self.slots.is_empty());
    }

    /// Whether the slot is in a mail transaction: such slots are revoked last.
    pub fn set_busy(&mut self, slot: u64, busy: bool) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.busy = busy;
        }
    }

    /// The slot's session is connected.
    pub fn set_connected(&mut self, slot: u64) {
        if let Some(counted) = self.slots.get_mut(&slot) {
            counted.connected = true;
        }
    }

    /// Whether the slot must be given back: finish this mail, start no other, close.
    pub fn is_revoked(&self, slot: u64) -> bool {
        self.slots.get(&slot).is_none_or(|counted| counted.revoked)
    }

    /// Whether a transaction may start on the slot.
    pub fn may_start(&self, slot: u64, now: BootTime) -> bool {
        !self.is_revoked(slot) && self.has_time(now, self.timing.start_margin)
    }

    /// Whether the final dot may be sent.
    pub fn may_commit(&self, now: BootTime) -> bool {
        self.has_time(now, self.timing.commit_margin)
    }

    /// How long until all sessions must be closed.
    pub fn time_left(&self, now: BootTime) -> Duration {
        self.deadline.map_or(Duration::ZERO, |d| d.saturating_sub(self.timing.close_margin).saturating_since(now))
    }

    pub(super) fn has_time(&self, now: BootTime, margin: Duration) -> bool {
        self.deadline.is_some_and(|deadline| now + margin < deadline)
    }

    /// Revokes what is above the share: idle slots first, and of those the youngest.
    pub(super) fn revoke_surplus(&mut self) {
        let mut kept: Vec<(bool, std::cmp::Reverse<u64>)> = self
            .slots
            .iter()
            .filter(|(_, counted)| !counted.revoked)
            .map(|(id, counted)| (counted.busy, std::cmp::Reverse(*id)))
            .collect();
        kept.sort_unstable();
        let surplus = kept.len().saturating_sub(self.keep as usize);
        for (_, id) in &kept[..surplus] {
            if let Some(counted) = self.slots.get_mut(&id.0) {
                counted.revoked = true;
            }
        }
    }
}
