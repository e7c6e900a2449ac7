//! Timing of quarantine by whoever sees it, leader and workers alike, each on its own clock from first sight.

use std::{collections::BTreeMap, time::Duration};

use super::{clock::BootTime, state::QuarantineView, timing::Timing};

/// When each quarantine was first seen.
#[derive(Clone, Debug, Default)]
pub struct QuarantineTimers {
    seen: BTreeMap<String, (BootTime, QuarantineView)>,
}

impl QuarantineTimers {
    /// Takes in all entries there are. One that vanished and comes back is timed anew.
    pub fn observe(&mut self, entries: &[QuarantineView], now: BootTime) {
        let earlier = std::mem::take(&mut self.seen);
        for entry in entries {
            let since = earlier.get(&entry.id).map_or(now, |(since, _)| *since);
            self.seen.insert(entry.id.clone(), (since, entry.clone()));
        }
    }

    /// The entries that are over and may be cleared.
    pub fn over(&self, now: BootTime, timing: &Timing) -> Vec<String> {
        self.seen.iter().filter(|(_, seen)| Self::is_over(seen, now, timing)).map(|(id, _)| id.clone()).collect()
    }

    /// The entries that are not over, to be carried into a new ledger.
    pub fn unexpired(&self, now: BootTime, timing: &Timing) -> Vec<QuarantineView> {
        self.seen.values().filter(|seen| !Self::is_over(seen, now, timing)).map(|(_, entry)| entry.clone()).collect()
    }

    /// The entries that are not over, each with how long it still is.
    pub fn left(&self, now: BootTime, timing: &Timing) -> impl Iterator<Item = (QuarantineView, Duration)> {
        let left = move |since, entry: &QuarantineView| Self::end(since, entry, timing).saturating_since(now);
        let entries = self.seen.values().map(move |(since, entry)| (entry.clone(), left(*since, entry)));
        entries.filter(|(_, left)| !left.is_zero())
    }

    /// Takes in entries beside those known.
    pub fn add(&mut self, entries: &[QuarantineView], now: BootTime) {
        for entry in entries {
            self.seen.entry(entry.id.clone()).or_insert_with(|| (now, entry.clone()));
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }

    /// Whether the entry is there.
    pub fn has(&self, id: &str) -> bool {
        self.seen.contains_key(id)
    }

    /// The entry is gone.
    pub fn forget(&mut self, id: &str) {
        self.seen.remove(id);
    }

    /// How long until the next one is over; `None` when there is none.
    pub fn next(&self, now: BootTime, timing: &Timing) -> Option<Duration> {
        self.next_end(timing).map(|end| end.saturating_since(now))
    }

    /// When the next one is over; `None` when there is none.
    pub fn next_end(&self, timing: &Timing) -> Option<BootTime> {
        self.seen.values().map(|(since, entry)| Self::end(*since, entry, timing)).min()
    }

    fn end(since: BootTime, entry: &QuarantineView, timing: &Timing) -> BootTime {
        since + timing.quarantine_watch(Duration::from_secs(entry.seconds))
    }

    fn is_over((since, entry): &(BootTime, QuarantineView), now: BootTime, timing: &Timing) -> bool {
        now >= Self::end(*since, entry, timing)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quarantine_is_over_after_its_time_on_our_clock_and_not_before() {
        let timing = Timing::default();
        let start = BootTime::after_boot(Duration::from_secs(100));
        let entry = QuarantineView { id: "a".into(), slots: 1, seconds: 10, why: "x".into() };
        let mut timers = QuarantineTimers::default();
        timers.observe(std::slice::from_ref(&entry), start);
        timers.observe(std::slice::from_ref(&entry), start + Duration::from_secs(5));
        assert!(timers.over(start + Duration::from_millis(10_449), &timing).is_empty());
        assert_eq!(timers.over(start + Duration::from_millis(10_460), &timing), ["a"]);
        assert!(timers.next(start, &timing).expect("one entry") > Duration::from_secs(10));
        timers.observe(&[], start);
        timers.observe(&[entry], start + Duration::from_secs(8));
        assert!(timers.over(start + Duration::from_secs(11), &timing).is_empty(), "timed anew");
        assert_eq!(timers.unexpired(start + Duration::from_secs(11), &timing).len(), 1);
    }
}
