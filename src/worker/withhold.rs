//! How long slots are withheld after the server said "too many connections" (lease R10).

use std::time::{Duration, Instant};

/// 30 s, doubled with each burst that follows soon after the one before.
#[derive(Clone, Copy, Debug)]
pub struct Withholding {
    hold: Duration,
    last: Option<Instant>,
}

impl Withholding {
    const FIRST: Duration = Duration::from_secs(30);
    const LONGEST: Duration = Duration::from_secs(600);
    /// Refusals so close together are one burst: they say the same thing.
    const BURST: Duration = Duration::from_secs(5);

    /// Nothing was refused yet.
    pub const fn new() -> Self {
        Self { hold: Self::FIRST, last: None }
    }

    /// The server refused a session at `now`; how long its slot is withheld.
    pub fn refused(&mut self, now: Instant) -> Duration {
        if let Some(last) = self.last.replace(now) {
            let quiet = now.saturating_duration_since(last);
            if quiet > self.hold * 2 {
                self.hold = Self::FIRST;
            } else if quiet > Self::BURST {
                self.hold = (self.hold * 2).min(Self::LONGEST);
            }
        }
        self.hold
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_burst_doubles_the_time_and_a_quiet_while_forgets_it() {
        let start = Instant::now();
        let mut withholding = Withholding::new();
        let mut refused = |second| withholding.refused(start + Duration::from_secs(second)).as_secs();
        assert_eq!([refused(0), refused(1), refused(4)], [30; 3], "one burst");
        assert_eq!([refused(35), refused(36)], [60; 2], "tried again when it was over, refused again");
        assert_eq!(refused(97), 120);
        assert_eq!(refused(97 + 241), 30, "quiet for twice as long");
        let mut last = 0;
        for burst in 0..10 {
            last = refused(1_000 + 400 * burst);
        }
        assert_eq!(last, 30, "400 s are more than twice 120 s");
        let mut again = Withholding::new();
        let mut now = start;
        for _ in 0..10 {
            let hold = again.refused(now);
            assert!(hold <= Withholding::LONGEST);
            now += hold + Duration::from_secs(1);
        }
        assert_eq!(again.refused(now), Withholding::LONGEST);
    }
}
