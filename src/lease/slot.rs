//! One slot: permission for one connection.

use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use tokio_util::sync::DropGuard;

use super::{
    connections::Entry,
    holder::Holder,
    shared::{LONGEST_SLEEP, Shared},
};

/// Permission for one connection, counted until [`Slot::release`], [`Slot::withhold`] or [`Slot::quarantine`]; a slot that
/// is dropped is withheld.
pub struct Slot {
    shared: Arc<Shared>,
    _alive: Arc<DropGuard>,
    id: u64,
    entry: Option<Entry>,
    settled: bool,
}

impl Slot {
    /// One more slot of the pool, if it may be opened now; while it is there, the task behind the pool goes on.
    pub(super) fn count(shared: &Arc<Shared>, alive: &Arc<DropGuard>) -> Option<Self> {
        let (id, entry) = shared.count()?;
        Some(Self { shared: Arc::clone(shared), _alive: Arc::clone(alive), id, entry, settled: false })
    }

    /// Whether a mail transaction is going on; idle slots are revoked first.
    pub fn set_busy(&self, busy: bool) {
        self.shared.with(|holder, _| holder.set_busy(self.id, busy));
    }

    /// The connection stands.
    pub fn connected(&self) {
        self.shared.with(|holder, _| holder.set_connected(self.id));
    }

    /// Where its connection is written down, when it is.
    pub fn entry(&self) -> Option<Entry> {
        self.entry
    }

    /// Writes down between which addresses the connection stands, so that its end can be seen even after this process.
    pub fn note_connected(&self, local: SocketAddr, remote: SocketAddr) {
        if let (Some(table), Some(entry)) = (&self.shared.table, self.entry) {
            table.connected(entry, local, remote);
        }
    }

    /// The server's end was seen: nothing is left to be found after this process, though the slot still counts.
    pub fn note_ended(&self) {
        self.shared.with(|holder, _| holder.ended(self.id));
    }

    /// Whether the share fell or the lease is ending: finish this mail, start no other, close.
    pub fn is_revoked(&self) -> bool {
        self.shared.look(|holder, _| holder.is_revoked(self.id))
    }

    /// Waits until [`Slot::is_revoked`].
    pub async fn revoked(&self) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if self.is_revoked() || changes.changed().await.is_err() {
                return;
            }
        }
    }

    /// Whether a mail transaction may start: not revoked, and time enough before the deadline.
    pub fn may_start(&self) -> bool {
        self.shared.look(|holder, now| holder.may_start(self.id, now))
    }

    /// Whether the final dot may be sent: its answer can come before the deadline.
    pub fn may_commit(&self) -> bool {
        self.shared.look(Holder::may_commit)
    }

    /// How long until the session must be closed, 250 ms before the deadline.
    pub fn time_left(&self) -> Duration {
        self.shared.look(Holder::time_left)
    }

    /// Waits until no time is left, however often the lease is renewed meanwhile: then close at once.
    pub async fn expired(&self) {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let left = self.time_left();
            if left.is_zero() {
                return;
            }
            tokio::select! {
                () = tokio::time::sleep(left.min(LONGEST_SLEEP)) => {}
                _ = changes.changed() => {}
            }
        }
    }

    /// EOF from the server was read, or `connect()` failed: the slot is free (R4).
    pub fn release(mut self) {
        self.settled = true;
        self.shared.with(|holder, _| holder.release(self.id));
    }

    /// The session ended without EOF: the server may count it for `hold` more. `why` is one word.
    pub fn quarantine(mut self, why: &'static str, hold: Duration) -> Withheld {
        self.settled = true;
        let id = self.shared.with(|holder, now| holder.quarantine(self.id, why, hold, now));
        Withheld { shared: self.shared.clone(), id }
    }

    /// [`Slot::quarantine`] for as long as the server may count a session whose end nobody saw ([`super::SlotPool::set_hold`]).
    pub fn withhold(self, why: &'static str) -> Withheld {
        let hold = self.shared.look(|holder, _| holder.hold());
        self.quarantine(why, hold)
    }
}

/// A slot that is withheld because nothing proved that the server knows its session to be over. It may be dropped: then
/// the slot stays withheld for its time.
pub struct Withheld {
    shared: Arc<Shared>,
    id: String,
}

impl Withheld {
    /// The id of its quarantine.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The server's end was seen after all: the slot is free at once. When the pool has been left meanwhile, it stays
    /// withheld for its time.
    pub fn prove(self) {
        self.shared.with(|holder, _| holder.prove(&self.id));
    }
}

impl fmt::Debug for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Withheld").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        if !self.settled {
            self.shared.with(|holder, now| holder.quarantine(self.id, "dropped", holder.hold(), now));
        }
    }
}

impl fmt::Debug for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Slot").field("id", &self.id).finish_non_exhaustive()
    }
}
