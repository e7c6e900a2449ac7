//! How long a slot rests after the server's end of its session was seen (lease R10): a server that counts its processes
//! counts one until it is gone, which is a moment after its socket.

use std::time::{Duration, Instant};

/// 100 ms; doubled when the server refuses a session although every slot was used as the ledger says.
#[derive(Clone, Copy, Debug)]
pub struct SettleTime {
    shortest: Duration,
    now: Duration,
    /// When it last changed.
    changed: Option<Instant>,
    /// When the last slot went back.
    returned: Option<Instant>,
}

impl SettleTime {
    const LONGEST: Duration = Duration::from_secs(2);
    /// A refusal so soon after a slot went back may be due to that: the server had not noticed yet. Any later one says
    /// that the server takes fewer sessions than its budget.
    const RECENT: Duration = Duration::from_secs(5);
    /// After so long without such a refusal it is halved.
    const QUIET: Duration = Duration::from_secs(60);

    /// Nothing was refused yet.
    pub const fn new(shortest: Duration) -> Self {
        Self { shortest, now: shortest, changed: None, returned: None }
    }

    /// How long a slot rests whose server's end was seen at `now`.
    pub fn rest(&mut self, now: Instant) -> Duration {
        while self.now > self.shortest
            && let Some(changed) = self.changed
            && now.saturating_duration_since(changed) >= Self::QUIET
        {
            self.now = (self.now / 2).max(self.shortest);
            self.changed = Some(changed + Self::QUIET);
        }
        self.now
    }

    /// A slot went back at `now`, after its rest.
    pub fn returned(&mut self, now: Instant) {
        self.returned = Some(now);
    }

    /// The server found a session to be one too many at `now`.
    pub fn refused(&mut self, now: Instant) {
        let rest = self.rest(now);
        let since = |then: Option<Instant>| then.map(|then| now.saturating_duration_since(then));
        let explained = since(self.returned).is_none_or(|since| since > Self::RECENT);
        // Sessions that were opened before the last change say nothing of what it did.
        let same_burst = since(self.changed).is_some_and(|since| since < Self::LONGEST);
        if explained || same_burst {
            return;
        }
        self.now = (rest * 2).min(Self::LONGEST);
        self.changed = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORTEST: Duration = Duration::from_millis(100);

    fn millis(time: Duration) -> u128 {
        time.as_millis()
    }

    #[test]
    fn a_refusal_soon_after_a_slot_went_back_doubles_it_once_a_burst_up_to_two_seconds() {
        let mut time = SettleTime::new(SHORTEST);
        let mut now = Instant::now();
        assert_eq!(millis(time.rest(now)), 100);
        let mut seen = Vec::new();
        for _ in 0..6 {
            time.returned(now);
            for late in [1, 2, 500] {
                time.refused(now + Duration::from_millis(late));
            }
            seen.push(millis(time.rest(now + Duration::from_secs(1))));
            now += Duration::from_secs(3);
        }
        assert_eq!(seen, [200, 400, 800, 1600, 2000, 2000]);
    }

    #[test]
    fn a_refusal_without_a_slot_that_went_back_says_nothing_of_it() {
        let mut time = SettleTime::new(SHORTEST);
        let now = Instant::now();
        time.refused(now);
        time.returned(now);
        time.refused(now + Duration::from_secs(6));
        assert_eq!(time.rest(now), SHORTEST);
    }

    #[test]
    fn it_is_halved_each_quiet_minute_until_it_is_the_shortest_again() {
        let mut time = SettleTime::new(SHORTEST);
        let start = Instant::now();
        let mut refused = start;
        for second in [0, 3, 6, 9, 12] {
            refused = start + Duration::from_secs(second);
            time.returned(refused);
            time.refused(refused);
        }
        assert_eq!(millis(time.rest(refused)), 2000);
        let after = |time: &SettleTime, seconds| millis({ *time }.rest(refused + Duration::from_secs(seconds)));
        let seen: Vec<_> = [59, 60, 120, 180, 240, 300, 3000].map(|seconds| after(&time, seconds)).into();
        assert_eq!(seen, [2000, 1000, 500, 250, 125, 100, 100]);
    }
}
