//! When a server is left alone: a pure state machine, one for each server.
//!
//! Single failures space the next connections out; many in a row, or one that judges our credentials, pause the server.
//! After a pause one session probes; a mail that the server takes in it ends the matter. One that it takes in a session
//! from before the pause does not: what set the pause is newer.

use std::time::Duration;

use tokio::time::Instant;

use crate::api::Unavailable;

/// How long to wait before a server that refused us for a lasting reason is asked again, unless its files change first.
pub const LONG_PAUSE: Duration = Duration::from_secs(300);
/// The wait after the first failure; it doubles with each further one.
const FIRST_SPACING: Duration = Duration::from_millis(100);
/// The longest wait between two tries while the breaker has not tripped: a server that is back is found quickly.
const LONGEST_SPACING: Duration = Duration::from_secs(1);
/// From this many failures in a row the server is reported as unavailable, though it is still tried.
const WORTH_REPORTING: u32 = 3;

/// When to trip, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// How many failures in a row trip the breaker.
    pub consecutive_failures: u32,
    /// How long a tripped server is left alone.
    pub pause: Duration,
}

/// What went wrong with a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// May pass by itself; counts towards the limit.
    Failure(Unavailable),
    /// Lasts until someone acts: pauses at once, for this long.
    Lasting(Unavailable, Duration),
}

#[derive(Debug)]
enum State {
    /// In use; failures in a row, and when the next session may be opened.
    Closed { failures: u32, not_before: Option<Instant> },
    /// Left alone until then.
    Paused { until: Instant },
    /// One session is finding out.
    Probing,
}

/// Whether a session may be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Permit {
    /// Now.
    Granted,
    /// At this time, if nothing changes.
    At(Instant),
    /// Not before the probe that is under way has ended.
    Probing,
}

/// The breaker of one server.
#[derive(Debug)]
pub struct Breaker {
    limits: Limits,
    state: State,
    last: Option<Unavailable>,
    /// How many pauses there were.
    pauses: u64,
}

/// Says which pauses a session was opened before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Generation(u64);

impl Breaker {
    /// A server that nothing is known of.
    pub fn new(limits: Limits) -> Self {
        Self { limits, state: State::Closed { failures: 0, not_before: None }, last: None, pauses: 0 }
    }

    /// Changed limits count from the next failure on.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// Whether a session may be opened at `now`; changes nothing.
    pub fn permit(&self, now: Instant) -> Permit {
        match self.state {
            State::Closed { not_before: Some(at), .. } | State::Paused { until: at } if at > now => Permit::At(at),
            State::Closed { .. } | State::Paused { .. } => Permit::Granted,
            State::Probing => Permit::Probing,
        }
    }

    /// Whether the server is left alone at `now`.
    pub fn is_paused(&self, now: Instant) -> bool {
        matches!(self.state, State::Paused { until } if until > now)
    }

    /// Whether a session that is open takes no further mail at `now`: the server is left alone, or it is not the one that
    /// finds out.
    pub fn shuts_out(&self, session: Generation, now: Instant) -> bool {
        let in_use = matches!(self.state, State::Closed { .. });
        self.is_paused(now) || (!in_use && session != Generation(self.pauses))
    }

    /// A session is about to be opened, which [`Breaker::permit`] allowed.
    pub fn opening(&mut self) -> Generation {
        if matches!(self.state, State::Paused { .. }) {
            self.state = State::Probing;
        }
        Generation(self.pauses)
    }

    /// The server took a mail in a session.
    pub fn worked(&mut self, session: Generation) {
        let is_closed = matches!(self.state, State::Closed { .. });
        if is_closed || session == Generation(self.pauses) {
            self.forgive();
        }
    }

    /// What was held against the server may be gone: its files changed, or a person allows it.
    pub fn forgive(&mut self) {
        self.state = State::Closed { failures: 0, not_before: None };
        self.last = None;
    }

    /// A session ended that was opened and proved nothing: a probe without an answer is tried again.
    pub fn ended(&mut self, now: Instant) {
        if matches!(self.state, State::Probing) {
            self.state = State::Paused { until: now };
        }
    }

    /// A session could not be opened, or failed for a reason that lies with the server.
    pub fn failed(&mut self, trouble: Trouble, now: Instant) {
        let (what, pause) = match trouble {
            Trouble::Lasting(what, pause) => (what, Some(pause)),
            Trouble::Failure(what) => (what, None),
        };
        self.last = Some(what);
        let was_in_use = matches!(self.state, State::Closed { .. });
        self.state = match (&self.state, pause) {
            (_, Some(pause)) => State::Paused { until: now + pause },
            // Sessions that were open when the server was given up report late: that prolongs nothing.
            (State::Paused { until }, None) if *until > now => State::Paused { until: *until },
            (State::Paused { .. } | State::Probing, None) => State::Paused { until: now + self.limits.pause },
            (State::Closed { failures, .. }, None) => {
                let failures = failures.saturating_add(1);
                if failures >= self.limits.consecutive_failures {
                    State::Paused { until: now + self.limits.pause }
                } else {
                    State::Closed { failures, not_before: Some(now + spacing(failures)) }
                }
            }
        };
        if was_in_use && matches!(self.state, State::Paused { .. }) {
            self.pauses += 1;
        }
    }

    /// Why the server can't be used, when that is worth telling.
    pub fn unavailable(&self) -> Option<&Unavailable> {
        let tell = match self.state {
            State::Closed { failures, .. } => failures >= WORTH_REPORTING.min(self.limits.consecutive_failures),
            State::Paused { .. } | State::Probing => true,
        };
        self.last.as_ref().filter(|_| tell)
    }
}

fn spacing(failures: u32) -> Duration {
    (FIRST_SPACING * 2_u32.saturating_pow(failures.saturating_sub(1).min(16))).min(LONGEST_SPACING)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Reason;

    const LIMITS: Limits = Limits { consecutive_failures: 5, pause: Duration::from_secs(30) };

    fn refused() -> Trouble {
        Trouble::Failure(Unavailable { reason: Reason::ConnectFailed, message: "refused".into() })
    }

    fn after(failures: u32, now: Instant) -> Breaker {
        let mut breaker = Breaker::new(LIMITS);
        for _ in 0..failures {
            breaker.failed(refused(), now);
        }
        breaker
    }

    #[test]
    fn failures_space_out_connections_up_to_a_second() {
        let now = Instant::now();
        assert_eq!(after(0, now).permit(now), Permit::Granted);
        assert_eq!(after(1, now).permit(now), Permit::At(now + Duration::from_millis(100)));
        assert_eq!(after(2, now).permit(now), Permit::At(now + Duration::from_millis(200)));
        assert_eq!(spacing(60), Duration::from_secs(1));
    }

    #[test]
    fn enough_failures_in_a_row_pause_the_server_and_one_probe_follows() {
        let now = Instant::now();
        let mut breaker = after(5, now);
        assert_eq!(breaker.permit(now), Permit::At(now + LIMITS.pause));
        let later = now + LIMITS.pause;
        assert_eq!(breaker.permit(later), Permit::Granted);
        breaker.opening();
        assert_eq!(breaker.permit(later), Permit::Probing);
        breaker.failed(refused(), later);
        assert_eq!(breaker.permit(later), Permit::At(later + LIMITS.pause));
    }

    #[test]
    fn a_server_that_works_is_forgiven() {
        let now = Instant::now();
        let mut breaker = after(4, now);
        assert!(breaker.unavailable().is_some());
        let session = breaker.opening();
        breaker.worked(session);
        assert!(breaker.unavailable().is_none());
        breaker.failed(refused(), now);
        assert_eq!(breaker.permit(now), Permit::At(now + Duration::from_millis(100)));
    }

    #[test]
    fn a_late_success_of_an_older_session_ends_no_pause() {
        let now = Instant::now();
        let mut breaker = after(0, now);
        let older = breaker.opening();
        let what = Unavailable { reason: Reason::RelayDenied, message: "554".into() };
        breaker.failed(Trouble::Lasting(what.clone(), LIMITS.pause), now);
        breaker.worked(older);
        assert_eq!(breaker.permit(now), Permit::At(now + LIMITS.pause));
        let probe = breaker.opening();
        breaker.worked(older);
        let later = now + LIMITS.pause;
        assert_eq!(breaker.permit(later), Permit::Probing);
        assert_eq!((breaker.shuts_out(older, later), breaker.shuts_out(probe, later)), (true, false));
        // One that fails late meanwhile does not make the probe an older session.
        breaker.failed(Trouble::Lasting(what, LIMITS.pause), now);
        breaker.worked(probe);
        assert_eq!((breaker.permit(now), breaker.unavailable()), (Permit::Granted, None));
    }

    #[test]
    fn a_probe_that_ends_without_a_mail_is_repeated() {
        let now = Instant::now();
        let mut breaker = after(5, now);
        let later = now + LIMITS.pause;
        breaker.opening();
        breaker.ended(later);
        assert_eq!(breaker.permit(later), Permit::Granted);
    }

    #[test]
    fn open_sessions_end_with_the_pause_and_only_slow_down_before_it() {
        let now = Instant::now();
        assert!(!after(4, now).is_paused(now));
        assert!(after(5, now).is_paused(now));
        assert!(!after(5, now).is_paused(now + LIMITS.pause));
    }

    #[test]
    fn sessions_that_report_late_do_not_prolong_the_pause() {
        let now = Instant::now();
        let mut breaker = after(5, now);
        breaker.failed(refused(), now + Duration::from_secs(10));
        assert_eq!(breaker.permit(now), Permit::At(now + LIMITS.pause));
    }

    #[test]
    fn a_refused_login_pauses_at_once_until_the_files_change() {
        let now = Instant::now();
        let mut breaker = Breaker::new(LIMITS);
        let what = Unavailable { reason: Reason::AuthenticationFailed, message: "535".into() };
        breaker.failed(Trouble::Lasting(what.clone(), LONG_PAUSE), now);
        assert_eq!(breaker.permit(now), Permit::At(now + LONG_PAUSE));
        assert_eq!(breaker.unavailable(), Some(&what));
        breaker.forgive();
        assert_eq!(breaker.permit(now), Permit::Granted);
        assert_eq!(breaker.unavailable(), None);
    }

    #[test]
    fn one_failure_is_not_worth_an_alarm() {
        assert!(after(1, Instant::now()).unavailable().is_none());
    }
}
