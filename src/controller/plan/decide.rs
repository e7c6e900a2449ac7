//! What is decided, for all relays at once.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{ResourceExt, core::Selector};

use super::{
    candidates::Candidate,
    lenders::{Lenders, pools_of},
    ownership::{Owned, Owners, Ownership},
    pool::{PoolPlan, add_to_pools},
    relay::{RelayKey, RelayPlan, Stall, StallReason},
    selection::Selection,
    server::{ServerPlan, add_borrower, note_twins, servers},
};
use crate::{
    api::{MailRelay, RELAY_LABEL, ResolvedSpec, Server, server_of},
    controller::observe::PodFacts,
};

/// Everything that is decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All relays that are not being deleted.
    pub relays: BTreeMap<RelayKey, RelayPlan>,
    /// All pools that a working relay names.
    pub pools: BTreeMap<String, Arc<PoolPlan>>,
    /// All `MailServer`s.
    pub servers: BTreeMap<String, ServerPlan>,
    /// Who owns what from now on.
    pub owned: Arc<Owned>,
}

impl Plan {
    /// The same, which has in common with the one before what did not change: whoever compares the two sees that at once.
    pub fn sharing(mut self, before: &Self) -> Self {
        for (name, pool) in &mut self.pools {
            if let Some(known) = before.pools.get(name).filter(|known| *known == pool) {
                *pool = Arc::clone(known);
            }
        }
        if self.owned == before.owned {
            self.owned = Arc::clone(&before.owned);
        }
        self
    }
}

/// Decides for all relays at once: budgets and queues are shared across them.
///
/// Whoever owns a queue or a budget keeps it; what nobody owns goes to the oldest who asks. Relays that are being deleted own
/// nothing.
pub fn plan<'a>(
    relays: &[Candidate],
    pods: impl IntoIterator<Item = &'a PodFacts>,
    ownership: &Ownership,
    lenders: &Lenders,
) -> Plan {
    let mut relays: Vec<_> = relays.iter().filter(|c| c.relay.metadata.deletion_timestamp.is_none()).collect();
    relays.sort_by_cached_key(|c| (c.relay.metadata.creation_timestamp.clone(), c.relay.uid(), RelayKey::of(&c.relay)));
    let mut plan = Plan { servers: servers(lenders), ..Plan::default() };
    let mut owners = Owners::keep(ownership, &relays);
    let selection = Selection::among(pods);
    for candidate in relays {
        let Candidate { relay, objection, resolved } = candidate;
        let key = RelayKey::of(relay);
        let selector = selector(relay);
        let stalled = match &selector {
            Err(stall) => Some(stall.clone()),
            Ok(_) => match objection {
                Some(message) => Some(Stall { reason: StallReason::InvalidSpec, message: message.clone() }),
                None if resolved.servers.is_empty() => resolved.lacking.values().next().cloned(),
                None => owners.conflict(candidate, lenders),
            },
        };
        let mut workers = BTreeMap::new();
        let mut selects_any = false;
        if let Ok(selector) = &selector {
            for pod in selection.of(&key.namespace, selector) {
                selects_any = true;
                if pod.running.contains(&relay.spec.workers.container) {
                    workers.insert(pod.uid.clone(), pod.name.clone());
                }
            }
        }
        let published = published(relay, &resolved.servers);
        if stalled.is_none() {
            owners.add(candidate);
            add_to_pools(&mut plan.pools, &key, &published, &workers);
            add_borrower(&mut plan.servers, &mut plan.pools, lenders, &key, &published);
        }
        let entry = RelayPlan {
            uid: relay.uid().unwrap_or_default(),
            generation: relay.metadata.generation.unwrap_or_default(),
            selector: selector.map(|s| s.to_string()).unwrap_or_default(),
            stalled,
            workers,
            selects_any,
            pools: pools_of(&resolved.servers),
            shared: None,
            lacking: resolved.lacking.clone(),
            relay: Arc::clone(relay),
            published,
        };
        plan.relays.insert(key, entry);
    }
    for (key, relay) in &mut plan.relays {
        relay.shared = shared(relay, key, &owners, &plan.pools);
        for server in relay.published.servers.iter_mut().filter(|_| relay.stalled.is_none()) {
            if let Some(pool) = plan.pools.get(&server.pool()) {
                (server.session_timeout, server.close_grace) = (pool.session_timeout, pool.close_grace);
                server.rate_limits.clone_from(&pool.rate_limits);
            }
        }
    }
    note_twins(&mut plan.servers, lenders);
    plan.owned = Arc::new(owners.owned());
    plan
}

/// The spec as workers are to use it, but for what is the pools' to say.
fn published(relay: &MailRelay, servers: &[Server]) -> ResolvedSpec {
    let spec = &relay.spec;
    ResolvedSpec {
        servers: servers.to_vec(),
        workers: spec.workers.clone(),
        queue: spec.queue.clone(),
        retry: spec.retry.clone(),
        breaker: spec.breaker.clone(),
        unknown_outcome: spec.unknown_outcome,
        suspend: spec.suspend,
    }
}

/// Who else draws on a relay's budgets. Of those who borrow from the same `MailServer` only how many they are: they are other
/// tenants.
fn shared(
    relay: &RelayPlan,
    key: &RelayKey,
    owners: &Owners,
    pools: &BTreeMap<String, Arc<PoolPlan>>,
) -> Option<String> {
    if relay.stalled.is_some() {
        return None;
    }
    let sentences: Vec<String> = relay
        .pools
        .iter()
        .filter_map(|pool| {
            let others = owners.working(pool).iter().filter(|other| *other != key);
            let others: Vec<String> = others.map(ToString::to_string).collect();
            let budget = pools.get(pool)?.budget;
            let (what, whom) = match server_of(pool) {
                Some(server) => (format!("MailServer {server}"), format!("{} other relays", others.len())),
                None => (pool.clone(), others.join(", ")),
            };
            (!others.is_empty()).then(|| format!("{what}: {budget} connections shared with {whom}"))
        })
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn selector(relay: &MailRelay) -> Result<Selector, Stall> {
    let given = relay.spec.workers.selector.clone();
    let wanted = given.unwrap_or_else(|| LabelSelector {
        match_labels: Some(BTreeMap::from([(RELAY_LABEL.to_owned(), relay.name_any())])),
        match_expressions: None,
    });
    let empty = wanted.match_labels.as_ref().is_none_or(BTreeMap::is_empty)
        && wanted.match_expressions.as_ref().is_none_or(Vec::is_empty);
    if empty {
        let message = "spec.workers.selector is empty and would select every pod; leave it out or name a label";
        return Err(Stall { reason: StallReason::InvalidSpec, message: message.into() });
    }
    Selector::try_from(wanted)
        .map_err(|error| Stall { reason: StallReason::InvalidSpec, message: format!("spec.workers.selector: {error}") })
}

#[cfg(test)]
mod tests;
