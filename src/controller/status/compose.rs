//! What a relay's status says, pure: from the facts.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    conditions::conditions,
    facts::{Facts, PoolFigures, oldest, unavailable},
    mirror,
    slots::int,
};
use crate::{
    api::{BudgetStatus, MailRelayStatus, QueueStatus, ServerStatus, WorkerStatus},
    lease::LedgerState,
};

/// How many workers the status lists.
const LISTED: usize = 64;
/// The status to show; `old` is the one that is shown, whose transition times are kept.
pub fn status(facts: &Facts<'_>, old: &MailRelayStatus) -> MailRelayStatus {
    let shares = facts.shares();
    let registered = facts.registered();
    // Whose share is lent while it rests has one as soon as there is something to do.
    let has_share = |uid: &str, share: u32| share > 0 || facts.idle.contains(uid);
    let ready = shares.iter().filter(|(uid, (share, _))| has_share(uid, *share) && registered.contains(*uid)).count();
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

fn budget(facts: &Facts<'_>, old: &MailRelayStatus) -> BudgetStatus {
    let sum = |of: &dyn Fn(&PoolFigures<'_>) -> u32| int(facts.pools.values().map(of).sum());
    let mut total: BTreeMap<String, i32> = BTreeMap::new();
    for server in &facts.relay.published.servers {
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

fn servers(facts: &Facts<'_>, old: &MailRelayStatus) -> Vec<ServerStatus> {
    let unavailable = unavailable(facts);
    let servers = &facts.relay.published.servers;
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
    let lacking =
        |name: &String| ServerStatus { name: name.clone(), state: "Unavailable".into(), ..ServerStatus::default() };
    servers.iter().map(describe).chain(facts.relay.lacking.keys().map(lacking)).collect()
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

#[cfg(test)]
mod tests;
