//! Mail that waits while workers rest: they are called, and asked whether they live.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use tokio::sync::watch;

use crate::{
    controller::{
        plan::{RelayKey, RelayPlan},
        status::{Activity, queue_of, show_new},
        world::World,
    },
    store::Store,
};

/// How often is looked.
const EVERY: Duration = Duration::from_secs(1);

/// Looks each second where mail waits. Whoever rests there while it waits is called: the mail may have been moved for a worker
/// that does not come. `tell` shows the budgets of which somebody who rests is to be asked whether he lives, since the slots of a
/// dead one would idle. Never returns.
pub async fn call_who_rests(
    store: Store,
    world: watch::Receiver<Arc<World>>,
    activity: watch::Receiver<Arc<Activity>>,
    tell: watch::Sender<Arc<BTreeSet<String>>>,
) {
    let mut waited = BTreeSet::new();
    loop {
        tokio::time::sleep(EVERY).await;
        let (world, activity) = (Arc::clone(&world.borrow()), Arc::clone(&activity.borrow()));
        let waits = waiting(&world, &activity);
        let mut idle = BTreeSet::new();
        for (key, relay) in waits.iter().filter(|(key, _)| waited.contains(**key)) {
            let resting = resting(&world, relay);
            if resting.is_empty() {
                continue;
            }
            if let Err(error) = queue_of(&store, relay).call().await {
                tracing::debug!(relay = %key, %error, "cannot call for mail that waits");
            }
            idle.extend(resting);
        }
        waited = waits.into_keys().cloned().collect();
        show_new(&tell, idle);
    }
}

/// The relays whose mail waits and may be sent.
fn waiting<'a>(world: &'a World, activity: &Activity) -> BTreeMap<&'a RelayKey, &'a RelayPlan> {
    let relays = world.plan.relays.iter();
    let sends = |relay: &RelayPlan| relay.stalled.is_none() && !relay.relay.spec.suspend;
    relays.filter(|(key, relay)| sends(relay) && activity.of(key).is_some_and(|presence| presence.waiting)).collect()
}

/// The budgets of a relay in which a worker of it rests.
fn resting(world: &World, relay: &RelayPlan) -> BTreeSet<String> {
    let rests = |pool: &&String| {
        let ledger = world.pools.get(*pool).and_then(|pool| pool.ledger.as_ref());
        let holders = ledger.into_iter().flat_map(|ledger| &ledger.holders);
        holders.into_iter().any(|holder| holder.is_resting() && relay.workers.contains_key(&holder.pod_uid))
    };
    relay.pools.iter().filter(rests).cloned().collect()
}
