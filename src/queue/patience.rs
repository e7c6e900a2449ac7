//! What a mail and its recipients have behind them, and when that is enough. Pure.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Schedule;
use crate::{api::Retry, mail::UnixMillis};

/// For how many times `maxBackoff` a mail is tried that a server puts off without a reason that lasts: an hour by default.
const PATIENCE: u32 = 60;

/// For how many times `maxBackoff` a greylisted mail is tried, and for how long at least.
const GREYLIST_PATIENCE: (u32, Duration) = (240, Duration::from_secs(4 * 3_600));

/// What a mail, or one recipient of it, has behind it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Patience {
    /// Tries that `maxRetries` counts.
    #[serde(skip_serializing_if = "is_zero")]
    pub judged: u32,
    /// The schedule that is measured by time, when the last such try had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub schedule: Option<Schedule>,
    /// How many tries in a row had it.
    #[serde(skip_serializing_if = "is_zero")]
    pub tries: u32,
    /// When the first of those was.
    #[serde(skip_serializing_if = "is_never")]
    pub since: UnixMillis,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_never(time: &UnixMillis) -> bool {
    time.0 == 0
}

impl Patience {
    /// One more try that cost an attempt.
    pub fn count(&mut self, schedule: Schedule, now: UnixMillis) {
        match schedule {
            Schedule::Judged => self.judged = self.judged.saturating_add(1),
            _ if self.schedule == Some(schedule) => self.tries = self.tries.saturating_add(1),
            _ => (self.schedule, self.tries, self.since) = (Some(schedule), 1, now),
        }
    }

    /// How many tries the schedule had before.
    pub fn tries(&self, schedule: Schedule) -> u32 {
        match schedule {
            Schedule::Judged => self.judged,
            _ if self.schedule == Some(schedule) => self.tries,
            _ => 0,
        }
    }

    /// Whether one more failure by this schedule is the last.
    pub fn is_exhausted(&self, schedule: Schedule, retry: &Retry, now: UnixMillis) -> bool {
        let lasted = |limit| self.tries(schedule) > 0 && now.since(self.since) >= limit;
        let times = |count| retry.max_backoff.get().saturating_mul(count);
        match schedule {
            Schedule::Judged => self.judged >= u32::try_from(retry.max_retries).unwrap_or(0),
            Schedule::Patient => lasted(times(PATIENCE)),
            Schedule::Greylisted => lasted(times(GREYLIST_PATIENCE.0).max(GREYLIST_PATIENCE.1)),
            Schedule::Free | Schedule::Suspected => false,
        }
    }
}
