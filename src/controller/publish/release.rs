//! When a relay that is deleted is let go: its finalizer stays until nothing of it is in force, pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::{Resource, ResourceExt};

use crate::{
    api::FINALIZER,
    controller::{
        observe::GuardedRelay,
        plan::{Plan, RelayKey, pools_named_by},
        world::{PoolView, World},
    },
};

/// Relays that are being deleted, still carry our finalizer and are not released yet.
pub fn leaving(relays: &[Arc<GuardedRelay>], plan: &Plan, released: &BTreeSet<RelayKey>) -> Vec<RelayKey> {
    let leaving = relays.iter().filter_map(|relay| {
        relay.meta().deletion_timestamp.as_ref()?;
        let ours = relay.finalizers().iter().any(|name| name == FINALIZER);
        let key = RelayKey::of_object(&**relay);
        (ours && !plan.relays.contains_key(&key) && !released.contains(&key)).then_some(key)
    });
    leaving.collect()
}

/// A relay is released once its record is withdrawn and no ledger of a pool that it named carries a share that the plan does
/// not know.
pub fn keep_released(world: &mut World, relays: &[Arc<GuardedRelay>], plan: &Plan) {
    let mut existing = BTreeSet::new();
    for relay in relays {
        let is_behind = |name: &String| is_behind(&world.pools, name, plan);
        if !relay.0.as_ref().is_ok_and(|relay| pools_named_by(relay).iter().any(is_behind)) {
            existing.insert(RelayKey::of_object(&**relay));
        }
    }
    world.released.retain(|key| existing.contains(key) && !plan.relays.contains_key(key));
}

/// Whether a pool's ledger carries a share that the plan does not know.
fn is_behind(pools: &BTreeMap<String, Arc<PoolView>>, name: &str, plan: &Plan) -> bool {
    let members = plan.pools.get(name).map(|pool| &pool.members);
    pools.get(name).and_then(|pool| pool.ledger.as_ref()).is_some_and(|ledger| {
        ledger.entitlements.keys().any(|uid| members.is_none_or(|members| !members.contains(uid)))
    })
}
