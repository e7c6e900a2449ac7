//! Resolves what an older process of this pod left behind.
//!
//! The pod's abstract socket is ours (lease R5a), so every other process that a ledger names under this pod's UID is
//! dead. Claims of other pods, and of processes that no ledger knows any more, are the controller's business.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{backoff::Backoff, context::Context};
use crate::{
    api::{RelayRecord, Server},
    lease::{HolderView, Identity, LedgerState, LedgerStore, Snapshot},
    queue::{Queue, QueueNames, RecoverOptions, UnixMillis},
    store::{Store, StoreError},
    telemetry::metrics::{ByKind, WorkerMetrics},
};

/// How long Redis may take to say how it is set up.
const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Resolves all claims of older processes, trying until Redis has done so; then looks for the sockets they left.
///
/// How many sockets may still be open, by pool: they are withheld from this process's share.
pub async fn recover_predecessors(context: &Context, record: &RelayRecord) -> BTreeMap<String, u32> {
    let mut backoff = Backoff::new();
    let past = loop {
        let error = match Past::read(context, record).await {
            Ok(past) => match past.resolve(context, record).await {
                Ok(()) => break past,
                Err(error) => error,
            },
            Err(error) => error,
        };
        let pause = backoff.next();
        tracing::debug!(%error, retry_ms = pause.as_millis(), "cannot look for claims of an older process");
        tokio::time::sleep(pause).await;
    };
    past.sockets(context, record).await
}

/// What the ledgers still know of this pod.
struct Past {
    /// Older processes of this pod.
    holders: Vec<HolderView>,
    /// The pools of which an older process may have left sockets.
    suspects: BTreeSet<String>,
    /// Whether the store is another one than the ledgers were granted on, and not one that keeps every write: then a
    /// `committing` may be lost, and no stage can be trusted.
    may_have_lost_stages: bool,
}

impl Past {
    async fn read(context: &Context, record: &RelayRecord) -> Result<Self, StoreError> {
        let mut holders = Vec::new();
        let mut suspects = BTreeSet::new();
        let mut same_store = true;
        let pools: BTreeSet<String> = record.spec.servers.iter().map(Server::pool).collect();
        for pool in pools {
            let snapshot = LedgerStore::new(context.store.clone(), &pool).snapshot().await?;
            same_store &= snapshot.in_force().is_some();
            let older = predecessors(&snapshot, &context.identity);
            if may_have_left_sockets(&snapshot, &older) {
                suspects.insert(pool);
            }
            holders.extend(older);
        }
        let may_have_lost_stages = !same_store && !keeps_every_write(&context.store).await;
        Ok(Self { holders, suspects, may_have_lost_stages })
    }

    /// Resolves what they claimed.
    async fn resolve(&self, context: &Context, record: &RelayRecord) -> Result<(), StoreError> {
        if self.holders.is_empty() {
            return Ok(());
        }
        let queue = Queue::new(context.store.clone(), QueueNames::from_spec(&record.spec.queue));
        for process in queue.processes().await? {
            let Some(older) = self.holders.iter().find(|holder| holder.process == process.process) else { continue };
            // In another boot the node went down with it; in this one it was the process that ended, before its time.
            let crashed = older.boot_id == context.identity.boot_id;
            let unknown = record.spec.unknown_outcome;
            let options = RecoverOptions { unknown, fence_changed: self.may_have_lost_stages, crashed };
            let recovery = queue.recover(&process.process, &options, UnixMillis::now()).await?;
            count(&context.metrics, &recovery);
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

    /// Sockets that the kernel has not ended yet, by pool. What cannot be looked up is left to the ledger, which
    /// withholds the older process's slots anyway.
    async fn sockets(&self, context: &Context, record: &RelayRecord) -> BTreeMap<String, u32> {
        let mut left = BTreeMap::new();
        for pool in &self.suspects {
            let mut addresses = Vec::new();
            for server in record.spec.servers.iter().filter(|server| server.pool() == *pool) {
                let looking = tokio::net::lookup_host((server.host.as_str(), server.port));
                if let Ok(Ok(found)) = tokio::time::timeout(ANSWER_LIMIT, looking).await {
                    addresses.extend(found);
                }
            }
            let count = context.host.older_sockets(&addresses).await.unwrap_or(0);
            if count > 0 {
                tracing::warn!(
                    ledger.pool = pool,
                    sockets = count,
                    "an older process left sockets; their slots are withheld"
                );
            }
            left.insert(pool.clone(), count);
        }
        left
    }
}

/// The older processes of this pod that a ledger knows, in force or not.
fn predecessors(snapshot: &Snapshot, identity: &Identity) -> Vec<HolderView> {
    let ours = |holder: &&HolderView| holder.pod_uid == identity.pod_uid && holder.process != identity.process.as_str();
    snapshot.ledger.iter().flat_map(|ledger| &ledger.holders).filter(ours).cloned().collect()
}

/// Whether sockets of an older process must be looked for: it is in the ledger; or the ledger has been lost, so that it
/// may have been in there. An open ledger in force that does not know it has accounted for all its slots, or it never had
/// any. To look always would take the application's own connections to the server for ours, at each start of a pod.
fn may_have_left_sockets(snapshot: &Snapshot, older: &[HolderView]) -> bool {
    !older.is_empty() || snapshot.in_force().is_none_or(|ledger| ledger.state != LedgerState::Open)
}

/// Adds what was resolved to the figures.
pub(super) fn count(metrics: &WorkerMetrics, recovery: &crate::queue::Recovery) {
    let kinds = [
        ("requeued", recovery.requeued),
        ("held", recovery.held),
        ("resent", recovery.resent),
        ("poison", recovery.poison),
    ];
    for (kind, count) in kinds {
        metrics.recovered.get_or_create(&ByKind { kind }).inc_by(count);
    }
}

/// A single node with `appendfsync always`. What cannot be asked counts as no.
async fn keeps_every_write(store: &Store) -> bool {
    let mut ask = redis::cmd("CONFIG");
    ask.arg("GET").arg("append*");
    let settings: Vec<String> = store.query(&ask, ANSWER_LIMIT).await.unwrap_or_default();
    let is = |name: &str, value: &str| {
        settings.chunks(2).any(|pair| pair[0] == name && pair.get(1).is_some_and(|v| v == value))
    };
    let mut ask = redis::cmd("INFO");
    ask.arg("replication");
    let replication: String = store.query(&ask, ANSWER_LIMIT).await.unwrap_or_default();
    is("appendonly", "yes") && is("appendfsync", "always") && replication.contains("connected_slaves:0")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::{LedgerView, Numbers, ProcessId};

    fn identity() -> Identity {
        Identity {
            pod_uid: "us".into(),
            pod: "pod".into(),
            namespace: "mail".into(),
            process: ProcessId::random(),
            boot_id: "boot".into(),
            numbers: Numbers::default(),
        }
    }

    fn holder(pod_uid: &str, process: &str) -> HolderView {
        HolderView {
            inc: format!("{pod_uid}.{process}"),
            pod_uid: pod_uid.into(),
            pod: format!("mail/{pod_uid}"),
            process: process.into(),
            boot_id: "boot".into(),
            generation: 1,
            seq: 1,
            claim: 4,
            limit: 4,
            want: 4,
            open: 4,
            busy: 4,
        }
    }

    fn snapshot(fence: &str, state: LedgerState, holders: Vec<HolderView>) -> Snapshot {
        let ledger = LedgerView {
            fence: fence.into(),
            token: "t".into(),
            state,
            epoch: 1,
            revision: 1,
            budget: 8,
            lease: Duration::from_secs(6),
            holders,
            entitlements: BTreeMap::new(),
            generations: BTreeMap::new(),
            version: 1,
            floor: 0,
            servers: BTreeSet::new(),
            quarantine: Vec::new(),
        };
        Snapshot { node_fence: "here".into(), ledger: Some(ledger) }
    }

    /// Whether sockets are looked for.
    fn looks(snapshot: &Snapshot) -> bool {
        may_have_left_sockets(snapshot, &predecessors(snapshot, &identity()))
    }

    #[test]
    fn sockets_are_looked_for_unless_an_open_ledger_has_accounted_for_all_older_processes() {
        use LedgerState::{Open, Rec};
        let (us, them) = (|| vec![holder("us", "old")], || vec![holder("them", "old")]);
        assert!(!looks(&snapshot("here", Open, them())), "a pod's first process");
        assert!(looks(&snapshot("here", Open, us())), "its predecessor holds slots");
        // Found by the simulation: a worker died with its FIN lost, the ledger was deleted, and the next process came
        // before the ledger was open again. Its predecessor passed for one whose sockets had been looked for.
        assert!(looks(&Snapshot { node_fence: "here".into(), ledger: None }), "the ledger was lost");
        assert!(looks(&snapshot("here", Rec, them())), "and made anew");
        assert!(looks(&snapshot("elsewhere", Open, them())), "an older copy");
    }
}
