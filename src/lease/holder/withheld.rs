//! What may not be used for a while, since a server may still count its session: of this process, and what older ones left
//! (R4, R5a).

use std::time::Duration;

use super::{Holder, Stage, Unclean};
use crate::lease::{
    clock::BootTime,
    connections::{Entry, Left, Note},
    state::Quarantine,
    wire,
};

/// Why the slot of a connection that an older process left is withheld.
pub(super) const INHERITED: &str = "inherited";

/// What an older process of this pod left (R5a).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inheritance {
    /// The older processes whose every connection is proven to have ended, or is in `unproven`.
    pub accounts: Vec<String>,
    /// Connections that a server may still count: the id of each slot, and for how long it is to be withheld.
    pub unproven: Vec<(String, Duration)>,
}

impl Holder {
    /// What an older process of this pod left (R5a): unproven connections go into quarantine with the registration, and the
    /// claims of the processes that are accounted for are free with it. To be called before the first request.
    pub fn inherit(&mut self, inheritance: Inheritance, now: BootTime) {
        self.accounts.extend(inheritance.accounts);
        for (id, hold) in inheritance.unproven {
            self.push_unclean(id, INHERITED, hold, None, now);
        }
    }

    /// The slot's session ended uncleanly: the server may count it for `hold` more. It counts until a SYNC took it along.
    /// Returns the id under which it is withheld.
    pub fn quarantine(&mut self, slot: u64, why: &str, hold: Duration, now: BootTime) -> String {
        let id = Left::id_of(&self.process, slot);
        if let Some(counted) = self.slots.remove(&slot) {
            self.push_unclean(id.clone(), why, hold, counted.entry, now);
            self.due = true;
        }
        id
    }

    /// The server's end of a withheld connection was seen after all: its slot is free at once. For slots of this process and
    /// for inherited ones; an id that is not withheld changes nothing.
    pub fn prove(&mut self, id: &str) {
        if let Some(at) = self.unclean.iter().position(|unclean| unclean.entry.id == id) {
            self.notes.extend(self.unclean[at].written.take().map(Note::Ended));
            if !self.unclean[at].sent {
                self.unclean.remove(at);
                self.tell_of_free();
                return;
            }
            // No SYNC tells of it any more. One that did may be on its way: only the answer to a later one shows whether
            // the ledger has it.
            self.unclean[at].proven = true;
            self.due |= !self.unclean[at].known;
        }
        if self.withheld.has(id) {
            self.proven.insert(id.to_owned());
        }
    }

    pub(super) fn push_unclean(
        &mut self,
        id: String,
        why: &str,
        hold: Duration,
        written: Option<Entry>,
        now: BootTime,
    ) {
        let entry = Quarantine { id, slots: 1, seconds: wire::seconds(hold), why: why.to_owned() };
        let over = now + self.timing.quarantine_watch(Duration::from_secs(entry.seconds));
        self.notes.extend(written.map(|written| Note::Withheld(written, over)));
        self.unclean.push(Unclean { entry, over, sent: false, known: false, proven: false, written });
    }

    /// What the server has forgotten by now is nobody's business any more.
    pub(super) fn forget_expired(&mut self, now: BootTime) {
        self.unclean.retain(|unclean| now < unclean.over);
    }

    /// The pool's `sessionTimeout`: the longest among those who share it.
    pub fn set_hold(&mut self, session_timeout: Duration) {
        self.session_timeout = session_timeout;
    }

    /// How long a slot is withheld when nothing proves that the server knows its session to be over.
    pub fn hold(&self) -> Duration {
        self.timing.hold(self.session_timeout)
    }

    /// Quarantine that may be cleared, with the token to name: it is over on our clock, or its server's end was seen.
    pub fn over(&self, now: BootTime) -> Vec<String> {
        if self.stage != Stage::Held {
            return Vec::new();
        }
        let mut over = self.withheld.over(now, &self.timing);
        over.extend(self.proven.iter().cloned());
        over.sort();
        over.dedup();
        over
    }

    /// How long until the next quarantine may be cleared.
    pub fn next_over(&self, now: BootTime) -> Option<Duration> {
        let next = if self.proven.is_empty() { self.withheld.next(now, &self.timing) } else { Some(Duration::ZERO) };
        next.filter(|_| self.stage == Stage::Held)
    }

    /// Someone cleared it, maybe we.
    pub fn cleared(&mut self, id: &str) {
        self.withheld.forget(id);
        self.proven.remove(id);
        self.due |= self.closing;
    }

    /// Whether slots are withheld of which the ledger has not heard. Until it has, no other holder of this process may take
    /// this one's place: to the ledger it would have accounted for them.
    pub(super) fn has_untold(&self) -> bool {
        self.unclean.iter().any(|unclean| !unclean.known && !unclean.proven)
    }
}
