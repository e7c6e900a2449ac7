//! Everything that a status is made of, pure: from what was applied and measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;

use super::{measured::Measured, mirror};
use crate::{
    api::{LeaseStatus, MailRelayStatus, Reason, Unavailable, server_of},
    controller::{
        plan::{PoolPlan, RelayKey, RelayPlan},
        trouble::Trouble,
        world::{PoolView, World},
    },
    lease::{HolderView, LedgerState, LedgerView},
    queue::Depths,
};

/// One pool that a relay draws on.
pub struct PoolFigures<'a> {
    /// Its part in the plan.
    pub plan: Option<&'a PoolPlan>,
    /// Its ledger, when it is in force and was seen.
    pub ledger: Option<&'a LedgerView>,
    /// What the server takes, when that is less than the budget.
    pub effective: Option<u32>,
    /// The budgets whose ledgers may still count connections of its servers.
    pub waits_for: Vec<&'a str>,
    /// It opens only when every worker has come over from a Redis that may still take writes.
    pub by_roll_call: bool,
    /// Why it stands still.
    pub trouble: Option<&'a Trouble>,
    /// Where it is borrowed, the relay's own pods: what others have of it is theirs to see.
    pub own: Option<&'a BTreeMap<String, String>>,
}

impl PoolFigures<'_> {
    pub fn budget(&self) -> u32 {
        self.plan.map_or(0, |plan| plan.budget)
    }
    pub fn leased(&self) -> u32 {
        self.shown().fold(0, |sum, holder| sum.saturating_add(holder.claim))
    }
    pub fn open(&self) -> u32 {
        self.shown().fold(0, |sum, holder| sum.saturating_add(holder.open))
    }
    /// The holders whose connections the relay shows as its own.
    fn shown(&self) -> impl Iterator<Item = &HolderView> {
        let holders = self.ledger.into_iter().flat_map(|ledger| &ledger.holders);
        holders.filter(|holder| self.own.is_none_or(|own| own.contains_key(&holder.pod_uid)))
    }
    /// Slots that nobody may use.
    pub fn quarantined(&self) -> u32 {
        self.ledger.map_or(0, LedgerView::quarantined)
    }
    /// Whether workers say again what they hold.
    pub fn is_recovering(&self) -> bool {
        self.trouble.is_none() && self.ledger.is_none_or(|ledger| ledger.state == LedgerState::Rec)
    }
}

/// A pod that is selected and whose worker never registered with a budget of the relay.
pub struct AbsentWorker<'a> {
    /// Its UID.
    pub uid: &'a str,
    /// Its name.
    pub pod: &'a str,
    /// The budgets that wait for it.
    pub budgets: Vec<&'a str>,
    /// A budget of another relay that it is registered with.
    pub registered_with: Option<&'a str>,
    /// The other relays that select it.
    pub selected_by: Vec<&'a RelayKey>,
}

/// The pods of a relay whose workers never registered, as far as the ledgers tell.
fn absent<'a>(world: &'a World, relay: &'a RelayPlan) -> Vec<AbsentWorker<'a>> {
    let lent = |uid: &'a String| {
        let is_lent = |name: &&'a String| world.pools.get(*name).is_some_and(|pool| pool.lent.contains(uid));
        relay.pools.iter().filter(is_lent).map(|name| &**name).collect::<Vec<_>>()
    };
    let is_there =
        |pool: &PoolView, uid: &str| pool.ledger.as_ref().is_some_and(|l| l.holders_of(uid).next().is_some());
    let describe = |(uid, pod): (&'a String, &'a String)| {
        let budgets = lent(uid);
        (!budgets.is_empty()).then(|| AbsentWorker {
            uid,
            pod,
            budgets,
            registered_with: world
                .pools
                .iter()
                .find(|(name, pool)| !relay.pools.contains(*name) && is_there(pool, uid))
                .map(|(name, _)| &**name),
            selected_by: world
                .plan
                .relays
                .iter()
                .filter(|(_, other)| other.uid != relay.uid && other.workers.contains_key(uid))
                .map(|(key, _)| key)
                .collect(),
        })
    };
    relay.workers.iter().filter_map(describe).collect()
}

/// Everything that a status is made of.
pub struct Facts<'a> {
    /// The relay in the plan.
    pub relay: &'a RelayPlan,
    /// Its pools, by name.
    pub pools: BTreeMap<String, PoolFigures<'a>>,
    /// Who holds what of its pools, for people and for the next leader; of a `MailServer`'s, what its own namespace holds.
    pub leases: Vec<LeaseStatus>,
    /// UIDs of pods that rest while their shares are lent to other relays.
    pub idle: BTreeSet<&'a str>,
    /// Its pods whose workers never registered.
    pub absent: Vec<AbsentWorker<'a>>,
    /// Pods that hold slots of its pools and are gone from the API server, and the node they were last seen on.
    pub vanished: Vec<(&'a HolderView, Option<&'a str>)>,
    /// Why Redis cannot be used.
    pub store_problem: Option<&'a str>,
    /// Why its record is not as the plan says.
    pub record: Option<&'a Trouble>,
    /// What was measured.
    pub measured: &'a Measured,
    /// Now, on the wall clock.
    pub now: Timestamp,
}

impl<'a> Facts<'a> {
    /// Gathers them; `old` is the status that is shown.
    pub fn of(
        world: &'a World,
        relay: &'a RelayPlan,
        measured: &'a Measured,
        old: &MailRelayStatus,
        now: Timestamp,
    ) -> Self {
        let pools: BTreeMap<String, PoolFigures<'_>> = relay
            .pools
            .iter()
            .map(|name| {
                let pool = world.pools.get(name);
                let ledger = pool.and_then(|pool| pool.ledger.as_deref());
                let figures = PoolFigures {
                    plan: world.plan.pools.get(name).map(|plan| &**plan),
                    ledger,
                    effective: pool.and_then(|pool| pool.effective),
                    waits_for: pool.into_iter().flat_map(|pool| &pool.waits_for).map(String::as_str).collect(),
                    by_roll_call: pool.is_some_and(|pool| pool.by_roll_call),
                    trouble: pool.and_then(|pool| pool.trouble.as_ref()),
                    own: server_of(name).map(|_| &relay.workers),
                };
                (name.clone(), figures)
            })
            .collect();
        let leases = leases(world, relay, &old.leases, now);
        let namespace = RelayKey::of(&relay.relay).namespace;
        let holders = pools.iter().filter_map(|(name, pool)| Some((name, &pool.ledger?.holders)));
        let holders = holders.flat_map(|(name, holders)| holders.iter().map(move |holder| (name, holder)));
        let holders =
            holders.filter(|(pool, holder)| server_of(pool).is_none() || mirror::is_of(&holder.pod, &namespace));
        let holders = holders.map(|(_, holder)| holder).filter(|holder| holder.claim > 0 && !is_foreign(relay));
        let vanished =
            holders.filter_map(|holder| Some((holder, world.vanished.get(&holder.pod_uid)?.as_deref()))).collect();
        let views = relay.pools.iter().filter_map(|name| world.pools.get(name));
        let idle = views.flat_map(|view| &view.idle).map(String::as_str).collect();
        let record = world.records.get(&RelayKey::of(&relay.relay));
        let store_problem = world.store_problem.as_deref();
        let absent = if relay.stalled.is_some() { Vec::new() } else { absent(world, relay) };
        Self { relay, pools, leases, idle, absent, vanished, store_problem, record, measured, now }
    }

    /// Share and open connections of each of its workers, over all pools, by pod UID.
    pub fn shares(&self) -> BTreeMap<&'a str, (u32, u32)> {
        let mut shares: BTreeMap<&str, (u32, u32)> = self.relay.workers.keys().map(|uid| (&**uid, (0, 0))).collect();
        for ledger in self.pools.values().filter_map(|pool| pool.ledger) {
            for (uid, (share, open)) in &mut shares {
                let (of_this, open_of_this) = ledger.share_and_open(uid);
                (*share, *open) = (*share + of_this, *open + open_of_this);
            }
        }
        shares
    }

    /// Workers that are registered in a ledger.
    pub fn registered(&self) -> BTreeSet<&'a str> {
        let ledgers = self.pools.values().filter_map(|pool| pool.ledger);
        let holders = ledgers.flat_map(|ledger| ledger.holders.iter().map(|holder| &*holder.pod_uid));
        holders.filter(|uid| self.relay.workers.contains_key(*uid)).collect()
    }

    /// Whether every share of its workers is granted: no one waits for slots that another still has to give back.
    pub fn all_granted(&self) -> bool {
        self.pools.values().filter_map(|pool| pool.ledger).all(|ledger| {
            ledger.entitlements.iter().filter(|(uid, _)| self.relay.workers.contains_key(*uid)).all(|(uid, share)| {
                let mine = ledger.holders_of(uid);
                let (claim, want) = mine.fold((0_u32, 0_u32), |sum, holder| {
                    (sum.0.saturating_add(holder.claim), sum.1.saturating_add(holder.want))
                });
                claim >= want.min(*share) && (*share == 0 || ledger.holders_of(uid).next().is_some())
            })
        })
    }

    /// Whether what is not granted is withheld and nothing else: no pod has more than its share, so that no slot is on its
    /// way, and only time, or the end of a connection, brings the others.
    pub fn only_withheld_slots_lack(&self) -> bool {
        self.pools.values().filter_map(|pool| pool.ledger).all(|ledger| {
            let free = ledger.budget.saturating_sub(ledger.claimed()).saturating_sub(ledger.quarantined());
            let share = |uid: &str| ledger.entitlements.get(uid).copied().unwrap_or(0);
            let above = ledger.holders.iter().any(|holder| {
                ledger.holders_of(&holder.pod_uid).map(|holder| holder.claim).sum::<u32>() > share(&holder.pod_uid)
            });
            free == 0 && !above
        })
    }
}

/// Whether a budget that it names may be another tenant's, whose pods it must not show.
fn is_foreign(relay: &RelayPlan) -> bool {
    relay.stalled.as_ref().is_some_and(|stall| stall.reason.is_about_a_budget())
}

/// What is known of the relay's pools; of a pool that it names no more, as long as slots of it may be held and nobody else
/// shows them.
fn leases(world: &World, relay: &RelayPlan, old: &[LeaseStatus], now: Timestamp) -> Vec<LeaseStatus> {
    // What it had before stays its own.
    let mut budgets = if is_foreign(relay) { BTreeSet::new() } else { relay.pools.clone() };
    budgets
        .extend(old.iter().map(|lease| lease.budget_name.clone()).filter(|name| !world.plan.pools.contains_key(name)));
    let namespace = relay.relay.metadata.namespace.as_deref().unwrap_or_default();
    let names = relay.pod_names(namespace).collect();
    let show = |budget: &String| {
        let shown = old.iter().find(|lease| lease.budget_name == *budget);
        let mirror = &world.pools.get(budget)?.mirror;
        let theirs = server_of(budget).map(|_| mirror::of_namespace(mirror, namespace, &names));
        let mirror = theirs.as_ref().unwrap_or(mirror);
        (!mirror.is_empty()).then(|| mirror::show(budget, mirror, &names, shown, now))
    };
    budgets.iter().filter_map(show).collect()
}

/// Since when the oldest mail waits, in whole seconds as Kubernetes writes times.
pub fn oldest(depths: &Depths) -> Option<Timestamp> {
    let oldest = depths.oldest?;
    Timestamp::from_second(i64::try_from(oldest.0 / 1_000).ok()?).ok()
}

/// How long the oldest mail has waited.
pub fn waiting(facts: &Facts<'_>) -> Option<Duration> {
    let oldest = oldest(facts.measured.depths.as_ref()?)?;
    Some(Duration::try_from(facts.now.duration_since(oldest)).unwrap_or_default())
}

/// For each server that some workers cannot use: the reason, and what one of them says.
pub fn unavailable<'a>(facts: &Facts<'a>) -> BTreeMap<&'a str, (&'a str, &'a str)> {
    let mut found: BTreeMap<&str, Vec<Option<(&str, &str)>>> = BTreeMap::new();
    for (_, report) in facts.measured.reports.read.iter().filter(|(uid, _)| facts.relay.workers.contains_key(*uid)) {
        for server in &report.servers {
            // A server that refuses what is beyond its own limit is used as far as that goes.
            let trouble = server.unavailable.as_ref().filter(|u| u.reason != Reason::TooManyConnections);
            let trouble = trouble.map(|u| (u.reason.as_str(), &*u.message));
            found.entry(&server.name).or_default().push(trouble);
        }
    }
    // One worker that can use a server shows that the server works.
    let mut unavailable: BTreeMap<&str, (&str, &str)> = found
        .into_iter()
        .filter(|(_, troubles)| troubles.iter().all(Option::is_some))
        .filter_map(|(name, troubles)| Some((name, troubles.into_iter().flatten().next()?)))
        .collect();
    // Without its ledger nobody gets a slot, whatever the server would say.
    for server in &facts.relay.published.servers {
        if let Some(trouble) = facts.pools.get(&server.pool()).and_then(|pool| pool.trouble) {
            unavailable.insert(&server.name, (trouble.reason, &trouble.message));
        }
    }
    let lacking = facts.relay.lacking.iter();
    unavailable.extend(lacking.map(|(name, stall)| (&**name, (stall.reason.as_str(), &*stall.message))));
    unavailable
}

/// What a worker says of its servers.
pub fn troubles<'a>(facts: &'a Facts<'_>, uid: &str) -> impl Iterator<Item = (&'a str, &'a Unavailable)> {
    let servers = facts.measured.reports.read.get(uid).map(|report| &report.servers);
    servers.into_iter().flatten().filter_map(|server| Some((&*server.name, server.unavailable.as_ref()?)))
}
