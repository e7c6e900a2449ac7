//! Relays that share a budget and have nothing to send, pure: their shares are lent to those that could use more.
//!
//! Within one relay every worker takes mail from the same list, so whoever has a slot uses it. Relays have lists of their own: the
//! share of one that rests would idle while the mail of another waits. It comes back when a worker of the relay wakes, which the
//! leader sees in its next look: whoever has more than its share by then gives back after its mail.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    controller::plan::PoolPlan,
    lease::{HolderView, LedgerState, LedgerView},
};

/// UIDs of the pods whose relays rest while another one uses all that it has. Once lent, a share stays so until its relay wakes
/// or nobody is awake: what is lent is not taken back for a moment in which the others have less to do.
pub fn idle(plan: &PoolPlan, ledger: Option<&LedgerView>) -> BTreeSet<String> {
    let Some(ledger) = ledger.filter(|ledger| ledger.state == LedgerState::Open && plan.relays.len() > 1) else {
        return BTreeSet::new();
    };
    let mut holders_of: BTreeMap<&str, Vec<&HolderView>> = BTreeMap::new();
    for holder in &ledger.holders {
        holders_of.entry(&holder.pod_uid).or_default().push(holder);
    }
    let (mut resting, mut is_hungry, mut is_awake) = (BTreeSet::new(), false, false);
    for pods in plan.relays.values() {
        let holders: Vec<&HolderView> =
            pods.iter().filter_map(|uid| holders_of.get(&**uid)).flatten().copied().collect();
        if holders.iter().all(|holder| holder.is_resting()) {
            // Whoever has no worker is none of those that rest.
            resting.extend(holders.iter().map(|holder| &holder.pod_uid));
            continue;
        }
        is_awake = true;
        let sum = |of: fn(&HolderView) -> u32| holders.iter().map(|holder| of(holder)).sum::<u32>();
        is_hungry |= sum(|holder| holder.open) >= sum(|holder| holder.claim);
    }
    let is_lent = || resting.iter().any(|uid| ledger.entitlements.get(*uid) == Some(&0));
    if is_awake && (is_hungry || is_lent()) { resting.into_iter().cloned().collect() } else { BTreeSet::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::DurationText,
        controller::{fixtures, plan::RelayKey},
    };

    /// The pods of each relay.
    fn pool(relays: &[&[&str]]) -> PoolPlan {
        let key = |number| RelayKey { namespace: format!("team-{number}"), name: "bulk".into() };
        let pods = |pods: &&[&str]| pods.iter().map(|uid| (*uid).to_owned()).collect::<BTreeSet<_>>();
        PoolPlan {
            budget: 16,
            members: relays.iter().flat_map(pods).collect(),
            relays: relays.iter().enumerate().map(|(number, of)| (key(number), pods(of))).collect(),
            weights: None,
            session_timeout: DurationText::from_secs(300),
            close_grace: DurationText::from_secs(2),
            rate_limits: Vec::new(),
            servers: BTreeSet::new(),
        }
    }

    /// Of each pod what its worker claims and how many sessions it has open; one that claims nothing rests.
    fn ledger(pods: &[(&str, u32, u32)]) -> LedgerView {
        let holder = |(uid, claim, open): &(&str, u32, u32)| HolderView {
            pod_uid: (*uid).into(),
            claim: *claim,
            open: *open,
            want: if *claim == 0 { 0 } else { u32::MAX },
            ..fixtures::holder(uid, uid, 1)
        };
        let shares = pods.iter().map(|(uid, ..)| ((*uid).to_owned(), 8));
        LedgerView { entitlements: shares.collect(), ..fixtures::ledger(pods.iter().map(holder).collect()) }
    }

    fn lent(plan: &PoolPlan, ledger: &LedgerView) -> Vec<String> {
        idle(plan, Some(ledger)).into_iter().collect()
    }

    #[test]
    fn what_rests_is_lent_when_another_relay_uses_all_it_has() {
        let plan = pool(&[&["a"], &["b", "c"]]);
        assert_eq!(lent(&plan, &ledger(&[("a", 8, 8), ("b", 0, 0), ("c", 0, 0)])), ["b", "c"]);
        assert_eq!(lent(&plan, &ledger(&[("a", 8, 3), ("b", 0, 0), ("c", 0, 0)])), [""; 0], "it has enough");
        assert_eq!(lent(&plan, &ledger(&[("a", 8, 8), ("b", 0, 0), ("c", 4, 0)])), [""; 0], "one of them is awake");
        assert_eq!(lent(&plan, &ledger(&[("a", 0, 0), ("b", 0, 0), ("c", 0, 0)])), [""; 0], "everybody rests");
        let recovering = LedgerView { state: LedgerState::Rec, ..ledger(&[("a", 8, 8), ("b", 0, 0), ("c", 0, 0)]) };
        assert_eq!(lent(&plan, &recovering), [""; 0], "nothing moves in a recovery");
    }

    #[test]
    fn within_one_relay_nobody_lends() {
        assert_eq!(lent(&pool(&[&["a", "b"]]), &ledger(&[("a", 8, 8), ("b", 0, 0)])), [""; 0]);
    }

    #[test]
    fn what_is_lent_stays_lent_until_its_relay_wakes_or_nobody_is_awake() {
        let plan = pool(&[&["a"], &["b"]]);
        let with = |pods: &[(&str, u32, u32)]| {
            let entitlements = BTreeMap::from([("a".to_owned(), 16), ("b".to_owned(), 0)]);
            LedgerView { entitlements, ..ledger(pods) }
        };
        assert_eq!(lent(&plan, &with(&[("a", 16, 2), ("b", 0, 0)])), ["b"]);
        let mut woken = with(&[("a", 16, 16), ("b", 0, 0)]);
        woken.holders[1].want = u32::MAX;
        assert_eq!(lent(&plan, &woken), [""; 0], "it wants slots and has none");
        assert_eq!(lent(&plan, &with(&[("a", 0, 0), ("b", 0, 0)])), [""; 0]);
    }
}
