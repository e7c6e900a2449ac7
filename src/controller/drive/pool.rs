//! One pool: its ledger and what the leader remembers of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use super::{
    error::{ApplyError, Deposed},
    idle::idle,
    incident::Incident,
    saturation::Saturation,
    settled::Settled,
    shares::{self, Absent},
    turn::{Driven, Turn},
};
use crate::{
    controller::plan::{Known, PoolPlan, Standing},
    lease::{
        BootTime, HolderView, LedgerState, LedgerStore, LedgerView, Mirror, Policy, Quarantine, QuarantineView,
        Snapshot, Timing, Watch,
    },
    store::{Store, StoreError},
};

/// How often a ledger is looked at again within one turn, since one step makes the next one possible.
const LOOKS: usize = 4;

/// One pool: its ledger and what the leader remembers of it.
pub struct Pool {
    pub(super) ledger: LedgerStore,
    pub(super) watch: Watch,
    /// The last shares seen in force: they outlive the ledger.
    pub(super) shares: BTreeMap<String, u32>,
    pub(super) budget: u32,
    /// `sessionTimeout`, as the plan said last.
    pub(super) session_timeout: Option<Duration>,
    /// Whether this leader found neither ledger nor mark: nobody can hold a slot of a pool that never was open.
    pub(super) fresh: Option<bool>,
    /// Whether its workers may run from before all that is known was lost, so that it opens after the reclaim time.
    pub(super) may_be_older: bool,
    /// Whether it waited for another pool to be empty.
    succeeds: bool,
    /// Whether Redis has its ledger, in force or not.
    exists: bool,
    /// UIDs of pods that hold slots or have a share; `None` while nothing grants.
    held: Option<BTreeSet<String>>,
    pub(super) standing: Standing,
    absent: Absent,
    /// What the server takes; `None` until the record of the leader before was read.
    pub(super) saturation: Option<Saturation>,
    /// How the last turn left it; `None` when it left something to do, or failed.
    pub(super) settled: Option<Settled>,
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
            settled: None,
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

    /// Whether it withholds slots, as far as it is known.
    pub fn withholds(&self) -> bool {
        self.watch.withholds()
    }

    /// Looks at the ledger and does what it needs, until nothing is left to do now.
    ///
    /// `marked` says whether the pool is known to have been opened (lease R9). What happened is added to `incidents`.
    /// Cancelling leaves open whether the last step took effect; the next turn looks again.
    pub async fn drive(
        &mut self,
        plan: Option<&Arc<PoolPlan>>,
        marked: bool,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<Driven, ApplyError> {
        if let Some(plan) = plan {
            self.watch.list(&plan.members);
        }
        self.settled = None;
        let driven = self.drive_on(plan, marked, turn, incidents).await;
        if driven.is_err() {
            self.watch.unanswered(BootTime::now());
            self.held = None;
        }
        driven
    }

    async fn drive_on(
        &mut self,
        plan: Option<&Arc<PoolPlan>>,
        marked: bool,
        turn: &Turn<'_>,
        incidents: &mut Vec<Incident>,
    ) -> Result<Driven, ApplyError> {
        let mut driven = self.look(turn).await?;
        self.ask(false, BootTime::now()).await?;
        for _ in 1..LOOKS {
            let members = plan.map(|plan| &plan.members);
            self.absent.learn(members.unwrap_or(&BTreeSet::new()), driven.snapshot.in_force(), BootTime::now());
            if let Some(plan) = plan {
                self.learn_saturation(plan, &driven.snapshot).await?;
            }
            let lent = self.lent();
            let acted = self.step(plan, marked, turn, &mut driven, incidents).await?;
            if !acted {
                self.settle(plan, lent, turn.timing);
            }
            if !acted || driven.removed {
                break;
            }
            driven = self.look(turn).await?;
        }
        driven.idle = plan.map_or_else(BTreeSet::new, |plan| idle(plan, driven.snapshot.in_force()));
        driven.effective = self.saturation.as_ref().and_then(Saturation::record).map(|record| record.effective);
        Ok(driven)
    }

    /// Looks how many sessions the server takes (R10). Redis is asked only while that is fewer than the budget.
    async fn learn_saturation(&mut self, plan: &PoolPlan, snapshot: &Snapshot) -> Result<(), StoreError> {
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
            Arc::make_mut(ledger).fence.clear();
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
        Ok(Driven {
            snapshot,
            wants_mark: false,
            removed: false,
            effective: None,
            by_roll_call: false,
            idle: BTreeSet::new(),
        })
    }

    /// The policy that should be in force: the shares of what the server takes.
    pub(super) fn target(&self, plan: Option<&PoolPlan>, view: Option<&LedgerView>, turn: &Turn<'_>) -> Policy {
        let Standing { waiting, servers, .. } = &self.standing;
        let idle = plan.map_or_else(BTreeSet::new, |plan| idle(plan, view));
        let without = waiting.union(&self.lent()).chain(&idle).cloned().collect();
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

    /// Whether the ledger is of a later leader.
    pub(super) fn check(&self, theirs: u64, refused: Option<&'static str>, turn: &Turn<'_>) -> Result<(), Deposed> {
        if theirs > turn.epoch {
            let of = format!("the ledger of {}", self.ledger.pool());
            return Err(Deposed { of, theirs, ours: turn.epoch, refused });
        }
        Ok(())
    }
}
