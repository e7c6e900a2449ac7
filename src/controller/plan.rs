//! Step 2, pure: which relay may work, which pods share which budget.

mod ownership;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{
    ResourceExt,
    core::{Selector, SelectorExt},
};

use ownership::Owners;
pub use ownership::{Owned, Ownership};

use super::observe::PodFacts;
use crate::api::{DurationText, MailRelay, MailRelaySpec, RELAY_LABEL, RateLimit};

/// Namespace and name of a relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl RelayKey {
    /// The key of an object.
    pub fn of(relay: &MailRelay) -> Self {
        Self { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() }
    }
}

impl std::fmt::Display for RelayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// Why a relay must not work until a person changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// A condition reason: `InvalidSpec`, `QueueConflict`, `BudgetConflict`, `DuplicateBudget`.
    pub reason: &'static str,
    /// A sentence that says what to change.
    pub message: String,
}

/// What is decided for one relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayPlan {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The selector in use, as text.
    pub selector: String,
    /// Why it must not work.
    pub stalled: Option<Stall>,
    /// Its running worker pods: UID to name.
    pub workers: BTreeMap<String, String>,
    /// Whether any pod is selected, whatever runs in it.
    pub selects_any: bool,
    /// Who else draws on its budgets, as a sentence.
    pub shared: Option<String>,
    /// The object.
    pub relay: Arc<MailRelay>,
    /// The spec as its workers are to use it: how long slots are withheld is the pool's to say, not one relay's, since all
    /// who share a pool count on it.
    pub published: MailRelaySpec,
}

/// One server's budget and who shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Slots: the smallest `maxConnections` among those who name the pool.
    pub budget: u32,
    /// UIDs of the pods that share it.
    pub members: BTreeSet<String>,
    /// The longest `sessionTimeout`.
    pub session_timeout: DurationText,
    /// The longest `closeGrace`.
    pub close_grace: DurationText,
    /// All limits; of those of one unit and interval, the strictest.
    pub rate_limits: Vec<RateLimit>,
    /// Which servers it is for, as words: [`crate::api::Server::address`], and `relay:NAMESPACE/NAME/SERVER` of each entry that names it.
    pub servers: BTreeSet<String>,
}

/// Everything that is decided.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Plan {
    /// All relays that are not being deleted.
    pub relays: BTreeMap<RelayKey, RelayPlan>,
    /// All pools that a working relay names.
    pub pools: BTreeMap<String, PoolPlan>,
    /// Who owns what from now on.
    pub owned: Owned,
}

/// A relay, and what the rules of the API say against it (for objects that were stored before a rule existed).
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The object.
    pub relay: Arc<MailRelay>,
    /// The sentences of the rules it breaks.
    pub objection: Option<String>,
}

/// Decides for all relays at once: budgets and queues are shared across them.
///
/// Whoever owns a queue or a budget keeps it; what nobody owns goes to the oldest who asks. Relays that are being deleted own
/// nothing.
pub fn plan(relays: &[Candidate], pods: &[PodFacts], shared_budgets: bool, ownership: &Ownership) -> Plan {
    let mut relays: Vec<_> = relays.iter().filter(|c| c.relay.metadata.deletion_timestamp.is_none()).collect();
    relays.sort_by_cached_key(|c| (c.relay.metadata.creation_timestamp.clone(), c.relay.uid(), RelayKey::of(&c.relay)));
    let mut plan = Plan::default();
    let mut owners = Owners::keep(ownership, &relays);
    for Candidate { relay, objection } in relays {
        let key = RelayKey::of(relay);
        let selector = selector(relay);
        let stalled = match &selector {
            Err(stall) => Some(stall.clone()),
            Ok(_) => match objection {
                Some(message) => Some(Stall { reason: "InvalidSpec", message: message.clone() }),
                None => owners.conflict(relay, shared_budgets),
            },
        };
        let mut workers = BTreeMap::new();
        let mut selects_any = false;
        if let Ok(selector) = &selector {
            let mine = pods
                .iter()
                .filter(|pod| pod.namespace == key.namespace && !pod.terminating && selector.matches(&pod.labels));
            for pod in mine {
                selects_any = true;
                if pod.running.contains(&relay.spec.workers.container) {
                    workers.insert(pod.uid.clone(), pod.name.clone());
                }
            }
        }
        if stalled.is_none() {
            owners.add(relay);
            add_to_pools(&mut plan.pools, &key, relay, &workers);
        }
        let entry = RelayPlan {
            uid: relay.uid().unwrap_or_default(),
            generation: relay.metadata.generation.unwrap_or_default(),
            selector: selector.map(|s| s.to_string()).unwrap_or_default(),
            stalled,
            workers,
            selects_any,
            shared: None,
            relay: Arc::clone(relay),
            published: relay.spec.clone(),
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
    plan.owned = owners.owned();
    plan
}

/// Who else draws on a relay's budgets.
fn shared(relay: &RelayPlan, key: &RelayKey, owners: &Owners, pools: &BTreeMap<String, PoolPlan>) -> Option<String> {
    if relay.stalled.is_some() {
        return None;
    }
    let sentences: Vec<String> = pools_of(&relay.relay)
        .into_iter()
        .filter_map(|pool| {
            let others = owners.working(&pool).iter().filter(|other| *other != key);
            let others: Vec<String> = others.map(ToString::to_string).collect();
            let budget = pools.get(&pool)?.budget;
            (!others.is_empty()).then(|| format!("{pool}: {budget} connections shared with {}", others.join(", ")))
        })
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

/// The word for one entry of `spec.servers`: whatever becomes of its host, what its pods hold at the server before is
/// found by it.
pub fn server_word(key: &RelayKey, server: &str) -> String {
    format!("relay:{key}/{server}")
}

/// Whether a word is an address, and not one of [`server_word`], which alone have a slash.
pub fn is_address(word: &str) -> bool {
    !word.contains('/')
}

fn add_to_pools(
    pools: &mut BTreeMap<String, PoolPlan>,
    key: &RelayKey,
    relay: &MailRelay,
    workers: &BTreeMap<String, String>,
) {
    for server in &relay.spec.servers {
        let budget = u32::try_from(server.max_connections).unwrap_or(0);
        let pool = pools.entry(server.pool()).or_insert_with(|| PoolPlan {
            budget,
            members: BTreeSet::new(),
            session_timeout: server.session_timeout,
            close_grace: server.close_grace,
            rate_limits: Vec::new(),
            servers: BTreeSet::new(),
        });
        pool.servers.extend([server.address(), server_word(key, &server.name)]);
        pool.budget = pool.budget.min(budget);
        pool.session_timeout = pool.session_timeout.max(server.session_timeout);
        pool.close_grace = pool.close_grace.max(server.close_grace);
        tighten(&mut pool.rate_limits, &server.rate_limits);
        // A suspended relay sends nothing: its part serves those who share the budget.
        if !relay.spec.suspend {
            pool.members.extend(workers.keys().cloned());
        }
    }
}

/// Adds limits to those of a server: both hold.
fn tighten(limits: &mut Vec<RateLimit>, more: &[RateLimit]) {
    for limit in more {
        match limits.iter_mut().find(|known| (known.unit, known.interval) == (limit.unit, limit.interval)) {
            Some(known) => {
                known.count = known.count.min(limit.count);
                known.burst = known.burst.min(limit.burst);
            }
            None => limits.push(limit.clone()),
        }
    }
}

/// The distinct pools that a relay's servers draw on.
pub fn pools_of(relay: &MailRelay) -> BTreeSet<String> {
    relay.spec.servers.iter().map(crate::api::Server::pool).collect()
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
        return Err(Stall { reason: "InvalidSpec", message: message.into() });
    }
    Selector::try_from(wanted)
        .map_err(|error| Stall { reason: "InvalidSpec", message: format!("spec.workers.selector: {error}") })
}

#[cfg(test)]
mod tests;
