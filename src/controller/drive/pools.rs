//! All pools that the leader drives.

use std::collections::{BTreeMap, BTreeSet};

use futures::{FutureExt, StreamExt, future::BoxFuture};

use super::{
    error::ApplyError,
    incident::Incident,
    pool::Pool,
    turn::{Driven, Turn},
};
use crate::{
    controller::plan::{Known, Plan, PoolPlan, stand},
    lease::{HolderView, Mirror, Timing},
    store::Store,
};

/// How many pools are driven at once.
const AT_ONCE: usize = 16;

/// How one pool's turn ended.
pub struct Outcome {
    /// The pool.
    pub name: String,
    /// The last look, or why there is none.
    pub driven: Result<Driven, ApplyError>,
    /// What happened to it.
    pub incidents: Vec<Incident>,
    /// What the next leader must know if the ledger is lost.
    pub mirror: Mirror,
}

async fn drive(name: &str, pool: &mut Pool, plan: Option<&PoolPlan>, marked: bool, turn: &Turn<'_>) -> Outcome {
    let mut incidents = Vec::new();
    let driven = pool.drive(plan, marked, turn, &mut incidents).await;
    Outcome { name: name.to_owned(), driven, incidents, mirror: pool.mirror(turn.timing) }
}

/// The pools, by name.
pub struct Pools {
    store: Store,
    pools: BTreeMap<String, Pool>,
}

impl Pools {
    /// Those that the leader before wrote down.
    pub fn restored(store: Store, mirrors: BTreeMap<String, Mirror>) -> Self {
        let restore = |(name, mirror): (String, Mirror)| {
            let mut pool = Pool::new(store.clone(), &name);
            pool.restore(&mirror);
            (name, pool)
        };
        let pools = mirrors.into_iter().map(restore).collect();
        Self { store, pools }
    }

    /// Adds those of these names that are not there yet.
    pub fn add<'a>(&mut self, names: impl IntoIterator<Item = &'a String>) {
        for name in names {
            if !self.pools.contains_key(name) {
                self.pools.insert(name.clone(), Pool::new(self.store.clone(), name));
            }
        }
    }

    /// Forgets one that is gone for good.
    pub fn remove(&mut self, name: &str) {
        self.pools.remove(name);
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.pools.get(name)
    }

    /// The holders that this leader knows of, whether or not their ledgers are in force.
    pub fn known(&self) -> impl Iterator<Item = &HolderView> {
        self.pools.values().flat_map(Pool::known)
    }

    /// One server, one ledger: how the pools stand towards each other, by what the last turn saw. `older` are the UIDs of pods
    /// in which something ran already when this leader began.
    pub fn stand(&mut self, plan: &Plan, marked: &BTreeSet<String>, older: &BTreeSet<String>, timing: &Timing) {
        let known: BTreeMap<String, Known> = self
            .pools
            .iter()
            .filter_map(|(name, pool)| Some((name.clone(), pool.succession(marked.contains(name), timing)?)))
            .collect();
        let mut standings = stand(plan, &known);
        for (name, pool) in &mut self.pools {
            let standing = standings.remove(name).unwrap_or_default();
            // Mark, mirror and ledger may all be lost, as by a new installation over an old one whose pods go on. Whoever
            // takes a server over from a ledger has that as its record.
            let members = plan.pools.get(name).map(|pool| &pool.members);
            let ran_before = members.into_iter().flatten().any(|pod| older.contains(pod));
            pool.stand(standing, ran_before);
        }
    }

    /// Brings every pool's ledger to the plan, several at once.
    pub async fn drive(&mut self, plan: &Plan, marked: &BTreeSet<String>, turn: &Turn<'_>) -> Vec<Outcome> {
        let mut drives: Vec<BoxFuture<'_, Outcome>> = Vec::with_capacity(self.pools.len());
        for (name, pool) in &mut self.pools {
            drives.push(drive(name, pool, plan.pools.get(name), marked.contains(name), turn).boxed());
        }
        futures::stream::iter(drives).buffer_unordered(AT_ONCE).collect().await
    }
}
