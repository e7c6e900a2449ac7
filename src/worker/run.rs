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
    context::{Context, default_helo},
    credentials::CredentialsFolder,
    current_queue::CurrentQueue,
    deadline::Deadlines,
    deaths::DeathWatch,
    fleet::{Fleet, Joining},
    follow::follow,
    host::{Guard, Host, Machine},
    intake, memory,
    recover::recover_predecessors,
    requests::{Intake, Requests},
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
    context: Arc<Context>,
    requests: Requests,
    drain: Duration,
}

/// A worker that is on its way out.
pub struct Draining {
    context: Arc<Context>,
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
        let context = Context {
            relay_name: options.relay.clone(),
            process: identity.process.clone(),
            intake,
            intake_task: TaskTracker::new(),
            only_worker: OnceLock::new(),
            deaths: DeathWatch::new(settler.clone(), fleet.clone()),
            fleet,
            settler,
            deadlines,
            relay,
            refused,
            files: CredentialsFolder::new(&options.credentials),
            metrics,
            queue: CurrentQueue::default(),
            room: Room::of(memory::for_bodies()),
            helo: options.helo.clone().unwrap_or_else(default_helo),
            idle: options.idle,
            stop,
            out_of_time: CancellationToken::new(),
            promote: Notify::new(),
            admission: Admission::new(),
            identity,
            host,
            store,
        };
        Self { context: Arc::new(context), requests, drain: options.drain }
    }

    /// Works until `stop` resolves, or until a task has failed that all depends on. Cancelling ends it as a crash would.
    pub async fn work(self, stop: impl Future<Output = ()>) -> Draining {
        let Self { context, requests, drain } = self;
        let outcome = tokio::select! {
            () = work(Arc::clone(&context), requests) => Err(WorkerError::Failed),
            () = stop => Ok(()),
        };
        Draining { context, limit: drain, outcome }
    }
}

impl Draining {
    /// Finishes what is being sent and gives the slots back; says how the worker ended. Cancelling leaves the rest to
    /// be resolved by its stage.
    pub async fn finish(self) -> Result<(), WorkerError> {
        drain(&self.context, self.limit).await.and(self.outcome)
    }
}

/// Works until dropped: proof of being the pod's only worker, what older ones left, then mail. Ends only when a task that
/// all depends on has failed.
async fn work(context: Arc<Context>, requests: Requests) {
    let (only, protected) = tokio::join!(only_worker(&context), protected(&context));
    // Kept until the process ends, also while it drains.
    let _ = context.only_worker.set(only);
    context.fleet.account_in(context.host.connections(), &context.process);
    if let Err(error) = protected {
        tracing::error!(%error, "this worker opens no session");
        context.fleet.refuse(error);
    }
    // It tells why there is no record to follow, too.
    let mut upkeep = tokio::spawn(upkeep::run(Arc::clone(&context)));
    let mut relay = context.relay.clone();
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
    recover_predecessors(&context, &first).await;
    context.fleet.follow(&first);
    let mut intake = context.intake_task.spawn(intake::run(Arc::clone(&context), requests));
    loop {
        tokio::select! {
            changed = relay.changed() => if changed.is_err() { return },
            _ = &mut upkeep => return,
            _ = &mut intake => return,
        }
        let record = relay.borrow_and_update().clone();
        if let Some(record) = record {
            context.fleet.follow(&record);
        }
    }
}

/// Whether the dead-man switch works here (lease R6). A trial that could not be made is made again.
async fn protected(context: &Context) -> Result<(), SwitchError> {
    let mut left = TRIALS;
    loop {
        left -= 1;
        match context.host.check_switch().await {
            Err(SwitchError::NotTried(error)) if left > 0 => {
                tracing::warn!(error, "the dead-man switch is tried out again");
                tokio::time::sleep(TRIAL_PAUSE).await;
            }
            checked => return checked,
        }
    }
}

/// Waits until no other process of this pod is a worker (lease R5a).
async fn only_worker(context: &Context) -> Guard {
    let mut backoff = Backoff::new();
    let mut complained = false;
    loop {
        match context.host.claim_pod(&context.identity.pod_uid) {
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
async fn drain(context: &Context, limit: Duration) -> Result<(), WorkerError> {
    tracing::info!(limit_ms = limit.as_millis(), "the worker drains");
    context.stop.cancel();
    let finished = async {
        context.intake_task.close();
        context.intake_task.wait().await;
        context.fleet.drained().await;
        context.settler.drained().await;
    };
    let drained = tokio::time::timeout(limit, finished).await;
    if drained.is_err() {
        // What is cut off now is told as such: others need not wait until this process is known to be dead.
        context.out_of_time.cancel();
        let told = async {
            context.fleet.drained().await;
            context.settler.drained().await;
        };
        let _ = tokio::time::timeout(LEAVE_LIMIT, told).await;
    }
    // Without Redis nobody can be told; the lease ends by itself.
    let left = tokio::time::timeout(LEAVE_LIMIT, context.fleet.leave()).await;
    match drained {
        Ok(()) => {
            tracing::info!(slots.returned = left.is_ok(), "the worker is drained");
            Ok(())
        }
        Err(_) => Err(WorkerError::NotDrained { limit }),
    }
}
