//! The finalizer of a relay: it stays until the relay's shares are taken back.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use kube::{Resource, ResourceExt};

use super::{
    note::{Action, Note},
    recorder::EventRecorder,
    writer::StatusWriter,
};
use crate::{
    api::FINALIZER,
    controller::{observe::GuardedRelay, plan::RelayKey, world::World},
    lease::BootTime,
};

/// How long a deleted relay waits for Redis.
const LET_GO_AFTER: Duration = Duration::from_secs(60);

/// What is remembered of relays that are being deleted.
#[derive(Default)]
pub struct Finalizers {
    /// Since when each is known to be.
    deleting: BTreeMap<RelayKey, BootTime>,
    /// Since when Redis cannot be used.
    store_down: Option<BootTime>,
}

impl Finalizers {
    /// Takes in whether Redis can be used.
    pub fn note_store(&mut self, world: &World) {
        self.store_down = world.store_problem.as_ref().map(|_| self.store_down.unwrap_or_else(BootTime::now));
    }

    /// Forgets relays that are gone.
    pub fn retain(&mut self, existing: &[Arc<GuardedRelay>]) {
        self.deleting.retain(|key, _| existing.iter().any(|relay| RelayKey::of_object(&**relay) == *key));
    }

    /// Puts the finalizer on, and takes it off when the relay's shares are taken back.
    pub async fn keep(&mut self, world: &World, relay: &GuardedRelay, writer: &StatusWriter, recorder: &EventRecorder) {
        let key = RelayKey::of_object(relay);
        let ours = relay.finalizers().iter().any(|name| name == FINALIZER);
        if relay.meta().deletion_timestamp.is_none() {
            if !ours && relay.0.is_ok() {
                let all = relay.finalizers().iter().cloned().chain([FINALIZER.to_owned()]);
                writer.write_finalizers(&key, relay, all.collect()).await;
            }
            return;
        }
        if !ours {
            return;
        }
        let now = BootTime::now();
        let since = *self.deleting.entry(key.clone()).or_insert(now);
        let waited = self.store_down.map_or(Duration::ZERO, |down| now.saturating_since(down.max(since)));
        let let_go = waited >= LET_GO_AFTER;
        // An object whose spec cannot be read never was in a plan: nothing of it is in a ledger by our hand.
        if !(world.released.contains(&key) || let_go || relay.0.is_err()) {
            return;
        }
        if let_go {
            let text = format!("Redis was out of reach for {} s; the relay's record stays there", waited.as_secs());
            recorder.record(relay.object_ref(&()), vec![Note::warning(Action::Finalizing, "StoreUnreachable", text)]);
        }
        let rest = relay.finalizers().iter().filter(|name| *name != FINALIZER).cloned();
        writer.write_finalizers(&key, relay, rest.collect()).await;
    }
}
