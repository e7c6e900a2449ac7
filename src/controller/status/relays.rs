//! The only writer of `MailRelay` objects: their status, their finalizer, their Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    compose::status,
    debts::{Debt, Debts},
    facts::Facts,
    finalizers::Finalizers,
    measure::{audit, measure},
    note::News,
    notes::{of_incident, transitions},
    recorder::EventRecorder,
    shown::{Allowance, Shown},
    unreadable::Unreadable,
    writer::RelayWriter,
};
use crate::{
    controller::{
        drive::Incident,
        metrics::ControllerMetrics,
        observe::{Observed, Safety},
        plan::{RelayKey, RelayPlan, pools_of},
        world::World,
    },
    store::Store,
    system,
};

/// How often every accepted mail is accounted for: what waits is looked at entry by entry.
const AUDIT_EVERY: Duration = Duration::from_secs(600);
/// How often figures are measured and statuses compared.
const TICK: Duration = Duration::from_secs(1);

/// What the task works with.
pub struct Relays {
    /// Writes to the API server.
    pub writer: RelayWriter,
    /// The store.
    pub store: Store,
    /// What the API server says.
    pub observed: Observed,
    /// What the leader knows.
    pub world: watch::Receiver<Arc<World>>,
    /// How Redis keeps its data.
    pub safety: watch::Receiver<Safety>,
    /// What happened to pools.
    pub incidents: mpsc::UnboundedReceiver<Incident>,
    /// What else people should hear of.
    pub news: mpsc::UnboundedReceiver<News>,
    /// Where people hear of it.
    pub recorder: EventRecorder,
    /// Figures.
    pub metrics: ControllerMetrics,
}

impl Relays {
    /// Runs until dropped; what was begun is taken up by the next look.
    pub async fn run(mut self) {
        let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
        let mut unreadable = Unreadable::default();
        let mut finalizers = Finalizers::default();
        let mut debts = Debts::default();
        let mut allowance = Allowance::new();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let world = Arc::clone(&self.world.borrow_and_update());
            finalizers.note_store(&world);
            let existing: BTreeSet<&str> = world.plan.relays.values().map(|relay| &*relay.uid).collect();
            shown.retain(|uid, _| existing.contains(uid.as_str()));
            let mut owed = Vec::new();
            for (key, relay) in &world.plan.relays {
                let shown = shown.entry(relay.uid.clone()).or_default();
                owed.extend(self.look(&world, key, relay, shown).await);
            }
            debts.set(owed);
            while allowance.is_left()
                && let Some(debt) = debts.next()
            {
                let Some(relay) = world.plan.relays.get(&debt.relay) else { continue };
                let shown = shown.entry(relay.uid.clone()).or_default();
                if self.show(&world, &debt.relay, relay, shown).await {
                    allowance.take();
                }
            }
            let objects = self.observed.relays();
            finalizers.retain(&objects);
            for relay in &objects {
                finalizers.keep(&world, relay, &self.writer, &self.recorder).await;
                unreadable.say(relay, &self.writer).await;
            }
            self.wait(&world, &mut tick).await;
        }
    }

    /// Waits for the next second, or for news that should be shown sooner.
    async fn wait(&mut self, world: &World, tick: &mut tokio::time::Interval) {
        loop {
            tokio::select! {
                _ = tick.tick() => return,
                changed = self.world.changed() => {
                    if changed.is_err() {
                        tick.tick().await;
                        return;
                    }
                    let new = Arc::clone(&self.world.borrow_and_update());
                    if differs(world, &new) {
                        return;
                    }
                }
                Some(incident) = self.incidents.recv() => self.tell_of_pool(&incident),
                Some(News { relay, note }) = self.news.recv() => {
                    if let Some(about) = self.reference(&relay) {
                        self.recorder.record(about, vec![note]);
                    }
                }
            }
        }
    }

    fn tell_of_pool(&self, incident: &Incident) {
        let world = self.world.borrow();
        for relay in world.plan.relays.values().filter(|relay| pools_of(&relay.relay).contains(&incident.pool)) {
            self.recorder.record(relay.relay.object_ref(&()), of_incident(incident, system::timestamp()));
        }
    }

    fn reference(&self, key: &RelayKey) -> Option<ObjectReference> {
        self.world.borrow().plan.relays.get(key).map(|relay| relay.relay.object_ref(&()))
    }

    /// Measures and compares; what is owed, if a write is worth it by now.
    async fn look(&self, world: &World, key: &RelayKey, relay: &RelayPlan, shown: &mut Shown) -> Option<Debt> {
        if shown.measured_at.is_none_or(|at| at.elapsed() >= TICK) {
            shown.measured_at = Some(Instant::now());
            let audit = shown.measured.audit.take();
            shown.measured = measure(&self.store, world, key, relay).await;
            shown.measured.audit = audit;
        }
        if shown.audited_at.is_none_or(|at| at.elapsed() >= AUDIT_EVERY) {
            shown.audited_at = Some(Instant::now());
            if let Some(audit) = audit(&self.store, world, key, relay).await {
                shown.measured.audit = Some(audit);
            }
        }
        shown.measured.safety = self.safety.borrow().clone();
        shown.notice(relay.relay.status.as_ref());
        let old = shown.status.take().unwrap_or_else(|| relay.relay.status.clone().unwrap_or_default());
        let new = status(&Facts::of(world, relay, &shown.measured, &old, system::timestamp()), &old);
        let debt = shown.owes(key, &new, &old);
        shown.status = Some(old);
        debt
    }

    /// Writes the status as it is by now; whether the API server was asked.
    async fn show(&self, world: &World, key: &RelayKey, relay: &RelayPlan, shown: &mut Shown) -> bool {
        let Some(old) = &shown.status else { return false };
        let facts = Facts::of(world, relay, &shown.measured, old, system::timestamp());
        let new = status(&facts, old);
        match self.writer.write_status(key, &relay.uid, json!(new)).await {
            Ok(()) => {
                self.recorder.record(relay.relay.object_ref(&()), transitions(old, &new));
                shown.status = Some(new);
                shown.written = Some(Instant::now());
                shown.behind = None;
                self.metrics.status_written();
            }
            Err(error) if error.is_gone() => {}
            Err(error) => {
                // Not again before the next tick.
                shown.written = Some(Instant::now());
                tracing::warn!(relay = %key, %error, "cannot write the status");
            }
        }
        true
    }
}

/// Whether something changed that people should see before the next tick.
fn differs(old: &World, new: &World) -> bool {
    let shape = |world: &World| {
        let pools = world.pools.iter().map(|(name, pool)| {
            let ledger = pool.ledger.as_ref();
            let shares = ledger.map(|ledger| (ledger.state, ledger.budget, ledger.entitlements.clone()));
            let registered: Vec<String> =
                ledger.into_iter().flat_map(|ledger| ledger.holders.iter().map(|h| h.inc.clone())).collect();
            let withheld: Vec<String> = pool.mirror.quarantine.iter().map(|w| w.entry.id.clone()).collect();
            (name.clone(), shares, registered, withheld, pool.trouble.clone(), pool.lent.clone())
        });
        pools.collect::<Vec<_>>()
    };
    old.plan != new.plan
        || old.released != new.released
        || old.store_problem.is_some() != new.store_problem.is_some()
        || old.records != new.records
        || shape(old) != shape(new)
}
