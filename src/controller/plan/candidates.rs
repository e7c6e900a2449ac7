//! What the plan is made from, of what was observed.

use std::{collections::BTreeMap, sync::Arc};

use kube::ResourceExt;

use super::relay::{Candidate, RelayKey};
use crate::controller::observe::GuardedRelay;

/// What the rules of the API say against each relay, by UID and generation: they are slow to evaluate, and a spec changes rarely.
#[derive(Default)]
pub struct Candidates {
    objections: BTreeMap<(String, i64), Option<String>>,
}

impl Candidates {
    /// The relays whose spec can be read.
    pub fn among(&mut self, relays: &[Arc<GuardedRelay>]) -> Vec<Candidate> {
        let mut before = std::mem::take(&mut self.objections);
        let readable = relays.iter().filter_map(|relay| relay.0.as_ref().ok());
        readable
            .map(|relay| {
                let key = (relay.metadata.uid.clone().unwrap_or_default(), relay.metadata.generation.unwrap_or(0));
                let objection =
                    before.remove(&key).unwrap_or_else(|| relay.validate_cel().err().map(|errors| errors.to_string()));
                self.objections.insert(key, objection.clone());
                Candidate { relay: Arc::new(relay.clone()), objection }
            })
            .collect()
    }
}

/// The relays whose spec cannot be read, by UID.
pub fn unreadable(relays: &[Arc<GuardedRelay>]) -> BTreeMap<String, RelayKey> {
    let unreadable = relays.iter().filter(|relay| relay.0.is_err());
    unreadable.map(|relay| (relay.uid().unwrap_or_default(), RelayKey::of_object(&**relay))).collect()
}
