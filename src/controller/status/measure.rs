//! Measures a relay: its queue, and what its workers report.

use std::{collections::BTreeMap, time::Duration};

use super::measured::{Measured, Reports};
use crate::{
    api::reports_key,
    controller::{
        observe::Safety,
        plan::{RelayKey, RelayPlan},
        world::World,
    },
    queue::{At, Audit, Depths, Presence, Queue, QueueNames},
    store::{Store, StoreError},
};

/// How long one answer of Redis may take.
const STORE_LIMIT: Duration = Duration::from_secs(1);

/// The queue of a relay.
pub fn queue_of(store: &Store, relay: &RelayPlan) -> Queue {
    Queue::new(store.clone(), QueueNames::from_spec(&relay.relay.spec.queue))
}

/// What can be measured now, without the audit. `presence` is what of the queue is there: where nothing is, nothing is counted.
pub async fn measure(
    store: &Store,
    world: &World,
    key: &RelayKey,
    relay: &RelayPlan,
    presence: Option<Presence>,
) -> Measured {
    if world.store_problem.is_some() {
        return Measured::default();
    }
    // The queue of a relay that lost it to an older one is not its own to count.
    let depths = if relay.stalled.is_some() {
        None
    } else if presence == Some(Presence::default()) {
        Some(Depths::default())
    } else {
        queue_of(store, relay).depths(At::Redis).await.map_err(|error| log(key, &error)).ok()
    };
    let reports = reports(store, world, key).await.map_err(|error| log(key, &error)).unwrap_or_default();
    Measured { depths, audit: None, reports, safety: Safety::Unknown }
}

/// Whether every mail is accounted for; `None` when nobody can say now.
pub async fn audit(store: &Store, world: &World, key: &RelayKey, relay: &RelayPlan) -> Option<Audit> {
    if world.store_problem.is_some() || relay.stalled.is_some() {
        return None;
    }
    queue_of(store, relay).audit().await.map_err(|error| log(key, &error)).ok()
}

/// What workers say; what pods said that are gone is removed.
async fn reports(store: &Store, world: &World, key: &RelayKey) -> Result<Reports, StoreError> {
    let redis_key = reports_key(&key.namespace, &key.name);
    let raw: BTreeMap<String, String> = store.query(redis::cmd("HGETALL").arg(&redis_key), STORE_LIMIT).await?;
    let (known, gone): (Vec<_>, Vec<_>) = raw.into_iter().partition(|(uid, _)| world.pods.contains_key(uid));
    if !gone.is_empty() {
        let mut command = redis::cmd("HDEL");
        command.arg(&redis_key);
        for (uid, _) in &gone {
            command.arg(uid);
        }
        store.query::<i64>(&command, STORE_LIMIT).await?;
    }
    Ok(Reports::read(known))
}

fn log(key: &RelayKey, error: &StoreError) {
    tracing::debug!(relay = %key, %error, "cannot measure");
}
