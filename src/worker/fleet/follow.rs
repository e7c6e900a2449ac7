//! How the servers and their pools become those of a new record while sessions are open.

use std::{sync::Arc, time::Duration};

use tokio::sync::Notify;

use super::{Fleet, Joining, Members, Pool};
use crate::{
    api::RelayRecord,
    lease::{BootTime, DeadManSwitch, SlotOptions, SlotPool, Timing, Unprotected},
    rate::Buckets,
    worker::{breaker::Limits, inheritance, server::Server},
};

impl Fleet {
    /// Makes the servers those of the record. Sessions of servers that are gone, different or suspended end after their mail; the
    /// pool of one that is suspended stays.
    pub fn follow(&self, record: &RelayRecord) {
        let mut members = self.members();
        members.keep_servers(record);
        self.let_pools_go(&mut members, record);
        self.add_servers(&mut members, record);
        members.hold_as_long(record);
        drop(members);
        self.0.changed.notify_one();
    }

    /// Starts to leave those pools that the record does not have as they are.
    fn let_pools_go(&self, members: &mut Members, record: &RelayRecord) {
        let lease = lease(record);
        let wanted = |name: &str| record.spec.servers.iter().any(|server| server.pool() == name);
        for (name, pool) in &mut members.pools {
            if matches!(pool, Pool::InUse(_, length) if !wanted(name) || *length != lease) {
                let Pool::InUse(old, _) = std::mem::replace(pool, Pool::Leaving) else { continue };
                tokio::spawn(self.clone().see_off(name.clone(), old));
            }
        }
    }

    /// Adds the servers of the record that are not there, and joins their pools.
    fn add_servers(&self, members: &mut Members, record: &RelayRecord) {
        let timing = Timing::with_lease(lease(record));
        // A lease that is too short for its own renewals keeps no promise: no pool is joined with it.
        if let Err(rule) = timing.check() {
            tracing::error!(rule, "the lease in the relay's record is of no use");
            return;
        }
        for settings in record.spec.servers.iter().filter(|server| !server.suspend) {
            if members.servers.iter().any(|server| server.name == settings.name) {
                continue;
            }
            let name = settings.pool();
            let pool = members
                .pools
                .entry(name.clone())
                .or_insert_with(|| Pool::InUse(self.join(&name, settings.session_timeout.get(), timing), timing.lease));
            // A pool that is leaving comes back through `see_off`, which follows the record again.
            let Pool::InUse(pool, _) = pool else { continue };
            let buckets = Buckets::new(self.0.joining.store.clone(), &name);
            let changed = Arc::clone(&self.0.changed);
            members.servers.push(Arc::new(Server::new(settings, pool.clone(), buckets, limits(record), changed)));
        }
    }

    /// Takes part in a pool, with what older processes of this pod may have left of it.
    fn join(&self, name: &str, hold: Duration, timing: Timing) -> SlotPool {
        let joining = &self.0.joining;
        let protected = self.0.unprotected.get().is_none();
        let switch: Box<dyn DeadManSwitch> = if protected { joining.host.switch() } else { Box::new(Unprotected) };
        let table = self.0.table.get().cloned();
        let inheritance = inheritance::of(table.as_deref(), name, timing.hold(hold), &timing, BootTime::now());
        let pending = inheritance.unproven.iter().map(|(id, _)| id.clone()).collect();
        let options = SlotOptions { hold, inheritance, table: table.clone(), switch };
        let pool = SlotPool::spawn_with(joining.store.clone(), name, joining.identity.clone(), timing, options);
        if !protected {
            pool.set_want(0);
        }
        if let Some(table) = table {
            tokio::spawn(inheritance::prove(table, pool.clone(), pending, timing.hold(hold)));
        }
        tokio::spawn(forward(pool.clone(), Arc::clone(&self.0.changed)));
        pool
    }

    /// Waits until the sessions of a pool are gone and the ledger has heard it; then the name is free again.
    async fn see_off(self, name: String, pool: SlotPool) {
        pool.shutdown().await;
        self.members().pools.remove(&name);
        let Joining { relay, stop, .. } = &self.0.joining;
        let record = relay.borrow().clone();
        if let Some(record) = record
            && !stop.is_cancelled()
        {
            self.follow(&record);
        }
    }
}

impl Members {
    /// Adjusts the servers that the record has as they are, and lets the sessions of all others end.
    fn keep_servers(&mut self, record: &RelayRecord) {
        let (lease, limits) = (lease(record), limits(record));
        let Self { servers, pools } = self;
        servers.retain(|server| {
            let wanted = record.spec.servers.iter().find(|wanted| wanted.name == server.name && !wanted.suspend);
            let stays =
                matches!(pools.get(&server.settings().pool()), Some(Pool::InUse(_, length)) if *length == lease);
            match wanted {
                Some(wanted) if stays && server.is_like(wanted) => {
                    server.adjust(wanted, limits);
                    if !record.spec.retry.dead_letter_guard {
                        server.stop_resting();
                    }
                    true
                }
                _ => {
                    tracing::info!(server.name = server.name, "the server is no longer used as it was");
                    server.stop.cancel();
                    false
                }
            }
        });
    }

    /// Withholds slots for as long as the record's servers may count a connection: it carries the budget's value, the longest
    /// among all servers and relays that share it.
    fn hold_as_long(&self, record: &RelayRecord) {
        for server in &record.spec.servers {
            if let Some(Pool::InUse(pool, _)) = self.pools.get(&server.pool()) {
                pool.set_hold(server.session_timeout.get());
            }
        }
    }
}

fn lease(record: &RelayRecord) -> Duration {
    Duration::from_millis(record.lease_ms)
}

fn limits(record: &RelayRecord) -> Limits {
    Limits {
        consecutive_failures: u32::try_from(record.spec.breaker.consecutive_failures).unwrap_or(1),
        pause: record.spec.breaker.pause.get(),
    }
}

/// Tells the intake when slots become free; ends with the pool.
async fn forward(pool: SlotPool, changed: Arc<Notify>) {
    let mut status = pool.watch();
    drop(pool);
    let mut free = 0;
    while status.changed().await.is_ok() {
        let now = {
            let status = status.borrow_and_update();
            // Who rests can have its share.
            if status.resting { status.entitlement } else { status.limit.saturating_sub(status.counted) }
        };
        if now > free {
            changed.notify_one();
        }
        free = now;
    }
}
