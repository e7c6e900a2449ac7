//! What the status of a `MailServer` says, pure: from what the leader knows.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::{
    conditions::{Verdict, say, withheld},
    mirror,
    slots::int,
};
use crate::{
    api::{BorrowerStatus, MailServerStatus, ServerBudgetStatus, server_of},
    controller::{
        plan::{RelayKey, ServerPlan},
        world::{PoolView, World},
    },
    lease::{LedgerState, LedgerView},
};

/// How many borrowers the status lists.
const LISTED: usize = 64;

/// The status to show; `old` is the one that is shown, whose transition times are kept.
pub fn status(
    world: &World,
    name: &str,
    server: &ServerPlan,
    old: &MailServerStatus,
    now: Timestamp,
) -> MailServerStatus {
    // Budgets that nobody borrows from any more count as long as slots of them may be held.
    let pools = world.pools.iter().filter(|(pool, _)| server_of(pool) == Some(name));
    let pools: BTreeMap<&str, &PoolView> = pools.map(|(pool, view)| (&**pool, &**view)).collect();
    let mut relays: Vec<BorrowerStatus> =
        server.borrowers.iter().map(|(key, pool)| borrower(world, key, pools.get(&**pool).copied())).collect();
    relays.truncate(LISTED);
    let names = pod_names(world, server);
    let show = |(budget, view): (&&str, &&PoolView)| {
        let shown = old.leases.iter().find(|lease| lease.budget_name == **budget);
        (!view.mirror.is_empty()).then(|| mirror::show(budget, &view.mirror, &names, shown, now))
    };
    let leases = pools.iter().filter_map(show).collect();
    let mut status = MailServerStatus {
        observed_generation: Some(server.generation),
        conditions: Vec::new(),
        budget: Some(budget(world, server, &pools, old)),
        relay_count: i32::try_from(server.borrowers.len()).ok(),
        relays,
        leases,
    };
    let judged = verdicts(world, server, &pools, &status).into_iter();
    let judged = judged.filter_map(|(kind, verdict)| Some((kind, verdict?)));
    status.conditions =
        judged.map(|(kind, verdict)| verdict.condition(kind, server.generation, &old.conditions, now)).collect();
    status
}

/// The status without what moves all the time: a change of the rest is worth a write at once.
pub fn steady(status: &MailServerStatus) -> MailServerStatus {
    let mut steady = status.clone();
    steady.conditions.iter_mut().for_each(|condition| condition.message.clear());
    steady.relays.iter_mut().for_each(|relay| relay.open = 0);
    if let Some(budget) = &mut steady.budget {
        (budget.leased, budget.open) = (0, 0);
    }
    steady.leases.iter_mut().for_each(mirror::steady);
    steady
}

fn ledgers<'a>(pools: &BTreeMap<&str, &'a PoolView>) -> impl Iterator<Item = &'a LedgerView> {
    pools.values().filter_map(|pool| pool.ledger.as_deref())
}

fn budget(
    world: &World,
    server: &ServerPlan,
    pools: &BTreeMap<&str, &PoolView>,
    old: &MailServerStatus,
) -> ServerBudgetStatus {
    let planned: Vec<(u32, Option<u32>)> =
        pools.iter().filter_map(|(name, view)| Some((world.plan.pools.get(*name)?.budget, view.effective))).collect();
    // One that nobody borrows from yet has its connections all the same.
    let each = if planned.is_empty() { vec![(server.total, None)] } else { planned };
    let last = old.budget.clone().filter(|_| world.store_problem.is_some()).unwrap_or_default();
    let open = ledgers(pools).flat_map(|ledger| &ledger.holders).map(|holder| holder.open).sum();
    ServerBudgetStatus {
        total: int(each.iter().map(|(total, _)| total).sum()),
        effective: int(each.iter().map(|(total, effective)| effective.unwrap_or(u32::MAX).min(*total)).sum()),
        leased: int(ledgers(pools).map(LedgerView::claimed).sum()).max(last.leased),
        open: int(open).max(last.open),
        quarantined: int(ledgers(pools).map(LedgerView::quarantined).sum()).max(last.quarantined),
    }
}

fn borrower(world: &World, key: &RelayKey, pool: Option<&PoolView>) -> BorrowerStatus {
    let workers = world.plan.relays.get(key).map(|relay| &relay.workers);
    let (mut share, mut open) = (0, 0);
    if let Some(ledger) = pool.and_then(|pool| pool.ledger.as_deref()) {
        for uid in workers.into_iter().flat_map(BTreeMap::keys) {
            let (of_this, open_of_this) = ledger.share_and_open(uid);
            (share, open) = (share + of_this, open + open_of_this);
        }
    }
    BorrowerStatus {
        namespace: key.namespace.clone(),
        name: key.name.clone(),
        workers: workers.and_then(|workers| i32::try_from(workers.len()).ok()).unwrap_or(0),
        share: int(share),
        open: int(open),
    }
}

/// The full names of the borrowers' pods, by UID.
fn pod_names(world: &World, server: &ServerPlan) -> BTreeMap<String, String> {
    let relays = server.borrowers.keys().filter_map(|key| Some((key, world.plan.relays.get(key)?)));
    relays.flat_map(|(key, relay)| relay.pod_names(&key.namespace)).collect()
}

fn verdicts(
    world: &World,
    server: &ServerPlan,
    pools: &BTreeMap<&str, &PoolView>,
    status: &MailServerStatus,
) -> [(&'static str, Option<Verdict>); 3] {
    let stall = stall(server);
    let stalled = |holds| stall.as_ref().and_then(|(reason, message)| say(holds, *reason, message));
    let quarantined = withheld(&status.leases).and_then(|sentence| say(true, "SessionsMayLinger", sentence));
    [
        ("Ready", stalled(false).or_else(|| ready(world, server, pools, status))),
        ("Stalled", stalled(true)),
        ("SlotsQuarantined", quarantined),
    ]
}

/// What a person has to change before anyone can borrow.
fn stall(server: &ServerPlan) -> Option<(&'static str, String)> {
    if let Some(objection) = &server.objection {
        return Some(("InvalidSpec", objection.clone()));
    }
    if let Some(twin) = &server.twin {
        let message = format!(
            "the MailServer {twin} has an address of this one: the connections of one server are one budget; take the address \
             out of one of the two"
        );
        return Some(("DuplicateBudget", message));
    }
    None
}

fn ready(
    world: &World,
    server: &ServerPlan,
    pools: &BTreeMap<&str, &PoolView>,
    status: &MailServerStatus,
) -> Option<Verdict> {
    if let Some(problem) = &world.store_problem {
        return say(false, "StoreUnreachable", problem);
    }
    if !server.allows_any {
        let message =
            "no namespace may borrow: spec.allowedNamespaces selects namespaces by their labels ({} is all of them)";
        return say(false, "NoNamespaceAllowed", message);
    }
    if server.borrowers.is_empty() {
        let message = "no relay borrows: a MailRelay names this server in spec.servers[].serverRef";
        return say(true, "NotBorrowed", message);
    }
    if let Some(trouble) = pools.values().find_map(|pool| pool.trouble.as_ref()) {
        return say(false, trouble.reason, &trouble.message);
    }
    let recovering = |view: &&PoolView| view.ledger.as_ref().is_none_or(|ledger| ledger.state == LedgerState::Rec);
    if pools.is_empty() || pools.values().any(recovering) {
        return say(false, "LedgerRecovering", "workers say again what they hold");
    }
    let (relays, budget) = (server.borrowers.len(), status.budget.as_ref().map_or(0, |budget| budget.effective));
    say(true, "Granting", format!("{relays} relays share {budget} connections"))
}

#[cfg(test)]
mod tests;
