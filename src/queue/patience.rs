//! What a mail and its recipients have behind them, and when that is enough. Pure.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Header, Schedule, UnixMillis};
use crate::api::Retry;

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

impl Header {
    /// What a recipient has behind it.
    pub fn patience_with(&self, recipient: &str) -> Patience {
        if self.recipients.is_empty() {
            self.patience
        } else {
            self.recipients.get(recipient).copied().unwrap_or_default()
        }
    }

    /// Counts a try that judged some of the recipients that are still to be sent to; without names, the whole mail.
    pub(super) fn count_attempt(&mut self, open: &[String], judged: &[(String, Schedule)], now: UnixMillis) {
        self.attempts = self.attempts.saturating_add(1);
        let shared = match (open, judged) {
            (_, []) => Some(Schedule::Judged),
            ([_], [(_, schedule), ..]) => Some(*schedule),
            (_, [(_, first), ..]) => {
                let alike = judged.len() == open.len() && judged.iter().all(|(_, schedule)| schedule == first);
                Some(*first).filter(|_| alike)
            }
        };
        if let ([one], Some(_)) = (open, shared) {
            self.patience = self.patience_with(one);
            self.recipients.clear();
        }
        if let Some(schedule) = shared {
            self.patience.count(schedule, now);
            self.recipients.values_mut().for_each(|patience| patience.count(schedule, now));
            return;
        }
        let mut each: BTreeMap<_, _> = open.iter().map(|one| (one.clone(), self.patience_with(one))).collect();
        for (recipient, schedule) in judged {
            each.entry(recipient.clone()).or_default().count(*schedule, now);
        }
        each.retain(|_, patience| *patience != Patience::default());
        (self.patience, self.recipients) = (Patience::default(), each);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attempts_are_counted_for_each_recipient() {
        let (one, two) = ("a@example.org".to_owned(), "b@example.org".to_owned());
        let open = [one.clone(), two.clone()];
        let mut header = crate::queue::envelope::tests::header();
        header.count_attempt(&open, &[(one.clone(), Schedule::Judged), (two.clone(), Schedule::Judged)], UnixMillis(7));
        assert_eq!((header.attempts, header.patience.judged, header.recipients.len()), (1, 1, 0));
        header.count_attempt(&open, &[(one.clone(), Schedule::Greylisted)], UnixMillis(8));
        assert_eq!((header.patience_with(&one).judged, header.patience_with(&two).judged), (1, 1));
        assert_eq!(header.patience_with(&one).tries(Schedule::Greylisted), 1);
        assert_eq!(header.patience_with(&two).tries(Schedule::Greylisted), 0);
        let line = serde_json::to_vec(&header).expect("JSON");
        assert_eq!(serde_json::from_slice::<Header>(&line).expect("a header"), header);
        // What one has left is the mail's own again.
        header.count_attempt(&open[1..], &[(two.clone(), Schedule::Judged)], UnixMillis(9));
        assert_eq!((header.attempts, header.patience.judged, header.recipients.len()), (3, 2, 0));
    }
}
