//! What the leader knows: for those who show it, or act by it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{
    observe::{Liveness, Pods},
    plan::{Plan, RelayKey},
    trouble::Trouble,
};
use crate::lease::{BootTime, LedgerView, Mirror};

/// One pool as last seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PoolView {
    /// Its ledger, if Redis answered, there is one and it is in force.
    pub ledger: Option<Arc<LedgerView>>,
    /// The slots that are shared out while the server takes fewer sessions than the budget.
    pub effective: Option<u32>,
    /// What the next leader must know if the ledger is lost.
    pub mirror: Mirror,
    /// The budgets whose ledgers may still count connections of its servers: it waits for them.
    pub waits_for: BTreeSet<String>,
    /// It opens only when every worker has come over from a node that may still take writes (R8).
    pub by_roll_call: bool,
    /// Why it stands still.
    pub trouble: Option<Trouble>,
    /// UIDs of pods whose workers never registered, so that their shares are lent to the others.
    pub lent: BTreeSet<String>,
    /// UIDs of pods that rest while their shares are lent to other relays.
    pub idle: BTreeSet<String>,
}

/// What the leader knows: for those who show it. A clone shares what is large.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// What was decided.
    pub plan: Arc<Plan>,
    /// The pools, by name.
    pub pools: Arc<BTreeMap<String, Arc<PoolView>>>,
    /// Why Redis cannot be used now, by anyone.
    pub store_problem: Option<String>,
    /// Why the records of these relays are not as the plan says.
    pub records: BTreeMap<RelayKey, Trouble>,
    /// Relays that are gone from the plan and hold no share any more: their finalizer may go.
    pub released: BTreeSet<RelayKey>,
    /// When processes were last heard of.
    pub liveness: Liveness,
    /// The last change of the ledgers' fence, if this leader saw one.
    pub fence_changed: Option<BootTime>,
    /// UIDs of the pods that exist, and whether they are being deleted.
    pub pods: Arc<BTreeMap<String, bool>>,
    /// UIDs of pods that hold slots and are gone from the API server, and the node they were last seen on.
    pub vanished: BTreeMap<String, Option<String>>,
}

impl World {
    /// Takes in whether Redis can be used.
    pub fn note_problem(&mut self, problem: Option<String>) {
        match (&self.store_problem, &problem) {
            (None, Some(problem)) => tracing::error!(store.problem = problem, "Redis cannot be used"),
            (Some(_), None) => tracing::info!("Redis can be used again"),
            _ => {}
        }
        self.store_problem = problem;
    }

    /// Takes in how a pool stands now, and says once what is wrong with it. One that stands as it did is the same: nobody need
    /// look at its relays.
    pub fn note_pool(&mut self, name: String, view: PoolView) {
        let before = self.pools.get(&name);
        if before.is_some_and(|before| **before == view) {
            return;
        }
        let before = before.and_then(|before| before.trouble.as_ref());
        match (before, &view.trouble) {
            (before, Some(now)) if before.map(|before| before.reason) != Some(now.reason) => {
                tracing::error!(
                    pool = name,
                    trouble.reason = now.reason,
                    trouble.message = now.message,
                    "a pool stands still"
                );
            }
            (Some(_), None) => tracing::info!(pool = name, "the pool goes on"),
            _ => {}
        }
        Arc::make_mut(&mut self.pools).insert(name, Arc::new(view));
    }

    /// Takes in a pool's mirror; all else of it is as it was.
    pub fn note_mirror(&mut self, name: &str, mirror: Mirror) {
        if let Some(view) = Arc::make_mut(&mut self.pools).get_mut(name) {
            Arc::make_mut(view).mirror = mirror;
        }
    }

    /// A pool is gone for good.
    pub fn forget_pool(&mut self, name: &str) {
        Arc::make_mut(&mut self.pools).remove(name);
        self.liveness.forget(name);
    }

    /// Takes in which holders are gone from the API server.
    pub fn note_vanished(&mut self, pods: &Pods) {
        let holders = self.pools.values().filter_map(|pool| pool.ledger.as_ref()).flat_map(|ledger| &ledger.holders);
        let vanished = holders.filter(|holder| holder.claim > 0 && !self.pods.contains_key(&holder.pod_uid));
        self.vanished = vanished.map(|holder| (holder.pod_uid.clone(), pods.node(&holder.pod_uid).cloned())).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_looked_at_and_stands_as_it_did_stirs_nobody() {
        let mut world = World::default();
        let lent = |pod: &str| PoolView { lent: BTreeSet::from([pod.to_owned()]), ..PoolView::default() };
        world.note_pool("mx".into(), lent("one"));
        let before = world.clone();
        world.note_pool("mx".into(), lent("one"));
        assert!(Arc::ptr_eq(&before.pools, &world.pools));
        world.note_pool("mx".into(), lent("another"));
        assert!(!Arc::ptr_eq(&before.pools["mx"], &world.pools["mx"]));
    }
}
