//! The only writer of `MailRelay` objects: their status, their finalizer, their Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Resource;
use rand::RngExt;
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior},
};

use super::{
    activity::Activity,
    compose::status,
    debts::{Debt, Debts},
    facts::Facts,
    finalizers::Finalizers,
    measure::{audit, measure},
    mirror,
    note::News,
    notes::{of_incident, transitions},
    recorder::EventRecorder,
    shown::{Allowance, Shown},
    unreadable::Unreadable,
    writer::StatusWriter,
};
use crate::{
    api::server_of,
    controller::{
        drive::{Happening, Incident},
        metrics::ControllerMetrics,
        observe::{Observed, Safety},
        plan::{RelayKey, RelayPlan},
        world::{PoolView, World},
    },
    queue::Presence,
    store::Store,
    system,
};

/// How often every accepted mail is accounted for: what waits is looked at entry by entry.
const AUDIT_EVERY: Duration = Duration::from_secs(600);
/// How often figures are measured and statuses compared, where anything stirs.
const TICK: Duration = Duration::from_secs(1);
/// How often they are at most where nothing does.
const REST: Duration = Duration::from_secs(30);

/// What the task works with.
pub struct Relays {
    /// Writes to the API server.
    pub writer: StatusWriter,
    /// The store.
    pub store: Store,
    /// What the API server says.
    pub observed: Observed,
    /// What the leader knows.
    pub world: watch::Receiver<Arc<World>>,
    /// How Redis keeps its data.
    pub safety: watch::Receiver<Safety>,
    /// Where mail is.
    pub activity: watch::Receiver<Arc<Activity>>,
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
        let mut before = Arc::new(World::default());
        loop {
            let world = Arc::clone(&self.world.borrow_and_update());
            let activity = Arc::clone(&self.activity.borrow_and_update());
            finalizers.note_store(&world);
            let existing: BTreeSet<&str> = world.plan.relays.values().map(|relay| &*relay.uid).collect();
            shown.retain(|uid, _| existing.contains(uid.as_str()));
            let mut owed = Vec::new();
            for (key, relay) in &world.plan.relays {
                let shown = shown.entry(relay.uid.clone()).or_default();
                let stirs = concerns(&before, &world, key, relay);
                owed.extend(self.look(&world, key, relay, shown, stirs, activity.of(key)).await);
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
            before = world;
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
                // Mail came where none was, or all of it is gone.
                Ok(()) = self.activity.changed() => return,
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
        let notes = || of_incident(incident, system::timestamp());
        let server = server_of(&incident.pool);
        let is_told = |key: &RelayKey| match (server, &incident.what) {
            // Other tenants' pods are nothing that a relay's people should read of.
            (Some(_), Happening::WorkerLost { pod, .. }) => mirror::is_of(pod, &key.namespace),
            _ => true,
        };
        for (key, relay) in &world.plan.relays {
            if relay.pools.contains(&incident.pool) && is_told(key) {
                self.recorder.record(relay.relay.object_ref(&()), notes());
            }
        }
        let object = server.and_then(|name| self.observed.server(name));
        if let Some(server) = object.as_ref().and_then(|object| object.0.as_ref().ok()) {
            self.recorder.record(server.object_ref(&()), notes());
        }
    }

    fn reference(&self, key: &RelayKey) -> Option<ObjectReference> {
        self.world.borrow().plan.relays.get(key).map(|relay| relay.relay.object_ref(&()))
    }

    /// Measures and compares; what is owed, if a write is worth it by now. `stirs`: what is known of the relay is another
    /// than at the look before. Where nothing stirs and nothing is owed the status is as it was.
    async fn look(
        &self,
        world: &World,
        key: &RelayKey,
        relay: &RelayPlan,
        shown: &mut Shown,
        stirs: bool,
        presence: Option<Presence>,
    ) -> Option<Debt> {
        let may_move = presence.is_none_or(|presence| presence.moving);
        if stirs || may_move || shown.presence != presence || shown.measured.reports.tell_of_trouble() {
            shown.stir();
        }
        let (is_due, is_unsafe) = (shown.is_due(TICK), shown.measured.safety != *self.safety.borrow());
        if !(is_due || stirs || is_unsafe || shown.behind.is_some()) {
            return None;
        }
        if is_due {
            shown.measured_at = Some(Instant::now());
            // Not all at the same time again and again.
            shown.rest = REST.mul_f64(system::rng().random_range(0.5..=1.0));
            let audit = shown.measured.audit.take();
            shown.measured = measure(&self.store, world, key, relay, presence).await;
            (shown.measured.audit, shown.presence) = (audit, presence);
        }
        if shown.owes_audit(AUDIT_EVERY) {
            shown.audited_at = Some(Instant::now());
            if let Some(audit) = audit(&self.store, world, key, relay).await {
                shown.measured.audit = Some(audit);
            }
        }
        shown.measured.safety = self.safety.borrow().clone();
        let observed = self.observed.relay(&key.namespace, &key.name);
        let observed = observed.as_ref().and_then(|relay| relay.0.as_ref().ok());
        shown.notice(observed.and_then(|relay| relay.status.as_ref()));
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

/// Whether something changed of which a relay's status is made.
fn concerns(old: &World, new: &World, key: &RelayKey, relay: &RelayPlan) -> bool {
    let is_same_plan = Arc::ptr_eq(&old.plan, &new.plan)
        || (old.plan.relays.get(key) == Some(relay)
            && relay.pools.iter().all(|pool| old.plan.pools.get(pool) == new.plan.pools.get(pool)));
    let is_same_pool = |name: &String| match (old.pools.get(name), new.pools.get(name)) {
        (Some(old), Some(new)) => Arc::ptr_eq(old, new),
        (old, new) => old.is_none() && new.is_none(),
    };
    !is_same_plan
        || !(Arc::ptr_eq(&old.pools, &new.pools) || relay.pools.iter().all(is_same_pool))
        || old.store_problem != new.store_problem
        || old.records.get(key) != new.records.get(key)
        || old.vanished != new.vanished
}

/// Whether something changed that people should see before the next tick.
fn differs(old: &World, new: &World) -> bool {
    let is_same_plan = Arc::ptr_eq(&old.plan, &new.plan) || old.plan == new.plan;
    !is_same_plan
        || old.released != new.released
        || old.store_problem.is_some() != new.store_problem.is_some()
        || old.records != new.records
        || (!Arc::ptr_eq(&old.pools, &new.pools) && have_moved(&old.pools, &new.pools))
}

fn have_moved(old: &BTreeMap<String, Arc<PoolView>>, new: &BTreeMap<String, Arc<PoolView>>) -> bool {
    let is_same = |name: &String, old: &Arc<PoolView>| {
        new.get(name).is_some_and(|new| Arc::ptr_eq(old, new) || !has_moved(old, new))
    };
    old.len() != new.len() || !old.iter().all(|(name, old)| is_same(name, old))
}

fn has_moved(old: &PoolView, new: &PoolView) -> bool {
    let granted = |pool: &PoolView| {
        let ledger = pool.ledger.as_ref()?;
        let registered: Vec<String> = ledger.holders.iter().map(|holder| holder.inc.clone()).collect();
        Some((ledger.state, ledger.budget, ledger.entitlements.clone(), registered))
    };
    let withheld = |pool: &PoolView| -> Vec<String> {
        pool.mirror.quarantine.iter().map(|withheld| withheld.entry.id.clone()).collect()
    };
    old.trouble != new.trouble || old.lent != new.lent || granted(old) != granted(new) || withheld(old) != withheld(new)
}
