//! The servers of the relay and their sessions, kept as the relay's record says.

mod follow;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    breaker::Permit,
    follow::Followed,
    host::Host,
    server::{Opening, Server},
};
use crate::{
    api::{Reason, ServerReport, Unavailable},
    lease::{ConnectionTable, Identity, ProcessId, Slot, SlotPool, SwitchError},
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
    /// Whether they were woken since that was asked last.
    woken: AtomicBool,
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
            woken: AtomicBool::new(false),
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
                // Who rests can have its share as soon as mail comes.
                Permit::Granted if status.resting && status.entitlement > 0 => return Room::Now,
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

    /// Whether no session is open or being opened.
    pub fn is_idle(&self) -> bool {
        self.0.sessions.is_empty()
    }

    /// Nothing is to be sent: gives the shares of all budgets back, until a session is to be opened. Returns whether all rest
    /// or soon will.
    pub fn rest(&self) -> bool {
        let rest: Vec<bool> = self.pools().iter().map(SlotPool::rest).collect();
        rest.into_iter().all(|rests| rests)
    }

    /// Whether all rest or soon will.
    pub fn is_resting(&self) -> bool {
        self.pools().iter().all(|pool| pool.status().resting)
    }

    /// Whether mail woke them since the last call: who waits for a share that was lent has no session yet, and is not idle.
    pub fn take_woken(&self) -> bool {
        self.0.woken.swap(false, Ordering::Relaxed)
    }

    /// All of them, so that who works at one server is not silent at another.
    fn wake(&self) {
        self.0.woken.store(true, Ordering::Relaxed);
        for pool in self.pools().iter().filter(|pool| pool.status().resting) {
            pool.wake();
        }
    }

    fn pools(&self) -> Vec<SlotPool> {
        let members = self.members();
        let in_use = members.pools.values().filter_map(|pool| match pool {
            Pool::InUse(pool, _) => Some(pool.clone()),
            Pool::Leaving => None,
        });
        in_use.collect()
    }

    /// Opens up to `wanted` sessions, each on the server whose share is used least; how many. `live` is the life of a session.
    /// Where none can be opened since all rest, they are woken.
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
            let Some((server, (slot, opening))) = found else {
                if servers.iter().any(|server| server.pool.status().resting && server.permit(now) == Permit::Granted) {
                    self.wake();
                }
                return opened;
            };
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

    fn members(&self) -> MutexGuard<'_, Members> {
        self.0.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
