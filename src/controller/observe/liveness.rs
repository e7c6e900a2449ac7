//! When processes were last heard of, pure: from the ledgers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::lease::{BootTime, LedgerView};

/// How long a process that is in no ledger is remembered.
const FORGET: Duration = Duration::from_secs(3_600);

/// When processes were last heard of, over all pools, on the leader's own clock. Clones share it.
///
/// A process is heard of when the seq of one of its incarnations changes; a ledger that is as it was needs no look for that. One
/// that rests in all of its pools has no mail in hand and nothing to say: that is no silence. Time in which a pool's ledger
/// could not be read does not count as silence of those who might have been heard there.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    known: Arc<Mutex<Known>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Each pool's ledger at the last look, if there was one.
    seen: BTreeMap<String, Arc<LedgerView>>,
    /// Each process that was heard of.
    heard: BTreeMap<String, Heard>,
    /// Since when each pool's ledger could be looked at without a break.
    answering: BTreeMap<String, BootTime>,
    /// When those were forgotten that have been silent for long.
    forgot: Option<BootTime>,
}

#[derive(Clone, Debug)]
struct Heard {
    /// When that was last.
    at: BootTime,
    /// The pools in which it was seen, and as what at the last look.
    pools: Vec<(String, Presence)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Awake,
    Resting,
    /// It left, or was reaped: nothing was heard of it since.
    Gone,
}

impl Heard {
    /// Whether it rests wherever it is, and was nowhere taken for dead.
    fn rests(&self) -> bool {
        self.pools.iter().all(|(_, presence)| *presence == Presence::Resting)
    }

    fn is_known_in(&self, pool: &str) -> bool {
        self.pools.iter().any(|(name, _)| name == pool)
    }

    fn note(&mut self, pool: &str, now: Presence) {
        match self.pools.iter_mut().find(|(name, _)| name == pool) {
            Some((_, presence)) => *presence = now,
            None => self.pools.push((pool.to_owned(), now)),
        }
    }
}

impl Liveness {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in one look at a pool's ledger, which may be missing.
    pub fn learn(&self, pool: &str, ledger: Option<&Arc<LedgerView>>, now: BootTime) {
        self.known().learn(pool, ledger, now);
    }

    /// A pool's ledger could not be looked at.
    pub fn unanswered(&self, pool: &str) {
        self.known().answering.remove(pool);
    }

    /// A pool is gone for good.
    pub fn forget(&self, pool: &str) {
        let mut known = self.known();
        known.answering.remove(pool);
        known.seen.remove(pool);
    }

    /// How long nothing was heard of a process that works for whoever draws on these pools; `first_seen` is when its claims were
    /// first seen.
    ///
    /// It counts while all of the pools can be looked at. When some cannot, it counts by the others in which the process was
    /// seen, since a living process renews in all of them; without one nobody knows.
    pub fn silence(&self, process: &str, pools: &BTreeSet<String>, first_seen: BootTime, now: BootTime) -> Duration {
        self.known().silence(process, pools, first_seen, now)
    }
}

impl Known {
    fn learn(&mut self, pool: &str, ledger: Option<&Arc<LedgerView>>, now: BootTime) {
        self.answering.entry(pool.to_owned()).or_insert(now);
        let before = match ledger {
            Some(ledger) => self.seen.insert(pool.to_owned(), Arc::clone(ledger)),
            None => self.seen.remove(pool),
        };
        let before = before.as_ref().map_or(&[][..], |before| &before.holders);
        let seqs: BTreeMap<&str, u64> = before.iter().map(|holder| (&*holder.inc, holder.seq)).collect();
        for holder in before {
            let Some(heard) = self.heard.get_mut(&holder.process) else { continue };
            // It rested until this look.
            if heard.rests() {
                heard.at = now;
            }
            if heard.is_known_in(pool) {
                heard.note(pool, Presence::Gone);
            }
        }
        for holder in ledger.map_or(&[][..], |ledger| &ledger.holders) {
            let advanced = seqs.get(&*holder.inc).is_some_and(|seq| *seq != holder.seq);
            // One that is new to us may have been silent for long: its time starts now.
            let fresh = || Heard { at: now, pools: Vec::new() };
            let heard = self.heard.entry(holder.process.clone()).or_insert_with(fresh);
            if advanced {
                // It lives, so from where it is not it has gone by itself.
                heard.pools.retain(|(_, presence)| *presence != Presence::Gone);
            }
            let presence = if holder.is_resting() { Presence::Resting } else { Presence::Awake };
            heard.note(pool, presence);
            if advanced {
                heard.at = now;
            }
        }
        if self.forgot.is_none_or(|last| now.saturating_since(last) >= FORGET) {
            self.heard.retain(|_, heard| now.saturating_since(heard.at) < FORGET);
            self.forgot = Some(now);
        }
    }

    fn silence(&self, process: &str, pools: &BTreeSet<String>, first_seen: BootTime, now: BootTime) -> Duration {
        let heard = self.heard.get(process);
        // What its ledgers said at the last look they say still, as long as they can be looked at.
        let answers = |pool: &String| self.answering.contains_key(pool);
        if heard.is_some_and(|heard| heard.rests() && heard.pools.iter().any(|(pool, _)| answers(pool))) {
            return Duration::ZERO;
        }
        let was_seen = |pool: &&String| heard.is_some_and(|heard| heard.is_known_in(pool));
        let all_answer = pools.iter().all(answers);
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
    use crate::controller::fixtures::{holder, ledger};

    fn at(seconds: u64) -> BootTime {
        BootTime::after_boot(Duration::from_secs(1_000 + seconds))
    }

    fn look(liveness: &Liveness, pool: &str, ledger: &LedgerView, now: BootTime) {
        liveness.learn(pool, Some(&Arc::new(ledger.clone())), now);
    }

    fn pools(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn silence_is_counted_from_the_last_word_and_only_while_the_ledger_can_be_looked_at() {
        let liveness = Liveness::default();
        let mut ledger = ledger(vec![holder("i", "p", 1)]);
        look(&liveness, "mx", &ledger, at(0));
        ledger.holders[0].seq = 2;
        look(&liveness, "mx", &ledger, at(4));
        let silence = |liveness: &Liveness, now| liveness.silence("p", &pools(&["mx"]), at(0), at(now));
        assert_eq!(silence(&liveness, 10), Duration::from_secs(6));
        liveness.unanswered("mx");
        assert_eq!(silence(&liveness, 30), Duration::ZERO, "nobody can be heard now");
        look(&liveness, "mx", &ledger, at(40));
        assert_eq!(silence(&liveness, 45), Duration::from_secs(5), "the outage does not count");
    }

    #[test]
    fn a_ledger_that_cannot_be_looked_at_breaks_no_silence_in_another() {
        let liveness = Liveness::default();
        let ledger = ledger(vec![holder("i", "p", 1)]);
        look(&liveness, "mx", &ledger, at(0));
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
        let liveness = Liveness::default();
        liveness.learn("mx", None, at(0));
        assert_eq!(liveness.silence("stranger", &pools(&["mx"]), at(3), at(10)), Duration::from_secs(7));
    }

    #[test]
    fn who_rests_is_not_silent_unless_it_was_taken_for_dead_elsewhere() {
        let liveness = Liveness::default();
        let resting = |seq| {
            let mut resting = ledger(vec![holder("i", "p", seq)]);
            (resting.holders[0].claim, resting.holders[0].want) = (0, 0);
            resting
        };
        let both = pools(&["mx", "other"]);
        let silence = |liveness: &Liveness, now| liveness.silence("p", &both, at(0), at(now));
        for pool in &both {
            look(&liveness, pool, &resting(1), at(0));
            look(&liveness, pool, &resting(1), at(100));
        }
        assert_eq!(silence(&liveness, 100), Duration::ZERO);
        // It wakes where it has work, and dies.
        look(&liveness, "mx", &ledger(vec![holder("i", "p", 2)]), at(101));
        look(&liveness, "other", &resting(1), at(120));
        assert_eq!(silence(&liveness, 120), Duration::from_secs(19), "it is awake in one of them");
        look(&liveness, "mx", &ledger(vec![]), at(121));
        look(&liveness, "other", &resting(1), at(130));
        assert_eq!(silence(&liveness, 130), Duration::from_secs(29), "reaped in one of them");
        // Or it left there by itself, and goes on.
        look(&liveness, "other", &resting(2), at(131));
        look(&liveness, "other", &resting(2), at(140));
        assert_eq!(silence(&liveness, 140), Duration::ZERO);
    }
}
