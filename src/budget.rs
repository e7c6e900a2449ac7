//! Divides a budget among members. Pure: std only.
//!
//! The division is equal, or by weights of groups and equal within them. It keeps what members already have where fairness
//! allows it, and is the same whoever computes it and in whatever order the members come.

use std::{
    cmp::{Ordering, Reverse},
    collections::{BTreeMap, BinaryHeap},
};

/// Who takes part in a division.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// What tells members apart: a pod's UID.
    pub uid: String,
    /// The share it has now, in slots; 0 for a newcomer.
    pub current: u32,
}

/// Divides `budget` slots among `members`: the share of each, by UID.
///
/// No two shares differ by more than one slot and all of the budget is given out. What does not divide evenly goes
/// first to those who hold more now, then by UID, so that among all fair divisions this one moves the fewest slots.
/// With more members than slots those beyond the budget get 0. A UID that is named twice counts once.
pub fn divide(budget: u32, members: &[Member]) -> BTreeMap<String, u32> {
    let mut current: BTreeMap<&str, u32> = BTreeMap::new();
    for member in members {
        let share = current.entry(&member.uid).or_default();
        *share = member.current.max(*share);
    }
    let Ok(count) = u32::try_from(current.len()) else { return BTreeMap::new() };
    if count == 0 {
        return BTreeMap::new();
    }
    let (base, remainder) = (budget / count, budget % count);
    let mut order: Vec<(Reverse<u32>, &str)> = current.into_iter().map(|(uid, share)| (Reverse(share), uid)).collect();
    order.sort_unstable();
    (0..).zip(order).map(|(rank, (_, uid))| (uid.to_owned(), base + u32::from(rank < remainder))).collect()
}

/// Members that have a part of the budget together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// How much they get, relative to other groups.
    pub weight: u32,
    /// Who they are.
    pub members: Vec<Member>,
}

/// Divides `budget` slots among `groups` by their weights, and the part of each among its members ([`divide`]).
///
/// A group with members has one slot at least while there are as many slots as groups. What is left goes, slot by slot, to
/// the group that has the least for its weight (the method of Sainte-Laguë); of equals to one that has that slot now, then to
/// the one that holds more, and then to the one that comes first by its members.
pub fn divide_by_weight(budget: u32, groups: &[Group]) -> BTreeMap<String, u32> {
    let holds = |group: &Group| group.members.iter().map(|member| member.current).sum::<u32>();
    let first = |group: &Group| group.members.iter().map(|member| member.uid.clone()).min();
    let mut groups: Vec<(&Group, u32)> =
        groups.iter().filter(|group| !group.members.is_empty()).map(|g| (g, 0)).collect();
    groups.sort_by_cached_key(|(group, _)| (Reverse(holds(group)), Reverse(group.weight), first(group)));
    let mut left = budget;
    for (_, part) in &mut groups {
        *part = left.min(1);
        left -= *part;
    }
    // `weight / (2 part + 1)`, compared without division: the largest is served next.
    let mut queue: BinaryHeap<Claim> = groups
        .iter()
        .enumerate()
        .map(|(place, (group, part))| Claim {
            weight: group.weight,
            part: *part,
            holds: holds(group),
            place: Reverse(place),
        })
        .collect();
    while left > 0
        && let Some(mut claim) = queue.pop()
    {
        claim.part += 1;
        left -= 1;
        queue.push(claim);
    }
    for Claim { part, place: Reverse(place), .. } in queue {
        groups[place].1 = part;
    }
    groups.iter().flat_map(|(group, part)| divide(*part, &group.members)).collect()
}

/// A group that may get the next slot.
#[derive(PartialEq, Eq)]
struct Claim {
    weight: u32,
    part: u32,
    holds: u32,
    place: Reverse<usize>,
}

impl Ord for Claim {
    fn cmp(&self, other: &Self) -> Ordering {
        let of = |claim: &Self, beside: &Self| u64::from(claim.weight) * (2 * u64::from(beside.part) + 1);
        let has_it_now = |claim: &Self| claim.holds > claim.part;
        of(self, other)
            .cmp(&of(other, self))
            .then(has_it_now(self).cmp(&has_it_now(other)))
            .then(self.place.cmp(&other.place))
    }
}

impl PartialOrd for Claim {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn member(uid: &str, current: u32) -> Member {
        Member { uid: uid.into(), current }
    }

    fn shares(budget: u32, members: &[(&str, u32)]) -> Vec<u32> {
        let members: Vec<Member> = members.iter().map(|(uid, current)| member(uid, *current)).collect();
        divide(budget, &members).into_values().collect()
    }

    #[test]
    fn sixteen_slots_among_two_four_and_three_pods_are_shared_as_the_readme_says() {
        assert_eq!(shares(16, &[("a", 0), ("b", 0)]), [8, 8]);
        assert_eq!(shares(16, &[("a", 8), ("b", 8), ("c", 0), ("d", 0)]), [4, 4, 4, 4]);
        assert_eq!(shares(16, &[("a", 4), ("b", 4), ("c", 4)]), [6, 5, 5]);
    }

    #[test]
    fn the_remainder_stays_with_those_who_hold_it() {
        assert_eq!(shares(16, &[("a", 5), ("b", 5), ("c", 6)]), [5, 5, 6]);
        assert_eq!(shares(2, &[("a", 0), ("b", 1), ("c", 0), ("d", 1)]), [0, 1, 0, 1]);
    }

    #[test]
    fn pods_beyond_the_budget_get_nothing_and_no_pods_need_nothing() {
        assert_eq!(shares(2, &[("a", 0), ("b", 0), ("c", 0)]), [1, 1, 0]);
        assert_eq!(shares(16, &[]), Vec::<u32>::new());
        assert_eq!(shares(0, &[("a", 7)]), [0]);
    }

    fn some_members() -> impl Strategy<Value = Vec<Member>> {
        prop::collection::btree_map("[a-z]{1,4}", 0_u32..24, 0..24)
            .prop_map(|members| members.into_iter().map(|(uid, current)| Member { uid, current }).collect())
    }

    /// Slots that change hands: those taken from a member that keeps taking part.
    fn taken(members: &[Member], shares: &[u32]) -> u32 {
        members.iter().zip(shares).map(|(member, share)| member.current.saturating_sub(*share)).sum()
    }

    fn parts(budget: u32, groups: &[(u32, &[(&str, u32)])]) -> Vec<u32> {
        let group = |(weight, members): &(u32, &[(&str, u32)])| Group {
            weight: *weight,
            members: members.iter().map(|(uid, current)| member(uid, *current)).collect(),
        };
        let shares = divide_by_weight(budget, &groups.iter().map(group).collect::<Vec<_>>());
        groups.iter().map(|(_, members)| members.iter().map(|(uid, _)| shares[*uid]).sum()).collect()
    }

    #[test]
    fn groups_have_parts_by_their_weights_and_none_is_left_out() {
        assert_eq!(parts(16, &[(3, &[("a", 0)]), (1, &[("b", 0)])]), [12, 4]);
        assert_eq!(parts(16, &[(3, &[("a", 0)]), (1, &[("b", 0), ("c", 0)])]), [12, 4]);
        assert_eq!(parts(16, &[(1000, &[("a", 0)]), (1, &[("b", 0)])]), [15, 1]);
        assert_eq!(
            parts(2, &[(1, &[("a", 0)]), (5, &[("b", 0)]), (1, &[("c", 1)])]),
            [0, 1, 1],
            "who holds one keeps it"
        );
        assert_eq!(parts(16, &[(3, &[("a", 0)]), (1, &[])]), [16, 0], "an empty group needs nothing");
        assert_eq!(divide_by_weight(16, &[]), BTreeMap::new());
    }

    fn some_groups() -> impl Strategy<Value = Vec<Group>> {
        let group = (1_u32..1000, prop::collection::vec(0_u32..24, 0..6));
        prop::collection::vec(group, 0..6).prop_map(|groups| {
            let group = |(number, (weight, members)): (usize, (u32, Vec<u32>))| Group {
                weight,
                members: (0..).zip(members).map(|(n, current)| member(&format!("{number}.{n}"), current)).collect(),
            };
            groups.into_iter().enumerate().map(group).collect()
        })
    }

    fn sum(shares: &BTreeMap<String, u32>, group: &Group) -> u32 {
        group.members.iter().map(|member| shares[&member.uid]).sum()
    }

    proptest! {
        #[test]
        fn by_weight_all_is_given_out_each_group_has_something_and_the_heavier_one_no_less(
            budget in 0_u32..200,
            groups in some_groups(),
        ) {
            let shares = divide_by_weight(budget, &groups);
            let taking: Vec<&Group> = groups.iter().filter(|group| !group.members.is_empty()).collect();
            prop_assert_eq!(shares.values().sum::<u32>(), if taking.is_empty() { 0 } else { budget });
            let parts: Vec<(u32, u32)> = taking.iter().map(|group| (group.weight, sum(&shares, group))).collect();
            if budget as usize >= taking.len() {
                prop_assert!(parts.iter().all(|(_, part)| *part > 0), "{:?}", parts);
                for (weight, part) in &parts {
                    let heavier = parts.iter().filter(|(other, _)| other > weight);
                    prop_assert!(heavier.clone().all(|(_, theirs)| theirs >= part), "{:?}", parts);
                }
            }
            let mut reversed = groups.clone();
            reversed.reverse();
            prop_assert_eq!(divide_by_weight(budget, &reversed), shares);
        }

        #[test]
        fn by_weight_too_dividing_again_moves_nothing(budget in 0_u32..200, groups in some_groups()) {
            let first = divide_by_weight(budget, &groups);
            let settled: Vec<Group> = groups.iter().cloned().map(|mut group| {
                group.members.iter_mut().for_each(|member| member.current = first[&member.uid]);
                group
            }).collect();
            prop_assert_eq!(divide_by_weight(budget, &settled), first);
        }

        #[test]
        fn all_of_the_budget_is_given_out_and_no_more(budget in 0_u32..200, members in some_members()) {
            let total: u32 = divide(budget, &members).values().sum();
            prop_assert_eq!(total, if members.is_empty() { 0 } else { budget });
        }

        #[test]
        fn shares_differ_by_one_at_most(budget in 0_u32..200, members in some_members()) {
            let shares = divide(budget, &members);
            prop_assert_eq!(shares.len(), members.len());
            if let (Some(most), Some(least)) = (shares.values().max(), shares.values().min()) {
                prop_assert!(most - least <= 1);
            }
        }

        #[test]
        fn the_order_of_the_members_changes_nothing(
            budget in 0_u32..200,
            (members, shuffled) in some_members().prop_flat_map(|m| (Just(m.clone()), Just(m).prop_shuffle())),
        ) {
            prop_assert_eq!(divide(budget, &members), divide(budget, &shuffled));
        }

        #[test]
        fn dividing_again_moves_nothing(budget in 0_u32..200, members in some_members()) {
            let first = divide(budget, &members);
            let settled: Vec<Member> =
                first.iter().map(|(uid, share)| Member { uid: uid.clone(), current: *share }).collect();
            prop_assert_eq!(divide(budget, &settled), first);
        }

        #[test]
        fn no_fair_division_moves_fewer_slots(
            budget in 0_u32..40,
            members in prop::collection::vec(0_u32..24, 1..10),
        ) {
            let members: Vec<Member> =
                members.iter().enumerate().map(|(i, current)| Member { uid: format!("{i:02}"), current: *current }).collect();
            let shares: Vec<u32> = divide(budget, &members).into_values().collect();
            let count = u32::try_from(members.len()).expect("few members");
            let (base, remainder) = (budget / count, budget % count);
            // Every fair division gives one slot more to some `remainder` of the members: try them all.
            let best = (0_u32..1 << count)
                .filter(|subset| subset.count_ones() == remainder)
                .map(|subset| {
                    let shares: Vec<u32> = (0..count).map(|i| base + (subset >> i & 1)).collect();
                    taken(&members, &shares)
                })
                .min();
            prop_assert_eq!(Some(taken(&members, &shares)), best);
        }

        #[test]
        fn a_pod_that_comes_or_goes_moves_only_what_it_takes_or_leaves(budget in 0_u32..200, members in some_members()) {
            let settled: Vec<Member> = divide(budget, &members)
                .into_iter()
                .map(|(uid, current)| Member { uid, current })
                .collect();
            let mut more = settled.clone();
            more.push(member("newcomer", 0));
            let after = divide(budget, &more);
            let given: u32 = settled.iter().map(|m| m.current.saturating_sub(after[&m.uid])).sum();
            prop_assert_eq!(given, if settled.is_empty() { 0 } else { after["newcomer"] });
            if let Some((left, rest)) = settled.split_first() {
                let after = divide(budget, rest);
                let gained: u32 = rest.iter().map(|m| after[&m.uid].saturating_sub(m.current)).sum();
                prop_assert_eq!(gained, if rest.is_empty() { 0 } else { left.current });
            }
        }
    }
}
