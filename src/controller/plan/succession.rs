//! Step 3, pure, too: one server, one ledger. A budget that is renamed, a host or port that changes, a relay that moves to
//! another budget: the sessions of before are counted in the ledger of before, and no other one may grant what the server
//! still counts there.
//!
//! A ledger stores which servers it is for: addresses, and the entries of relays that named it. What it stores and the plan
//! does not say of it any more is *stale*. A ledger with a stale word that is planned elsewhere *owes* that server to the
//! other one, and as long as it does
//!
//! - it grants nothing to those who may hold what it owes: they finish their mails and give back;
//! - the other one is not made, or, when it is in use by others already, grants nothing to the pods that come over.
//!
//! It owes until nobody holds slots of it in an open ledger and what it withholds is withheld by the other one: a new ledger
//! begins with that, one that is in use does not take it over, and its newcomers wait until it is over.
//!
//! **An address in common** is the same server: every slot of the old ledger counts, whoever holds it.
//!
//! **Only an entry of a relay in common**: its host is another one, which may be another name of the same server (an alias
//! that no one can see). So what the pods of that relay hold counts until they gave it back. What other relays hold does not:
//! their server stays with the old ledger, and if that one and the new one were the same server, both would be in force
//! for good, which is two budgets for one server under two names; the documentation says that this is not noticed.

use std::{
    cell::LazyCell,
    collections::{BTreeMap, BTreeSet},
};

use super::{
    decide::Plan,
    pool::{is_address, words},
};
use crate::{
    api::DurationText,
    lease::{CARRIED, Quarantine},
};

/// What is known of a pool that has a ledger, or had one by its mark or mirror.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// Which servers its ledger is for; `None` when that is not known, since it is lost or of an earlier version.
    pub servers: Option<BTreeSet<String>>,
    /// UIDs of pods that hold slots or have a share; `None` while its ledger is lost or in recovery: anyone may.
    pub held: Option<BTreeSet<String>>,
    /// What it withholds.
    pub quarantine: Vec<Quarantine>,
}

/// How a pool stands towards others.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// Which servers its ledger is to store.
    pub servers: BTreeSet<String>,
    /// The pools that owe it a server. It is not made meanwhile, if it never was.
    pub waits_for: BTreeSet<String>,
    /// UIDs of its pods that get no share meanwhile.
    pub waiting: BTreeSet<String>,
    /// What a new ledger of it begins with.
    pub inherits: Vec<Quarantine>,
    /// Whether other ledgers withhold all that it withholds, so that it may go.
    pub carried: bool,
    /// The longest `sessionTimeout` of those who use its servers now, if it is not planned itself.
    pub session_timeout: Option<DurationText>,
}

/// How each pool stands that is planned or known.
pub fn stand(plan: &Plan, known: &BTreeMap<String, Known>) -> BTreeMap<String, Standing> {
    let mut all: BTreeMap<String, Standing> = plan
        .pools
        .iter()
        .map(|(name, pool)| (name.clone(), Standing { servers: pool.servers.clone(), ..Standing::default() }))
        .collect();
    // Hardly any ledger owes anything, and this is asked in every turn: who could be owed is found by the words.
    let (pods, namers) = (LazyCell::new(|| Pods::of(plan)), LazyCell::new(|| namers(plan)));
    for (old, state) in known {
        let planned = plan.pools.get(old);
        let creditors: BTreeSet<&str> = if may_be_any(state, planned.is_some()) {
            plan.pools.keys().map(String::as_str).collect()
        } else {
            let stale = stale(state, planned.map(|pool| &pool.servers));
            stale.filter_map(|word| namers.get(word.as_str())).flatten().copied().collect()
        };
        let mut debts = Vec::new();
        for name in creditors.into_iter().filter(|name| name != old) {
            debts.extend(Debt::of(plan, &pods, old, state, name, known.get(name)));
        }
        let standing = all.entry(old.clone()).or_default();
        standing.carried = planned.is_none() && !debts.is_empty() && debts.iter().all(|debt| !debt.is_open());
        standing.session_timeout =
            debts.iter().filter_map(|debt| Some(plan.pools.get(debt.new)?.session_timeout)).max();
        let stale = stale(state, planned.map(|pool| &pool.servers));
        standing.servers.extend(stale.filter(|word| is_owed(word, state, &pods, &debts)).cloned());
        for debt in debts {
            if debt.is_open() {
                let granting = planned.map(|pool| pool.members.iter().filter(|pod| debt.concerns(pod)).cloned());
                all.entry(old.clone()).or_default().waiting.extend(granting.into_iter().flatten());
            }
            let Some(new) = all.get_mut(debt.new) else { continue };
            if debt.is_new && debt.is_held {
                new.waits_for.insert(old.clone());
            } else if debt.is_new {
                let carried = |entry| Quarantine { why: CARRIED.to_owned(), ..entry };
                new.inherits.extend(debt.withheld.into_iter().map(carried));
            } else if debt.is_open() {
                new.waits_for.insert(old.clone());
                new.waiting.extend(debt.newcomers);
            }
        }
    }
    all
}

/// What one pool's ledger owes to another pool.
struct Debt<'a> {
    new: &'a str,
    /// Whether the other one has no ledger yet.
    is_new: bool,
    /// Whether slots may be held that count.
    is_held: bool,
    /// What the other one does not withhold yet.
    withheld: Vec<Quarantine>,
    /// The pods whose slots in the old ledger count; `None` for all.
    holders: Option<BTreeSet<String>>,
    /// The pods that come over.
    newcomers: BTreeSet<String>,
}

impl<'a> Debt<'a> {
    fn of(plan: &'a Plan, pods: &Pods, old: &str, state: &Known, new: &'a str, target: Option<&Known>) -> Option<Self> {
        let wanted = &plan.pools.get(new)?.servers;
        let planned = plan.pools.get(old).map(|pool| &pool.servers);
        let is_new = target.is_none();
        let common: BTreeSet<&String> = if may_be_any(state, planned.is_some()) && is_new {
            // A ledger that is in use already was so beside it.
            wanted.iter().collect()
        } else {
            stale(state, planned).filter(|word| wanted.contains(*word)).collect()
        };
        if common.is_empty() {
            return None;
        }
        let by_address = common.iter().any(|word| is_address(word));
        let holders: Option<BTreeSet<String>> =
            (!by_address).then(|| common.iter().flat_map(|word| pods.of_word(word)).cloned().collect());
        let is_held = match (&state.held, &holders) {
            (None, _) => true,
            (Some(held), None) => !held.is_empty(),
            (Some(held), Some(own)) => held.iter().any(|pod| own.contains(pod) || !pods.is_known(pod)),
        };
        let there = |entry: &Quarantine| target.is_some_and(|new| new.quarantine.iter().any(|q| q.id == entry.id));
        // What a ledger withholds that goes on with other servers is theirs, as far as the address does not say otherwise.
        let counts = by_address || planned.is_none();
        let withheld = state.quarantine.iter().filter(|entry| counts && !there(entry)).cloned().collect();
        let newcomers = common.iter().flat_map(|word| pods.of_word(word)).cloned().collect();
        Some(Self { new, is_new, is_held, withheld, holders, newcomers })
    }

    fn is_open(&self) -> bool {
        self.is_held || !self.withheld.is_empty()
    }

    fn concerns(&self, pod: &str) -> bool {
        self.holders.as_ref().is_none_or(|holders| holders.contains(pod))
    }
}

/// The planned pools that name each server.
fn namers(plan: &Plan) -> BTreeMap<&str, BTreeSet<&str>> {
    let mut namers: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (name, pool) in &plan.pools {
        for word in &pool.servers {
            namers.entry(word).or_default().insert(name);
        }
    }
    namers
}

/// Whether a ledger may have been for any server.
fn may_be_any(state: &Known, is_planned: bool) -> bool {
    state.servers.is_none() && !is_planned
}

/// What a ledger is for and the plan does not say of it any more.
fn stale<'a>(state: &'a Known, planned: Option<&'a BTreeSet<String>>) -> impl Iterator<Item = &'a String> {
    state.servers.iter().flatten().filter(move |word| planned.is_none_or(|planned| !planned.contains(*word)))
}

/// Whether a stale word must stay: forgotten too early, and the next one who names that server would not wait.
fn is_owed(word: &str, state: &Known, pods: &Pods, debts: &[Debt<'_>]) -> bool {
    let Some(held) = &state.held else { return true };
    if debts.iter().any(Debt::is_open) {
        return true;
    }
    if is_address(word) {
        return !held.is_empty() || !state.quarantine.is_empty();
    }
    let own: BTreeSet<&String> = pods.of_word(word).collect();
    held.iter().any(|pod| own.contains(pod) || !pods.is_known(pod))
}

/// Which pods use which servers.
#[derive(Default)]
struct Pods {
    by_word: BTreeMap<String, BTreeSet<String>>,
    known: BTreeSet<String>,
}

impl Pods {
    fn of(plan: &Plan) -> Self {
        let mut all = Self::default();
        for (key, relay) in &plan.relays {
            all.known.extend(relay.workers.keys().cloned());
            for server in &relay.published.servers {
                for word in words(key, server) {
                    all.by_word.entry(word).or_default().extend(relay.workers.keys().cloned());
                }
            }
        }
        all
    }

    fn of_word(&self, word: &str) -> impl Iterator<Item = &String> {
        self.by_word.get(word).into_iter().flatten()
    }

    /// Whether it is some relay's: one that is gone may be anyone's.
    fn is_known(&self, pod: &str) -> bool {
        self.known.contains(pod)
    }
}

#[cfg(test)]
mod tests;
