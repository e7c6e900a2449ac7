//! What proves that a worker is dead, pure (lease R5b, R5c, R8): from pods, nodes and what the ledgers name.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    nodes::{Renewal, Signs},
    observe::PodFacts,
};
use crate::lease::{BootTime, Evidence, HolderView};

/// What is remembered of pods, also of those that are gone as long as a ledger names them.
#[derive(Clone, Debug, Default)]
pub struct Pods {
    /// The node that a pod was last seen on.
    nodes: BTreeMap<String, String>,
    /// When a pod was first seen to be over.
    over: BTreeMap<String, BootTime>,
    /// Pods that exist and in which nothing has ever run.
    never_started: BTreeSet<String>,
}

impl Pods {
    /// Takes in all pods there are; `held` are the UIDs that a ledger names. A pod that vanished proves nothing by that.
    pub fn note(&mut self, pods: &[PodFacts], held: &BTreeSet<&str>, now: BootTime) {
        let existing: BTreeSet<&str> = pods.iter().map(|pod| &*pod.uid).collect();
        let stays = |uid: &String| existing.contains(uid.as_str()) || held.contains(uid.as_str());
        self.nodes.retain(|uid, _| stays(uid));
        self.over.retain(|uid, _| stays(uid));
        self.never_started = pods.iter().filter(|pod| pod.never_ran).map(|pod| pod.uid.clone()).collect();
        for pod in pods {
            if let Some(node) = &pod.node {
                self.nodes.insert(pod.uid.clone(), node.clone());
            }
            if pod.over {
                self.over.entry(pod.uid.clone()).or_insert(now);
            }
        }
    }

    /// The node of a pod.
    pub fn node(&self, uid: &str) -> Option<&String> {
        self.nodes.get(uid)
    }

    /// Whether a pod was seen to be over.
    pub fn is_over(&self, uid: &str) -> bool {
        self.over.contains_key(uid)
    }

    /// What proves life and death of these holders now.
    pub fn evidence<'a>(&self, holders: impl Iterator<Item = &'a HolderView>, signs: &Signs) -> Evidence {
        let mut evidence = Evidence { never_started: self.never_started.clone(), ..Evidence::default() };
        for sign in signs.values() {
            if let Some(Renewal { after, seen }) = sign.renewed {
                evidence.nodes.insert(sign.boot_id.clone(), after);
                evidence.reached.insert(sign.boot_id.clone(), seen);
            }
        }
        let mut doubtful = BTreeSet::new();
        for holder in holders {
            let uid = &holder.pod_uid;
            let sign = self.node(uid).and_then(|node| signs.get(node));
            // The node's status must have been asked for after the pod was over, or it may tell of the boot before.
            let proven = self.over.get(uid).zip(sign);
            let proven = proven.filter(|(over, sign)| sign.boot_id == holder.boot_id && sign.asked >= **over);
            if let Some((over, _)) = proven {
                evidence.dead.insert(uid.clone());
                evidence.ended.insert(uid.clone(), *over);
            } else {
                doubtful.insert(uid);
            }
        }
        // A pod counts as dead only when that holds for every holder of its name: one of another boot sent no FIN.
        evidence.dead.retain(|uid| !doubtful.contains(uid));
        evidence
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::controller::nodes::NodeSign;

    fn at(seconds: u64) -> BootTime {
        BootTime::after_boot(Duration::from_secs(seconds))
    }

    fn holder(pod: &str, boot: &str) -> HolderView {
        HolderView {
            inc: format!("{pod}.{boot}"),
            pod_uid: pod.into(),
            pod: format!("mail/{pod}"),
            process: "p".into(),
            boot_id: boot.into(),
            generation: 1,
            seq: 1,
            claim: 1,
            limit: 1,
            want: 1,
            open: 1,
            busy: 0,
        }
    }

    fn pod(over: bool) -> PodFacts {
        PodFacts { uid: "a".into(), node: Some("n1".into()), over, ..PodFacts::default() }
    }

    fn sign(boot: &str, asked: u64, renewed: Option<u64>) -> Signs {
        let renewed = renewed.map(|after| Renewal { after: at(after), seen: at(after + 2) });
        [("n1".to_owned(), NodeSign { boot_id: boot.into(), asked: at(asked), renewed })].into()
    }

    /// What it is about, whether pod `a` is proven dead, and by what: pods, holders, nodes.
    type Row<'a> = (&'a str, bool, &'a [PodFacts], &'a [HolderView], Signs);

    /// Whether pod `a`, noted at 10 s, is proven dead.
    fn is_dead(pods: &[PodFacts], holders: &[HolderView], signs: &Signs) -> bool {
        let mut known = Pods::default();
        known.note(&[pod(false)], &BTreeSet::new(), at(5));
        known.note(pods, &BTreeSet::from(["a"]), at(10));
        known.evidence(holders.iter(), signs).dead.contains("a")
    }

    #[test]
    fn a_pod_that_is_over_is_dead_in_the_same_boot_of_its_node_and_not_otherwise() {
        let here = [holder("a", "b1")];
        let rows: [Row<'_>; 9] = [
            ("over, and the node was asked after that", true, &[pod(true)], &here, sign("b1", 11, None)),
            ("the same moment", true, &[pod(true)], &here, sign("b1", 10, None)),
            ("the node was asked before it was over", false, &[pod(true)], &here, sign("b1", 9, None)),
            ("the node booted anew", false, &[pod(true)], &here, sign("b2", 11, None)),
            ("the node is gone or silent", false, &[pod(true)], &here, Signs::new()),
            ("it goes on", false, &[pod(false)], &here, sign("b1", 11, Some(11))),
            ("force-deleted or out of sight", false, &[], &here, sign("b1", 11, Some(11))),
            (
                "another holder of an earlier boot",
                false,
                &[pod(true)],
                &[holder("a", "b1"), holder("a", "b0")],
                sign("b1", 11, None),
            ),
            ("no holder", false, &[pod(true)], &[], sign("b1", 11, None)),
        ];
        for (what, expected, pods, holders, signs) in rows {
            assert_eq!(is_dead(pods, holders, &signs), expected, "{what}");
        }
    }

    #[test]
    fn what_was_proven_of_a_pod_stays_proven_when_the_pod_is_deleted_while_a_ledger_names_it() {
        let mut known = Pods::default();
        known.note(&[pod(true)], &BTreeSet::from(["a"]), at(10));
        known.note(&[], &BTreeSet::from(["a"]), at(11));
        let evidence = known.evidence([holder("a", "b1")].iter(), &sign("b1", 12, None));
        assert!(evidence.dead.contains("a"));
        assert_eq!(evidence.ended, BTreeMap::from([("a".to_owned(), at(10))]), "when it was seen to be over first");
        known.note(&[], &BTreeSet::new(), at(12));
        assert!(!known.is_over("a"), "forgotten once nobody names it");
    }

    #[test]
    fn a_lost_label_changes_nothing_and_a_pod_that_never_ran_is_told_apart() {
        let mut unlabelled = pod(false);
        unlabelled.labels.clear();
        let waiting = PodFacts { uid: "w".into(), never_ran: true, ..PodFacts::default() };
        let mut known = Pods::default();
        known.note(&[unlabelled, waiting], &BTreeSet::from(["a"]), at(10));
        let evidence = known.evidence([holder("a", "b1")].iter(), &sign("b1", 11, Some(10)));
        assert!(evidence.dead.is_empty());
        assert_eq!(evidence.never_started, BTreeSet::from(["w".to_owned()]));
        assert_eq!(evidence.nodes, BTreeMap::from([("b1".to_owned(), at(10))]));
        assert_eq!(evidence.reached, BTreeMap::from([("b1".to_owned(), at(12))]));
    }
}
