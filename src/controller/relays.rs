//! Steps 5 and 6, I/O: the only writer of `MailRelay` objects: their status, their finalizer, their Events.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, MissedTickBehavior, timeout},
};

use super::{
    apply::Incident,
    claims::{Recovered, queue_of},
    debts::{Debt, Debts, Owed},
    events::{News, Note, Teller, of_incident, of_recovery, transitions},
    leader::API_LIMIT,
    metrics::ControllerMetrics,
    observe::{GuardedRelay, Observed},
    plan::{RelayKey, RelayPlan, pools_of},
    pools::World,
    safety::Safety,
    status::{Facts, Measured, Reports, status, steady},
};
use crate::{
    api::{FINALIZER, MailRelay, MailRelayStatus, reports_key},
    lease::BootTime,
    queue::{At, Audit},
    store::{Store, StoreError},
    system,
};

/// How often every accepted mail is accounted for: what waits is looked at entry by entry.
const AUDIT_EVERY: Duration = Duration::from_secs(600);
/// How often figures are measured and statuses compared.
const TICK: Duration = Duration::from_secs(1);
/// How often a status is written when nothing but figures moved.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// The least time between two writes of one status.
const PROMPT_EVERY: Duration = Duration::from_millis(250);
/// Writes a second in all.
const WRITES: u32 = 20;
/// How long a deleted relay waits for Redis.
const LET_GO_AFTER: Duration = Duration::from_secs(60);
/// How long one answer of Redis may take.
const STORE_LIMIT: Duration = Duration::from_secs(1);
/// Who owns the status' fields.
const MANAGER: &str = "mailrelay-controller";

/// What the task works with.
pub struct Relays {
    /// The API server.
    pub client: Client,
    /// The store.
    pub store: Store,
    /// What the API server says.
    pub observed: Observed,
    /// What the pools' loop knows.
    pub world: watch::Receiver<Arc<World>>,
    /// How Redis keeps its data.
    pub safety: watch::Receiver<Safety>,
    /// What happened to pools.
    pub incidents: mpsc::UnboundedReceiver<Incident>,
    /// What became of dead workers' mail.
    pub recovered: mpsc::UnboundedReceiver<Recovered>,
    /// What else people should hear of.
    pub news: mpsc::UnboundedReceiver<News>,
    /// Where people hear of it.
    pub teller: Teller,
    /// Figures.
    pub metrics: ControllerMetrics,
}

/// What is remembered of one relay.
#[derive(Default)]
struct Shown {
    status: Option<MailRelayStatus>,
    written: Option<Instant>,
    /// Since when the status is another than the one that is written.
    behind: Option<BootTime>,
    measured: Measured,
    measured_at: Option<Instant>,
    audited_at: Option<Instant>,
}

impl Shown {
    /// Takes in what the API server shows. A leader that was stopped, and does not know yet that it leads no more, may
    /// have written over it.
    fn notice(&mut self, observed: Option<&MailRelayStatus>) {
        let settled = self.written.is_some_and(|written| written.elapsed() >= FIGURES_EVERY);
        let (Some(observed), Some(ours)) = (observed.filter(|_| settled), &self.status) else { return };
        if steady(observed) != steady(ours) {
            self.status = Some(observed.clone());
        }
    }
}

/// Writes that may still be made in this second.
struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    fn is_left(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - self.at).as_secs_f64() * f64::from(WRITES);
        (self.left, self.at) = ((self.left + gained).min(f64::from(WRITES)), now);
        self.left >= 1.0
    }

    fn take(&mut self) {
        self.left -= 1.0;
    }
}

#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server gave no answer within {API_LIMIT:?}")]
    TimedOut,
}

impl Relays {
    /// Runs until dropped; what was begun is taken up by the next look.
    pub async fn run(mut self) {
        let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
        let mut refused: BTreeMap<String, (Option<i64>, String)> = BTreeMap::new();
        let mut deleting: BTreeMap<RelayKey, BootTime> = BTreeMap::new();
        let mut store_down: Option<BootTime> = None;
        let mut debts = Debts::default();
        let mut allowance = Allowance { left: f64::from(WRITES), at: Instant::now() };
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let world = Arc::clone(&self.world.borrow_and_update());
            store_down = world.store_problem.as_ref().map(|_| store_down.unwrap_or_else(BootTime::now));
            let existing: BTreeSet<&str> = world.plan.relays.values().map(|relay| &*relay.uid).collect();
            shown.retain(|uid, _| existing.contains(uid.as_str()));
            let mut owed = Vec::new();
            for (key, relay) in &world.plan.relays {
                let memory = shown.entry(relay.uid.clone()).or_default();
                owed.extend(self.look(&world, key, relay, memory).await);
            }
            debts.set(owed);
            while allowance.is_left()
                && let Some(debt) = debts.next()
            {
                let Some(relay) = world.plan.relays.get(&debt.relay) else { continue };
                let memory = shown.entry(relay.uid.clone()).or_default();
                if self.show(&world, &debt.relay, relay, memory).await {
                    allowance.take();
                }
            }
            let objects = self.observed.relays();
            deleting.retain(|key, _| objects.iter().any(|relay| key_of(relay) == *key));
            for relay in &objects {
                self.finalizer(&world, relay, &mut deleting, store_down).await;
                self.refuse(relay, &mut refused).await;
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
                        self.teller.tell(about, vec![note]);
                    }
                }
                Some(recovered) = self.recovered.recv() => {
                    if let (Some(note), Some(about)) = (of_recovery(&recovered), self.reference(&recovered.relay)) {
                        self.teller.tell(about, vec![note]);
                    }
                }
            }
        }
    }

    fn tell_of_pool(&self, incident: &Incident) {
        let world = self.world.borrow();
        for relay in world.plan.relays.values().filter(|relay| pools_of(&relay.relay).contains(&incident.pool)) {
            self.teller.tell(relay.relay.object_ref(&()), of_incident(incident, system::timestamp()));
        }
    }

    fn reference(&self, key: &RelayKey) -> Option<ObjectReference> {
        self.world.borrow().plan.relays.get(key).map(|relay| relay.relay.object_ref(&()))
    }

    /// Measures and compares; what is owed, if a write is worth it by now.
    async fn look(&self, world: &World, key: &RelayKey, relay: &RelayPlan, memory: &mut Shown) -> Option<Debt> {
        if memory.measured_at.is_none_or(|at| at.elapsed() >= TICK) {
            memory.measured_at = Some(Instant::now());
            let audit = memory.measured.audit.take();
            memory.measured = self.measure(world, key, relay).await;
            memory.measured.audit = audit;
        }
        if memory.audited_at.is_none_or(|at| at.elapsed() >= AUDIT_EVERY) {
            memory.audited_at = Some(Instant::now());
            if let Some(audit) = self.audit(world, key, relay).await {
                memory.measured.audit = Some(audit);
            }
        }
        memory.measured.safety = self.safety.borrow().clone();
        memory.notice(relay.relay.status.as_ref());
        let old = memory.status.get_or_insert_with(|| relay.relay.status.clone().unwrap_or_default());
        let facts = Facts::of(world, relay, &memory.measured, old, system::timestamp());
        let new = status(&facts, old);
        if new == *old {
            memory.behind = None;
            return None;
        }
        let since = *memory.behind.get_or_insert_with(BootTime::now);
        let (new, old) = (steady(&new), steady(old));
        let (owed, patience) = if new.leases != old.leases {
            (Owed::Mirror, PROMPT_EVERY)
        } else if new != old {
            (Owed::Change, PROMPT_EVERY)
        } else {
            (Owed::Figures, FIGURES_EVERY)
        };
        let rests = memory.written.is_some_and(|written| written.elapsed() < patience);
        (!rests).then(|| Debt { relay: key.clone(), owed, since, patience })
    }

    /// Writes the status as it is by now; whether the API server was asked.
    async fn show(&self, world: &World, key: &RelayKey, relay: &RelayPlan, memory: &mut Shown) -> bool {
        let Some(old) = &memory.status else { return false };
        let facts = Facts::of(world, relay, &memory.measured, old, system::timestamp());
        let new = status(&facts, old);
        match self.write_status(key, &relay.uid, json!(new)).await {
            Ok(()) => {
                self.teller.tell(relay.relay.object_ref(&()), transitions(old, &new));
                memory.status = Some(new);
                memory.written = Some(Instant::now());
                memory.behind = None;
                self.metrics.status_written();
            }
            Err(error) if is_gone(&error) => {}
            Err(error) => {
                // Not again before the next tick.
                memory.written = Some(Instant::now());
                tracing::warn!(relay = %key, %error, "cannot write the status");
            }
        }
        true
    }

    async fn measure(&self, world: &World, key: &RelayKey, relay: &RelayPlan) -> Measured {
        if world.store_problem.is_some() {
            return Measured::default();
        }
        // The queue of a relay that lost it to an older one is not its own to count.
        let depths = if relay.stalled.is_some() {
            None
        } else {
            queue_of(&self.store, relay).depths(At::Redis).await.map_err(|error| log(key, &error)).ok()
        };
        let reports = self.reports(world, key).await.map_err(|error| log(key, &error)).unwrap_or_default();
        Measured { depths, audit: None, reports, safety: Safety::Unknown }
    }

    /// Whether every mail is accounted for; `None` when nobody can say now.
    async fn audit(&self, world: &World, key: &RelayKey, relay: &RelayPlan) -> Option<Audit> {
        if world.store_problem.is_some() || relay.stalled.is_some() {
            return None;
        }
        queue_of(&self.store, relay).audit().await.map_err(|error| log(key, &error)).ok()
    }

    /// What workers say; what pods said that are gone is removed.
    async fn reports(&self, world: &World, key: &RelayKey) -> Result<Reports, StoreError> {
        let redis_key = reports_key(&key.namespace, &key.name);
        let raw: BTreeMap<String, String> =
            self.store.query(redis::cmd("HGETALL").arg(&redis_key), STORE_LIMIT).await?;
        let (known, gone): (Vec<_>, Vec<_>) = raw.into_iter().partition(|(uid, _)| world.pods.contains_key(uid));
        if !gone.is_empty() {
            let mut command = redis::cmd("HDEL");
            command.arg(&redis_key);
            for (uid, _) in &gone {
                command.arg(uid);
            }
            self.store.query::<i64>(&command, STORE_LIMIT).await?;
        }
        Ok(Reports::read(known))
    }

    /// Puts the finalizer on, and takes it off when the relay's shares are taken back.
    async fn finalizer(
        &self,
        world: &World,
        relay: &GuardedRelay,
        deleting: &mut BTreeMap<RelayKey, BootTime>,
        store_down: Option<BootTime>,
    ) {
        let key = key_of(relay);
        let ours = relay.finalizers().iter().any(|name| name == FINALIZER);
        if relay.meta().deletion_timestamp.is_none() {
            if !ours && relay.0.is_ok() {
                let all = relay.finalizers().iter().cloned().chain([FINALIZER.to_owned()]);
                self.write_finalizers(&key, relay, all.collect()).await;
            }
            return;
        }
        if !ours {
            return;
        }
        let now = BootTime::now();
        let since = *deleting.entry(key.clone()).or_insert(now);
        let waited = store_down.map_or(Duration::ZERO, |down| now.saturating_since(down.max(since)));
        let let_go = waited >= LET_GO_AFTER;
        // An object whose spec cannot be read never was in a plan: nothing of it is in a ledger by our hand.
        if !(world.released.contains(&key) || let_go || relay.0.is_err()) {
            return;
        }
        if let_go {
            let text = format!("Redis was out of reach for {} s; the relay's record stays there", waited.as_secs());
            let note = Note { warning: true, reason: "StoreUnreachable".into(), text };
            self.teller.tell(relay.object_ref(&()), vec![note]);
        }
        let rest = relay.finalizers().iter().filter(|name| *name != FINALIZER).cloned();
        self.write_finalizers(&key, relay, rest.collect()).await;
    }

    async fn write_finalizers(&self, key: &RelayKey, relay: &GuardedRelay, finalizers: Vec<String>) {
        // The resource version makes it a compare-and-swap: other controllers have finalizers too.
        let patch = json!({
            "metadata": { "finalizers": finalizers, "resourceVersion": relay.meta().resource_version },
        });
        let api = self.api(key);
        let params = PatchParams::default();
        let written = timeout(API_LIMIT, api.patch(&key.name, &params, &Patch::Merge(&patch))).await;
        match written.map_err(|_| WriteError::TimedOut).and_then(|written| Ok(written?)) {
            Ok(_) => tracing::info!(relay = %key, finalizers.count = finalizers.len(), "wrote the finalizers"),
            Err(error) if is_gone(&error) => {}
            Err(error) => tracing::warn!(relay = %key, %error, "cannot write the finalizers"),
        }
    }

    /// Says on an object whose spec cannot be read that this is so, once for each generation.
    async fn refuse(&self, relay: &GuardedRelay, refused: &mut BTreeMap<String, (Option<i64>, String)>) {
        let uid = relay.uid().unwrap_or_default();
        let Err(invalid) = &relay.0 else {
            refused.remove(&uid);
            return;
        };
        let said = (invalid.metadata.generation, invalid.error.clone());
        if refused.get(&uid) == Some(&said) {
            return;
        }
        let key = key_of(relay);
        let now = jiff::Timestamp::from_second(system::timestamp().as_second()).unwrap_or_default();
        let condition = |kind: &str, status: &str| {
            json!({
                "type": kind, "status": status, "reason": "InvalidSpec", "message": invalid.error,
                "observedGeneration": invalid.metadata.generation, "lastTransitionTime": now,
            })
        };
        let status = json!({
            "observedGeneration": invalid.metadata.generation,
            "conditions": [condition("Ready", "False"), condition("Stalled", "True")],
        });
        match self.write_status(&key, &uid, status).await {
            Ok(()) => {
                refused.insert(uid, said);
            }
            Err(error) => tracing::warn!(relay = %key, %error, "cannot write the status"),
        }
    }

    /// By server-side apply: fields that are no longer said go away. The UID keeps a new object of the same name safe.
    async fn write_status(&self, key: &RelayKey, uid: &str, status: serde_json::Value) -> Result<(), WriteError> {
        let patch = json!({
            "apiVersion": MailRelay::api_version(&()),
            "kind": MailRelay::kind(&()),
            "metadata": { "name": key.name, "uid": uid },
            "status": status,
        });
        let api = self.api(key);
        let params = PatchParams::apply(MANAGER).force();
        match timeout(API_LIMIT, api.patch_status(&key.name, &params, &Patch::Apply(&patch))).await {
            Ok(written) => Ok(written.map(drop)?),
            Err(_) => Err(WriteError::TimedOut),
        }
    }

    /// Objects as they come: an answer that our types cannot read is no failure of a write.
    fn api(&self, key: &RelayKey) -> Api<DynamicObject> {
        Api::namespaced_with(self.client.clone(), &key.namespace, &ApiResource::erase::<MailRelay>(&()))
    }
}

fn key_of(relay: &GuardedRelay) -> RelayKey {
    RelayKey { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() }
}

fn log(key: &RelayKey, error: &StoreError) {
    tracing::debug!(relay = %key, %error, "cannot measure");
}

/// Gone, or another object by now: nothing is left to write.
fn is_gone(error: &WriteError) -> bool {
    matches!(error, WriteError::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::QueueStatus;

    #[test]
    fn a_status_that_another_leader_wrote_over_is_written_again_once_ours_must_have_been_seen() {
        let ours = MailRelayStatus { ready_workers: Some(2), ..MailRelayStatus::default() };
        let theirs = MailRelayStatus { ready_workers: Some(1), ..MailRelayStatus::default() };
        let after = |seconds, observed: &MailRelayStatus| {
            let written = Instant::now().checked_sub(Duration::from_secs(seconds));
            let mut shown = Shown { status: Some(ours.clone()), written, ..Shown::default() };
            shown.notice(Some(observed));
            shown.status.expect("a status")
        };
        assert_eq!(after(6, &theirs), theirs, "what is compared with is what the API server has");
        assert_eq!(after(1, &theirs), ours, "the watch may be behind our own write");
        let busier =
            MailRelayStatus { queue: Some(QueueStatus { pending: 7, ..QueueStatus::default() }), ..ours.clone() };
        assert_eq!(after(6, &busier), ours, "figures follow by themselves");
    }
}
