//! The leader's main loop: the only writer of ledgers and records.
//!
//! Each turn plans from what was observed, drives every pool's ledger to the plan, and publishes the relays' records.
//! A turn comes at once when a relay or a pod changes, and every 250 ms for what only time brings: a lost ledger, a
//! silent worker, a quarantine that is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, StreamExt, future::BoxFuture};
use kube::{Resource, ResourceExt};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    apply::{ApplyError, Deposed, Driven, Incident, Pool, Trouble, Turn},
    evidence::Pods,
    leader::LeaderError,
    marking::Marking,
    metrics::ControllerMetrics,
    observe::{Observed, PodFacts},
    plan::{Candidate, Ownership, Plan, PoolPlan, RelayKey, plan, pools_of},
    records::Records,
    safety::{StoreFacts, ask},
    shares::Liveness,
    succession::{Known, stand},
    topology::Topology,
};
use crate::{
    api::record_key,
    lease::{BootTime, LedgerState, LedgerView, Mirror, Timing},
    store::{Store, StoreError},
};

/// How often the ledgers are looked at when nothing changes (lease R8).
const TICK: Duration = Duration::from_millis(250);
/// How often Redis is asked whether it still has the relays' records.
const RECORDS_EVERY: Duration = Duration::from_secs(2);
/// How many pools are driven at once.
const AT_ONCE: usize = 16;

/// One pool as last seen.
#[derive(Clone, Debug, Default)]
pub struct PoolView {
    /// Its ledger, if Redis answered, there is one and it is in force.
    pub ledger: Option<LedgerView>,
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
}

/// What the leader knows: for those who show it.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// What was decided.
    pub plan: Arc<Plan>,
    /// The pools, by name.
    pub pools: BTreeMap<String, PoolView>,
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
    pub pods: BTreeMap<String, bool>,
    /// UIDs of pods that hold slots and are gone from the API server, and the node they were last seen on.
    pub vanished: BTreeMap<String, Option<String>>,
}

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum PoolsError {
    /// A ledger knows a later epoch.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// The `ConfigMap` knows a later epoch.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// What the loop works with.
pub struct Pools {
    /// The store.
    pub store: Store,
    /// What the API server says.
    pub observed: Observed,
    /// The epoch of this leadership.
    pub epoch: u64,
    /// The protocol's times.
    pub timing: Timing,
    /// Whether relays of several namespaces may share a budget.
    pub shared_budgets: bool,
    /// What must outlive Redis.
    pub marking: Marking,
    /// The pools that have a ledger, whoever named them.
    pub known: BTreeSet<String>,
    /// What the leader before wrote down, by pool; taken in by the first turn.
    pub mirrors: BTreeMap<String, Mirror>,
    /// What Redis says of itself, now and then.
    pub facts: watch::Receiver<Option<StoreFacts>>,
    /// Where the world is shown.
    pub world: watch::Sender<Arc<World>>,
    /// Where people hear of what happened.
    pub incidents: mpsc::UnboundedSender<Incident>,
    /// Figures.
    pub metrics: ControllerMetrics,
}

/// What the loop remembers from turn to turn.
#[derive(Default)]
struct Memory {
    pools: BTreeMap<String, Pool>,
    records: Records,
    records_checked: Option<Instant>,
    objections: BTreeMap<(String, i64), Option<String>>,
    pods: Pods,
    fence: Option<String>,
    topology: Topology,
    /// Whether there is a plan of this leader's.
    planned: bool,
    /// Pods in which something ran already when this leader began.
    older: Option<BTreeSet<String>>,
    world: World,
}

/// How one pool's turn ended.
struct Outcome {
    name: String,
    driven: Result<Driven, ApplyError>,
    incidents: Vec<Incident>,
    mirror: Mirror,
}

async fn drive(name: &str, pool: &mut Pool, plan: Option<&PoolPlan>, marked: bool, turn: &Turn<'_>) -> Outcome {
    let mut incidents = Vec::new();
    let driven = pool.drive(plan, marked, turn, &mut incidents).await;
    Outcome { name: name.to_owned(), driven, incidents, mirror: pool.mirror(turn.timing) }
}

impl Pools {
    /// Runs until another controller leads. Cancelling is safe at any point.
    pub async fn run(mut self) -> PoolsError {
        let mut memory = Memory::default();
        let mut changes = self.observed.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.replan(&mut memory);
        loop {
            if let Err(error) = self.turn(&mut memory).await {
                return error;
            }
            tokio::select! {
                _ = tick.tick() => {}
                // A new pool opens as soon as its mark is durable.
                written = self.marking.written() => if let Err(error) = written {
                    return error.into();
                },
                moved = changes.changed() => {
                    if moved.is_ok() {
                        self.replan(&mut memory);
                    } else {
                        // The watches are gone: so is this process, in a moment.
                        tick.tick().await;
                    }
                }
            }
        }
    }

    /// Pure but for its inputs: relays and pods as they are now.
    fn replan(&self, memory: &mut Memory) {
        let relays = self.observed.relays();
        let mut objections = std::mem::take(&mut memory.objections);
        let candidates: Vec<Candidate> = relays
            .iter()
            .filter_map(|relay| relay.0.as_ref().ok())
            .map(|relay| {
                let key = (relay.metadata.uid.clone().unwrap_or_default(), relay.metadata.generation.unwrap_or(0));
                // The rules are slow to evaluate, and a spec changes rarely.
                let objection = objections
                    .remove(&key)
                    .unwrap_or_else(|| relay.validate_cel().err().map(|errors| errors.to_string()));
                memory.objections.insert(key, objection.clone());
                Candidate { relay: Arc::new(relay.clone()), objection }
            })
            .collect();
        let pods = self.observed.pods();
        let unreadable = relays.iter().filter(|relay| relay.0.is_err()).map(|relay| {
            let key = RelayKey { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() };
            (relay.uid().unwrap_or_default(), key)
        });
        // What this leader decided is in force before it is written down.
        let owned = memory.planned.then(|| memory.world.plan.owned.clone());
        let owned = owned.unwrap_or_else(|| self.marking.owned().clone());
        let ownership = Ownership { owned, unreadable: unreadable.collect() };
        let running = || pods.iter().filter(|pod| !pod.running.is_empty()).map(|pod| pod.uid.clone()).collect();
        memory.older.get_or_insert_with(running);
        memory.note_pods(&pods);
        memory.world.plan = Arc::new(plan(&candidates, &pods, self.shared_budgets, &ownership));
        memory.planned = true;
    }

    async fn turn(&mut self, memory: &mut Memory) -> Result<(), PoolsError> {
        let started = Instant::now();
        let plan = Arc::clone(&memory.world.plan);
        for (name, mirror) in std::mem::take(&mut self.mirrors) {
            let mut pool = Pool::new(self.store.clone(), &name);
            pool.restore(&mirror);
            memory.pools.insert(name, pool);
        }
        let marked = self.marking.marked();
        for name in plan.pools.keys().chain(&marked).chain(&self.known) {
            if !memory.pools.contains_key(name) {
                memory.pools.insert(name.clone(), Pool::new(self.store.clone(), name));
            }
        }
        self.learn_topology(memory);
        self.stand(memory, &plan, &marked);
        let (evidence, topology, timing) = (memory.pods.evidence(), memory.topology.clone(), self.timing);
        let turn = Turn { epoch: self.epoch, timing: &timing, evidence: &evidence, topology: &topology };
        let mut drives: Vec<BoxFuture<'_, Outcome>> = Vec::with_capacity(memory.pools.len());
        for (name, pool) in &mut memory.pools {
            drives.push(drive(name, pool, plan.pools.get(name), marked.contains(name), &turn).boxed());
        }
        let outcomes: Vec<Outcome> = futures::stream::iter(drives).buffer_unordered(AT_ONCE).collect().await;
        let problem = self.note_outcomes(memory, outcomes)?;
        let problem = problem.or(self.ask_topology(memory).await.err().filter(StoreError::is_silence));
        let problem = match problem {
            Some(problem) => Some(problem),
            None => self.publish(memory, &plan, &turn).await?,
        };
        memory.note_problem(problem.map(|error| error.to_string()));
        memory.note_released(&self.observed, &plan);
        memory.note_vanished();
        self.world.send_replace(Arc::new(memory.world.clone()));
        self.metrics.turn(started.elapsed(), &memory.world);
        Ok(())
    }

    /// Takes in how each pool's turn ended. What one pool's ledger answered is that pool's alone. Returns the store's problem,
    /// when no pool could be driven, for a reason that may concern all.
    fn note_outcomes(&mut self, memory: &mut Memory, outcomes: Vec<Outcome>) -> Result<Option<StoreError>, PoolsError> {
        let now = BootTime::now();
        for error in outcomes.iter().filter_map(|outcome| outcome.driven.as_ref().err()) {
            self.metrics.refused(error);
        }
        let mut problem = None;
        let any_went_well = outcomes.iter().any(|outcome| outcome.driven.is_ok());
        let mut wanted = BTreeSet::new();
        for Outcome { name, driven, incidents, mirror } in outcomes {
            for incident in incidents {
                // Nobody listens only while the process ends.
                let _ = self.incidents.send(incident);
            }
            match driven {
                Ok(driven) => {
                    let ledger = driven.snapshot.in_force().cloned();
                    memory.world.liveness.learn(&name, ledger.as_ref(), now);
                    memory.note_fence(driven.snapshot.node_fence, now);
                    // One that is open, and whose mark was lost, need not wait for it.
                    let waits =
                        driven.wants_mark && ledger.as_ref().is_none_or(|ledger| ledger.state == LedgerState::Rec);
                    let trouble = self.marking.trouble().filter(|_| waits);
                    if driven.wants_mark {
                        wanted.insert(name.clone());
                    }
                    if driven.removed {
                        memory.pools.remove(&name);
                        memory.world.pools.remove(&name);
                        memory.world.liveness.forget(&name);
                        self.known.remove(&name);
                        self.marking.unmark(&name);
                        continue;
                    }
                    let Driven { effective, by_roll_call, .. } = driven;
                    let (waits_for, lent) =
                        memory.pools.get(&name).map_or_else(Default::default, |pool| (pool.waits_for(), pool.lent()));
                    let view = PoolView { ledger, effective, mirror, waits_for, by_roll_call, trouble, lent };
                    memory.note_pool(name, view);
                }
                Err(ApplyError::Deposed(deposed)) => return Err(deposed.into()),
                Err(ApplyError::Store(error)) => {
                    memory.world.liveness.unanswered(&name);
                    let trouble = memory.pools.get(&name).map(|pool| Trouble::of_ledger(pool.key(), &error));
                    memory.note_pool(name, PoolView { mirror, trouble, ..PoolView::default() });
                    if !any_went_well && error.may_concern_all() {
                        problem = Some(error);
                    }
                }
            }
        }
        self.marking.want(wanted, &memory.world.plan.owned);
        Ok(problem)
    }

    /// Publishes what changed at once, and the rest every two seconds, in case Redis lost it. A record that Redis refuses is its
    /// relay's trouble; Redis itself has a problem only when it says nothing.
    async fn publish(
        &self,
        memory: &mut Memory,
        plan: &Plan,
        turn: &Turn<'_>,
    ) -> Result<Option<StoreError>, PoolsError> {
        let due = memory.records_checked.is_none_or(|checked| checked.elapsed() >= RECORDS_EVERY);
        for (key, relay) in &plan.relays {
            let is_refused = memory.world.records.contains_key(key) && memory.records.was_tried(key, relay);
            if !due && (is_refused || memory.records.is_current(key, relay)) {
                continue;
            }
            let published = memory.records.publish(&self.store, key, relay, turn).await;
            if let Some(silence) = self.note_record(memory, key, published)? {
                return Ok(Some(silence));
            }
        }
        memory.world.records.retain(|key, _| plan.relays.contains_key(key));
        if due {
            memory.records_checked = Some(Instant::now());
        }
        let gone: Vec<RelayKey> =
            memory.records.keys().filter(|key| !plan.relays.contains_key(*key)).cloned().collect();
        // A relay on its way out may have been published by the leader before us.
        let leaving = memory.leaving(&self.observed, plan);
        for key in gone.into_iter().chain(leaving) {
            let withdrawn = memory.records.withdraw(&self.store, &key, turn).await;
            let went_well = withdrawn.is_ok();
            if let Some(silence) = self.note_record(memory, &key, withdrawn)? {
                return Ok(Some(silence));
            }
            if went_well {
                memory.world.released.insert(key);
            }
        }
        Ok(None)
    }

    /// Takes in what became of one relay's record. Returns the error when Redis said nothing.
    fn note_record(
        &self,
        memory: &mut Memory,
        key: &RelayKey,
        done: Result<(), ApplyError>,
    ) -> Result<Option<StoreError>, PoolsError> {
        let Err(error) = done else {
            if memory.world.records.remove(key).is_some() {
                tracing::info!(relay = %key, "the relay's record can be written again");
            }
            return Ok(None);
        };
        self.metrics.refused(&error);
        let error = match error {
            ApplyError::Deposed(deposed) => return Err(deposed.into()),
            ApplyError::Store(error) if error.is_silence() => return Ok(Some(error)),
            ApplyError::Store(error) => error,
        };
        let trouble = Trouble::of_record(&record_key(&key.namespace, &key.name), &error);
        if memory.world.records.insert(key.clone(), trouble.clone()).as_ref() != Some(&trouble) {
            tracing::error!(relay = %key, trouble.message, "a relay's record cannot be written");
        }
        Ok(None)
    }

    /// One server, one ledger: how the pools stand towards each other, by what the last turn saw.
    fn stand(&self, memory: &mut Memory, plan: &Plan, marked: &BTreeSet<String>) {
        let known: BTreeMap<String, Known> = memory
            .pools
            .iter()
            .filter_map(|(name, pool)| Some((name.clone(), pool.succession(marked.contains(name), &self.timing)?)))
            .collect();
        let mut standings = stand(plan, &known);
        let older = memory.older.iter().flatten().collect::<BTreeSet<_>>();
        for (name, pool) in &mut memory.pools {
            let standing = standings.remove(name).unwrap_or_default();
            // Mark, mirror and ledger may all be lost, as by a new installation over an old one whose pods go on. Whoever
            // takes a server over from a ledger has that as its record.
            let members = plan.pools.get(name).map(|pool| &pool.members);
            let ran_before = members.into_iter().flatten().any(|pod| older.contains(pod));
            pool.stand(standing, ran_before);
        }
    }

    /// Takes in what Redis said of its replication lately.
    fn learn_topology(&mut self, memory: &mut Memory) {
        if self.facts.has_changed().unwrap_or(false)
            && let (Some(facts), Some(fence)) = (&*self.facts.borrow_and_update(), &memory.fence)
        {
            memory.topology.learn(fence, facts);
        }
    }

    /// A node that answers for the first time is asked at once: nothing is made there before.
    async fn ask_topology(&self, memory: &mut Memory) -> Result<(), StoreError> {
        let Some(fence) = memory.fence.clone().filter(|fence| memory.topology.old_primary(fence).is_none()) else {
            return Ok(());
        };
        memory.topology.learn(&fence, &ask(&self.store).await?);
        Ok(())
    }
}

impl Memory {
    fn note_problem(&mut self, problem: Option<String>) {
        match (&self.world.store_problem, &problem) {
            (None, Some(problem)) => tracing::error!(store.problem = problem, "Redis cannot be used"),
            (Some(_), None) => tracing::info!("Redis can be used again"),
            _ => {}
        }
        self.world.store_problem = problem;
    }

    /// Shows how a pool stands now, and says once what is wrong with it.
    fn note_pool(&mut self, name: String, view: PoolView) {
        let before = self.world.pools.get(&name).and_then(|before| before.trouble.as_ref());
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
        self.world.pools.insert(name, view);
    }

    fn note_pods(&mut self, pods: &[PodFacts]) {
        self.world.pods = pods.iter().map(|pod| (pod.uid.clone(), pod.terminating)).collect();
        let held = self.pools.values().flat_map(Pool::known).map(|holder| &*holder.pod_uid).collect();
        self.pods.note(pods, &held);
    }

    fn note_fence(&mut self, fence: String, now: BootTime) {
        match &self.fence {
            Some(known) if *known != fence => {
                tracing::warn!(store.fence = fence, "Redis is another one, or was started anew");
                self.world.fence_changed = Some(now);
                self.fence = Some(fence);
            }
            Some(_) => {}
            None => self.fence = Some(fence),
        }
    }

    fn note_vanished(&mut self) {
        let holders =
            self.world.pools.values().filter_map(|pool| pool.ledger.as_ref()).flat_map(|ledger| &ledger.holders);
        let vanished = holders.filter(|holder| holder.claim > 0 && !self.world.pods.contains_key(&holder.pod_uid));
        self.world.vanished =
            vanished.map(|holder| (holder.pod_uid.clone(), self.pods.node(&holder.pod_uid).cloned())).collect();
    }

    /// Relays that are being deleted, still carry our finalizer and are not released yet.
    fn leaving(&self, observed: &Observed, plan: &Plan) -> Vec<RelayKey> {
        observed
            .relays()
            .iter()
            .filter_map(|relay| {
                relay.meta().deletion_timestamp.as_ref()?;
                let ours = relay.finalizers().iter().any(|name| name == crate::api::FINALIZER);
                let key = RelayKey { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() };
                (ours && !plan.relays.contains_key(&key) && !self.world.released.contains(&key)).then_some(key)
            })
            .collect()
    }

    /// A relay is released once its record is withdrawn and no ledger of a pool that it named carries a share that the plan does
    /// not know.
    fn note_released(&mut self, observed: &Observed, plan: &Plan) {
        let is_behind = |name: &String| {
            let members = plan.pools.get(name).map(|pool| &pool.members);
            self.world.pools.get(name).and_then(|pool| pool.ledger.as_ref()).is_some_and(|ledger| {
                ledger.entitlements.keys().any(|uid| members.is_none_or(|members| !members.contains(uid)))
            })
        };
        let relays = observed.relays();
        let mut existing = BTreeSet::new();
        for relay in &relays {
            let behind = relay.0.as_ref().is_ok_and(|relay| pools_of(relay).iter().any(is_behind));
            if !behind {
                existing.insert(RelayKey { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() });
            }
        }
        self.world.released.retain(|key| existing.contains(key) && !plan.relays.contains_key(key));
    }
}
