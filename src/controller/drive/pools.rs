//! All pools that the leader drives.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};

use super::{
    error::ApplyError,
    incident::Incident,
    pool::Pool,
    turn::{Driven, Turn},
};
use crate::{
    controller::plan::{Known, Plan, PoolPlan, stand},
    lease::{BootTime, HolderView, LedgerView, Mirror, Timing, Twins},
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

async fn drive(name: &str, pool: &mut Pool, plan: Option<&Arc<PoolPlan>>, marked: bool, turn: &Turn<'_>) -> Outcome {
    let mut incidents = Vec::new();
    let driven = pool.drive(plan, marked, turn, &mut incidents).await;
    Outcome { name: name.to_owned(), driven, incidents, mirror: pool.mirror(turn.timing) }
}

/// How a turn of all pools ended.
#[derive(Default)]
pub struct Round {
    /// How it ended for those that were driven.
    pub outcomes: Vec<Outcome>,
    /// Whether Redis said of any pool that nothing changed there.
    pub is_answered: bool,
    /// The mirrors of those that rest and withhold something: how long is another thing in each turn.
    pub mirrors: Vec<(String, Mirror)>,
}

/// The pools, by name.
pub struct Pools {
    store: Store,
    by_name: BTreeMap<String, Pool>,
    /// What others must know of each that may take its servers over, and for which plan and marks that was said last.
    known: BTreeMap<String, Known>,
    stood_for: Option<Arc<Plan>>,
    marked: Arc<BTreeSet<String>>,
    /// The pools of which that may be another by now.
    outdated: BTreeSet<String>,
}

impl Pools {
    /// Those that the leader before wrote down.
    pub fn restored(store: Store, mirrors: BTreeMap<String, Mirror>) -> Self {
        let restore = |(name, mirror): (String, Mirror)| {
            let mut pool = Pool::new(store.clone(), &name);
            pool.restore(&mirror);
            (name, pool)
        };
        let by_name: BTreeMap<String, Pool> = mirrors.into_iter().map(restore).collect();
        let outdated = by_name.keys().cloned().collect();
        Self { store, by_name, known: BTreeMap::new(), stood_for: None, marked: Arc::default(), outdated }
    }

    /// Adds those that are planned, `marked`, or `known` to have a ledger, and are not there yet.
    pub fn add(&mut self, plan: &Arc<Plan>, marked: &Arc<BTreeSet<String>>, known: &BTreeSet<String>) {
        // One that was removed since is neither planned nor marked.
        let is_new = !self.stood_for.as_ref().is_some_and(|last| Arc::ptr_eq(last, plan));
        if !is_new && Arc::ptr_eq(&self.marked, marked) {
            return;
        }
        for name in plan.pools.keys().chain(&**marked).chain(known) {
            if !self.by_name.contains_key(name) {
                self.by_name.insert(name.clone(), Pool::new(self.store.clone(), name));
                self.outdated.insert(name.clone());
                // It is to be told how it stands, whatever the others are.
                self.stood_for = None;
            }
        }
    }

    /// Forgets one that is gone for good.
    pub fn remove(&mut self, name: &str) {
        self.by_name.remove(name);
        self.outdated.insert(name.to_owned());
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Pool> {
        self.by_name.get(name)
    }

    /// The holders that this leader knows of, whether or not their ledgers are in force.
    pub fn known(&self) -> impl Iterator<Item = &HolderView> {
        self.by_name.values().flat_map(Pool::known)
    }

    /// One server, one ledger: how the pools stand towards each other, by what the last turn saw. `older` are the UIDs of pods
    /// in which something ran already when this leader began.
    pub fn stand(
        &mut self,
        plan: &Arc<Plan>,
        marked: &Arc<BTreeSet<String>>,
        older: &BTreeSet<String>,
        timing: &Timing,
    ) {
        let is_marked_anew = !Arc::ptr_eq(&self.marked, marked);
        let mut moved = is_marked_anew || !self.stood_for.as_ref().is_some_and(|last| Arc::ptr_eq(last, plan));
        if is_marked_anew {
            self.marked = Arc::clone(marked);
            self.outdated.extend(self.by_name.keys().cloned());
        }
        for name in std::mem::take(&mut self.outdated) {
            let known = self.by_name.get(&name).and_then(|pool| pool.succession(marked.contains(&name), timing));
            if known.as_ref() != self.known.get(&name) {
                moved = true;
                match known {
                    Some(known) => drop(self.known.insert(name, known)),
                    None => drop(self.known.remove(&name)),
                }
            }
        }
        if !moved {
            return;
        }
        self.stood_for = Some(Arc::clone(plan));
        let mut standings = stand(plan, &self.known);
        for (name, pool) in &mut self.by_name {
            let standing = standings.remove(name).unwrap_or_default();
            // Mark, mirror and ledger may all be lost, as by a new installation over an old one whose pods go on. Whoever
            // takes a server over from a ledger has that as its record.
            let members = plan.pools.get(name).map(|pool| &pool.members);
            let ran_before = members.into_iter().flatten().any(|pod| older.contains(pod));
            pool.stand(standing, ran_before);
        }
    }

    /// In these pools somebody rests while mail waits: who was not heard of for long is asked whether it lives.
    pub async fn ask(&mut self, idle: &BTreeSet<String>) {
        for name in idle {
            if let Some(pool) = self.by_name.get_mut(name)
                && let Err(error) = pool.ask(true, BootTime::now()).await
            {
                tracing::debug!(pool = name, %error, "cannot ask who rests");
            }
        }
    }

    /// Brings every pool's ledger to the plan, several at once; those whose ledgers are as they were rest.
    pub async fn drive(&mut self, plan: &Plan, marked: &BTreeSet<String>, turn: &Turn<'_>) -> Round {
        let resting = self.resting(plan, marked, turn).await;
        let mut round = Round { is_answered: resting.contains(&true), ..Round::default() };
        let mut drives: Vec<BoxFuture<'_, Outcome>> = Vec::new();
        let now = BootTime::now();
        for ((name, pool), rests) in self.by_name.iter_mut().zip(resting) {
            if !rests {
                self.outdated.insert(name.clone());
                drives.push(drive(name, pool, plan.pools.get(name), marked.contains(name), turn).boxed());
                continue;
            }
            pool.rest(now);
            if pool.withholds() {
                self.outdated.insert(name.clone());
                round.mirrors.push((name.clone(), pool.mirror(turn.timing)));
            }
        }
        round.outcomes = futures::stream::iter(drives).buffer_unordered(AT_ONCE).collect().await;
        round
    }

    /// Which pools, in their order, need no look in this turn: nothing asks for one, and their twins say what they said.
    async fn resting(&self, plan: &Plan, marked: &BTreeSet<String>, turn: &Turn<'_>) -> Vec<bool> {
        let now = BootTime::now();
        let mut seen: Vec<Option<&LedgerView>> = Vec::with_capacity(self.by_name.len());
        for (name, pool) in &self.by_name {
            seen.push(pool.at_rest(plan.pools.get(name), marked.contains(name), turn, now));
        }
        let names = self.by_name.keys().zip(&seen).filter(|(_, seen)| seen.is_some());
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        let twins = if names.is_empty() { Ok(Twins::default()) } else { Twins::look(&self.store, &names).await };
        let Twins { node_fence, versions } = twins.unwrap_or_else(|error| {
            tracing::debug!(%error, "cannot look at the ledgers' twins");
            Twins::default()
        });
        let mut versions = versions.into_iter();
        let mut is_same =
            |ledger: &LedgerView| versions.next() == Some(Some(ledger.version)) && ledger.fence == node_fence;
        seen.into_iter().map(|seen| seen.is_some_and(&mut is_same)).collect()
    }
}
