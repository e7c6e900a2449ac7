//! The leader's main loop: the only writer of ledgers and records.
//!
//! Each turn plans from what was observed, drives every pool's ledger to the plan, publishes the relays' records, and shows
//! what the leader knows by then. A turn comes at once when a relay or a pod changes, and every 250 ms for what only time
//! brings: a lost ledger, a silent worker, a quarantine that is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    drive::{ApplyError, Deposed, Driven, Incident, Outcome, Pools, Round, Turn},
    lead::{LeaderError, Marking},
    metrics::ControllerMetrics,
    observe::{Observed, Pods, StoreFacts, Topology, ask},
    plan::{Candidates, KnownLenders, Ownership, Plan, plan, unreadable},
    publish::{Publisher, keep_released},
    trouble::Trouble,
    world::{PoolView, World},
};
use crate::{
    lease::{BootTime, LedgerState, Mirror, Timing},
    store::{Store, StoreError},
};

/// How often the ledgers' twins are looked at when nothing changes (lease R8).
const TICK: Duration = Duration::from_millis(250);

/// How long changes of relays and pods are gathered, so that a hundred pods that start are planned together.
const GATHER: Duration = Duration::from_millis(50);

/// Why the loop ended.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// A ledger knows a later epoch.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// The `ConfigMap` knows a later epoch.
    #[error(transparent)]
    Leader(#[from] LeaderError),
}

/// What the loop works with.
pub struct Leadership {
    /// The store.
    pub store: Store,
    /// What the API server says.
    pub observed: Observed,
    /// The epoch of this leadership.
    pub epoch: u64,
    /// The protocol's times.
    pub timing: Timing,
    /// What must outlive Redis.
    pub marking: Marking,
    /// The pools that have a ledger, whoever named them.
    pub known: BTreeSet<String>,
    /// What Redis says of itself, now and then.
    pub facts: watch::Receiver<Option<StoreFacts>>,
    /// The pools in which somebody rests while mail waits.
    pub idle: watch::Receiver<Arc<BTreeSet<String>>>,
    /// Where the world is shown.
    pub world: watch::Sender<Arc<World>>,
    /// Where people hear of what happened.
    pub incidents: mpsc::UnboundedSender<Incident>,
    /// Figures.
    pub metrics: ControllerMetrics,
}

/// The loop, with what it remembers from turn to turn.
pub struct Reconciler {
    lead: Leadership,
    /// Whether a relay or a pod changed since the last plan.
    is_outdated: bool,
    candidates: Candidates,
    lenders: KnownLenders,
    pods: Pods,
    /// Pods in which something ran already when this leader began; `None` until they were looked at.
    older: Option<BTreeSet<String>>,
    fence: Option<String>,
    topology: Topology,
    pools: Pools,
    publisher: Publisher,
    world: World,
}

impl Reconciler {
    /// A leader before its first turn; `mirrors` is what the leader before wrote down, by pool.
    pub fn new(lead: Leadership, mirrors: BTreeMap<String, Mirror>) -> Self {
        Self {
            is_outdated: true,
            candidates: Candidates::default(),
            lenders: KnownLenders::default(),
            pods: Pods::default(),
            older: None,
            fence: None,
            topology: Topology::default(),
            pools: Pools::restored(lead.store.clone(), mirrors),
            publisher: Publisher::new(lead.store.clone(), lead.metrics.clone()),
            world: World {
                plan: Arc::new(Plan { owned: Arc::clone(lead.marking.owned()), ..Plan::default() }),
                ..World::default()
            },
            lead,
        }
    }

    /// Runs until another controller leads. Cancelling is safe at any point.
    pub async fn run(mut self) -> ReconcileError {
        let mut changes = self.lead.observed.changes();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if let Err(error) = self.turn().await {
                return error;
            }
            tokio::select! {
                _ = tick.tick() => {}
                // A new pool opens as soon as its mark is durable.
                written = self.lead.marking.written() => if let Err(error) = written {
                    return error.into();
                },
                moved = changes.changed() => {
                    if moved.is_ok() {
                        tokio::time::sleep(GATHER).await;
                        changes.borrow_and_update();
                        self.is_outdated = true;
                    } else {
                        // The watches are gone: so is this process, in a moment.
                        tick.tick().await;
                    }
                }
            }
        }
    }

    async fn turn(&mut self) -> Result<(), ReconcileError> {
        // Observe and plan: anew when a relay or a pod changed.
        let before = Arc::clone(&self.world.pools);
        let is_new = std::mem::take(&mut self.is_outdated);
        if is_new {
            self.replan();
        }
        let (started, timing) = (Instant::now(), self.lead.timing);
        let plan = Arc::clone(&self.world.plan);
        let marked = self.lead.marking.marked();
        self.learn_topology();

        // Drive: every ledger to the plan.
        self.pools.add(&plan, &marked, &self.lead.known);
        self.pools.stand(&plan, &marked, self.older.get_or_insert_default(), &timing);
        let (evidence, topology) = (self.pods.evidence(), self.topology.clone());
        let turn = Turn { epoch: self.lead.epoch, timing: &timing, evidence: &evidence, topology: &topology };
        let idle = Arc::clone(&self.lead.idle.borrow());
        self.pools.ask(&idle).await;
        let round = self.pools.drive(&plan, &marked, &turn).await;
        let silence = self.note_round(round)?;
        let silence = silence.or(self.ask_topology().await.err().filter(StoreError::is_silence));

        // Publish: the records of all relays.
        let silence = match silence {
            Some(silence) => Some(silence),
            None => self.publisher.publish(&plan, &turn, &self.lead.observed, &mut self.world).await?,
        };
        if !self.world.released.is_empty() {
            keep_released(&mut self.world, &self.lead.observed.relays(), &plan);
        }

        // Show: what the leader knows by now.
        self.world.note_problem(silence.map(|error| error.to_string()));
        if is_new || !Arc::ptr_eq(&before, &self.world.pools) {
            self.world.note_vanished(&self.pods);
        }
        self.lead.world.send_replace(Arc::new(self.world.clone()));
        self.lead.metrics.turn(started.elapsed(), &self.world);
        Ok(())
    }

    /// Plans from relays, mail servers and pods as they are now.
    fn replan(&mut self) {
        let observed = &self.lead.observed;
        let lenders = self.lenders.among(&observed.servers(), observed.namespaces(), observed.listing_problem());
        let relays = observed.relays();
        let candidates = self.candidates.among(&relays, &lenders);
        let pods = observed.pods();
        // What this leader decided is in force before it is written down.
        let ownership = Ownership { owned: Arc::clone(&self.world.plan.owned), unreadable: unreadable(&relays) };
        let running = || pods.iter().filter(|pod| !pod.running.is_empty()).map(|pod| pod.uid.clone()).collect();
        self.older.get_or_insert_with(running);
        self.world.pods = Arc::new(pods.iter().map(|pod| (pod.uid.clone(), pod.terminating)).collect());
        let held = self.pools.known().map(|holder| &*holder.pod_uid).collect();
        self.pods.note(pods.iter().map(|pod| &**pod), &held);
        let pods = pods.iter().map(|pod| &**pod);
        let plan = plan(&candidates, pods, &ownership, &lenders).sharing(&self.world.plan);
        self.world.plan = Arc::new(plan);
    }

    /// Takes in how the turn of all pools ended. What one pool's ledger answered is that pool's alone. Returns the store's problem,
    /// when no pool could be driven, for a reason that may concern all.
    fn note_round(&mut self, round: Round) -> Result<Option<StoreError>, ReconcileError> {
        let (Round { outcomes, is_answered, mirrors }, now) = (round, BootTime::now());
        for (name, mirror) in mirrors {
            self.world.note_mirror(&name, mirror);
        }
        for error in outcomes.iter().filter_map(|outcome| outcome.driven.as_ref().err()) {
            self.lead.metrics.refused(error);
        }
        let mut problem = None;
        let any_went_well = is_answered || outcomes.iter().any(|outcome| outcome.driven.is_ok());
        let mut wanted = BTreeSet::new();
        for Outcome { name, driven, incidents, mirror } in outcomes {
            for incident in incidents {
                // Nobody listens only while the process ends.
                let _ = self.lead.incidents.send(incident);
            }
            match driven {
                Ok(driven) => {
                    if driven.wants_mark {
                        wanted.insert(name.clone());
                    }
                    self.note_driven(name, driven, mirror, now);
                }
                Err(ApplyError::Deposed(deposed)) => return Err(deposed.into()),
                Err(ApplyError::Store(error)) => {
                    self.world.liveness.unanswered(&name);
                    let trouble = self.pools.get(&name).map(|pool| Trouble::of_ledger(pool.key(), &error));
                    self.world.note_pool(name, PoolView { mirror, trouble, ..PoolView::default() });
                    if !any_went_well && error.may_concern_all() {
                        problem = Some(error);
                    }
                }
            }
        }
        self.lead.marking.want(wanted, &self.world.plan.owned);
        Ok(problem)
    }

    /// Takes in a pool whose turn went well.
    fn note_driven(&mut self, name: String, driven: Driven, mirror: Mirror, now: BootTime) {
        let ledger = driven.snapshot.shared().cloned();
        self.world.liveness.learn(&name, ledger.as_ref(), now);
        if let Some(ledger) = &ledger {
            self.lead.metrics.pool(&name, ledger);
        }
        self.note_fence(driven.snapshot.node_fence, now);
        if driven.removed {
            self.pools.remove(&name);
            self.world.forget_pool(&name);
            self.lead.known.remove(&name);
            self.lead.marking.unmark(&name);
            return;
        }
        // One that is open, and whose mark was lost, need not wait for it.
        let waits = driven.wants_mark && ledger.as_ref().is_none_or(|ledger| ledger.state == LedgerState::Rec);
        let trouble = self.lead.marking.trouble().filter(|_| waits);
        let Driven { effective, by_roll_call, idle, .. } = driven;
        let (waits_for, lent) =
            self.pools.get(&name).map_or_else(Default::default, |pool| (pool.waits_for(), pool.lent()));
        self.world
            .note_pool(name, PoolView { ledger, effective, mirror, waits_for, by_roll_call, trouble, lent, idle });
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

    /// Takes in what Redis said of its replication lately.
    fn learn_topology(&mut self) {
        if self.lead.facts.has_changed().unwrap_or(false)
            && let (Some(facts), Some(fence)) = (&*self.lead.facts.borrow_and_update(), &self.fence)
        {
            self.topology.learn(fence, facts);
        }
    }

    /// A node that answers for the first time is asked at once: nothing is made there before.
    async fn ask_topology(&mut self) -> Result<(), StoreError> {
        let Some(fence) = self.fence.clone().filter(|fence| self.topology.old_primary(fence).is_none()) else {
            return Ok(());
        };
        self.topology.learn(&fence, &ask(&self.lead.store).await?);
        Ok(())
    }
}
