//! The controller process: waits to lead, leads, and ends when it leads no more.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use kube::Client;
use prometheus_client::registry::Registry;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    api_server::{self, ClientError},
    housekeeping::{call_who_rests, expire_dead_letters, recover_claims, watch_cleanup},
    lead::{Election, LeaderError, Marking, OpenedPools, begin, known_pools, mirrors},
    metrics::ControllerMetrics,
    observe::{Observed, Safety, watch_safety},
    reconcile::{Leadership, ReconcileError, Reconciler},
    status::{Activity, EventRecorder, MailServers, Relays, StatusWriter, watch_activity},
    world::World,
};
use crate::{
    lease::{ProcessId, Timing},
    store::{Store, StoreError, StoreOptions},
    system,
    telemetry::http::{Routes, serve},
};

/// How long giving up the Lease may take at the end.
const RESIGN_LIMIT: Duration = Duration::from_secs(3);

/// How a controller is started.
#[derive(Clone, clap::Args)]
pub struct ControllerOptions {
    /// Where Redis is
    #[command(flatten)]
    pub store: StoreOptions,
    /// Namespace of the leader's Lease and of the `ConfigMap` with the epoch: the controller's own
    #[arg(long, env = "POD_NAMESPACE", default_value = "mailrelay")]
    pub namespace: String,
    /// Name of this replica in the Lease and in Events
    #[arg(long, env = "POD_NAME", default_value = "mailrelay-controller")]
    pub identity: String,
    /// Name of the leader's Lease; the `ConfigMap` is called the same with `-epoch`
    #[arg(long, env = "MAILRELAY_LEASE_NAME", default_value = "mailrelay-controller")]
    pub lease_name: String,
    /// Where to serve /livez, /readyz and /metrics
    #[arg(long = "http", env = "MAILRELAY_HTTP", default_value = "[::]:8080")]
    pub http: SocketAddr,
}

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum ControllerError {
    /// The options for Redis make no sense.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The API server cannot be reached.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Signals cannot be received.
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
    /// The lease times do not hold together.
    #[error("{0}")]
    Timing(String),
    /// The epoch could not be begun.
    #[error("cannot begin an epoch")]
    Epoch(#[source] LeaderError),
    /// Another replica leads; the process ends so that nothing of its leadership is left, and starts anew as a standby.
    #[error("leadership is lost: {0}")]
    Deposed(String),
    /// A task that must live ended.
    #[error("the task {0} ended unexpectedly")]
    TaskEnded(&'static str),
}

/// Runs a controller until SIGTERM or SIGINT, or until leadership is lost.
///
/// Cancelling is safe at any point: shares stay as they are, and the Lease runs out.
pub async fn run(options: ControllerOptions) -> Result<(), ControllerError> {
    let stop = system::asked_to_end().map_err(ControllerError::Signals)?;
    Box::pin(run_until(options, stop)).await
}

/// Runs a controller until `stop` resolves, or until leadership is lost.
async fn run_until(options: ControllerOptions, stop: impl Future<Output = ()>) -> Result<(), ControllerError> {
    let store = Store::new(&options.store)?;
    let client = api_server::client().await?;
    let mut registry = Registry::default();
    let (ready, readiness) = watch::channel(false);
    let http = options.http;
    let replica = Replica::new(options, store, client, &mut registry, ready);
    let served = serve(http, Routes::new(readiness, Arc::new(registry)));
    let stop = async {
        tokio::select! {
            () = stop => Ok(()),
            () = served => Err(ControllerError::TaskEnded("http")),
        }
    };
    replica.run(stop).await
}

/// A controller without what belongs to its process: signals, HTTP, and how Redis and the API server are reached.
pub struct Replica {
    options: ControllerOptions,
    store: Store,
    client: Client,
    metrics: ControllerMetrics,
    ready: watch::Sender<bool>,
}

impl Replica {
    /// A controller that does nothing yet. `ready` is told when it observes.
    pub fn new(
        options: ControllerOptions,
        store: Store,
        client: Client,
        registry: &mut Registry,
        ready: watch::Sender<bool>,
    ) -> Self {
        Self { options, store, client, metrics: ControllerMetrics::register(registry), ready }
    }

    /// Waits to lead, and leads, until `stop` resolves or leadership is lost. Cancelling ends it as a crash would.
    pub async fn run(self, stop: impl Future<Output = Result<(), ControllerError>>) -> Result<(), ControllerError> {
        let Self { options, store, client, metrics, ready } = self;
        let identity = format!("{}_{}", options.identity, ProcessId::random());
        let election = Election::new(client.clone(), &options.namespace, &options.lease_name, identity);
        let (observed, watches) = Observed::start(&client);
        let work = async {
            // A standby observes too, so that it can act at once.
            observed.ready().await;
            ready.send_replace(true);
            tracing::info!("relays, mail servers and pods are observed; waiting to lead");
            election.win().await;
            tokio::select! {
                ended = lead(&options, &client, &store, &observed, &metrics) => ended,
                lost = election.keep() => Err(ControllerError::Deposed(lost.to_string())),
            }
        };
        let ended = tokio::select! {
            ended = work => ended,
            () = watches => Err(ControllerError::TaskEnded("watches")),
            stopped = stop => {
                tracing::info!("asked to stop");
                stopped
            }
        };
        // Everything that leads is dropped by now, so the next leader may start.
        let _ = tokio::time::timeout(RESIGN_LIMIT, election.resign()).await;
        ended
    }
}

async fn lead(
    options: &ControllerOptions,
    client: &Client,
    store: &Store,
    observed: &Observed,
    metrics: &ControllerMetrics,
) -> Result<(), ControllerError> {
    let timing = Timing::default();
    timing.check().map_err(ControllerError::Timing)?;
    let registry = OpenedPools::new(client.clone(), &options.namespace, &format!("{}-epoch", options.lease_name));
    let (known, highest) = known_pools(store).await;
    let recorded = begin(&registry, highest).await.map_err(ControllerError::Epoch)?;
    let epoch = recorded.epoch;
    let mirrors = mirrors(client).await;
    metrics.lead(epoch);
    tracing::info!(leader.epoch = epoch, pools.known = known.len(), "this replica leads");

    let (show_world, world) = watch::channel(Arc::new(World::default()));
    let (judge, safety) = watch::channel(Safety::Unknown);
    let (tell_facts, facts) = watch::channel(None);
    let (tell_idle, idle) = watch::channel(Arc::default());
    let (show_activity, activity) = watch::channel(Arc::new(Activity::default()));
    let (report, incidents) = mpsc::unbounded_channel();
    let (tell, news) = mpsc::unbounded_channel();
    let leadership = Leadership {
        store: store.clone(),
        observed: observed.clone(),
        epoch,
        timing,
        marking: Marking::new(registry, epoch, recorded),
        known,
        facts,
        idle,
        world: show_world,
        incidents: report,
        metrics: metrics.clone(),
    };
    let reconciler = Reconciler::new(leadership, mirrors);
    let relays = Relays {
        writer: StatusWriter::new(client.clone()),
        store: store.clone(),
        observed: observed.clone(),
        world: world.clone(),
        safety: safety.clone(),
        activity: activity.clone(),
        incidents,
        news,
        recorder: EventRecorder::new(client.clone(), options.identity.clone()),
        metrics: metrics.clone(),
    };
    let mail_servers = MailServers {
        writer: StatusWriter::new(client.clone()),
        observed: observed.clone(),
        world: world.clone(),
        metrics: metrics.clone(),
    };
    let cleanup = watch_cleanup(store.clone(), world.clone(), activity.clone(), tell.clone());
    let retention = expire_dead_letters(store.clone(), world.clone(), activity.clone(), tell.clone(), metrics.clone());
    let calls = call_who_rests(store.clone(), world.clone(), activity.clone(), tell_idle);
    let claims = recover_claims(store.clone(), timing, world.clone(), safety, activity, tell, metrics.clone());
    let movements = watch_activity(store.clone(), world, show_activity);
    let safety_store = store.clone();
    // One task each: a slow API server must not hold up the ledgers. They end with this future.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { Some(reconciler.run().await) });
    spawn(&mut tasks, relays.run());
    spawn(&mut tasks, mail_servers.run());
    spawn(&mut tasks, calls);
    spawn(&mut tasks, claims);
    spawn(&mut tasks, retention);
    spawn(&mut tasks, cleanup);
    spawn(&mut tasks, movements);
    spawn(&mut tasks, async move { watch_safety(safety_store, judge, tell_facts).await });
    match tasks.join_next().await {
        Some(Ok(Some(ReconcileError::Deposed(error)))) => Err(ControllerError::Deposed(error.to_string())),
        Some(Ok(Some(ReconcileError::Leader(error)))) => Err(ControllerError::Deposed(error.to_string())),
        _ => Err(ControllerError::TaskEnded("leader")),
    }
}

/// Adds a task that never ends by itself.
fn spawn(tasks: &mut JoinSet<Option<ReconcileError>>, task: impl Future<Output = ()> + Send + 'static) {
    tasks.spawn(async move {
        task.await;
        None
    });
}
