//! When a mail is tried again. Pure: clock and randomness are arguments.

use std::time::Duration;

use super::{Counted, Header, Settlement, UnixMillis};
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
pub fn next_step(header: &Header, failure: Failure, retry: &Retry, now: UnixMillis, random: f64) -> Settlement {
    let Failure { counted, reason, reply, delay } = failure;
    let before = match counted {
        Counted::Attempt => header.attempts,
        Counted::Deferral => header.deferrals,
    };
    if counted == Counted::Attempt && before >= u32::try_from(retry.max_retries).unwrap_or(0) {
        return Settlement::Dead { reason: "RetriesExhausted".into(), reply };
    }
    let wait = backoff(before, retry, random).max(delay.unwrap_or_default());
    Settlement::Delayed { due: now.after(wait), counted, reason, reply }
}
