//! Step 4, I/O: brings one pool's ledger to what the plan says.

use std::{collections::BTreeMap, time::Duration};

use super::{plan::PoolPlan, saturation::Saturation, shares};
use crate::{
    lease::{
        Action, BootTime, Evidence, HolderView, Holds, InitReply, InitRequest, LedgerState, LedgerStore, LedgerView,
        Mirror, OpenReply, OpenRequest, Policy, PolicyReply, ProcessId, ReapReply, Snapshot, Timing, Watch,
    },
    store::{Store, StoreError},
};

/// How often a ledger is looked at again within one turn, since one step makes the next one possible.
const LOOKS: usize = 4;

/// How long an old primary may still write after another node answers (lease R8): a single node has none.
const OLD_PRIMARY: Duration = Duration::ZERO;

/// How long slots stay withheld on a pool that no relay named since this leader began: as long as the API allows at most.
const NAMELESS: Holds =
    Holds { close_grace: Duration::from_secs(300), session_timeout: Duration::from_secs(24 * 3_600) };

/// Why this process must not go on writing.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error(
    "{of} was written by epoch {theirs}, ours is {ours}: another controller leads{}",
    refused.map_or_else(String::new, |what| format!("; our {what} was refused"))
)]
pub struct Deposed {
    /// What the other leader wrote.
    pub of: String,
    /// The other leader's epoch.
    pub theirs: u64,
    /// Our epoch.
    pub ours: u64,
    /// Which write of ours was refused for that; `None` when a look was enough to see it.
    pub refused: Option<&'static str>,
}

/// Why a turn did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Another controller leads.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// Redis did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The pool it happened to.
    pub pool: String,
    /// What happened.
    pub what: Happening,
}

/// What may happen to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A worker fell silent or died without a word, and its slots were taken back.
    WorkerLost {
        /// `namespace/name` of its pod.
        pod: String,
        /// How many slots.
        slots: u32,
        /// How long they stay withheld.
        hold: Duration,
    },
    /// The ledger was lost, or belongs to another Redis: workers say again what they hold.
    RecoveryStarted,
    /// Slots are granted (again).
    Opened,
    /// Who held slots before did not come back: they stay withheld.
    Withheld {
        /// How many slots.
        slots: u32,
        /// For how long, the longest.
        hold: Duration,
    },
}

/// What is known beside the ledger in one turn.
pub struct Turn<'a> {
    /// Our epoch.
    pub epoch: u64,
    /// The protocol's times.
    pub timing: &'a Timing,
    /// Proofs of life and death.
    pub evidence: &'a Evidence,
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub struct Driven {
    /// The last look.
    pub snapshot: Snapshot,
    /// The pool must be marked as opened before it can be.
    pub wants_mark: bool,
    /// The ledger is gone: nobody names the pool and nothing was left on it.
    pub removed: bool,
    /// The slots that are shared out while the server takes fewer sessions than the budget (R10).
    pub effective: Option<u32>,
}

/// One pool: its ledger and what the leader remembers of it.
pub struct Pool {
    ledger: LedgerStore,
    watch: Watch,
    /// The last shares seen in force: they outlive the ledger.
    shares: BTreeMap<String, u32>,
    budget: u32,
    /// How long slots stay withheld, as the plan said last.
    holds: Holds,
    /// Whether this leader found neither ledger nor mark: nobody can hold a slot of a pool that never was open.
    fresh: Option<bool>,
    /// What the server takes; `None` until the record of the leader before was read.
    saturation: Option<Saturation>,
}

impl Pool {
    /// A pool of which nothing is known yet.
    pub fn new(store: Store, name: &str) -> Self {
        let ledger = LedgerStore::new(store, name);
        let (watch, shares) = (Watch::default(), BTreeMap::new());
        Self { ledger, watch, shares, budget: 0, holds: NAMELESS, fresh: None, saturation: None }
    }

    /// Takes in what the leader before wrote down of the pool; to be called before the pool is driven (lease R8).
    pub fn restore(&mut self, mirror: &Mirror) {
        self.watch.restore(mirror, BootTime::now());
        self.shares = mirror.holders.iter().map(|holder| (holder.pod_uid.clone(), holder.share)).collect();
    }

    /// What the leader after this one must know if the ledger is lost.
    pub fn mirror(&self, timing: &Timing) -> Mirror {
        self.watch.mirror(BootTime::now(), timing)
    }

    /// Looks at the ledger and does what it needs, until nothing is left to do now.
    ///
    /// `marked` says whether the pool is known to have been opened (lease R9). What happened is added to `incidents`.
    /// Cancelling leaves open whether the last step took effect; the next turn looks again.
    pub async fn drive(
        &mut self,
        plan: Option<&PoolPlan>,
        marked: bool,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<Driven, ApplyError> {
        if let Some(plan) = plan {
            self.watch.list(&plan.members);
        }
        let driven = self.drive_on(plan, marked, turn, incidents).await;
        if driven.is_err() {
            self.watch.unanswered(BootTime::now());
        }
        driven
    }

    async fn drive_on(
        &mut self,
        plan: Option<&PoolPlan>,
        marked: bool,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<Driven, ApplyError> {
        let mut driven = self.look(turn).await?;
        for _ in 1..LOOKS {
            if let Some(plan) = plan {
                self.weigh(plan, &driven.snapshot).await?;
            }
            if !self.step(plan, marked, turn, &mut driven, incidents).await? || driven.removed {
                break;
            }
            driven = self.look(turn).await?;
        }
        driven.effective = self.saturation.as_ref().and_then(Saturation::record).map(|record| record.effective);
        Ok(driven)
    }

    /// Looks how many sessions the server takes (R10). Redis is asked only while that is fewer than the budget.
    async fn weigh(&mut self, plan: &PoolPlan, snapshot: &Snapshot) -> Result<(), StoreError> {
        let view = snapshot.in_force();
        if self.saturation.is_none() {
            let record = self.ledger.saturation().await?.map(|(record, _)| record);
            self.saturation = Some(Saturation::restored(record, view));
        }
        let (Some(saturation), Some(view)) = (&mut self.saturation, view) else { return Ok(()) };
        let mut good = 0;
        if saturation.is_lowered() {
            match self.ledger.saturation().await? {
                Some((_, count)) => good = count,
                // Lost with the store: workers count only what is on record.
                None => self.ledger.record_saturation(saturation.record()).await?,
            }
        }
        let before = saturation.record().map(|record| record.effective);
        if saturation.observe(view, plan.budget, good, BootTime::now()) {
            let record = saturation.record();
            self.ledger.record_saturation(record).await?;
            let (pool, effective) = (self.ledger.pool(), saturation.effective(plan.budget));
            match (before, record) {
                (None, Some(_)) => tracing::warn!(
                    pool,
                    pool.effective = effective,
                    plan.budget,
                    "the server says that there are too many connections; fewer are shared out"
                ),
                (Some(_), None) => tracing::info!(pool, plan.budget, "the server takes the whole budget again"),
                _ => tracing::info!(pool, pool.effective = effective, plan.budget, "the effective budget changed"),
            }
        }
        Ok(())
    }

    /// The holders that this leader knows of, whether or not their ledger is in force.
    pub fn known(&self) -> impl Iterator<Item = &HolderView> {
        self.watch.known()
    }

    async fn look(&mut self, turn: &Turn<'_>) -> Result<Driven, ApplyError> {
        let asked = BootTime::now();
        let snapshot = self.ledger.snapshot().await?;
        self.watch.observe_asked(&snapshot, asked, BootTime::now());
        if let Some(ledger) = &snapshot.ledger {
            self.budget = ledger.budget;
            self.shares.clone_from(&ledger.entitlements);
        }
        if let Some(ledger) = snapshot.in_force() {
            self.check(ledger.epoch, None, turn)?;
        }
        Ok(Driven { snapshot, wants_mark: false, removed: false, effective: None })
    }

    /// The policy that should be in force: the shares of what the server takes.
    fn target(&self, plan: Option<&PoolPlan>, view: Option<&LedgerView>, turn: &Turn<'_>) -> Policy {
        let target = |plan| shares::target(plan, &self.shares, view, self.budget, turn.epoch, turn.timing.lease);
        match (plan, self.saturation.as_ref().filter(|saturation| saturation.is_lowered())) {
            (Some(plan), Some(saturation)) => {
                let reduced = PoolPlan { budget: saturation.effective(plan.budget), ..plan.clone() };
                Policy { budget: saturation.ceiling(plan.budget, view), ..target(Some(&reduced)) }
            }
            _ => target(plan),
        }
    }

    fn check(&self, theirs: u64, refused: Option<&'static str>, turn: &Turn<'_>) -> Result<(), Deposed> {
        if theirs > turn.epoch {
            let of = format!("the ledger of {}", self.ledger.pool());
            return Err(Deposed { of, theirs, ours: turn.epoch, refused });
        }
        Ok(())
    }

    /// Does what the last look calls for. Returns whether another look is worth while.
    async fn step(
        &mut self,
        plan: Option<&PoolPlan>,
        marked: bool,
        turn: &Turn<'_>,
        driven: &mut Driven,
        incidents: &mut Vec<Incident>,
    ) -> Result<bool, ApplyError> {
        let nothing_known = self.mirror(turn.timing).is_empty();
        // A lost ledger is made anew as long as someone may hold its slots: the pool may be named again before that is over.
        if plan.is_none() && driven.snapshot.ledger.is_none() && nothing_known {
            driven.removed = true;
            return Ok(false);
        }
        // A mirror tells of a pool that was open, even when ledger and mark are lost.
        let is_new = !marked && driven.snapshot.ledger.is_none() && nothing_known;
        let fresh = *self.fresh.get_or_insert(is_new);
        let mut changed = false;
        let target = self.target(plan, driven.snapshot.in_force(), turn);
        if let Some(ledger) = driven.snapshot.in_force() {
            // A pool may be open without our mark when the ConfigMap was deleted or restored.
            driven.wants_mark = !marked;
            if ledger.state == LedgerState::Open {
                self.fresh = Some(false);
            }
            if plan.is_none() && shares::is_unused(ledger) && self.ledger.remove_unused(ledger, false).await? {
                self.ledger.record_saturation(None).await?;
                driven.removed = true;
                return Ok(true);
            }
            if let Some(policy) = shares::correction(ledger, target.clone()) {
                self.watch.sent(policy.epoch, &policy.entitlements, BootTime::now());
                let reply = self.ledger.policy(&policy).await?;
                self.watch.answered();
                match reply {
                    PolicyReply::Ok => {
                        let (pool, shares) = (self.ledger.pool(), policy.entitlements.values().collect::<Vec<_>>());
                        tracing::info!(pool, policy.budget, policy.revision, ?shares, "wrote the shares");
                        changed = true;
                    }
                    PolicyReply::Old { epoch, .. } => self.check(epoch, Some("policy"), turn)?,
                    PolicyReply::Wait(_) => return Ok(true),
                }
            }
        }
        if let Some(plan) = plan {
            self.holds = Holds { close_grace: plan.close_grace.get(), session_timeout: plan.session_timeout.get() };
        }
        let actions = self.watch.actions(BootTime::now(), turn.timing, self.holds, !fresh, OLD_PRIMARY, turn.evidence);
        for action in actions {
            // The mark comes first, or a crash in between would open a pool twice without the reclaim time.
            if matches!(action, Action::Open { .. }) && !marked {
                driven.wants_mark = true;
                continue;
            }
            changed |= self.act(action, &target, turn, driven, incidents).await?;
        }
        Ok(changed)
    }

    async fn act(
        &mut self,
        action: Action,
        target: &Policy,
        turn: &Turn<'_>,
        driven: &Driven,
        incidents: &mut Vec<Incident>,
    ) -> Result<bool, ApplyError> {
        let pool = self.ledger.pool().to_owned();
        let happened = |what| Incident { pool: pool.clone(), what };
        match action {
            Action::Init { fence, quarantine } => {
                let token = ProcessId::random().to_string();
                let request = InitRequest { fence, token, policy: target.clone(), quarantine, version: 0 };
                self.watch.sent(target.epoch, &target.entitlements, BootTime::now());
                let reply = self.ledger.init(&request).await?;
                self.watch.answered();
                match reply {
                    InitReply::Ok if self.fresh == Some(true) => {
                        tracing::info!(pool = self.ledger.pool(), "made the ledger of a new pool");
                    }
                    InitReply::Ok => {
                        tracing::warn!(pool = self.ledger.pool(), "the ledger is new: recovery starts");
                        incidents.push(happened(Happening::RecoveryStarted));
                    }
                    InitReply::Exists { epoch, .. } | InitReply::Old { epoch } => {
                        self.check(epoch, Some("init"), turn)?;
                    }
                    InitReply::Wait(_) => {}
                }
            }
            Action::Open { token, missing } => {
                let withheld: u32 = missing.iter().map(|missing| missing.quarantine.slots).sum();
                let longest = missing.iter().map(|missing| missing.quarantine.seconds).max().unwrap_or(0);
                self.watch.opening(BootTime::now());
                let reply = self.ledger.open(&OpenRequest { epoch: turn.epoch, token, missing }).await?;
                self.watch.answered();
                match reply {
                    OpenReply::Ok => {
                        tracing::info!(pool = self.ledger.pool(), pool.withheld = withheld, "the ledger is open");
                        incidents.push(happened(Happening::Opened));
                        if withheld > 0 {
                            let hold = Duration::from_secs(longest);
                            incidents.push(happened(Happening::Withheld { slots: withheld, hold }));
                        }
                    }
                    OpenReply::Old { epoch } => self.check(epoch, Some("open"), turn)?,
                    OpenReply::Already | OpenReply::Wait(_) | OpenReply::Token { .. } => {}
                }
            }
            Action::Reap { token, inc, seq, quarantine } => {
                let pod = pod_of(driven.snapshot.in_force(), &inc);
                let reply = self.ledger.reap(&token, &inc, seq, quarantine, "silent").await?;
                self.reaped(&reply, pod, quarantine, incidents);
            }
            Action::ReapDead { token, inc, quarantine } => {
                let pod = pod_of(driven.snapshot.in_force(), &inc);
                let reply = self.ledger.reap_dead(&token, &inc, quarantine, "dead").await?;
                self.reaped(&reply, pod, quarantine, incidents);
            }
            Action::Clear { token, id } => {
                self.ledger.clear(&token, std::slice::from_ref(&id)).await?;
                tracing::info!(pool = self.ledger.pool(), quarantine.id = id, "a quarantine is over");
            }
        }
        Ok(true)
    }

    fn reaped(&self, reply: &ReapReply, pod: String, hold: Duration, incidents: &mut Vec<Incident>) {
        let ReapReply::Ok { slots } = *reply else { return };
        let pool = self.ledger.pool();
        tracing::warn!(pool, pod, slots, quarantine_seconds = hold.as_secs(), "took back the slots of a lost worker");
        incidents.push(Incident { pool: pool.to_owned(), what: Happening::WorkerLost { pod, slots, hold } });
    }
}

fn pod_of(ledger: Option<&LedgerView>, inc: &str) -> String {
    ledger.and_then(|ledger| ledger.holder(inc)).map_or_else(String::new, |holder| holder.pod.clone())
}
