//! What the plan is made from, of what was observed.

use std::{collections::BTreeMap, sync::Arc};

use kube::ResourceExt;

use super::{
    lenders::{Lenders, Resolved},
    relay::RelayKey,
};
use crate::{api::MailRelay, controller::observe::GuardedRelay};

/// A relay, and what the rules of the API say against it (for objects that were stored before a rule existed).
#[derive(Clone, Debug)]
pub struct Candidate {
    /// The object.
    pub relay: Arc<MailRelay>,
    /// The sentences of the rules it breaks.
    pub objection: Option<String>,
    /// Its servers.
    pub resolved: Arc<Resolved>,
}

impl Candidate {
    /// A relay whose servers are its own or borrowed.
    pub fn new(relay: Arc<MailRelay>, objection: Option<String>, lenders: &Lenders) -> Self {
        let resolved = Arc::new(lenders.resolve(&relay));
        Self { relay, objection, resolved }
    }

    /// The same relay by what is lent now.
    fn again(self, lenders: &Lenders) -> Self {
        if self.relay.spec.servers.iter().all(|entry| entry.server_ref.is_none()) {
            return self;
        }
        Self::new(self.relay, self.objection, lenders)
    }
}

/// The relays as they were when the plan before was made, by UID, with what the rules of the API say against each: they are
/// slow to evaluate, and a spec changes rarely.
#[derive(Default)]
pub struct Candidates {
    known: BTreeMap<String, Candidate>,
}

impl Candidates {
    /// The relays whose spec can be read. One of which nothing but the status changed is the object that it was.
    pub fn among(&mut self, relays: &[Arc<GuardedRelay>], lenders: &Lenders) -> Vec<Candidate> {
        let mut before = std::mem::take(&mut self.known);
        let readable = relays.iter().filter_map(|relay| relay.0.as_ref().ok());
        readable
            .map(|relay| {
                let uid = relay.metadata.uid.clone().unwrap_or_default();
                let known = before.remove(&uid).filter(|known| is_same(&known.relay, relay));
                let candidate = if let Some(known) = known {
                    known.again(lenders)
                } else {
                    Candidate::new(Arc::new(relay.clone()), relay.objection(), lenders)
                };
                self.known.insert(uid, candidate.clone());
                candidate
            })
            .collect()
    }
}

fn is_same(old: &MailRelay, new: &MailRelay) -> bool {
    let (before, now) = (&old.metadata, &new.metadata);
    (&before.namespace, &before.name, before.generation) == (&now.namespace, &now.name, now.generation)
        && before.deletion_timestamp == now.deletion_timestamp
        && old.spec == new.spec
}

/// The relays whose spec cannot be read, by UID.
pub fn unreadable(relays: &[Arc<GuardedRelay>]) -> BTreeMap<String, RelayKey> {
    let unreadable = relays.iter().filter(|relay| relay.0.is_err());
    unreadable.map(|relay| (relay.uid().unwrap_or_default(), RelayKey::of_object(&**relay))).collect()
}
