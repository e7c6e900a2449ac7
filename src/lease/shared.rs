//! The holder behind its lock, with what must change together with it.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};

use super::{
    clock::BootTime,
    connections::{ConnectionTable, Entry},
    deadman::DeadManSwitch,
    holder::Holder,
    status::SlotStatus,
};

/// The longest sleep of a watcher of a deadline: tokio's clock stops in suspend, [`BootTime`] does not.
pub const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// What the handles on a pool and the task behind them share.
pub struct Shared {
    core: Mutex<Core>,
    /// Where connections are written down.
    pub table: Option<Arc<dyn ConnectionTable>>,
    /// Where things stand.
    pub status: watch::Sender<SlotStatus>,
    /// Counts every change, for those who wait for something that the status does not show.
    pub changes: watch::Sender<u64>,
    /// Wakes the task.
    pub nudge: Notify,
    /// Wakes the one that ends quarantine.
    pub ended: Notify,
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
    /// A holder of `pool`, guarded by the switch.
    pub fn new(
        holder: Holder,
        switch: Box<dyn DeadManSwitch>,
        pool: &str,
        table: Option<Arc<dyn ConnectionTable>>,
    ) -> Self {
        Self {
            core: Mutex::new(Core { holder, switch, armed: None, pool: pool.to_owned(), table: table.clone() }),
            table,
            status: watch::Sender::default(),
            changes: watch::Sender::default(),
            nudge: Notify::new(),
            ended: Notify::new(),
        }
    }

    /// Counts one more slot, if it may be opened now: its number, and where it is written down.
    pub fn count(&self) -> Option<(u64, Option<Entry>)> {
        // Without a chance there is no change to tell of: waiting acquirers would wake each other for ever.
        let counted = self.core.lock().unwrap_or_else(PoisonError::into_inner).count(BootTime::now())?;
        self.with(|_, _| ());
        Some(counted)
    }

    /// Works on the holder and tells everyone who waits.
    pub fn with<R>(&self, work: impl FnOnce(&mut Holder, BootTime) -> R) -> R {
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
    pub fn look<R>(&self, work: impl FnOnce(&Holder, BootTime) -> R) -> R {
        work(&self.core.lock().unwrap_or_else(PoisonError::into_inner).holder, BootTime::now())
    }
}
