//! How long the Redis that was left may still take writes, pure (lease R8): from what nodes said of their replication while
//! they answered, remembered from before another one answered.

use std::{collections::BTreeMap, time::Duration};

use super::safety::StoreFacts;
use crate::lease::OldPrimary;

/// A primary that lost its replicas notices that within `min-replicas-max-lag`, and looks each second.
const LAG_MARGIN: Duration = Duration::from_secs(1);
/// How many fences are remembered.
const REMEMBERED: usize = 16;

/// What one node said, under one fence.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The most replicas that followed it at once.
    replicas: u32,
    /// `min-replicas-to-write`; 0 when it cannot be read.
    least: u32,
    /// `min-replicas-max-lag`.
    lag: Duration,
}

/// What is known of the nodes that answered.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    nodes: Vec<(String, Said)>,
    verdicts: BTreeMap<String, OldPrimary>,
    is_single: bool,
}

impl Topology {
    /// As if there were one node that never had a replica, whatever its fence: for tests of what does not depend on that.
    pub fn of_a_single_node() -> Self {
        Self { is_single: true, ..Self::default() }
    }

    /// Takes in what the node with this fence says. Facts of another node are of no use: it answered in between.
    pub fn learn(&mut self, fence: &str, facts: &StoreFacts) {
        if fence_of(facts).is_some_and(|of| of != fence) {
            return;
        }
        let said = Said::of(facts);
        if let Some((_, known)) = self.nodes.iter_mut().find(|(known, _)| known == fence) {
            *known = Said { replicas: said.replicas.max(known.replicas), ..said };
            return;
        }
        let verdict = self.judge(fence, said, facts);
        self.verdicts.insert(fence.to_owned(), verdict);
        self.nodes.push((fence.to_owned(), said));
        if self.nodes.len() > REMEMBERED {
            let (forgotten, _) = self.nodes.remove(0);
            self.verdicts.remove(&forgotten);
        }
    }

    /// For how long the node that answered before the one with this fence may go on; `None` until the new one was asked.
    pub fn old_primary(&self, fence: &str) -> Option<OldPrimary> {
        if self.is_single { Some(OldPrimary::StopsWithin(Duration::ZERO)) } else { self.verdicts.get(fence).copied() }
    }

    fn judge(&self, fence: &str, said: Said, facts: &StoreFacts) -> OldPrimary {
        let promoted = was_replica(facts);
        match self.nodes.last() {
            // A new run of the same data without any replica, before or now: there is no other node.
            Some((_, before)) if before.replicas == 0 && !promoted => OldPrimary::StopsWithin(Duration::ZERO),
            // Of the node that was left we know all that followed it; one that came late was promoted itself.
            Some((left, before)) if left != fence => bound(before.replicas.max(1), *before),
            // Nothing is known of the time before. The worst that this node shows: it followed another one, or is followed.
            _ if said.replicas > 0 || promoted => bound(said.replicas.max(1), said),
            _ => OldPrimary::StopsWithin(Duration::ZERO),
        }
    }
}

/// Where all replicas must have acknowledged lately, the one that was promoted stops the old primary.
fn bound(replicas: u32, said: Said) -> OldPrimary {
    if said.least >= replicas { OldPrimary::StopsWithin(said.lag + LAG_MARGIN) } else { OldPrimary::Unbounded }
}

impl Said {
    fn of(facts: &StoreFacts) -> Self {
        let setting = |name: &str| facts.config.as_ref()?.get(name)?.parse::<u32>().ok();
        let lag = setting("min-replicas-max-lag").unwrap_or(0);
        Self {
            replicas: facts.info.get("connected_slaves").and_then(|text| text.parse().ok()).unwrap_or(0),
            // Without a lag the rule is off.
            least: if lag == 0 { 0 } else { setting("min-replicas-to-write").unwrap_or(0) },
            lag: Duration::from_secs(lag.into()),
        }
    }
}

fn fence_of(facts: &StoreFacts) -> Option<String> {
    Some(format!("{}:{}", facts.info.get("run_id")?, facts.info.get("master_replid")?))
}

/// Whether the node has followed another one: it still knows the replication id of that time.
fn was_replica(facts: &StoreFacts) -> bool {
    let second = facts.info.get("master_replid2").is_some_and(|id| id.bytes().any(|byte| byte != b'0'));
    second && facts.info.get("second_repl_offset").is_none_or(|offset| offset != "-1")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: &str = "0000000000000000000000000000000000000000";

    /// A node: its run, its replication id and the one before, its replicas, `min-replicas-to-write`.
    fn node(run: &str, id: &str, before: &str, replicas: u32, least: u32) -> StoreFacts {
        let pairs = |pairs: &[(&str, String)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), v.clone())).collect();
        StoreFacts {
            info: pairs(&[
                ("run_id", run.into()),
                ("master_replid", id.into()),
                ("master_replid2", before.into()),
                ("second_repl_offset", if before == NONE { "-1".into() } else { "15".into() }),
                ("connected_slaves", replicas.to_string()),
            ]),
            config: Some(pairs(&[
                ("min-replicas-to-write", least.to_string()),
                ("min-replicas-max-lag", "10".to_owned()),
            ])),
        }
    }

    fn after(nodes: &[StoreFacts]) -> OldPrimary {
        let mut topology = Topology::default();
        let fences: Vec<String> = nodes.iter().filter_map(fence_of).collect();
        for (fence, facts) in fences.iter().zip(nodes) {
            topology.learn(fence, facts);
        }
        topology.old_primary(&fences[fences.len() - 1]).expect("it was asked")
    }

    const AT_ONCE: OldPrimary = OldPrimary::StopsWithin(Duration::ZERO);
    const LAG: OldPrimary = OldPrimary::StopsWithin(Duration::from_secs(11));

    #[test]
    fn the_wait_is_what_the_node_that_was_left_allows() {
        let single = node("a", "1", NONE, 0, 0);
        let rows = [
            ("the first node, single", vec![single.clone()], AT_ONCE),
            ("it was restarted", vec![single.clone(), node("b", "2", NONE, 0, 0)], AT_ONCE),
            (
                "its replica was promoted by hand",
                vec![node("a", "1", NONE, 1, 0), node("b", "2", "1", 0, 0)],
                OldPrimary::Unbounded,
            ),
            ("one replica must acknowledge", vec![node("a", "1", NONE, 1, 1), node("b", "2", "1", 0, 0)], LAG),
            ("one of two must", vec![node("a", "1", NONE, 2, 1), node("b", "2", "1", 1, 1)], OldPrimary::Unbounded),
            ("two of two must", vec![node("a", "1", NONE, 2, 2), node("b", "2", "1", 1, 0)], LAG),
            (
                "a replica was away when we looked last",
                vec![node("a", "1", NONE, 2, 1), node("a", "1", NONE, 1, 1), node("b", "2", "1", 1, 1)],
                OldPrimary::Unbounded,
            ),
            (
                "the replica came after our last look",
                vec![single.clone(), node("b", "2", "1", 0, 1)],
                OldPrimary::Unbounded,
            ),
            ("a new leader finds a promoted node", vec![node("b", "2", "1", 0, 0)], OldPrimary::Unbounded),
            ("and one that is followed", vec![node("b", "2", NONE, 1, 0)], OldPrimary::Unbounded),
            ("and one whose replicas must all acknowledge", vec![node("b", "2", "1", 1, 1)], LAG),
        ];
        for (what, nodes, expected) in rows {
            assert_eq!(after(&nodes), expected, "{what}");
        }
    }

    #[test]
    fn settings_that_cannot_be_read_bound_nothing() {
        let hidden = StoreFacts { config: None, ..node("a", "1", NONE, 1, 1) };
        assert_eq!(after(&[hidden, node("b", "2", "1", 1, 1)]), OldPrimary::Unbounded);
    }

    #[test]
    fn what_another_node_says_is_not_taken_for_this_one() {
        let mut topology = Topology::default();
        topology.learn("a:1", &node("b", "2", NONE, 0, 0));
        assert_eq!(topology.old_primary("a:1"), None);
    }
}
