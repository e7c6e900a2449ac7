//! The conservation sum.

use serde::Serialize;

use crate::mail::UnixMillis;

/// `accepted = delivered + duplicates + expired + discarded + queued + delayed + in flight + held + dead`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// Mails taken in: by the enqueue script, by first claim, and raw ones that still wait.
    pub accepted: u64,
    /// A server has them.
    pub delivered: u64,
    /// Dropped, since an earlier mail stands for them.
    pub duplicates: u64,
    /// Dropped, since their time had passed.
    pub expired: u64,
    /// Dropped by a person.
    pub discarded: u64,
    /// In the lists.
    pub queued: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// In the hands of a process.
    pub in_flight: u64,
    /// Parked.
    pub held: u64,
    /// Dead letters.
    pub dead: u64,
    /// Part of `accepted`: pushed by plain LPUSH and not claimed yet. They are on both sides of the sum: raw arrivals
    /// are not counted independently.
    pub raw_waiting: u64,
    /// Accepted less everything accounted for; 0 unless mail was lost or made outside the scripts.
    pub difference: i64,
    /// Since when mails are counted; nothing is known of mails before. None when no mail was ever counted.
    pub since: Option<UnixMillis>,
    /// What could not be verified, a sentence each: a difference of 0 does not vouch for that.
    pub unverified: Vec<String>,
}

impl Audit {
    /// The right-hand side of the sum.
    pub fn accounted(&self) -> u64 {
        self.delivered
            + self.duplicates
            + self.expired
            + self.discarded
            + self.queued
            + self.delayed
            + self.in_flight
            + self.held
            + self.dead
    }

    /// How many of the entries that wait, `pending`, were not counted before: `known` were by the counter, `recounted` by
    /// looking at them.
    ///
    /// What lies there says more than the counter, so that raw mail cannot stand in for lost mail. But an entry that only
    /// looks as if it had been counted may be a producer's, who forged a header: it is told, and makes no difference.
    /// While one of those is looked at, the counter is one too low, and may be below 0.
    pub(super) fn raw_waiting(pending: u64, known: i64, recounted: Option<u64>) -> u64 {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let counted = recounted.map_or(known, |found| signed(found).min(known));
        u64::try_from(signed(pending).saturating_sub(counted)).unwrap_or(0)
    }

    /// The same figures with what could not be verified. `known` and `recounted` as for [`Audit::raw_waiting`];
    /// `due_times` is how many delayed mails have one.
    pub(super) fn doubted(mut self, known: i64, recounted: Option<u64>, due_times: u64) -> Self {
        let known = u64::try_from(known).unwrap_or(0);
        let mut doubts = Vec::new();
        let mut doubt = |sentence: String| doubts.push(sentence);
        match recounted {
            None => doubt(format!(
                "too much waits to be counted at once ({} mails): raw mails among them may stand in for lost ones",
                self.queued
            )),
            Some(found) if found < known => doubt(format!(
                "{known} counted mails should wait and {found} do: they were removed by hand, or a script failed half-way"
            )),
            Some(found) if found > known => doubt(format!(
                "{found} waiting mails look counted and {known} were: producers forged headers, or counters were lost"
            )),
            Some(_) => {}
        }
        if due_times != self.delayed {
            doubt(format!(
                "{} delayed mails have {due_times} due times: a mail without one stays where it is, a time without a mail is a mail that was removed",
                self.delayed
            ));
        }
        if self.since.is_none() && self.accounted() > self.raw_waiting {
            doubt(
                "the counters are gone, and with them every mail that was accepted before and lies nowhere now".into(),
            );
        }
        self.unverified = doubts;
        self
    }

    /// The same figures with the difference computed.
    pub fn balanced(mut self) -> Self {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.difference = signed(self.accepted).saturating_sub(signed(self.accounted()));
        self
    }
}
