//! The shares that a pool's ledger should have, pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    budget::{Group, Member, divide, divide_by_weight},
    controller::plan::PoolPlan,
    lease::{BootTime, LedgerState, LedgerView, Policy},
};

/// How long the share of a pod whose worker never registered waits for it: a worker registers within a second of its start.
pub const LEND_AFTER: Duration = Duration::from_secs(10);

/// The policy that should be in force; `current` are the shares that were last seen in force, `ledger` is the one in force.
///
/// A pool that no relay names keeps its budget and grants nobody a share. A pod whose worker is gone has a share of 0
/// until a process of it registers, and one that is `without` a share, for whatever reason, as long as it is.
pub fn target(
    plan: Option<&PoolPlan>,
    without: &BTreeSet<String>,
    current: &BTreeMap<String, u32>,
    ledger: Option<&LedgerView>,
    old_budget: u32,
    epoch: u64,
    lease: Duration,
) -> Policy {
    let (budget, entitlements) = match plan {
        None => (old_budget, BTreeMap::new()),
        Some(plan) => {
            let share = |uid: &String| current.get(uid).copied().unwrap_or(0);
            let (gone, here): (Vec<_>, Vec<_>) =
                plan.members.iter().partition(|uid| without.contains(*uid) || is_gone(ledger, uid));
            let members: Vec<Member> =
                here.into_iter().map(|uid| Member { uid: uid.clone(), current: share(uid) }).collect();
            let mut shares = match &plan.weights {
                None => divide(plan.budget, &members),
                Some(weights) => divide_by_weight(plan.budget, &groups(plan, weights, members)),
            };
            // Named all the same, or the ledger forgets which generation comes next.
            shares.extend(gone.into_iter().map(|uid| (uid.clone(), 0)));
            (plan.budget, shares)
        }
    };
    Policy { epoch, revision: 1, budget, lease, entitlements, servers: BTreeSet::new() }
}

/// The members by namespace, each with its weight.
fn groups(plan: &PoolPlan, weights: &BTreeMap<String, u32>, members: Vec<Member>) -> Vec<Group> {
    let of_pods = plan.relays.iter().flat_map(|(key, pods)| pods.iter().map(|uid| (uid, &key.namespace)));
    let namespaces: BTreeMap<&String, &String> = of_pods.collect();
    let mut groups: BTreeMap<Option<&String>, Group> = BTreeMap::new();
    for member in members {
        let namespace = namespaces.get(&member.uid).copied();
        let weight = namespace.and_then(|namespace| weights.get(namespace)).copied().unwrap_or(1);
        groups.entry(namespace).or_insert_with(|| Group { weight, members: Vec::new() }).members.push(member);
    }
    groups.into_values().collect()
}

/// Whether a pod's worker has been on the ledger and is no more: it left, or was lost and taken off. The pod may exist
/// for as long as it likes; what it does not use is for the others. A pod that is only starting is not gone: its share
/// waits for it, so that its first session need not.
fn is_gone(ledger: Option<&LedgerView>, uid: &str) -> bool {
    ledger.is_some_and(|ledger| ledger.generations.contains_key(uid) && ledger.holders_of(uid).next().is_none())
}

/// The members of a pool whose workers never registered, on the leader's own clock. Their shares are lent to the others: a pod
/// may be selected by mistake, run another image, or serve another relay.
#[derive(Clone, Debug, Default)]
pub struct Absent {
    since: BTreeMap<String, BootTime>,
    /// Whether the ledger grants.
    is_open: bool,
}

impl Absent {
    /// Takes in one look at the ledger. Only time in which it is in force counts: nobody can register before.
    pub fn learn(&mut self, members: &BTreeSet<String>, ledger: Option<&LedgerView>, now: BootTime) {
        self.is_open = ledger.is_some_and(|ledger| ledger.state == LedgerState::Open);
        let Some(ledger) = ledger else {
            self.since.clear();
            return;
        };
        let never_came =
            |uid: &String| !ledger.generations.contains_key(uid) && ledger.holders_of(uid).next().is_none();
        self.since.retain(|uid, _| members.contains(uid) && never_came(uid));
        for uid in members.iter().filter(|uid| never_came(uid)) {
            // Whom the leader before lent from, this one does not give an idle share again.
            let lent = ledger.entitlements.get(uid) == Some(&0);
            let since = self.since.entry(uid.clone()).or_insert(now);
            if lent {
                *since = (*since).min(now.saturating_sub(LEND_AFTER));
            }
        }
    }

    /// Those whose share is lent. While workers say again what they hold, no share moves.
    pub fn lent(&self, now: BootTime) -> BTreeSet<String> {
        if !self.is_open {
            return BTreeSet::new();
        }
        let late = self.since.iter().filter(|(_, since)| now.saturating_since(**since) >= LEND_AFTER);
        late.map(|(uid, _)| uid.clone()).collect()
    }
}

/// The policy to write now, if the ledger's is another one: ordered after what the ledger has.
pub fn correction(ledger: &LedgerView, mut target: Policy) -> Option<Policy> {
    let same = ledger.epoch == target.epoch
        && ledger.budget == target.budget
        && ledger.lease == target.lease
        && ledger.entitlements == target.entitlements
        && (ledger.servers == target.servers || target.servers.is_empty());
    if ledger.epoch == target.epoch {
        target.revision = ledger.revision + 1;
    }
    (!same).then_some(target)
}

/// The pods that hold slots or may claim some.
pub fn held(ledger: &LedgerView) -> BTreeSet<String> {
    let holders = ledger.holders.iter().filter(|holder| holder.claim > 0).map(|holder| &holder.pod_uid);
    let entitled = ledger.entitlements.iter().filter(|(_, share)| **share > 0).map(|(pod, _)| pod);
    holders.chain(entitled).cloned().collect()
}

/// Whether nothing is left on a ledger, so that it may go once no relay names it. What it withholds may be `carried` on by
/// others.
pub fn is_unused(ledger: &LedgerView, carried: bool) -> bool {
    ledger.state == LedgerState::Open
        && ledger.holders.is_empty()
        && (carried || ledger.quarantine.is_empty())
        && ledger.entitlements.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::DurationText,
        controller::{
            fixtures::{self, holder},
            plan::RelayKey,
        },
        lease::HolderView,
    };

    const LEASE: Duration = Duration::from_secs(6);

    fn at(seconds: u64) -> BootTime {
        BootTime::after_boot(Duration::from_secs(1_000 + seconds))
    }

    fn pool(budget: u32, members: &[&str]) -> PoolPlan {
        PoolPlan {
            budget,
            members: members.iter().map(ToString::to_string).collect(),
            relays: BTreeMap::new(),
            weights: None,
            session_timeout: DurationText::from_secs(300),
            close_grace: DurationText::from_secs(2),
            rate_limits: Vec::new(),
            servers: BTreeSet::new(),
        }
    }

    fn shares(of: &[(&str, u32)]) -> BTreeMap<String, u32> {
        of.iter().map(|(uid, share)| ((*uid).to_owned(), *share)).collect()
    }

    fn ledger(epoch: u64, revision: u64, budget: u32, entitlements: &[(&str, u32)]) -> LedgerView {
        LedgerView { epoch, revision, budget, entitlements: shares(entitlements), ..fixtures::ledger(Vec::new()) }
    }

    #[test]
    fn what_is_in_force_already_is_not_written_again() {
        let plan = pool(16, &["a", "b"]);
        let ledger = ledger(3, 7, 16, &[("a", 8), ("b", 8)]);
        let target =
            |epoch| target(Some(&plan), &BTreeSet::new(), &ledger.entitlements, Some(&ledger), 16, epoch, LEASE);
        assert_eq!(correction(&ledger, target(3)), None);
        let of_a_new_leader = correction(&ledger, target(4)).expect("a new epoch is written once");
        assert_eq!((of_a_new_leader.epoch, of_a_new_leader.revision), (4, 1));
    }

    #[test]
    fn a_pod_that_comes_gets_its_part_and_the_revision_grows() {
        let plan = pool(16, &["a", "b", "c"]);
        let ledger = ledger(3, 7, 16, &[("a", 8), ("b", 8)]);
        let policy = correction(
            &ledger,
            target(Some(&plan), &BTreeSet::new(), &ledger.entitlements, Some(&ledger), 16, 3, LEASE),
        )
        .expect("a change");
        assert_eq!(policy.revision, 8);
        assert_eq!(policy.entitlements, shares(&[("a", 6), ("b", 5), ("c", 5)]));
    }

    #[test]
    fn the_share_of_a_pod_without_a_worker_is_for_the_others_until_it_has_one() {
        let plan = pool(16, &["a", "b"]);
        let mut ledger = ledger(3, 7, 16, &[("a", 8), ("b", 8)]);
        let target = |ledger: &LedgerView| {
            target(Some(&plan), &BTreeSet::new(), &ledger.entitlements, Some(ledger), 16, 3, LEASE).entitlements
        };
        assert_eq!(target(&ledger), shares(&[("a", 8), ("b", 8)]), "both are starting");
        ledger.generations = BTreeMap::from([("a".into(), 1), ("b".into(), 4)]);
        let of = |uid: &str| HolderView { pod_uid: uid.into(), ..holder(uid, uid, 1) };
        ledger.holders = vec![of("a")];
        assert_eq!(target(&ledger), shares(&[("a", 16), ("b", 0)]), "b was taken off");
        ledger.entitlements = shares(&[("a", 16), ("b", 0)]);
        ledger.holders.push(of("b"));
        assert_eq!(target(&ledger), shares(&[("a", 8), ("b", 8)]), "b has a process again");
    }

    #[test]
    fn namespaces_share_by_their_weights_and_pods_within_them_alike() {
        let relays = [("team-a", &["a"][..]), ("team-b", &["b", "c"][..])].map(|(namespace, pods)| {
            let key = RelayKey { namespace: namespace.into(), name: "bulk".into() };
            (key, pods.iter().map(|uid| (*uid).to_owned()).collect())
        });
        let weights = Some(BTreeMap::from([("team-a".to_owned(), 3)]));
        let plan = PoolPlan { relays: relays.into(), weights, ..pool(16, &["a", "b", "c"]) };
        let without = |pods: &[&str]| {
            let without = pods.iter().map(|uid| (*uid).to_owned()).collect();
            target(Some(&plan), &without, &BTreeMap::new(), None, 16, 3, LEASE).entitlements
        };
        assert_eq!(without(&[]), shares(&[("a", 12), ("b", 2), ("c", 2)]));
        assert_eq!(without(&["a"]), shares(&[("a", 0), ("b", 8), ("c", 8)]), "what one does not use is the others'");
    }

    #[test]
    fn the_share_of_a_pod_that_never_registers_is_lent_and_stays_so_under_another_leader() {
        let members: BTreeSet<String> = ["a".to_owned(), "b".to_owned()].into();
        let mut ledger = ledger(3, 7, 16, &[("a", 8), ("b", 8)]);
        ledger.generations = BTreeMap::from([("a".into(), 1)]);
        ledger.holders = vec![HolderView { pod_uid: "a".into(), ..holder("i", "p", 1) }];
        let mut absent = Absent::default();
        absent.learn(&members, Some(&ledger), at(0));
        assert_eq!(absent.lent(at(9)), BTreeSet::new());
        assert_eq!(absent.lent(at(10)), ["b".to_owned()].into());
        let recovering = LedgerView { state: LedgerState::Rec, ..ledger.clone() };
        absent.learn(&members, Some(&recovering), at(11));
        assert_eq!(absent.lent(at(11)), BTreeSet::new(), "nothing moves in a recovery");
        absent.learn(&members, Some(&ledger), at(12));
        assert_eq!(absent.lent(at(12)), ["b".to_owned()].into());
        absent.learn(&members, None, at(12));
        absent.learn(&members, Some(&ledger), at(12));
        assert_eq!(absent.lent(at(12)), BTreeSet::new(), "its time begins anew with the ledger");
        ledger.entitlements = shares(&[("a", 16), ("b", 0)]);
        let mut next = Absent::default();
        next.learn(&members, Some(&ledger), at(20));
        assert_eq!(next.lent(at(20)), ["b".to_owned()].into());
        ledger.generations.insert("b".into(), 1);
        next.learn(&members, Some(&ledger), at(21));
        assert_eq!(next.lent(at(60)), BTreeSet::new(), "it has registered");
    }

    #[test]
    fn a_pool_that_nobody_names_grants_nobody_a_share_and_is_unused_when_empty() {
        let named = ledger(3, 7, 16, &[("a", 16)]);
        let policy = correction(
            &named,
            target(None, &BTreeSet::new(), &named.entitlements, Some(&named), named.budget, 3, LEASE),
        )
        .expect("a change");
        assert_eq!((policy.budget, policy.entitlements), (16, BTreeMap::new()));
        assert!(!is_unused(&named, false));
        let mut empty = ledger(3, 8, 16, &[]);
        assert!(is_unused(&empty, false));
        empty.holders.push(holder("i", "p", 1));
        assert!(!is_unused(&empty, false));
    }
}
