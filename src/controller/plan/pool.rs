//! A pool as the plan has it: one server's budget and who shares it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::relay::RelayKey;
use crate::api::{DurationText, RateLimit, ResolvedSpec, Server, is_by_account};

/// One server's budget and who shares it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolPlan {
    /// Slots: the smallest `maxConnections` among those who name the pool.
    pub budget: u32,
    /// UIDs of the pods that share it.
    pub members: BTreeSet<String>,
    /// Which of them are of which relay: each has mail of its own.
    pub relays: BTreeMap<RelayKey, BTreeSet<String>>,
    /// The weights of namespaces, where they share by weight; one that is not named has 1.
    pub weights: Option<BTreeMap<String, u32>>,
    /// The longest `sessionTimeout`.
    pub session_timeout: DurationText,
    /// The longest `closeGrace`.
    pub close_grace: DurationText,
    /// All limits; of those of one unit and interval, the strictest.
    pub rate_limits: Vec<RateLimit>,
    /// Which servers it is for, as words: [`crate::api::Server::address`], and `relay:NAMESPACE/NAME/SERVER` of each entry
    /// that names it.
    pub servers: BTreeSet<String>,
}

/// The words for a server of a relay. One is for the entry of `spec.servers`: whatever becomes of its host, what its pods hold
/// at the server before is found by it. The other is the address, unless the server there counts the sessions of each relay
/// by themselves.
pub fn words(key: &RelayKey, server: &Server) -> impl Iterator<Item = String> {
    let address = (!is_by_account(&server.pool())).then(|| server.address());
    [format!("relay:{key}/{}", server.entry())].into_iter().chain(address)
}

/// Whether a word is an address, and not an entry, which alone has a slash.
pub fn is_address(word: &str) -> bool {
    !word.contains('/')
}

/// Adds a working relay and its pods to the pools that it names.
pub fn add_to_pools(
    pools: &mut BTreeMap<String, Arc<PoolPlan>>,
    key: &RelayKey,
    spec: &ResolvedSpec,
    workers: &BTreeMap<String, String>,
) {
    for server in &spec.servers {
        let budget = u32::try_from(server.max_connections).unwrap_or(0);
        let new = || PoolPlan {
            budget,
            members: BTreeSet::new(),
            relays: BTreeMap::new(),
            weights: None,
            session_timeout: server.session_timeout,
            close_grace: server.close_grace,
            rate_limits: Vec::new(),
            servers: BTreeSet::new(),
        };
        let pool = Arc::make_mut(pools.entry(server.pool()).or_insert_with(|| Arc::new(new())));
        pool.servers.extend(words(key, server));
        pool.budget = pool.budget.min(budget);
        pool.session_timeout = pool.session_timeout.max(server.session_timeout);
        pool.close_grace = pool.close_grace.max(server.close_grace);
        tighten(&mut pool.rate_limits, &server.rate_limits);
        // Who is suspended sends nothing: its part serves those who share the budget.
        if !spec.suspend && !server.suspend {
            pool.members.extend(workers.keys().cloned());
            pool.relays.entry(key.clone()).or_insert_with(|| workers.keys().cloned().collect());
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
