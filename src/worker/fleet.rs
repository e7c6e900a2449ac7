//! The servers of the relay and their sessions, kept as the relay's record says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    breaker::{Limits, Permit},
    follow::Followed,
    host::Host,
    inheritance,
    server::{Opening, Server},
};
use crate::{
    api::{Reason, RelayRecord, ServerReport, Unavailable},
    lease::{
        BootTime, ConnectionTable, DeadManSwitch, Identity, ProcessId, Slot, SlotOptions, SlotPool, SwitchError,
        Timing, Unprotected,
    },
    rate::Buckets,
    store::Store,
    telemetry::metrics::{ByPool, ByServer, WorkerMetrics},
};

/// Whether another session could be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// On one server at least.
    Now,
    /// At this time, unless something changes earlier.
    At(Instant),
    /// Not until something changes.
    None,
}

impl Room {
    /// When to look again, if time alone makes room.
    pub fn opens(self) -> Option<Instant> {
        match self {
            Self::At(at) => Some(at),
            Self::Now | Self::None => None,
        }
    }
}

/// What the fleet joins pools with.
pub struct Joining {
    /// The machine, whose dead-man switches guard the pools.
    pub host: Arc<dyn Host>,
    /// Redis.
    pub store: Store,
    /// Who we are.
    pub identity: Identity,
    /// The relay in force.
    pub relay: Followed,
    /// Ends when no pool may be joined any more.
    pub stop: CancellationToken,
}

/// All servers. Clones are the same.
#[derive(Clone)]
pub struct Fleet(Arc<Inner>);

struct Inner {
    joining: Joining,
    members: Mutex<Members>,
    changed: Arc<Notify>,
    sessions: TaskTracker,
    /// Why no session may be opened in this process at all.
    unprotected: OnceLock<SwitchError>,
    /// Where connections are written down, if anywhere.
    table: OnceLock<Arc<dyn ConnectionTable>>,
}

#[derive(Default)]
struct Members {
    servers: Vec<Arc<Server>>,
    pools: BTreeMap<String, Pool>,
}

/// A budget's slots, in use or on their way out.
enum Pool {
    InUse(SlotPool, Duration),
    /// Its sessions are closing; a successor must wait until it has left the ledger.
    Leaving,
}

impl Fleet {
    /// No servers yet.
    pub fn new(joining: Joining) -> Self {
        Self(Arc::new(Inner {
            joining,
            members: Mutex::default(),
            changed: Arc::new(Notify::new()),
            sessions: TaskTracker::new(),
            unprotected: OnceLock::new(),
            table: OnceLock::new(),
        }))
    }

    /// Says that the dead-man switch does not work here: no session is ever opened (lease R6). To be told before the
    /// pools are joined.
    pub fn refuse(&self, why: SwitchError) {
        let _ = self.0.unprotected.set(why);
    }

    /// Resolves when a session may have become possible since the last call. Cancel-safe.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// The servers now.
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.members().servers.clone()
    }

    /// Whether another session could be opened.
    pub fn room(&self, now: Instant) -> Room {
        let mut room = Room::None;
        for server in &self.members().servers {
            let status = server.pool.status();
            match server.permit(now) {
                Permit::Granted if status.counted < status.limit && server.wants_more() => return Room::Now,
                Permit::At(at) => {
                    room = match room {
                        Room::At(earlier) if earlier < at => room,
                        _ => Room::At(at),
                    }
                }
                Permit::Granted | Permit::Probing => {}
            }
        }
        room
    }

    /// Sessions that are being opened and will soon ask for mail.
    pub fn opening(&self) -> usize {
        self.members().servers.iter().map(|server| server.opening()).sum()
    }

    /// Opens up to `wanted` sessions, each on the server whose share is used least; how many. `live` is the life of a session.
    pub fn open<L: Future<Output = ()> + Send + 'static>(
        &self,
        wanted: usize,
        live: &impl Fn(Arc<Server>, Slot, Opening) -> L,
    ) -> usize {
        self.open_at(|_| true, wanted, live)
    }

    /// The same, at those servers only whose name `fits`.
    pub fn open_at<L: Future<Output = ()> + Send + 'static>(
        &self,
        fits: impl Fn(&str) -> bool,
        wanted: usize,
        live: &impl Fn(Arc<Server>, Slot, Opening) -> L,
    ) -> usize {
        let mut servers = self.servers();
        servers.retain(|server| fits(&server.name));
        for opened in 0..wanted {
            servers.sort_by_cached_key(|server| match server.pool.status().limit {
                0 => usize::MAX,
                limit => server.sessions().saturating_mul(1_000_000) / limit as usize,
            });
            let now = Instant::now();
            let found = servers.iter().find_map(|server| server.try_open(now).map(|found| (server, found)));
            let Some((server, (slot, opening))) = found else { return opened };
            self.0.sessions.spawn(live(Arc::clone(server), slot, opening));
        }
        wanted
    }

    /// Resolves when every session has ended and no more will come.
    pub async fn drained(&self) {
        self.0.sessions.close();
        self.0.sessions.wait().await;
    }

    /// Gives up all slots; every session has ended, or is given up with them.
    pub async fn leave(&self) {
        let pools = std::mem::take(&mut self.members().pools);
        let leaving = pools.into_values().filter_map(|pool| match pool {
            Pool::InUse(pool, _) => Some(pool.shutdown()),
            Pool::Leaving => None,
        });
        futures::future::join_all(leaving).await;
    }

    /// Where the connections of this process and of those before it are written down; to be told before the pools are
    /// joined. Without that, nothing that an older process left is accounted for, and nothing that this one leaves.
    pub fn account_in(&self, table: Option<Arc<dyn ConnectionTable>>, process: &ProcessId) {
        let Some(table) = table else { return };
        match table.begin(process) {
            Ok(()) => drop(self.0.table.set(table)),
            Err(error) => {
                tracing::warn!(%error, "the supervisor cannot be told of connections; should this process die, all its slots are withheld");
            }
        }
    }

    /// What the controller should know of the servers.
    pub fn report(&self) -> Vec<ServerReport> {
        let refused = self
            .0
            .unprotected
            .get()
            .map(|why| Unavailable { reason: Reason::NoDeadManSwitch, message: why.to_string() });
        let servers = self.servers();
        servers
            .iter()
            .map(|server| ServerReport {
                name: server.name.clone(),
                unavailable: refused.clone().or_else(|| server.trouble_to_tell()),
                rate_limited: server.pace.holds_mail_up(Instant::now()),
            })
            .collect()
    }

    /// Brings the gauges up to date.
    pub fn measure(&self, metrics: &WorkerMetrics) {
        let members = self.members();
        for server in &members.servers {
            let available = i64::from(server.unavailable().is_none());
            metrics.server_available.get_or_create(&ByServer { server: server.name.clone() }).set(available);
        }
        for (name, pool) in &members.pools {
            if let Pool::InUse(pool, _) = pool {
                let (status, label) = (pool.status(), ByPool { pool: name.clone() });
                metrics.slots_limit.get_or_create(&label).set(status.limit.into());
                metrics.slots_counted.get_or_create(&label).set(status.counted.into());
            }
        }
    }

    /// Makes the servers those of the record. Sessions of servers that are gone, different or suspended end after their mail; the
    /// pool of one that is suspended stays.
    pub fn follow(&self, record: &RelayRecord) {
        let limits = Limits {
            consecutive_failures: u32::try_from(record.spec.breaker.consecutive_failures).unwrap_or(1),
            pause: record.spec.breaker.pause.get(),
        };
        let joining = &self.0.joining;
        let lease = Duration::from_millis(record.lease_ms);
        let protected = self.0.unprotected.get().is_none();
        let mut members = self.members();
        let Members { servers, pools } = &mut *members;
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
        let wanted = |name: &str| record.spec.servers.iter().any(|server| server.pool() == name);
        for (name, pool) in pools.iter_mut() {
            if matches!(pool, Pool::InUse(_, length) if !wanted(name) || *length != lease) {
                let Pool::InUse(old, _) = std::mem::replace(pool, Pool::Leaving) else { continue };
                tokio::spawn(self.clone().see_off(name.clone(), old));
            }
        }
        let timing = Timing::with_lease(lease);
        // A lease that is too short for its own renewals keeps no promise: no pool is joined with it.
        let sound =
            timing.check().inspect_err(|rule| tracing::error!(rule, "the lease in the relay's record is of no use"));
        for settings in record.spec.servers.iter().filter(|server| sound.is_ok() && !server.suspend) {
            if servers.iter().any(|server| server.name == settings.name) {
                continue;
            }
            let name = settings.pool();
            let pool = pools.entry(name.clone()).or_insert_with(|| {
                let switch: Box<dyn DeadManSwitch> =
                    if protected { joining.host.switch() } else { Box::new(Unprotected) };
                let hold = settings.session_timeout.get();
                let table = self.0.table.get().cloned();
                let inheritance = inheritance::of(table.as_deref(), &name, timing.hold(hold), &timing, BootTime::now());
                let pending = inheritance.unproven.iter().map(|(id, _)| id.clone()).collect();
                let options = SlotOptions { hold, inheritance, table: table.clone(), switch };
                let (store, identity) = (joining.store.clone(), joining.identity.clone());
                let pool = SlotPool::spawn_with(store, &name, identity, timing, options);
                if !protected {
                    pool.set_want(0);
                }
                if let Some(table) = table {
                    tokio::spawn(inheritance::prove(table, pool.clone(), pending, timing.hold(hold)));
                }
                tokio::spawn(forward(pool.clone(), Arc::clone(&self.0.changed)));
                Pool::InUse(pool, lease)
            });
            // A pool that is leaving comes back through `see_off`, which calls this again.
            let Pool::InUse(pool, _) = pool else { continue };
            let (buckets, changed) = (Buckets::new(joining.store.clone(), &name), Arc::clone(&self.0.changed));
            servers.push(Arc::new(Server::new(settings, pool.clone(), buckets, limits, changed)));
        }
        for server in &record.spec.servers {
            // The record carries the budget's value, the longest among all servers and relays that share it.
            if let Some(Pool::InUse(pool, _)) = pools.get(&server.pool()) {
                pool.set_hold(server.session_timeout.get());
            }
        }
        drop(members);
        self.0.changed.notify_one();
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

    fn members(&self) -> MutexGuard<'_, Members> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
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
            status.limit.saturating_sub(status.counted)
        };
        if now > free {
            changed.notify_one();
        }
        free = now;
    }
}
