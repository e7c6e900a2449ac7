//! What proves that a worker is dead, pure (lease R5b, R8): from pods.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::pods::PodFacts;
use crate::lease::Evidence;

/// What is remembered of pods, also of those that are gone as long as a ledger names them.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// The node that a pod was last seen on.
    nodes: BTreeMap<String, String>,
    /// Pods that were seen to be over, and those that exist and in which nothing has ever run.
    proven: Arc<Evidence>,
}

impl Pods {
    /// Takes in all pods there are; `held` are the UIDs that a ledger names. A pod that vanished proves nothing by that.
    pub fn note<'a>(&mut self, pods: impl IntoIterator<Item = &'a PodFacts>, held: &BTreeSet<&str>) {
        let pods: Vec<&PodFacts> = pods.into_iter().collect();
        let existing: BTreeSet<&str> = pods.iter().map(|pod| &*pod.uid).collect();
        let stays = |uid: &String| existing.contains(uid.as_str()) || held.contains(uid.as_str());
        self.nodes.retain(|uid, _| stays(uid));
        let proven = Arc::make_mut(&mut self.proven);
        proven.dead.retain(stays);
        proven.never_started = pods.iter().filter(|pod| pod.never_ran).map(|pod| pod.uid.clone()).collect();
        for pod in pods {
            if let Some(node) = &pod.node {
                self.nodes.insert(pod.uid.clone(), node.clone());
            }
            if pod.over {
                proven.dead.insert(pod.uid.clone());
            }
        }
    }

    /// The node of a pod.
    pub fn node(&self, uid: &str) -> Option<&String> {
        self.nodes.get(uid)
    }

    /// What proves death now. In which boot of its node a pod was over does not matter: it never starts again, and what the
    /// server may still count is withheld in full.
    pub fn evidence(&self) -> Arc<Evidence> {
        Arc::clone(&self.proven)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(over: bool) -> PodFacts {
        PodFacts { uid: "a".into(), node: Some("n1".into()), over, ..PodFacts::default() }
    }

    fn is_dead(known: &Pods) -> bool {
        known.evidence().dead.contains("a")
    }

    #[test]
    fn a_pod_that_is_over_is_dead_and_one_that_goes_on_or_vanished_is_not() {
        for (pods, expected) in [(&[pod(true)][..], true), (&[pod(false)], false), (&[], false)] {
            let mut known = Pods::default();
            known.note(&[pod(false)], &BTreeSet::new());
            known.note(pods, &BTreeSet::from(["a"]));
            assert_eq!(is_dead(&known), expected, "{pods:?}");
        }
    }

    #[test]
    fn what_was_proven_of_a_pod_stays_proven_when_the_pod_is_deleted_while_a_ledger_names_it() {
        let mut known = Pods::default();
        known.note(&[pod(true)], &BTreeSet::from(["a"]));
        known.note(&[], &BTreeSet::from(["a"]));
        assert!(is_dead(&known));
        assert_eq!(known.node("a").map(String::as_str), Some("n1"));
        known.note(&[], &BTreeSet::new());
        assert!(!is_dead(&known), "forgotten once nobody names it");
    }

    #[test]
    fn a_pod_that_never_ran_is_told_apart() {
        let waiting = PodFacts { uid: "w".into(), never_ran: true, ..PodFacts::default() };
        let mut known = Pods::default();
        known.note(&[pod(false), waiting], &BTreeSet::from(["a"]));
        let evidence = known.evidence();
        assert!(evidence.dead.is_empty());
        assert_eq!(evidence.never_started, BTreeSet::from(["w".to_owned()]));
    }
}
