//! How long the relay asks to keep what: dead letters that were kept so long are discarded, counted, told of in the log;
//! and of final records the scripts are told.

use std::{sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{claims::queue_of, plan::RelayPlan, pools::World};
use crate::{
    queue::{At, Filter, UnixMillis},
    store::{Store, StoreError},
};

/// How often dead letters are looked at: retention is counted in hours.
const EVERY: Duration = Duration::from_secs(60);
/// How many are discarded at once, so that Redis is never held up for long.
const BATCH: usize = 500;

/// Discards each minute what is over. Never returns; cancelling leaves the rest for the next look.
pub async fn expire_dead_letters(store: Store, world: watch::Receiver<Arc<World>>) {
    loop {
        tokio::time::sleep(EVERY).await;
        let plan = Arc::clone(&world.borrow().plan);
        for (key, relay) in plan.relays.iter().filter(|(_, relay)| relay.stalled.is_none()) {
            if let Err(error) = keep_records(&store, relay).await {
                tracing::debug!(relay = %key, %error, "cannot say how long records are kept");
            }
            match discard_expired(&store, relay, At::Redis).await {
                Ok(0) => {}
                Ok(discarded) => {
                    tracing::info!(relay = %key, mails.discarded = discarded, "dead letters were kept long enough");
                }
                Err(error) => tracing::debug!(relay = %key, %error, "cannot look at the dead letters"),
            }
        }
    }
}

/// Tells all who use the relay's queue its `recordRetention`.
pub async fn keep_records(store: &Store, relay: &RelayPlan) -> Result<(), StoreError> {
    queue_of(store, relay).keep_records(relay.relay.spec.queue.record_retention.get()).await
}

/// Discards up to `BATCH` dead letters of the relay that are older than its `deadLetterRetention`; returns how many.
pub async fn discard_expired(store: &Store, relay: &RelayPlan, at: impl Into<At>) -> Result<u64, StoreError> {
    let (queue, at) = (queue_of(store, relay), at.into());
    let now = queue.time(at).await?;
    let retention = relay.relay.spec.queue.dead_letter_retention.as_millis();
    let before = UnixMillis(now.0.saturating_sub(retention));
    // The oldest comes first: while it may stay, the rest of a long list need not be read.
    let oldest = queue.dead_list(&Filter::default(), 1).await?.pop();
    if oldest.is_none_or(|letter| letter.at >= before) {
        return Ok(0);
    }
    let filter = Filter { before: Some(before), ..Filter::default() };
    Ok(queue.dead_discard(&filter, BATCH, at).await?.done)
}
