//! What a server takes when it says "too many connections" below its budget, pure (lease R10).
//!
//! Workers close such a session and withhold its slot, which the ledger shows. The leader answers a burst of that once, by
//! lowering the effective budget below what was open. Once none of those slots is withheld any more, it gives back one
//! slot after each N mails that the server took, N being the effective budget.

use std::{collections::BTreeSet, time::Duration};

use crate::lease::{BootTime, LedgerView, SaturationRecord, TOO_MANY};

/// How long the sessions that a burst left open are counted before the budget is lowered: a heartbeat and a half.
const SETTLE: Duration = Duration::from_millis(1_500);
/// How long refusals after that belong to the same burst.
const CALM: Duration = Duration::from_secs(5);

/// What the leader knows of one pool's server.
#[derive(Clone, Debug, Default)]
pub struct Saturation {
    /// The effective budget while it is below the budget, and the count of good mails when it changed last.
    lowered: Option<SaturationRecord>,
    /// Slots withheld since the server refused their session, as already answered.
    answered: BTreeSet<String>,
    burst: Option<Burst>,
    lowered_at: Option<BootTime>,
    /// Good mails do not count yet: slots of refused sessions are withheld.
    waits: bool,
}

#[derive(Clone, Copy, Debug)]
struct Burst {
    since: BootTime,
    most_open: u32,
}

impl Saturation {
    /// As another leader left it: what is withheld now was answered by it.
    pub fn restored(record: Option<SaturationRecord>, view: Option<&LedgerView>) -> Self {
        let answered = record.and(view).into_iter().flat_map(refused).map(|(id, _)| id.to_owned()).collect();
        Self { lowered: record, answered, ..Self::default() }
    }

    /// Whether anything must be watched closely: good mails are counted.
    pub fn is_lowered(&self) -> bool {
        self.lowered.is_some()
    }

    /// Whether something is to come of the next looks, though the ledger stays as it is.
    pub fn is_watched(&self) -> bool {
        self.is_lowered() || self.burst.is_some()
    }

    /// What is to be remembered for the next leader.
    pub fn record(&self) -> Option<SaturationRecord> {
        self.lowered
    }

    /// The slots that may be shared out of `budget`.
    pub fn effective(&self, budget: u32) -> u32 {
        self.lowered.map_or(budget, |lowered| lowered.effective.min(budget))
    }

    /// The ledger's budget: withheld slots that stand for refused sessions are not taken off twice.
    pub fn ceiling(&self, budget: u32, view: Option<&LedgerView>) -> u32 {
        let withheld: u32 = view.into_iter().flat_map(refused).map(|(_, slots)| slots).sum();
        self.effective(budget).saturating_add(withheld).min(budget)
    }

    /// Takes in a look at the ledger and how many mails the server has taken. Returns whether the effective budget changed.
    pub fn observe(&mut self, view: &LedgerView, budget: u32, good: u64, now: BootTime) -> bool {
        let before = self.lowered;
        let ids: BTreeSet<String> = refused(view).map(|(id, _)| id.to_owned()).collect();
        if ids.is_empty() {
            self.grow(budget, good);
        } else {
            self.waits = true;
        }
        let is_new = ids.iter().any(|id| !self.answered.contains(id));
        self.answered = ids;
        let calm = self.lowered_at.is_none_or(|at| now.saturating_since(at) >= CALM);
        if is_new && calm && self.burst.is_none() {
            self.burst = Some(Burst { since: now, most_open: 0 });
        }
        if let Some(burst) = &mut self.burst {
            burst.most_open = burst.most_open.max(view.holders.iter().map(|holder| holder.open).sum());
            if now.saturating_since(burst.since) >= SETTLE {
                let open = burst.most_open;
                self.burst = None;
                self.lowered_at = Some(now);
                let below = self.effective(budget).saturating_sub(1);
                let effective = below.min(open.saturating_sub(1)).max(1);
                self.lowered = Some(SaturationRecord { effective, good });
            }
        }
        self.lowered != before
    }

    /// One more after as many good mails as there are slots; over when the whole budget is back.
    fn grow(&mut self, budget: u32, good: u64) {
        let Some(lowered) = &mut self.lowered else { return };
        // Lower than before: the count was lost with the store.
        if std::mem::take(&mut self.waits) || good < lowered.good {
            lowered.good = good;
        }
        while lowered.effective < budget && good - lowered.good >= u64::from(lowered.effective) {
            lowered.good += u64::from(lowered.effective);
            lowered.effective += 1;
        }
        if lowered.effective >= budget {
            self.lowered = None;
        }
    }
}

/// Slots withheld since the server said that their session was one too many.
fn refused(view: &LedgerView) -> impl Iterator<Item = (&str, u32)> {
    view.quarantine.iter().filter(|entry| entry.why == TOO_MANY).map(|entry| (&*entry.id, entry.slots))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        controller::fixtures::{self, holder},
        lease::{HolderView, QuarantineView},
    };

    fn at(millis: u64) -> BootTime {
        BootTime::after_boot(Duration::from_millis(100_000 + millis))
    }

    fn ledger(open: u32, refused: &[&str]) -> LedgerView {
        let holder = HolderView { claim: open, limit: open, want: 16, open, ..holder("i", "p", 1) };
        let entry = |id: &&str| QuarantineView { id: (*id).into(), slots: 1, seconds: 30, why: TOO_MANY.into() };
        LedgerView { quarantine: refused.iter().map(entry).collect(), ..fixtures::ledger(vec![holder]) }
    }

    /// A server that takes 10, after its first burst.
    fn lowered() -> Saturation {
        let mut saturation = Saturation::default();
        assert!(!saturation.observe(&ledger(4, &["a"]), 16, 0, at(0)));
        assert!(!saturation.observe(&ledger(10, &["a", "b", "c"]), 16, 0, at(1_000)));
        assert!(saturation.observe(&ledger(8, &["a", "b", "c"]), 16, 0, at(1_500)));
        saturation
    }

    #[test]
    fn a_burst_lowers_the_budget_once_to_one_less_than_was_open() {
        let mut saturation = lowered();
        assert_eq!(saturation.effective(16), 9);
        let view = ledger(9, &["a", "b", "c"]);
        assert_eq!(saturation.ceiling(16, Some(&view)), 12, "the three that are withheld leave nine");
        assert!(!saturation.observe(&ledger(9, &["a", "b", "c", "d"]), 16, 0, at(3_000)), "still the same burst");
        assert!(!saturation.observe(&ledger(9, &["a", "b", "c", "d"]), 16, 0, at(20_000)));
        // The next one.
        assert!(!saturation.observe(&ledger(9, &["e"]), 16, 0, at(20_000)));
        assert!(saturation.observe(&ledger(9, &["e"]), 16, 0, at(21_500)));
        assert_eq!(saturation.effective(16), 8);
        assert_eq!(saturation.effective(4), 4, "never above the budget");
        assert_eq!(saturation.ceiling(4, Some(&view)), 4);
    }

    #[test]
    fn a_slot_comes_back_after_as_many_good_mails_as_there_are_slots_until_all_are_back() {
        let mut saturation = lowered();
        assert!(!saturation.observe(&ledger(9, &["a", "b"]), 16, 99, at(3_000)), "not while slots are withheld");
        let view = ledger(9, &[]);
        assert!(saturation.observe(&view, 16, 100, at(4_000)), "counted from here");
        assert!(!saturation.observe(&view, 16, 108, at(4_000)));
        assert!(saturation.observe(&view, 16, 109, at(4_000)));
        assert_eq!(saturation.effective(16), 10);
        assert!(!saturation.observe(&view, 16, 118, at(4_000)), "ten more are needed now");
        for (good, effective) in [(119, 11), (130, 12), (155, 14), (169, 15)] {
            saturation.observe(&view, 16, good, at(5_000));
            assert_eq!(saturation.effective(16), effective);
        }
        assert!(saturation.observe(&view, 16, 184, at(5_000)));
        assert!(!saturation.is_lowered());
        assert_eq!((saturation.effective(16), saturation.ceiling(16, Some(&view))), (16, 16));
    }

    #[test]
    fn a_server_that_takes_nothing_keeps_one_slot_and_a_lost_count_begins_anew() {
        let mut saturation = Saturation::default();
        saturation.observe(&ledger(0, &["a"]), 16, 50, at(0));
        saturation.observe(&ledger(0, &["a"]), 16, 50, at(1_500));
        assert_eq!(saturation.effective(16), 1);
        assert!(saturation.observe(&ledger(0, &[]), 16, 0, at(2_000)), "the count to remember changed");
        assert!(saturation.observe(&ledger(0, &[]), 16, 1, at(2_000)));
        assert_eq!(saturation.effective(16), 2);
    }

    #[test]
    fn a_new_leader_goes_on_where_the_old_one_was() {
        let view = ledger(9, &["a", "b"]);
        let mut restored = Saturation::restored(lowered().record(), Some(&view));
        assert!(!restored.observe(&view, 16, 0, at(0)) && !restored.observe(&view, 16, 0, at(10_000)));
        assert_eq!(restored.effective(16), 9);
        let mut without = Saturation::restored(None, Some(&view));
        without.observe(&view, 16, 0, at(0));
        assert!(without.observe(&view, 16, 0, at(1_500)), "nobody has answered these yet");
    }

    #[test]
    fn other_quarantine_says_nothing_of_the_server() {
        let mut saturation = Saturation::default();
        let mut view = ledger(9, &["a"]);
        view.quarantine[0].why = "silent".into();
        assert!(!saturation.observe(&view, 16, 0, at(0)) && !saturation.observe(&view, 16, 0, at(9_000)));
        assert_eq!(saturation.ceiling(16, Some(&view)), 16);
    }
}
