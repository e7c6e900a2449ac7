//! Publishes what the plan says of each relay.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{records::Records, release::leaving};
use crate::{
    api::record_key,
    controller::{
        drive::{ApplyError, Deposed, Turn},
        metrics::ControllerMetrics,
        observe::Observed,
        plan::{Plan, RelayKey, RelayPlan},
        trouble::Trouble,
        world::World,
    },
    store::{Store, StoreError},
};

/// How often Redis is asked whether it still has the relays' records.
const RECORDS_EVERY: Duration = Duration::from_secs(4);

/// The records, and when all were published last.
pub struct Publisher {
    store: Store,
    metrics: ControllerMetrics,
    records: Records,
    checked: Option<Instant>,
    /// The plan that was published last.
    published: Option<Arc<Plan>>,
    /// Whether records were to be withdrawn at the last look: they may be so again, until the ledgers are behind no more.
    withdraws: bool,
}

impl Publisher {
    /// A leader that published nothing yet.
    pub fn new(store: Store, metrics: ControllerMetrics) -> Self {
        Self { store, metrics, records: Records::default(), checked: None, published: None, withdraws: false }
    }

    /// Publishes what changed at once, and every few seconds what Redis lost meanwhile. A record that Redis refuses is its
    /// relay's trouble; Redis itself has a problem, which is returned, only when it says nothing.
    pub async fn publish(
        &mut self,
        plan: &Arc<Plan>,
        turn: &Turn<'_>,
        observed: &Observed,
        world: &mut World,
    ) -> Result<Option<StoreError>, Deposed> {
        let due = self.checked.is_none_or(|checked| checked.elapsed() >= RECORDS_EVERY);
        if due {
            match self.records.compare(&self.store).await {
                Err(silence) if silence.is_silence() => return Ok(Some(silence)),
                Err(_) => self.records.doubt(),
                Ok(()) => {}
            }
        }
        let is_new = self.published.as_ref().is_none_or(|published| !Arc::ptr_eq(published, plan));
        if due || is_new {
            let is_refused = |key: &RelayKey, relay: &RelayPlan| {
                world.records.contains_key(key) && self.records.was_tried(key, relay)
            };
            let is_behind = |(key, relay): &(&RelayKey, &RelayPlan)| {
                (due || !is_refused(key, relay)) && !self.records.is_current(key, relay)
            };
            let behind: Vec<_> = plan.relays.iter().filter(is_behind).collect();
            for (key, published) in self.records.publish(&self.store, &behind, turn).await {
                if let Some(silence) = self.note(&key, published, world)? {
                    return Ok(Some(silence));
                }
            }
            world.records.retain(|key, _| plan.relays.contains_key(key));
        }
        if (due || is_new || self.withdraws)
            && let Some(silence) = self.withdraw(plan, turn, observed, world).await?
        {
            return Ok(Some(silence));
        }
        self.published = Some(Arc::clone(plan));
        if due {
            self.checked = Some(Instant::now());
        }
        Ok(None)
    }

    /// Withdraws the records of relays that are gone or on their way out.
    async fn withdraw(
        &mut self,
        plan: &Plan,
        turn: &Turn<'_>,
        observed: &Observed,
        world: &mut World,
    ) -> Result<Option<StoreError>, Deposed> {
        let gone: Vec<RelayKey> = self.records.keys().filter(|key| !plan.relays.contains_key(*key)).cloned().collect();
        // A relay on its way out may have been published by the leader before us.
        let leaving = leaving(&observed.relays(), plan, &world.released);
        self.withdraws = !(gone.is_empty() && leaving.is_empty());
        for key in gone.into_iter().chain(leaving) {
            let withdrawn = self.records.withdraw(&self.store, &key, turn).await;
            let went_well = withdrawn.is_ok();
            if let Some(silence) = self.note(&key, withdrawn, world)? {
                return Ok(Some(silence));
            }
            if went_well {
                world.released.insert(key);
            }
        }
        Ok(None)
    }

    /// Takes in what became of one relay's record. Returns the error when Redis said nothing.
    fn note(
        &self,
        key: &RelayKey,
        done: Result<(), ApplyError>,
        world: &mut World,
    ) -> Result<Option<StoreError>, Deposed> {
        let Err(error) = done else {
            if world.records.remove(key).is_some() {
                tracing::info!(relay = %key, "the relay's record can be written again");
            }
            return Ok(None);
        };
        self.metrics.refused(&error);
        let error = match error {
            ApplyError::Deposed(deposed) => return Err(deposed),
            ApplyError::Store(error) if error.is_silence() => return Ok(Some(error)),
            ApplyError::Store(error) => error,
        };
        let trouble = Trouble::of_record(&record_key(&key.namespace, &key.name), &error);
        if world.records.insert(key.clone(), trouble.clone()).as_ref() != Some(&trouble) {
            tracing::error!(relay = %key, trouble.message, "a relay's record cannot be written");
        }
        Ok(None)
    }
}
