//! The conservation sum.

use serde::Serialize;

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

    /// The same figures with the difference computed.
    pub fn balanced(mut self) -> Self {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.difference = signed(self.accepted).saturating_sub(signed(self.accounted()));
        self
    }
}
