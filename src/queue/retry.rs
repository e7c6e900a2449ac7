//! When a mail is tried again, and when no more. Pure: clock and randomness are arguments, and waits are counted by Redis'
//! clock from the settlement.

use std::time::Duration;

use super::{Counted, Header, Schedule, Settlement};
use crate::{api::Retry, mail::UnixMillis};

/// The waits of a greylisted mail, in `maxBackoff`: 1, 5, 10, 20, 40 minutes by default, and then an hour each. The first
/// one is short, since many servers let a mail in after a minute.
const GREYLIST: [u32; 6] = [1, 5, 10, 20, 40, 60];

/// The waits of a mail whose refusal may have judged us.
const SUSPICION: [Duration; 4] =
    [Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60), Duration::from_secs(300)];

/// The wait before try number `n + 1`: `initialBackoff * 2^n`, at most `maxBackoff`, plus up to `jitterPercent` of it;
/// `random` is from 0 to 1.
pub fn backoff(n: u32, retry: &Retry, random: f64) -> Duration {
    let base = retry.initial_backoff.get().saturating_mul(2u32.saturating_pow(n)).min(retry.max_backoff.get());
    jittered(base, retry, random)
}

fn jittered(base: Duration, retry: &Retry, random: f64) -> Duration {
    let jitter = f64::from(retry.jitter_percent.clamp(0, 100)) / 100.0 * random.clamp(0.0, 1.0);
    base.saturating_add(base.mul_f64(jitter))
}

/// The wait after a failure that `n` of its kind came before. `asked` is the server's own "try again in": the mail waits at
/// least that long, and a greylisted one no longer.
pub fn wait(schedule: Schedule, n: u32, asked: Option<Duration>, retry: &Retry, random: f64) -> Duration {
    let nth = |len: usize| usize::try_from(n).unwrap_or(usize::MAX).min(len - 1);
    match schedule {
        Schedule::Judged | Schedule::Patient | Schedule::Free => {
            backoff(n, retry, random).max(asked.unwrap_or_default())
        }
        Schedule::Greylisted => match asked {
            Some(asked) => jittered(asked.max(retry.initial_backoff.get()), retry, random),
            None => jittered(retry.max_backoff.get().saturating_mul(GREYLIST[nth(GREYLIST.len())]), retry, random),
        },
        Schedule::Suspected => jittered(SUSPICION[nth(SUSPICION.len())], retry, random).max(asked.unwrap_or_default()),
    }
}

/// What a failed try was, so that the next step can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether the server judged this mail, and for how long it is worth trying.
    pub schedule: Schedule,
    /// A word for the kind of failure, such as `Greylisted` or `ConnectFailed`.
    pub reason: String,
    /// The server's reply or the error.
    pub reply: String,
    /// The server's own "try again in", when it said so.
    pub delay: Option<Duration>,
}

/// The reason of a dead letter that waited longer than `maxAge`.
pub const TOO_OLD: &str = "TooOld";

/// Whether a mail has waited for so long that a failed try is its last, whatever the reason.
pub fn is_too_old(header: &Header, retry: &Retry, now: UnixMillis) -> bool {
    now.since(header.since) >= retry.max_age.get()
}

/// The next step of a mail with one recipient, or whose recipients share what happened: delayed, or to the dead letters
/// when its attempts are used up or it is too old. Free deferrals are never used up: a ten-minute outage must not empty the
/// queue into the dead letters.
pub fn next_step(header: &Header, failure: Failure, retry: &Retry, now: UnixMillis, random: f64) -> Settlement {
    let Failure { schedule, reason, reply, delay } = failure;
    if header.patience.is_exhausted(schedule, retry, now) {
        return Settlement::Dead { reason: "RetriesExhausted".into(), reply };
    }
    if is_too_old(header, retry, now) {
        return Settlement::Dead { reason: TOO_OLD.into(), reply };
    }
    let before = match schedule.counted() {
        Counted::Attempt => header.patience.tries(schedule),
        Counted::Deferral => header.deferrals,
    };
    let wait = wait(schedule, before, delay, retry, random);
    Settlement::Delayed { wait, counted: schedule.counted(), reason, reply }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queue::Patience;

    const START: UnixMillis = UnixMillis(1_790_000_000_000);

    /// When a mail that always fails in this way is tried, in seconds from its first try, and how it ends.
    fn tries(schedule: Schedule, retry: &Retry, most: usize) -> (Vec<u64>, bool) {
        let (mut patience, mut now, mut at) = (Patience::default(), START, Vec::new());
        while at.len() < most {
            at.push(now.since(START).as_secs());
            if patience.is_exhausted(schedule, retry, now) {
                return (at, true);
            }
            let wait = wait(schedule, patience.tries(schedule), None, retry, 0.0);
            patience.count(schedule, now);
            now = now.after(wait);
        }
        (at, false)
    }

    #[test]
    fn row_14_a_judged_mail_is_tried_three_times_more_with_waits_that_double() {
        let (at, dead) = tries(Schedule::Judged, &Retry::default(), 100);
        assert_eq!((at, dead), (vec![0, 1, 3, 7], true));
        let seconds: Vec<u64> = (0..9).map(|n| backoff(n, &Retry::default(), 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(0, &Retry::default(), 1.0), Duration::from_millis(1_200));
    }

    #[test]
    fn a_mail_that_is_put_off_without_a_reason_that_lasts_is_tried_for_an_hour() {
        let (at, dead) = tries(Schedule::Patient, &Retry::default(), 1_000);
        assert!(dead && (3_600..3_700).contains(at.last().expect("tries")), "{at:?}");
    }

    #[test]
    fn a_greylisted_mail_is_tried_within_two_minutes_and_for_four_hours_at_least() {
        let (at, dead) = tries(Schedule::Greylisted, &Retry::default(), 1_000);
        assert_eq!(at[..6], [0, 60, 360, 960, 2_160, 4_560]);
        assert!(dead && *at.last().expect("tries") >= 4 * 3_600, "{at:?}");
        let short = Retry { max_backoff: crate::api::DurationText::from_secs(1), ..Retry::default() };
        let (at, _) = tries(Schedule::Greylisted, &short, 100_000);
        assert!(*at.last().expect("tries") >= 4 * 3_600, "a short maxBackoff does not end it sooner");
    }

    #[test]
    fn free_deferrals_end_with_the_age_of_the_mail_and_not_before() {
        let header = Header { since: START, deferrals: 100_000, ..crate::queue::header::tests::header() };
        let next = |seconds| {
            let failure = Failure {
                schedule: Schedule::Free,
                reason: "ConnectFailed".into(),
                reply: "refused".into(),
                delay: None,
            };
            next_step(&header, failure, &Retry::default(), START.after(Duration::from_secs(seconds)), 0.0)
        };
        let five_days = 5 * 24 * 3_600;
        assert!(matches!(next(five_days - 1), Settlement::Delayed { .. }));
        let dead = Settlement::Dead { reason: "TooOld".into(), reply: "refused".into() };
        assert_eq!(next(five_days), dead);
    }

    #[test]
    fn a_schedule_that_changes_begins_anew() {
        let mut patience = Patience::default();
        patience.count(Schedule::Greylisted, START);
        let later = START.after(Duration::from_secs(5 * 3_600));
        assert!(patience.is_exhausted(Schedule::Greylisted, &Retry::default(), later));
        assert!(!patience.is_exhausted(Schedule::Patient, &Retry::default(), later));
        assert!(!patience.is_exhausted(Schedule::Judged, &Retry::default(), later));
    }

    #[test]
    fn the_servers_own_delay_is_honoured() {
        let waits =
            |schedule, seconds| wait(schedule, 0, Some(Duration::from_secs(seconds)), &Retry::default(), 0.0).as_secs();
        for schedule in [Schedule::Judged, Schedule::Patient, Schedule::Greylisted, Schedule::Free] {
            assert_eq!(waits(schedule, 300), 300, "{schedule:?}");
            assert_eq!(waits(schedule, 0), 1, "{schedule:?}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_is_never_shorter_than_the_base_nor_longer_than_the_cap_and_its_jitter(n in any::<u32>(), random in any::<f64>()) {
            let retry = Retry::default();
            let wait = backoff(n, &retry, random);
            prop_assert!(wait >= Duration::from_secs(1));
            prop_assert!(wait <= Duration::from_secs(72));
        }
    }
}
