//! Step 3, pure: the shares that a pool's ledger should have, and who was heard of when.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::plan::PoolPlan;
use crate::{
    budget::{Member, divide},
    lease::{BootTime, LedgerState, LedgerView, Policy},
};

/// How long the share of a pod whose worker never registered waits for it: a worker registers within a second of its start.
pub const LEND_AFTER: Duration = Duration::from_secs(10);
/// How long a process that is in no ledger is remembered.
const FORGET: Duration = Duration::from_secs(3_600);

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
            let mut shares = divide(plan.budget, &members);
            // Named all the same, or the ledger forgets which generation comes next.
            shares.extend(gone.into_iter().map(|uid| (uid.clone(), 0)));
            (plan.budget, shares)
        }
    };
    Policy { epoch, revision: 1, budget, lease, entitlements, servers: BTreeSet::new() }
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

/// When processes were last heard of, over all pools, on the leader's own clock.
///
/// A process is heard of when the seq of one of its incarnations changes. Time in which a pool's ledger could not be read does
/// not count as silence of those who might have been heard there.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    /// The last seq of each incarnation: by pool and incarnation.
    seqs: BTreeMap<(String, String), u64>,
    /// Each process that was heard of.
    heard: BTreeMap<String, Heard>,
    /// Since when each pool's ledger could be looked at without a break.
    answering: BTreeMap<String, BootTime>,
}

#[derive(Clone, Debug)]
struct Heard {
    /// When that was last.
    at: BootTime,
    /// The pools in which it was seen.
    pools: BTreeSet<String>,
}

impl Liveness {
    /// Takes in one look at a pool's ledger, which may be missing.
    pub fn learn(&mut self, pool: &str, ledger: Option<&LedgerView>, now: BootTime) {
        self.answering.entry(pool.to_owned()).or_insert(now);
        let holders = ledger.map_or(&[][..], |ledger| &ledger.holders);
        for holder in holders {
            let known = self.seqs.entry((pool.to_owned(), holder.inc.clone())).or_insert(holder.seq);
            let advanced = std::mem::replace(known, holder.seq) != holder.seq;
            // One that is new to us may have been silent for long: its time starts now.
            let fresh = || Heard { at: now, pools: BTreeSet::new() };
            let heard = self.heard.entry(holder.process.clone()).or_insert_with(fresh);
            if advanced {
                heard.at = now;
            }
            if !heard.pools.contains(pool) {
                heard.pools.insert(pool.to_owned());
            }
        }
        let here: BTreeSet<&str> = holders.iter().map(|holder| &*holder.inc).collect();
        self.seqs.retain(|(of, inc), _| of != pool || here.contains(inc.as_str()));
        self.heard.retain(|_, heard| now.saturating_since(heard.at) < FORGET);
    }

    /// A pool's ledger could not be looked at.
    pub fn unanswered(&mut self, pool: &str) {
        self.answering.remove(pool);
    }

    /// A pool is gone for good.
    pub fn forget(&mut self, pool: &str) {
        self.answering.remove(pool);
        self.seqs.retain(|(of, _), _| of != pool);
    }

    /// How long nothing was heard of a process that works for whoever draws on these pools; `first_seen` is when its claims were
    /// first seen.
    ///
    /// It counts while all of the pools can be looked at. When some cannot, it counts by the others in which the process was
    /// seen, since a living process renews in all of them; without one nobody knows.
    pub fn silence(&self, process: &str, pools: &BTreeSet<String>, first_seen: BootTime, now: BootTime) -> Duration {
        let heard = self.heard.get(process);
        let was_seen = |pool: &&String| heard.is_some_and(|heard| heard.pools.contains(*pool));
        let all_answer = pools.iter().all(|pool| self.answering.contains_key(pool));
        let witnesses = pools.iter().filter(|pool| all_answer || was_seen(pool));
        let Some(answering) = witnesses.filter_map(|pool| self.answering.get(pool)).max() else {
            return Duration::ZERO;
        };
        let last = heard.map_or(first_seen, |heard| heard.at.max(first_seen));
        now.saturating_since(last.max(*answering))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{api::DurationText, lease::HolderView};

    const LEASE: Duration = Duration::from_secs(6);

    fn at(seconds: u64) -> BootTime {
        BootTime::after_boot(Duration::from_secs(1_000 + seconds))
    }

    fn pool(budget: u32, members: &[&str]) -> PoolPlan {
        PoolPlan {
            budget,
            members: members.iter().map(ToString::to_string).collect(),
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
        LedgerView {
            fence: "f".into(),
            token: "t".into(),
            state: LedgerState::Open,
            epoch,
            revision,
            budget,
            lease: LEASE,
            holders: Vec::new(),
            entitlements: shares(entitlements),
            generations: BTreeMap::new(),
            quarantine: Vec::new(),
            version: 1,
            servers: BTreeSet::new(),
            floor: 0,
        }
    }

    fn holder(inc: &str, process: &str, seq: u64) -> HolderView {
        HolderView {
            inc: inc.into(),
            pod_uid: "u".into(),
            pod: "mail/p".into(),
            process: process.into(),
            boot_id: "b".into(),
            generation: 1,
            seq,
            claim: 1,
            limit: 1,
            want: 1,
            open: 0,
            busy: 0,
        }
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

    fn pools(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn silence_is_counted_from_the_last_word_and_only_while_the_ledger_can_be_looked_at() {
        let mut liveness = Liveness::default();
        let mut ledger = ledger(1, 1, 16, &[]);
        ledger.holders = vec![holder("i", "p", 1)];
        liveness.learn("mx", Some(&ledger), at(0));
        ledger.holders[0].seq = 2;
        liveness.learn("mx", Some(&ledger), at(4));
        let silence = |liveness: &Liveness, now| liveness.silence("p", &pools(&["mx"]), at(0), at(now));
        assert_eq!(silence(&liveness, 10), Duration::from_secs(6));
        liveness.unanswered("mx");
        assert_eq!(silence(&liveness, 30), Duration::ZERO, "nobody can be heard now");
        liveness.learn("mx", Some(&ledger), at(40));
        assert_eq!(silence(&liveness, 45), Duration::from_secs(5), "the outage does not count");
    }

    #[test]
    fn a_ledger_that_cannot_be_looked_at_breaks_no_silence_in_another() {
        let mut liveness = Liveness::default();
        let mut ledger = ledger(1, 1, 16, &[]);
        ledger.holders = vec![holder("i", "p", 1)];
        liveness.learn("mx", Some(&ledger), at(0));
        liveness.learn("bad", None, at(0));
        liveness.unanswered("bad");
        assert_eq!(
            liveness.silence("p", &pools(&["mx"]), at(0), at(10)),
            Duration::from_secs(10),
            "it draws on mx alone"
        );
        let both = pools(&["bad", "mx"]);
        assert_eq!(liveness.silence("p", &both, at(0), at(10)), Duration::from_secs(10), "it would renew in mx");
        assert_eq!(
            liveness.silence("q", &both, at(0), at(10)),
            Duration::ZERO,
            "it may be registered where nobody can look"
        );
        liveness.forget("mx");
        assert_eq!(liveness.silence("p", &both, at(0), at(10)), Duration::ZERO, "that may be so for any process now");
    }

    #[test]
    fn a_process_in_no_ledger_is_silent_since_its_claims_were_seen() {
        let mut liveness = Liveness::default();
        liveness.learn("mx", None, at(0));
        assert_eq!(liveness.silence("stranger", &pools(&["mx"]), at(3), at(10)), Duration::from_secs(7));
    }
}
