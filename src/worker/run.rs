//! A worker from its start to its end.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::Duration,
};

use prometheus_client::registry::Registry;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    admission::Admission,
    backoff::Backoff,
    credentials::CredentialsFolder,
    current_queue::CurrentQueue,
    deadline::Deadlines,
    deaths::DeathWatch,
    fleet::{Fleet, Joining},
    follow::{Followed, follow},
    host::{self, Guard, Host, Machine},
    intake, memory, recover,
    requests::{Intake, Requests},
    sender,
    settle::Settler,
    upkeep,
};
use crate::{
    lease::{Identity, Numbers, ProcessId, SwitchError, boot_id},
    queue::Room,
    store::{Store, StoreError, StoreOptions},
    telemetry::{
        http::{self, Routes},
        metrics::WorkerMetrics,
    },
};

/// How long giving the slots back may take at the end.
const LEAVE_LIMIT: Duration = Duration::from_secs(2);

/// How often the dead-man switch is tried out when that fails for reasons of its own.
const TRIALS: u32 = 5;
const TRIAL_PAUSE: Duration = Duration::from_secs(1);

/// How a worker is set up; everything else comes from the relay's record.
#[derive(Clone)]
pub struct WorkerOptions {
    /// Where Redis is.
    pub store: StoreOptions,
    /// Namespace of the pod and of its relay.
    pub namespace: String,
    /// Name of the relay.
    pub relay: String,
    /// Name of the pod.
    pub pod: String,
    /// UID of the pod.
    pub pod_uid: String,
    /// Folder with one folder of login files for each server.
    pub credentials: PathBuf,
    /// Address of `/livez`, `/readyz`, `/metrics`.
    pub http: SocketAddr,
    /// How long mails that are being sent may take to finish after SIGTERM.
    pub drain: Duration,
    /// How long a session without work is kept open.
    pub idle: Duration,
    /// How long a mail may stay at one stage: until its message is complete, and from there until the server has answered.
    pub transaction: Duration,
    /// Our name in EHLO; `None`: the pod's host name.
    pub helo: Option<String>,
}

/// Why a worker could not run, or did not end cleanly.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The Redis options make no sense.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The system refused something at the start.
    #[error("cannot {what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// A task that nothing goes on without has ended; a new process will do better.
    #[error("a task of the worker failed; what it had in hand was finished")]
    Failed,
    /// The time for draining was over; what was left is resolved by its stage.
    #[error(
        "mails were still being sent or settled after {limit:?} and were cut off; what of that was not recorded is resolved by its stage: raise --drain-timeout and the pod's grace period"
    )]
    NotDrained {
        /// How long it waited.
        limit: Duration,
    },
}

/// Runs a worker until SIGTERM or SIGINT, then drains it. A second signal ends it at once.
pub async fn run(options: WorkerOptions) -> Result<(), WorkerError> {
    let system = |what| move |source| WorkerError::System { what, source };
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listen for SIGINT"))?;
    let store = Store::new(&options.store)?;
    let mut registry = Registry::default();
    let metrics = WorkerMetrics::register(&mut registry);
    let (ready, readiness) = watch::channel(true);
    tokio::spawn(http::serve(options.http, Routes::new(readiness, Arc::new(registry))));

    let boot_id = boot_id().map_err(system("read the id of this boot"))?;
    let worker = Worker::new(&options, store, boot_id, Arc::new(Machine), metrics);
    let stopped = async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    let draining = worker.work(stopped).await;
    let _ = ready.send(false);
    tokio::select! {
        drained = draining.finish() => drained,
        _ = terminate.recv() => Err(WorkerError::NotDrained { limit: Duration::ZERO }),
        _ = interrupt.recv() => Err(WorkerError::NotDrained { limit: Duration::ZERO }),
    }
}

/// A worker without what belongs to its process: signals and HTTP.
pub struct Worker {
    parts: Parts,
    requests: Requests,
    upkeep: upkeep::Handles,
    drain: Duration,
}

/// What starts a worker and ends it.
struct Parts {
    host: Arc<dyn Host>,
    store: Store,
    /// The relay in force.
    relay: Followed,
    identity: Identity,
    fleet: Fleet,
    settler: Settler,
    metrics: WorkerMetrics,
    intake: Arc<intake::Handles>,
    /// The task that answers the sessions.
    intake_task: TaskTracker,
    /// Proof that no other process of this pod is a worker, kept until this one ends.
    only_worker: OnceLock<Guard>,
    /// Ends when no new mail may be started.
    stop: CancellationToken,
    /// Ends when sessions that still live must be given up as they are.
    out_of_time: CancellationToken,
}

/// A worker that is on its way out.
pub struct Draining {
    parts: Parts,
    limit: Duration,
    outcome: Result<(), WorkerError>,
}

impl Worker {
    /// A worker in a machine whose boot has this id, to be called inside a tokio runtime. It follows the relay's record
    /// from now on and does nothing else yet.
    pub fn new(
        options: &WorkerOptions,
        store: Store,
        boot_id: String,
        host: Arc<dyn Host>,
        metrics: WorkerMetrics,
    ) -> Self {
        let identity = Identity {
            pod_uid: options.pod_uid.clone(),
            pod: options.pod.clone(),
            namespace: options.namespace.clone(),
            process: ProcessId::random(),
            boot_id,
            numbers: Numbers::default(),
        };
        tracing::info!(
            relay.namespace = options.namespace,
            relay.name = options.relay,
            pod.name = options.pod,
            process.id = identity.process.as_str(),
            redis.address = store.address(),
            version = env!("CARGO_PKG_VERSION"),
            "the worker starts"
        );
        let (intake, requests) = Intake::new();
        let (relay, refused) = follow(store.clone(), &options.namespace, &options.relay);
        let deadlines = Deadlines::new(options.transaction);
        let stop = CancellationToken::new();
        let fleet = Fleet::new(Joining {
            host: Arc::clone(&host),
            store: store.clone(),
            identity: identity.clone(),
            relay: relay.clone(),
            stop: stop.clone(),
        });
        let settler = Settler::new(identity.process.clone(), relay.clone(), metrics.clone(), deadlines);
        let (files, queue) = (Arc::new(CredentialsFolder::new(&options.credentials)), Arc::<CurrentQueue>::default());
        let (promote, out_of_time) = (Arc::new(Notify::new()), CancellationToken::new());
        let sessions = sender::Handles {
            process: identity.process.clone(),
            network: host.network(),
            helo: options.helo.clone().unwrap_or_else(host::name),
            files: Arc::clone(&files),
            intake,
            fleet: fleet.clone(),
            settler: settler.clone(),
            deaths: DeathWatch::new(settler.clone(), fleet.clone()),
            admission: Admission::new(),
            deadlines,
            idle: options.idle,
            promote: Arc::clone(&promote),
            metrics: metrics.clone(),
            stop: stop.clone(),
            out_of_time: out_of_time.clone(),
        };
        let intake = intake::Handles {
            process: identity.process.clone(),
            pod: identity.pod.clone(),
            store: store.clone(),
            relay: relay.clone(),
            queue: Arc::clone(&queue),
            room: Room::of(memory::for_bodies()),
            fleet: fleet.clone(),
            sessions: Arc::new(sessions),
            settler: settler.clone(),
            metrics: metrics.clone(),
            stop: stop.clone(),
        };
        let upkeep = upkeep::Handles {
            store: store.clone(),
            relay_name: options.relay.clone(),
            relay: relay.clone(),
            refused,
            identity: identity.clone(),
            queue,
            fleet: fleet.clone(),
            settler: settler.clone(),
            files,
            promote,
            metrics: metrics.clone(),
        };
        let (intake, intake_task, only_worker) = (Arc::new(intake), TaskTracker::new(), OnceLock::new());
        let parts = Parts {
            host,
            store,
            relay,
            identity,
            fleet,
            settler,
            metrics,
            intake,
            intake_task,
            only_worker,
            stop,
            out_of_time,
        };
        Self { parts, requests, upkeep, drain: options.drain }
    }

    /// Works until `stop` resolves, or until a task has failed that all depends on. Cancelling ends it as a crash would.
    pub async fn work(self, stop: impl Future<Output = ()>) -> Draining {
        let Self { parts, requests, upkeep, drain } = self;
        let outcome = tokio::select! {
            () = work(&parts, upkeep, requests) => Err(WorkerError::Failed),
            () = stop => Ok(()),
        };
        Draining { parts, limit: drain, outcome }
    }
}

impl Draining {
    /// Finishes what is being sent and gives the slots back; says how the worker ended. Cancelling leaves the rest to
    /// be resolved by its stage.
    pub async fn finish(self) -> Result<(), WorkerError> {
        drain(&self.parts, self.limit).await.and(self.outcome)
    }
}

/// Works until dropped: proof of being the pod's only worker, what older ones left, then mail. Ends only when a task that
/// all depends on has failed.
async fn work(parts: &Parts, upkeep: upkeep::Handles, requests: Requests) {
    let host = parts.host.as_ref();
    let (only, protected) = tokio::join!(only_worker(host, &parts.identity), protected(host));
    // Kept until the process ends, also while it drains.
    let _ = parts.only_worker.set(only);
    parts.fleet.account_in(parts.host.connections(), &parts.identity.process);
    if let Err(error) = protected {
        tracing::error!(%error, "this worker opens no session");
        parts.fleet.refuse(error);
    }
    // It tells why there is no record to follow, too.
    let mut upkeep = tokio::spawn(upkeep::run(upkeep));
    let mut relay = parts.relay.clone();
    let first = loop {
        let record = relay.borrow_and_update().clone();
        match record {
            Some(record) => break record,
            // The follower ends with the process.
            None => {
                if relay.changed().await.is_err() {
                    return;
                }
            }
        }
    };
    let Parts { store, identity, metrics, .. } = parts;
    recover::recover_predecessors(recover::Handles { store, identity, host, metrics }, &first).await;
    parts.fleet.follow(&first);
    let mut intake = parts.intake_task.spawn(intake::run(Arc::clone(&parts.intake), requests));
    loop {
        tokio::select! {
            changed = relay.changed() => if changed.is_err() { return },
            _ = &mut upkeep => return,
            _ = &mut intake => return,
        }
        let record = relay.borrow_and_update().clone();
        if let Some(record) = record {
            parts.fleet.follow(&record);
        }
    }
}

/// Whether the dead-man switch works here (lease R6). A trial that could not be made is made again.
async fn protected(host: &dyn Host) -> Result<(), SwitchError> {
    let mut left = TRIALS;
    loop {
        left -= 1;
        match host.check_switch().await {
            Err(SwitchError::NotTried(error)) if left > 0 => {
                tracing::warn!(error, "the dead-man switch is tried out again");
                tokio::time::sleep(TRIAL_PAUSE).await;
            }
            checked => return checked,
        }
    }
}

/// Waits until no other process of this pod is a worker (lease R5a).
async fn only_worker(host: &dyn Host, identity: &Identity) -> Guard {
    let mut backoff = Backoff::new();
    let mut complained = false;
    loop {
        match host.claim_pod(&identity.pod_uid) {
            Ok(guard) => return guard,
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "another worker of this pod still runs; waiting for its end");
                }
                tokio::time::sleep(backoff.next()).await;
            }
        }
    }
}

/// No new mail; what is being sent finishes; outcomes are recorded; slots go back.
async fn drain(parts: &Parts, limit: Duration) -> Result<(), WorkerError> {
    tracing::info!(limit_ms = limit.as_millis(), "the worker drains");
    parts.stop.cancel();
    let finished = async {
        parts.intake_task.close();
        parts.intake_task.wait().await;
        parts.fleet.drained().await;
        parts.settler.drained().await;
    };
    let drained = tokio::time::timeout(limit, finished).await;
    if drained.is_err() {
        // What is cut off now is told as such: others need not wait until this process is known to be dead.
        parts.out_of_time.cancel();
        let told = async {
            parts.fleet.drained().await;
            parts.settler.drained().await;
        };
        let _ = tokio::time::timeout(LEAVE_LIMIT, told).await;
    }
    // Without Redis nobody can be told; the lease ends by itself.
    let left = tokio::time::timeout(LEAVE_LIMIT, parts.fleet.leave()).await;
    match drained {
        Ok(()) => {
            tracing::info!(slots.returned = left.is_ok(), "the worker is drained");
            Ok(())
        }
        Err(_) => Err(WorkerError::NotDrained { limit }),
    }
}
