//! A `MailServer` as the plan has it.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    lenders::{Lender, Lenders, Terms, pools_of},
    pool::PoolPlan,
    relay::RelayKey,
};
use crate::api::{ResolvedSpec, server_of};

/// What is decided for one `MailServer`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerPlan {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The connections that it takes.
    pub total: u32,
    /// Whether any namespace may borrow.
    pub allows_any: bool,
    /// Why nobody can borrow from it.
    pub objection: Option<String>,
    /// The working relays that borrow, and the pool that each draws on.
    pub borrowers: BTreeMap<RelayKey, String>,
    /// Another one with an address of it.
    pub twin: Option<String>,
}

/// The `MailServer`s before anyone borrows.
pub fn servers(lenders: &Lenders) -> BTreeMap<String, ServerPlan> {
    let plan = lenders.all().iter().map(|(name, lender)| {
        let terms = lender.terms.as_ref().ok();
        let plan = ServerPlan {
            uid: lender.uid.clone(),
            generation: lender.generation,
            total: terms.and_then(|terms| u32::try_from(terms.server.spec.max_connections).ok()).unwrap_or(0),
            allows_any: terms.is_some_and(Terms::allows_any),
            objection: lender.terms.as_ref().err().cloned(),
            borrowers: BTreeMap::new(),
            twin: None,
        };
        (name.clone(), plan)
    });
    plan.collect()
}

/// Notes of whom a working relay borrows, and how those who do share.
pub fn add_borrower(
    servers: &mut BTreeMap<String, ServerPlan>,
    pools: &mut BTreeMap<String, Arc<PoolPlan>>,
    lenders: &Lenders,
    key: &RelayKey,
    spec: &ResolvedSpec,
) {
    for pool in pools_of(&spec.servers) {
        let Some(name) = server_of(&pool) else { continue };
        if let Some(planned) = pools.get_mut(&pool) {
            Arc::make_mut(planned).weights = lenders.weights(name);
        }
        if let Some(server) = servers.get_mut(name) {
            server.borrowers.insert(key.clone(), pool);
        }
    }
}

/// Notes which `MailServer`s have an address of another one: that is the other's, if it is in use and this one is not, or else
/// the older one's.
pub fn note_twins(servers: &mut BTreeMap<String, ServerPlan>, lenders: &Lenders) {
    let is_unused = |name: &&String| servers.get(*name).is_none_or(|server| server.borrowers.is_empty());
    let twin = |(name, lender): (&String, &Lender)| {
        let all = lenders.with_an_address_of(lender.terms.as_ref().ok()?);
        let first = all.into_iter().min_by_key(is_unused)?;
        (first != name).then(|| (name.clone(), first.clone()))
    };
    let twins: Vec<(String, String)> = lenders.all().iter().filter_map(twin).collect();
    for (name, twin) in twins {
        servers.entry(name).or_default().twin = Some(twin);
    }
}
