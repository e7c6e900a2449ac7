//! Step 5, pure: what a relay's status says, from what was applied and measured.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    apply::Trouble,
    conditions::conditions,
    mirror,
    plan::{PoolPlan, RelayKey, RelayPlan, pools_of},
    pools::{PoolView, World},
    safety::Safety,
};
use crate::{
    api::{
        BudgetStatus, LeaseStatus, MailRelayStatus, QueueStatus, ReadError, ServerStatus, WorkerReport, WorkerStatus,
    },
    lease::{HolderView, LedgerState, LedgerView},
    queue::{Audit, Depths},
};

/// How many workers the status lists.
const LISTED: usize = 64;

/// What was measured of one relay, beside the world.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// Mails by stage; `None` when Redis did not answer.
    pub depths: Option<Depths>,
    /// Whether every accepted mail is accounted for, as it was looked at last; `None` when it was not yet.
    pub audit: Option<Audit>,
    /// What its workers said of themselves.
    pub reports: Reports,
    /// How Redis keeps its data.
    pub safety: Safety,
}

/// What workers said of themselves, by pod UID.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    /// What could be read.
    pub read: BTreeMap<String, WorkerReport>,
    /// Pods whose report is of a newer version, and what that says.
    pub newer: BTreeMap<String, String>,
}

impl Reports {
    /// Reads reports as they are in Redis. One that makes no sense says nothing.
    pub fn read(texts: impl IntoIterator<Item = (String, String)>) -> Self {
        let mut reports = Self::default();
        for (uid, json) in texts {
            match WorkerReport::read(json.as_bytes()) {
                Ok(report) => drop(reports.read.insert(uid, report)),
                Err(newer @ ReadError::Newer(_)) => drop(reports.newer.insert(uid, newer.to_string())),
                Err(ReadError::Malformed(_)) => {}
            }
        }
        reports
    }
}

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
}

impl PoolFigures<'_> {
    fn budget(&self) -> u32 {
        self.plan.map_or(0, |plan| plan.budget)
    }
    fn leased(&self) -> u32 {
        self.ledger.map_or(0, LedgerView::claimed)
    }
    fn open(&self) -> u32 {
        self.ledger.map_or(0, |ledger| ledger.holders.iter().map(|holder| holder.open).sum())
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
    let own = pools_of(&relay.relay);
    let lent = |uid: &'a String| {
        let pools = world.pools.iter().filter(|(name, pool)| own.contains(*name) && pool.lent.contains(uid));
        pools.map(|(name, _)| &**name).collect::<Vec<_>>()
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
                .find(|(name, pool)| !own.contains(*name) && is_there(pool, uid))
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
    /// Who holds what of its pools, for people and for the next leader.
    pub leases: Vec<LeaseStatus>,
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
        let pools: BTreeMap<String, PoolFigures<'_>> = pools_of(&relay.relay)
            .into_iter()
            .map(|name| {
                let pool = world.pools.get(&name);
                let ledger = pool.and_then(|pool| pool.ledger.as_ref());
                let figures = PoolFigures {
                    plan: world.plan.pools.get(&name),
                    ledger,
                    effective: pool.and_then(|pool| pool.effective),
                    waits_for: pool.into_iter().flat_map(|pool| &pool.waits_for).map(String::as_str).collect(),
                    by_roll_call: pool.is_some_and(|pool| pool.by_roll_call),
                    trouble: pool.and_then(|pool| pool.trouble.as_ref()),
                };
                (name, figures)
            })
            .collect();
        let leases = leases(world, relay, &old.leases, now);
        let holders = pools.values().filter_map(|pool| pool.ledger).flat_map(|ledger| &ledger.holders);
        let holders = holders.filter(|holder| holder.claim > 0 && !is_foreign(relay));
        let vanished =
            holders.filter_map(|holder| Some((holder, world.vanished.get(&holder.pod_uid)?.as_deref()))).collect();
        let record = world.records.get(&RelayKey::of(&relay.relay));
        let store_problem = world.store_problem.as_deref();
        let absent = if relay.stalled.is_some() { Vec::new() } else { absent(world, relay) };
        Self { relay, pools, leases, absent, vanished, store_problem, record, measured, now }
    }

    /// Share and open connections of each of its workers, over all pools, by pod UID.
    fn shares(&self) -> BTreeMap<&'a str, (u32, u32)> {
        let mut shares: BTreeMap<&str, (u32, u32)> = self.relay.workers.keys().map(|uid| (&**uid, (0, 0))).collect();
        for ledger in self.pools.values().filter_map(|pool| pool.ledger) {
            for (uid, (share, open)) in &mut shares {
                *share += ledger.entitlements.get(*uid).copied().unwrap_or(0);
                *open += ledger.holders_of(uid).map(|h| h.open).sum::<u32>();
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

/// The status to show; `old` is the one that is shown, whose transition times are kept.
pub fn status(facts: &Facts<'_>, old: &MailRelayStatus) -> MailRelayStatus {
    let shares = facts.shares();
    let registered = facts.registered();
    let ready = shares.iter().filter(|(uid, (share, _))| *share > 0 && registered.contains(*uid)).count();
    let mut workers: Vec<WorkerStatus> = shares
        .iter()
        .map(|(uid, (share, open))| WorkerStatus {
            pod: facts.relay.workers.get(*uid).cloned().unwrap_or_default(),
            share: int(*share),
            open: int(*open),
        })
        .collect();
    workers.sort_by(|a, b| a.pod.cmp(&b.pod));
    let omitted = workers.len().saturating_sub(LISTED);
    workers.truncate(LISTED);
    let servers = servers(facts, old);
    MailRelayStatus {
        observed_generation: Some(facts.relay.generation),
        selector: Some(facts.relay.selector.clone()).filter(|text| !text.is_empty()),
        conditions: conditions(facts, &old.conditions),
        budget: Some(budget(facts, old)),
        queue: queue(facts, old),
        servers_summary: Some(summary(&servers)),
        servers,
        ready_workers: i32::try_from(ready).ok(),
        workers,
        workers_omitted: i32::try_from(omitted).ok().filter(|omitted| *omitted > 0),
        leases: facts.leases.clone(),
    }
}

/// Whether a budget that it names may be another tenant's, whose pods it must not show.
fn is_foreign(relay: &RelayPlan) -> bool {
    relay.stalled.as_ref().is_some_and(|stall| matches!(stall.reason, "BudgetConflict" | "DuplicateBudget"))
}

/// What is known of the relay's pools; of a pool that it names no more, as long as slots of it may be held and nobody else
/// shows them.
fn leases(world: &World, relay: &RelayPlan, old: &[LeaseStatus], now: Timestamp) -> Vec<LeaseStatus> {
    // What it had before stays its own.
    let mut budgets = if is_foreign(relay) { BTreeSet::new() } else { pools_of(&relay.relay) };
    budgets
        .extend(old.iter().map(|lease| lease.budget_name.clone()).filter(|name| !world.plan.pools.contains_key(name)));
    let namespace = relay.relay.metadata.namespace.as_deref().unwrap_or_default();
    let names = relay.workers.iter().map(|(uid, name)| (uid.clone(), format!("{namespace}/{name}"))).collect();
    let show = |budget: &String| {
        let shown = old.iter().find(|lease| lease.budget_name == *budget);
        let mirror = &world.pools.get(budget)?.mirror;
        (!mirror.is_empty()).then(|| mirror::show(budget, mirror, &names, shown, now))
    };
    budgets.iter().filter_map(show).collect()
}

fn budget(facts: &Facts<'_>, old: &MailRelayStatus) -> BudgetStatus {
    let sum = |of: &dyn Fn(&PoolFigures<'_>) -> u32| int(facts.pools.values().map(of).sum());
    let mut total: BTreeMap<String, i32> = BTreeMap::new();
    for server in &facts.relay.relay.spec.servers {
        let least = total.entry(server.pool()).or_insert(server.max_connections);
        *least = server.max_connections.min(*least);
    }
    // What was true last is better than a zero that is not.
    let last = old.budget.clone().filter(|_| facts.store_problem.is_some()).unwrap_or_default();
    BudgetStatus {
        total: total.values().sum(),
        effective: sum(&|pool| pool.effective.unwrap_or(u32::MAX).min(pool.budget())),
        leased: sum(&|pool| pool.leased()).max(last.leased),
        open: sum(&|pool| pool.open()).max(last.open),
    }
}

fn queue(facts: &Facts<'_>, old: &MailRelayStatus) -> Option<QueueStatus> {
    let Some(depths) = &facts.measured.depths else { return old.queue.clone() };
    let figure = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    Some(QueueStatus {
        pending: figure(depths.pending),
        delayed: figure(depths.delayed),
        in_flight: figure(depths.in_flight),
        held: figure(depths.held),
        dead_letters: figure(depths.dead),
        oldest_since: oldest(depths).map(Time),
    })
}

/// Since when the oldest mail waits, in whole seconds as Kubernetes writes times.
fn oldest(depths: &Depths) -> Option<Timestamp> {
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
            let trouble = server.unavailable.as_ref().filter(|u| u.reason != "TooManyConnections");
            let trouble = trouble.map(|u| (&*u.reason, &*u.message));
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
    for server in &facts.relay.relay.spec.servers {
        if let Some(trouble) = facts.pools.get(&server.pool()).and_then(|pool| pool.trouble) {
            unavailable.insert(&server.name, (trouble.reason, &trouble.message));
        }
    }
    unavailable
}

fn servers(facts: &Facts<'_>, old: &MailRelayStatus) -> Vec<ServerStatus> {
    let unavailable = unavailable(facts);
    let servers = &facts.relay.relay.spec.servers;
    let describe = |server: &crate::api::Server| {
        let figures = facts.pools.get(&server.pool());
        let ledger = figures.and_then(|pool| pool.ledger);
        let last = old.servers.iter().find(|last| last.name == server.name && ledger.is_none());
        let state = match (ledger, &facts.store_problem) {
            (_, Some(_)) | (None, None) => "Unknown",
            (Some(ledger), None) if ledger.state == LedgerState::Rec => "Recovering",
            _ if unavailable.contains_key(&*server.name) => "Unavailable",
            _ => "Available",
        };
        ServerStatus {
            name: server.name.clone(),
            state: state.into(),
            budget: int(figures.map_or(0, PoolFigures::budget)),
            leased: figures.map_or(0, |f| int(f.leased())).max(last.map_or(0, |last| last.leased)),
            open: figures.map_or(0, |f| int(f.open())).max(last.map_or(0, |last| last.open)),
            quarantined: figures.map_or(0, |f| int(f.quarantined())).max(last.map_or(0, |last| last.quarantined)),
        }
    };
    servers.iter().map(describe).collect()
}

fn summary(servers: &[ServerStatus]) -> String {
    let parts: Vec<String> =
        servers.iter().map(|s| format!("{} {}/{} {}", s.name, s.open, s.budget, s.state)).collect();
    parts.join(", ")
}

/// The status without what moves all the time: a change of the rest is worth a write at once.
pub fn steady(status: &MailRelayStatus) -> MailRelayStatus {
    let mut steady = status.clone();
    for condition in &mut steady.conditions {
        condition.message.clear();
    }
    for worker in &mut steady.workers {
        worker.open = 0;
    }
    for server in &mut steady.servers {
        (server.leased, server.open) = (0, 0);
    }
    if let Some(budget) = &mut steady.budget {
        (budget.leased, budget.open) = (0, 0);
    }
    steady.leases.iter_mut().for_each(mirror::steady);
    steady.queue = None;
    steady.servers_summary = None;
    steady
}

fn int(slots: u32) -> i32 {
    i32::try_from(slots).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
