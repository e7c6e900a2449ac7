//! Counting a try for the mail, or for each of its recipients. Pure.

use std::collections::BTreeMap;

use super::{Header, Patience, Schedule};
use crate::mail::UnixMillis;

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
        let mut header = crate::queue::header::tests::header();
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
