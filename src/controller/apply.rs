//! Step 4, I/O: brings one pool's ledger to what the plan says.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    plan::PoolPlan,
    saturation::Saturation,
    shares::{self, Absent},
    succession::{Known, Standing},
    topology::Topology,
};
use crate::{
    api::DurationText,
    lease::{
        Action, BootTime, Evidence, HolderView, InitReply, InitRequest, LedgerState, LedgerStore, LedgerView, Mirror,
        OldPrimary, OpenReply, OpenRequest, Policy, PolicyReply, ProcessId, Quarantine, QuarantineView, ReapReply,
        Snapshot, Timing, Watch,
    },
    store::{Store, StoreError},
};

/// How often a ledger is looked at again within one turn, since one step makes the next one possible.
const LOOKS: usize = 4;

/// The `sessionTimeout` of a pool that no relay named since this leader began: as long as the API allows at most.
const NAMELESS: Duration = Duration::from_secs(24 * 3_600);

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

/// Why one pool, or one relay's record, is not as it should be, while all others go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A condition reason.
    pub reason: &'static str,
    /// A sentence that says what to do.
    pub message: String,
    /// Whether nothing moves there before a person does something.
    pub needs_a_person: bool,
}

/// The reason for what a newer version wrote.
pub const NEWER_VERSION: &str = "NewerVersion";

impl Trouble {
    /// A ledger that cannot be looked at or written. Whatever it holds stays as it is.
    pub fn of_ledger(key: &str, error: &StoreError) -> Self {
        let (reason, remedy) = match error {
            StoreError::Newer { .. } => (NEWER_VERSION, ""),
            error if error.may_concern_all() => ("StoreUnreachable", ""),
            _ => (
                "LedgerUnreadable",
                "; no slot of it is granted before it can be read again: mend it, or delete the key, and workers say again \
                 what they hold",
            ),
        };
        let message = format!("the ledger {key} cannot be used: {error}{remedy}");
        Self { reason, message, needs_a_person: !error.may_concern_all() }
    }

    /// A relay's record that cannot be published.
    pub fn of_record(key: &str, error: &StoreError) -> Self {
        let message = format!("the record {key}, which the workers follow, cannot be written: {error}");
        Self { reason: "RecordNotWritten", message, needs_a_person: false }
    }
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
    /// Proofs of death.
    pub evidence: &'a Evidence,
    /// What the nodes of Redis said of their replication.
    pub topology: &'a Topology,
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
    /// The new ledger opens only when every worker has come over from a node that may still take writes (R8).
    pub by_roll_call: bool,
}

/// One pool: its ledger and what the leader remembers of it.
pub struct Pool {
    ledger: LedgerStore,
    watch: Watch,
    /// The last shares seen in force: they outlive the ledger.
    shares: BTreeMap<String, u32>,
    budget: u32,
    /// `sessionTimeout`, as the plan said last.
    session_timeout: Option<Duration>,
    /// Whether this leader found neither ledger nor mark: nobody can hold a slot of a pool that never was open.
    fresh: Option<bool>,
    /// Whether its workers may run from before all that is known was lost, so that it opens after the reclaim time.
    may_be_older: bool,
    /// Whether it waited for another pool to be empty.
    succeeds: bool,
    /// Whether Redis has its ledger, in force or not.
    exists: bool,
    /// UIDs of pods that hold slots or have a share; `None` while nothing grants.
    held: Option<BTreeSet<String>>,
    standing: Standing,
    absent: Absent,
    /// What the server takes; `None` until the record of the leader before was read.
    saturation: Option<Saturation>,
}

impl Pool {
    /// A pool of which nothing is known yet.
    pub fn new(store: Store, name: &str) -> Self {
        let ledger = LedgerStore::new(store, name);
        let (watch, shares) = (Watch::default(), BTreeMap::new());
        Self {
            ledger,
            watch,
            shares,
            budget: 0,
            session_timeout: None,
            fresh: None,
            may_be_older: false,
            succeeds: false,
            exists: false,
            held: None,
            standing: Standing::default(),
            absent: Absent::default(),
            saturation: None,
        }
    }

    /// How it stands towards other pools, from [`Pool::succession`] of all; to be called before each turn. When any of its
    /// workers `ran_before` this leader began and nothing at all is known of the pool, it may be one that was open before
    /// everything was lost: it opens after the reclaim time. Workers that come later find no ledger before ours.
    pub fn stand(&mut self, standing: Standing, ran_before: bool) {
        // Who waits for the ledger of before finds there what its workers held.
        let succeeds = !standing.waits_for.is_empty();
        self.may_be_older = (self.may_be_older || ran_before) && !succeeds && !self.succeeds;
        self.succeeds |= succeeds;
        self.standing = standing;
    }

    /// UIDs of its pods whose workers never registered, so that their shares are lent to the others.
    pub fn lent(&self) -> BTreeSet<String> {
        self.absent.lent(BootTime::now())
    }

    /// The key of its ledger.
    pub fn key(&self) -> &str {
        self.ledger.key()
    }

    /// The pools that owe it a server.
    pub fn waits_for(&self) -> BTreeSet<String> {
        self.standing.waits_for.clone()
    }

    /// What others must know before they take a server of it over; `None` when it never was made.
    pub fn succession(&self, marked: bool, timing: &Timing) -> Option<Known> {
        let mirror = self.mirror(timing);
        if !(self.exists || marked || !mirror.is_empty()) {
            return None;
        }
        let quarantine = mirror.quarantine.into_iter().map(|withheld| {
            let QuarantineView { id, slots, seconds, why } = withheld.entry;
            Quarantine { id, slots, seconds, why }
        });
        let servers = self.watch.servers();
        Some(Known {
            servers: (!servers.is_empty()).then(|| servers.clone()),
            held: self.held.clone(),
            quarantine: quarantine.collect(),
        })
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
            self.held = None;
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
            let members = plan.map(|plan| &plan.members);
            self.absent.learn(members.unwrap_or(&BTreeSet::new()), driven.snapshot.in_force(), BootTime::now());
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
        let mut snapshot = self.ledger.snapshot().await?;
        self.watch.observe(&snapshot, BootTime::now());
        if let Some(ledger) = snapshot.ledger.as_mut().filter(|_| self.watch.is_older_copy()) {
            // Nobody may act on it.
            ledger.fence.clear();
        }
        self.exists = snapshot.ledger.is_some();
        self.held = snapshot.in_force().filter(|ledger| ledger.state == LedgerState::Open).map(shares::held);
        if let Some(ledger) = &snapshot.ledger {
            self.budget = ledger.budget;
            self.shares.clone_from(&ledger.entitlements);
        }
        if let Some(ledger) = snapshot.in_force() {
            self.check(ledger.epoch, None, turn)?;
        }
        Ok(Driven { snapshot, wants_mark: false, removed: false, effective: None, by_roll_call: false })
    }

    /// The policy that should be in force: the shares of what the server takes.
    fn target(&self, plan: Option<&PoolPlan>, view: Option<&LedgerView>, turn: &Turn<'_>) -> Policy {
        let Standing { waiting, servers, .. } = &self.standing;
        let without = waiting.union(&self.lent()).cloned().collect();
        let target = |plan: Option<&PoolPlan>| {
            let target = shares::target(plan, &without, &self.shares, view, self.budget, turn.epoch, turn.timing.lease);
            Policy { servers: servers.clone(), ..target }
        };
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
        if plan.is_none() && driven.snapshot.ledger.is_none() && nothing_known && !marked {
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
            let carried = self.standing.carried;
            if plan.is_none()
                && shares::is_unused(ledger, carried)
                && self.ledger.remove_unused(ledger, carried).await?
            {
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
            self.session_timeout = Some(plan.session_timeout.get());
        }
        let heirs = self.standing.session_timeout.map(DurationText::get);
        let session_timeout = self.session_timeout.or(heirs).unwrap_or(NAMELESS);
        // A node that answers for the first time is asked for its replication before anything is made there.
        let Some(old_primary) = turn.topology.old_primary(&driven.snapshot.node_fence) else { return Ok(changed) };
        let recovers = driven.snapshot.in_force().is_none_or(|ledger| ledger.state == LedgerState::Rec);
        driven.by_roll_call = old_primary == OldPrimary::Unbounded && recovers && !fresh;
        let opened = !fresh || self.may_be_older;
        let actions =
            self.watch.actions(BootTime::now(), turn.timing, session_timeout, opened, old_primary, turn.evidence);
        for action in actions {
            // What its servers still count is in the ledgers of before.
            if matches!(action, Action::Init { .. }) && fresh && !self.standing.waits_for.is_empty() {
                continue;
            }
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
            Action::Condemn { version } => {
                self.ledger.condemn(version).await?;
                tracing::warn!(
                    pool,
                    ledger.version = version,
                    "the ledger is an older copy of itself: it counts as lost"
                );
            }
            Action::Init { fence, mut quarantine, version } => {
                let token = ProcessId::random().to_string();
                let known = |entry: &Quarantine| quarantine.iter().any(|other| other.id == entry.id);
                let inherited: Vec<_> = self.standing.inherits.iter().filter(|entry| !known(entry)).cloned().collect();
                quarantine.extend(inherited);
                let request = InitRequest { fence, token, policy: target.clone(), quarantine, version };
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
                // From now on workers may be granted slots, whether or not we ever see the ledger open, or hear the answer.
                let fresh = self.fresh.replace(false);
                let reply = self.ledger.open(&OpenRequest { epoch: turn.epoch, token, missing }).await?;
                self.watch.answered();
                if !matches!(reply, OpenReply::Ok | OpenReply::Already) {
                    self.fresh = fresh;
                }
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
            Action::Clear { token, ids } => {
                self.ledger.clear(&token, &ids).await?;
                tracing::info!(pool, quarantine.ids = ids.join(" "), "quarantines are over");
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
