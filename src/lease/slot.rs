//! The worker's handle on a pool: slots, and where things stand. The task behind it is in [`super::task`].

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    clock::BootTime,
    connections::{ConnectionTable, Entry},
    deadman::{DeadManSwitch, NoSwitch},
    evidence::Identity,
    holder::{Holder, Inheritance},
    store::LedgerStore,
    task,
    timing::Timing,
};
use crate::store::Store;

/// The longest sleep of a watcher of a deadline: tokio's clock stops in suspend, [`BootTime`] does not.
pub(super) const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What a worker holds of a pool now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// Whether the ledger knows this incarnation and its lease has not ended.
    pub registered: bool,
    /// Whether the ledger was in recovery at the last answer, so that nothing grows.
    pub recovering: bool,
    /// The pod's share.
    pub entitlement: u32,
    /// Slots counted against us in the ledger.
    pub claim: u32,
    /// Slots we may open up to.
    pub limit: u32,
    /// Slots counted here: from before `connect()` until EOF.
    pub counted: u32,
    /// Sessions connected.
    pub open: u32,
    /// Sessions in a mail transaction.
    pub busy: u32,
    /// When the lease ends, unless renewed.
    pub deadline: Option<BootTime>,
}

/// What a worker knows of its server and of its past when it joins a pool.
pub struct SlotOptions {
    /// `sessionTimeout` of the server, see [`SlotPool::set_hold`].
    pub hold: Duration,
    /// What older processes of this pod left (R5a).
    pub inheritance: Inheritance,
    /// Where connections are written down for the time after this process.
    pub table: Option<Arc<dyn ConnectionTable>>,
    /// Kills the process when it does not renew (R6).
    pub switch: Box<dyn DeadManSwitch>,
}

impl Default for SlotOptions {
    fn default() -> Self {
        Self {
            hold: Duration::from_secs(300),
            inheritance: Inheritance::default(),
            table: None,
            switch: Box::new(NoSwitch),
        }
    }
}

/// One process in one pool; clones are the same. The task behind it ends with [`SlotPool::shutdown`], or when the last
/// pool handle and the last slot are gone: the ledger then takes the slots back when the lease has run out.
#[derive(Clone)]
pub struct SlotPool {
    shared: Arc<Shared>,
    alive: Arc<DropGuard>,
    ended: CancellationToken,
}

pub(super) struct Shared {
    core: Mutex<Core>,
    table: Option<Arc<dyn ConnectionTable>>,
    status: watch::Sender<SlotStatus>,
    /// Counts every change, for those who wait for something that the status does not show.
    changes: watch::Sender<u64>,
    /// Wakes the task.
    pub(super) nudge: Notify,
    /// Wakes the one that ends quarantine.
    pub(super) ended: Notify,
    /// Makes the listener connect anew: its connection may be dead without a sign.
    pub(super) reconnect: Notify,
}

/// The holder, and what kills the process that does not keep its word. Both change under one lock: a slot that is counted
/// while the switch is being disarmed would have no protection (R6).
struct Core {
    holder: Holder,
    switch: Box<dyn DeadManSwitch>,
    armed: Option<BootTime>,
    pool: String,
    table: Option<Arc<dyn ConnectionTable>>,
}

impl Core {
    /// Armed before the check that counts, and written down with it, so before `connect()` (R6, R5a).
    fn count(&mut self, now: BootTime) -> Option<(u64, Option<Entry>)> {
        if !self.holder.may_count(now) {
            return None;
        }
        let deadline = self.holder.deadline()?;
        if self.armed != Some(deadline) {
            if !self.switch.arm(deadline) {
                return None;
            }
            self.armed = Some(deadline);
        }
        let id = self.holder.count(now)?;
        let entry = self.table.as_ref().and_then(|table| table.reserve(&self.pool, id));
        if let Some(entry) = entry {
            self.holder.set_entry(id, entry);
        }
        self.settle();
        Some((id, entry))
    }

    /// Armed at the deadline while any socket may be open, and at no other time. A slot whose session ended uncleanly has
    /// none any more: it counts until a SYNC takes it along, but there is nothing to kill.
    fn settle(&mut self) {
        if let Some(table) = &self.table {
            for note in self.holder.take_notes() {
                table.note(note);
            }
        }
        let wanted = self.holder.deadline().filter(|_| self.holder.held() > 0);
        if wanted == self.armed {
            return;
        }
        let Some(deadline) = wanted else {
            self.switch.disarm();
            self.armed = None;
            return;
        };
        // When it fails the earlier deadline holds, and the next change tries again.
        if self.switch.arm(deadline) {
            self.armed = wanted;
        }
    }
}

impl Shared {
    /// Works on the holder and tells everyone who waits.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Holder, BootTime) -> R) -> R {
        let (result, due, over, status) = {
            let mut core = self.core.lock().unwrap_or_else(PoisonError::into_inner);
            let now = BootTime::now();
            let result = work(&mut core.holder, now);
            core.settle();
            let over = core.holder.next_over(now).is_some_and(|next| next.is_zero());
            (result, core.holder.is_due(), over, core.holder.status(now))
        };
        self.status.send_if_modified(|last| std::mem::replace(last, status) != status);
        self.changes.send_modify(|n| *n = n.wrapping_add(1));
        if due {
            self.nudge.notify_one();
        }
        if over {
            self.ended.notify_one();
        }
        result
    }

    /// Looks at the holder without changing it.
    pub(super) fn look<R>(&self, work: impl FnOnce(&Holder, BootTime) -> R) -> R {
        work(&self.core.lock().unwrap_or_else(PoisonError::into_inner).holder, BootTime::now())
    }
}

impl SlotPool {
    /// Joins the pool and keeps the lease from now on. To be called inside a tokio runtime.
    pub fn spawn(store: Store, pool: &str, identity: Identity, timing: Timing) -> Self {
        Self::spawn_with(store, pool, identity, timing, SlotOptions::default())
    }

    /// [`SlotPool::spawn`] with all that may be known.
    pub fn spawn_with(store: Store, pool: &str, identity: Identity, timing: Timing, options: SlotOptions) -> Self {
        let SlotOptions { hold, inheritance, table, switch } = options;
        let mut holder = Holder::new(identity, timing, hold);
        holder.inherit(inheritance, BootTime::now());
        let shared = Arc::new(Shared {
            core: Mutex::new(Core { holder, switch, armed: None, pool: pool.to_owned(), table: table.clone() }),
            table,
            status: watch::Sender::default(),
            changes: watch::Sender::default(),
            nudge: Notify::new(),
            ended: Notify::new(),
            reconnect: Notify::new(),
        });
        let (alive, ended) = (CancellationToken::new(), CancellationToken::new());
        let ledger = LedgerStore::new(store, pool);
        let (shared_of_task, unused, end) = (shared.clone(), alive.clone(), ended.clone().drop_guard());
        tokio::spawn(async move {
            let _end = end;
            tokio::select! {
                () = task::keep(&shared_of_task, &ledger) => {}
                () = task::listen(&shared_of_task, &ledger) => {}
                () = task::clear(&shared_of_task, &ledger) => {}
                () = unused.cancelled() => {}
            }
        });
        Self { shared, alive: Arc::new(alive.drop_guard()), ended }
    }

    /// Waits until one more slot may be opened and counts it (R4). Cancelling counts nothing.
    pub async fn acquire(&self) -> Slot {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(slot) = self.try_acquire() {
                return slot;
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// One more slot, if it may be opened now.
    pub fn try_acquire(&self) -> Option<Slot> {
        // Without a chance there is no change to tell of: waiting acquirers would wake each other for ever.
        let counted = self.shared.core.lock().unwrap_or_else(PoisonError::into_inner).count(BootTime::now());
        let (id, entry) = counted?;
        self.shared.with(|_, _| ());
        Some(Slot { shared: self.shared.clone(), _alive: self.alive.clone(), id, entry, settled: false })
    }

    /// Where things stand.
    pub fn status(&self) -> SlotStatus {
        self.shared.look(Holder::status)
    }

    /// Where things stand, with changes. `deadline` moves at each heartbeat.
    pub fn watch(&self) -> watch::Receiver<SlotStatus> {
        self.shared.status.subscribe()
    }

    /// How many slots could be used now (default: any number).
    pub fn set_want(&self, want: u32) {
        self.shared.with(|holder, _| holder.set_want(want));
    }

    /// `sessionTimeout` of the server, the longest among those who share the pool. Together with [`Timing::drain_margin`] it
    /// says how long a slot is withheld when nothing proves that the server knows its session to be over.
    pub fn set_hold(&self, session_timeout: Duration) {
        self.shared.with(|holder, _| holder.set_hold(session_timeout));
    }

    /// The server's end of a connection was seen after its slot was withheld under this id, by this process or, as
    /// [`Inheritance`] says, for an older one: the slot is free at once.
    pub fn prove(&self, id: &str) {
        self.shared.with(|holder, _| holder.prove(id));
    }

    /// Gives everything back: no new slot, all slots revoked; waits until none is counted, then leaves the ledger. The
    /// caller bounds the time; cancelling leaves the task at it.
    pub async fn shutdown(self) {
        self.shared.with(|holder, _| holder.close());
        self.ended.cancelled().await;
    }
}

impl fmt::Debug for SlotPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SlotPool").field("status", &self.status()).finish_non_exhaustive()
    }
}

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

    /// [`Slot::quarantine`] for as long as the server may count a session whose end nobody saw ([`SlotPool::set_hold`]).
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
