//! Resolves what an older process of this pod left behind.
//!
//! The pod's abstract socket is ours (lease R5a), so every other process that a ledger names under this pod's UID is
//! dead. Claims of other pods, and of processes that no ledger knows any more, are the controller's business.

use std::{collections::BTreeSet, time::Duration};

use super::{backoff::Backoff, host::Host};
use crate::{
    api::{RelayRecord, Server},
    lease::{HolderView, Identity, LedgerStore, Snapshot},
    queue::{At, Queue, QueueNames, RecoverOptions},
    store::{Store, StoreError},
    telemetry::metrics::{ByDecision, WorkerMetrics},
};

/// How long Redis may take to say how it is set up.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// What recovery works with.
#[derive(Clone, Copy)]
pub struct Handles<'a> {
    /// Redis.
    pub store: &'a Store,
    /// Who we are.
    pub identity: &'a Identity,
    /// The machine, which knows how the process before ended.
    pub host: &'a dyn Host,
    /// Figures.
    pub metrics: &'a WorkerMetrics,
}

/// Resolves all claims of older processes, trying until Redis has done so.
pub async fn recover_predecessors(handles: Handles<'_>, record: &RelayRecord) {
    let mut backoff = Backoff::new();
    loop {
        let error = match Past::read(handles, record).await {
            Ok(past) => match past.resolve(handles, record).await {
                Ok(()) => return,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let pause = backoff.next();
        tracing::debug!(%error, retry_ms = pause.as_millis(), "cannot look for claims of an older process");
        tokio::time::sleep(pause).await;
    }
}

/// What the ledgers still know of this pod.
struct Past {
    /// Older processes of this pod.
    holders: Vec<HolderView>,
    /// Whether the store is another one than the ledgers were granted on, and not one that keeps every write: then a
    /// `committing` may be lost, and no stage can be trusted. None when this login may not ask.
    may_have_lost_stages: Option<bool>,
}

impl Past {
    async fn read(handles: Handles<'_>, record: &RelayRecord) -> Result<Self, StoreError> {
        let mut holders = Vec::new();
        let mut same_store = true;
        let pools: BTreeSet<String> = record.spec.servers.iter().map(Server::pool).collect();
        for pool in pools {
            let snapshot = LedgerStore::new(handles.store.clone(), &pool).snapshot().await?;
            same_store &= snapshot.in_force().is_some();
            holders.extend(predecessors(&snapshot, handles.identity));
        }
        let may_have_lost_stages =
            if same_store { Some(false) } else { keeps_every_write(handles.store).await?.map(|keeps| !keeps) };
        Ok(Self { holders, may_have_lost_stages })
    }

    /// Resolves what they claimed.
    async fn resolve(&self, handles: Handles<'_>, record: &RelayRecord) -> Result<(), StoreError> {
        if self.holders.is_empty() {
            return Ok(());
        }
        let Some(fence_changed) = self.may_have_lost_stages else {
            // The controller knows how Redis keeps its data, and resolves them when their holders have been silent.
            tracing::info!("claims of older processes of this pod are left to the controller: Redis is another one");
            return Ok(());
        };
        let queue = Queue::new(handles.store.clone(), QueueNames::from_spec(&record.spec.queue));
        for process in queue.processes().await? {
            let Some(older) = self.holders.iter().find(|holder| holder.process == process.process) else { continue };
            // In another boot the node went down with it; in this one it was the process that ended, before its time.
            let crashed = older.boot_id == handles.identity.boot_id;
            let unknown = record.spec.unknown_outcome;
            let out_of_memory = crashed && handles.host.predecessor_ran_out_of_memory();
            let options = RecoverOptions { unknown, fence_changed, crashed, out_of_memory };
            let recovery = queue.recover(&process.process, &options, At::Redis).await?;
            count(handles.metrics, &recovery);
            tracing::warn!(
                process.id = process.process,
                process.crashed = crashed,
                claims.requeued = recovery.requeued,
                claims.held = recovery.held,
                claims.resent = recovery.resent,
                claims.poison = recovery.poison,
                "an older process of this pod left claims; they are resolved"
            );
        }
        Ok(())
    }
}

/// The older processes of this pod that a ledger knows, in force or not.
fn predecessors(snapshot: &Snapshot, identity: &Identity) -> Vec<HolderView> {
    let ours = |holder: &&HolderView| holder.pod_uid == identity.pod_uid && holder.process != identity.process.as_str();
    snapshot.ledger.iter().flat_map(|ledger| &ledger.holders).filter(ours).cloned().collect()
}

/// Adds what was resolved to the figures.
pub(super) fn count(metrics: &WorkerMetrics, recovery: &crate::queue::Recovery) {
    for ((stage, outcome), count) in &recovery.decisions {
        metrics.recovered.get_or_create(&ByDecision { stage: stage.as_str(), outcome }).inc_by(*count);
    }
}

/// Whether Redis is a single node with `appendfsync always`. None when this login may not ask for settings, among which are
/// passwords: a worker of one tenant has no leave to.
async fn keeps_every_write(store: &Store) -> Result<Option<bool>, StoreError> {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("append*");
    let settings: Vec<String> = match store.query_if_permitted(&ask, ANSWER_LIMIT).await {
        Ok(settings) => settings,
        // Some who offer Redis as a service know no such command.
        Err(StoreError::Refused { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let is = |name: &str, value: &str| {
        settings.chunks(2).any(|pair| pair[0] == name && pair.get(1).is_some_and(|v| v == value))
    };
    let mut ask = redis::cmd("INFO");
    ask.arg("replication");
    let replication: String = store.query(&ask, ANSWER_LIMIT).await?;
    Ok(Some(is("appendonly", "yes") && is("appendfsync", "always") && replication.contains("connected_slaves:0")))
}
