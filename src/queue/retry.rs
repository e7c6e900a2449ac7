//! When a mail is tried again. Pure: randomness is an argument, and waits are counted by Redis' clock from its settlement.

use std::time::Duration;

use super::{Counted, Header, Settlement};
use crate::api::Retry;

/// The wait before try number `n + 1`: `initialBackoff * 2^n`, at most `maxBackoff`, plus up to `jitterPercent` of it;
/// `random` is from 0 to 1.
pub fn backoff(n: u32, retry: &Retry, random: f64) -> Duration {
    let base = retry.initial_backoff.get().saturating_mul(2u32.saturating_pow(n)).min(retry.max_backoff.get());
    let jitter = f64::from(retry.jitter_percent.clamp(0, 100)) / 100.0 * random.clamp(0.0, 1.0);
    base.saturating_add(base.mul_f64(jitter))
}

/// What a failed try was, so that the next step can be decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Whether the server judged this mail, or the relay could not be used.
    pub counted: Counted,
    /// A word for the kind of failure, such as `Greylisted` or `ConnectFailed`.
    pub reason: String,
    /// The server's reply or the error.
    pub reply: String,
    /// The server's own "try again in", when it said so: the mail waits at least that long.
    pub delay: Option<Duration>,
}

/// The next step after a failed try: delayed, or to the dead letters when its attempts are used up. Deferrals never
/// are: a ten-minute outage must not empty the queue into the dead letters.
pub fn next_step(header: &Header, failure: Failure, retry: &Retry, random: f64) -> Settlement {
    let Failure { counted, reason, reply, delay } = failure;
    let before = match counted {
        Counted::Attempt => header.attempts,
        Counted::Deferral => header.deferrals,
    };
    if counted == Counted::Attempt && before >= u32::try_from(retry.max_retries).unwrap_or(0) {
        return Settlement::Dead { reason: "RetriesExhausted".into(), reply };
    }
    let wait = backoff(before, retry, random).max(delay.unwrap_or_default());
    Settlement::Delayed { wait, counted, reason, reply }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_wait_doubles_up_to_the_cap() {
        let seconds: Vec<u64> = (0..9).map(|n| backoff(n, &Retry::default(), 0.0).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(backoff(0, &Retry::default(), 1.0), Duration::from_millis(1_200));
    }

    #[test]
    fn the_servers_own_delay_is_honoured() {
        let header = crate::queue::envelope::tests::header();
        let failure = |delay| Failure {
            counted: Counted::Attempt,
            reason: "Greylisted".into(),
            reply: String::new(),
            delay: Some(delay),
        };
        let wait = |delay| match next_step(&header, failure(delay), &Retry::default(), 0.0) {
            Settlement::Delayed { wait, .. } => wait,
            other => panic!("{other:?}"),
        };
        assert_eq!(wait(Duration::from_secs(300)), Duration::from_secs(300));
        assert_eq!(wait(Duration::from_millis(1)), Duration::from_secs(1));
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
