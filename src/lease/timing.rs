//! The times of the protocol and the inequalities that make them safe.

use std::time::Duration;

/// The times of the lease protocol. [`Timing::check`] says whether other values hold together.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Timing {
    /// How often a worker renews when nothing changes; each pause is varied by [`Timing::JITTER`].
    pub heartbeat: Duration,
    /// How often a worker is heard that claims nothing.
    pub rest: Duration,
    /// How soon a worker asks again when the ledger can't grant anything or can't be reached.
    pub retry: Duration,
    /// How long a renewal keeps a limit, from the moment it was sent (R2).
    pub lease: Duration,
    /// How long a seq must stay unchanged before its holder is taken to be dead (R5c), and how long recovery takes (R8).
    pub reclaim: Duration,
    /// The error of one clock's rate, as a fraction: two clocks may drift apart by `(1 + r) / (1 - r)`.
    pub clock_error: f64,
    /// No new mail transaction later than this before the deadline.
    pub start_margin: Duration,
    /// No final dot later than this before the deadline.
    pub commit_margin: Duration,
    /// All sessions are closed this long before the deadline.
    pub close_margin: Duration,
    /// How long after a process may have written its last byte, or its kernel sent it, the server may still be reading what
    /// came before: it counts `sessionTimeout` from then.
    pub drain_margin: Duration,
    /// How long a server that counts processes may need after its end of a session, before it takes the next one.
    pub settle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self::with_lease(Duration::from_secs(6))
    }
}

impl Timing {
    /// The part of a heartbeat by which it is varied, up and down.
    pub const JITTER: f64 = 0.15;
    /// The least a lease may lag behind what its reaper allows for.
    pub const SLACK: Duration = Duration::from_millis(250);

    /// The defaults with another lease length (15 s with Sentinel or Cluster); the reclaim time follows.
    pub fn with_lease(lease: Duration) -> Self {
        let mut timing = Self {
            heartbeat: Duration::from_secs(1),
            rest: Duration::from_secs(300),
            retry: Duration::from_millis(250),
            lease,
            reclaim: Duration::ZERO,
            clock_error: 0.01,
            start_margin: Duration::from_millis(1500),
            commit_margin: Duration::from_millis(750),
            close_margin: Duration::from_millis(250),
            drain_margin: Duration::from_secs(30),
            settle: Duration::from_millis(100),
        };
        let needed = timing.stretched(lease + Self::SLACK);
        timing.reclaim = Duration::from_secs(needed.as_secs() + 1).max(Duration::from_secs(7));
        timing
    }

    /// How long a SYNC waits for its answer.
    pub fn sync_limit(&self) -> Duration {
        self.lease / 3
    }

    /// `span` on another clock, at the most: times `(1 + r) / (1 - r)`.
    pub fn stretched(&self, span: Duration) -> Duration {
        span.mul_f64((1.0 + self.clock_error) / (1.0 - self.clock_error))
    }

    /// `span` on another clock, at the least: times `(1 - r) / (1 + r)`.
    pub fn shrunk(&self, span: Duration) -> Duration {
        span.mul_f64((1.0 - self.clock_error) / (1.0 + self.clock_error))
    }

    /// How long a quarantine of `hold` is to be watched from first sight before it may be cleared.
    pub fn quarantine_watch(&self, hold: Duration) -> Duration {
        self.stretched(hold) + Self::SLACK
    }

    /// How long a slot is withheld when nothing proves that the server knows its session to be over.
    pub fn hold(&self, session_timeout: Duration) -> Duration {
        session_timeout + self.drain_margin
    }

    /// Whether the times hold together.
    ///
    /// # Errors
    /// The inequality that does not hold, in words.
    pub fn check(&self) -> Result<(), String> {
        if !(0.0..0.5).contains(&self.clock_error) {
            return Err(format!("the clock error {} is not in 0..0.5", self.clock_error));
        }
        let longest_heartbeat = self.heartbeat.mul_f64(1.0 + Self::JITTER);
        let rules = [
            (self.reclaim >= self.stretched(self.lease + Self::SLACK), "reclaim >= (lease + 250 ms)(1+r)/(1-r)"),
            (!self.heartbeat.is_zero() && !self.retry.is_zero(), "heartbeat and retry are more than nothing"),
            (self.close_margin > Duration::ZERO, "sessions are closed before the deadline"),
            (self.commit_margin > self.close_margin, "the last final dot comes before the closing"),
            (self.start_margin > self.commit_margin, "the last transaction starts before the last final dot"),
            (
                longest_heartbeat + self.sync_limit() + self.start_margin < self.lease,
                "a heartbeat whose answer takes the full limit still comes before transactions stop",
            ),
            (
                longest_heartbeat * 2 + self.retry * 2 + self.start_margin < self.lease,
                "one lost heartbeat does not stop transactions",
            ),
            (self.retry <= self.heartbeat && self.heartbeat <= self.rest, "retry <= heartbeat <= rest"),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            Some((_, rule)) => Err(format!("lease times do not hold together: {rule} is not so in {self:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_and_the_long_lease_hold_together() {
        assert_eq!(Timing::default().lease, Duration::from_secs(6));
        assert_eq!(Timing::default().reclaim, Duration::from_secs(7));
        Timing::default().check().expect("the defaults");
        let long = Timing::with_lease(Duration::from_secs(15));
        assert!(long.reclaim < Duration::from_secs(17));
        long.check().expect("the lease with Sentinel");
    }

    #[test]
    fn a_reclaim_time_that_ignores_the_clocks_is_refused() {
        let good = Timing::default();
        for bad in [
            Timing { reclaim: good.lease, ..good },
            Timing { reclaim: good.lease + Timing::SLACK, ..good },
            Timing { clock_error: 0.08, ..good },
            Timing { start_margin: good.close_margin, ..good },
            Timing { close_margin: Duration::ZERO, ..good },
            Timing { heartbeat: Duration::from_secs(3), ..good },
            Timing::with_lease(Duration::from_secs(3)),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_slowest_reaper_waits_longer_than_the_slowest_worker_lives() {
        let timing = Timing::default();
        // The worker's clock runs slow by r, the reaper's fast by r.
        let worker_true = timing.lease.div_f64(1.0 - timing.clock_error);
        let reaper_true = timing.reclaim.div_f64(1.0 + timing.clock_error);
        assert!(reaper_true >= worker_true + Timing::SLACK);
    }

    #[test]
    fn a_quarantine_is_watched_longer_than_it_says() {
        let timing = Timing::default();
        assert!(timing.quarantine_watch(Duration::from_secs(300)) > Duration::from_secs(306));
        assert!(timing.quarantine_watch(Duration::ZERO) >= Duration::from_millis(250));
    }
}
