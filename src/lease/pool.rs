//! The worker's handle on a pool: slots, and where things stand. The task behind it is in [`super::task`].

use std::{fmt, sync::Arc, time::Duration};

use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{
    clock::BootTime,
    connections::ConnectionTable,
    deadman::{DeadManSwitch, NoSwitch},
    evidence::Identity,
    holder::{Holder, Inheritance},
    shared::Shared,
    slot::Slot,
    status::SlotStatus,
    store::LedgerStore,
    task,
    timing::Timing,
};
use crate::store::Store;

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
        let shared = Arc::new(Shared::new(holder, switch, pool, table));
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
        Slot::count(&self.shared, &self.alive)
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

    /// Nothing is to be sent: gives back what is claimed, and is quiet, until [`SlotPool::wake`] or the next slot that is
    /// acquired. Returns whether it rests or soon will.
    pub fn rest(&self) -> bool {
        self.shared.with(|holder, _| holder.rest())
    }

    /// Something is to be sent: claims again at once. Slots can be acquired when the ledger has answered.
    pub fn wake(&self) {
        self.shared.with(|holder, _| holder.wake());
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
