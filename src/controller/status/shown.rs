//! What is shown of one relay, and how often that may be written.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    compose::steady,
    debts::{Debt, Owed},
    measured::Measured,
};
use crate::{api::MailRelayStatus, controller::plan::RelayKey, lease::BootTime, queue::Presence};

/// How often a status is written when nothing but figures moved.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// The least time between two writes of one status.
const PROMPT_EVERY: Duration = Duration::from_millis(250);
/// How long a relay is measured in every tick after something stirred: workers write their reports a moment later.
const LINGER: Duration = Duration::from_secs(5);
/// How much more seldom the sum of all mails is looked at where nothing stirs.
const AUDIT_SELDOM: u32 = 6;
/// Writes a second in all.
const WRITES: u32 = 20;

/// What is remembered of one relay.
#[derive(Default)]
pub struct Shown {
    pub status: Option<MailRelayStatus>,
    pub written: Option<Instant>,
    /// Since when the status is another than the one that is written.
    pub behind: Option<BootTime>,
    pub measured: Measured,
    pub measured_at: Option<Instant>,
    /// After how long it is measured again though nothing stirs.
    pub rest: Duration,
    /// What of the queue was there when it was measured.
    pub presence: Option<Presence>,
    /// When something that a measurement may show stirred last.
    pub stirred_at: Option<Instant>,
    pub audited_at: Option<Instant>,
}

impl Shown {
    /// Takes in that something of the relay, of its budgets or of its queue is another than at the look before.
    pub fn stir(&mut self) {
        self.stirred_at = Some(Instant::now());
    }

    /// Whether the relay is to be measured now: each `tick` while something stirs or did so until a moment ago, and now and
    /// then all the same.
    pub fn is_due(&self, tick: Duration) -> bool {
        let stirs = self.stirred_at.is_some_and(|at| at.elapsed() < LINGER);
        self.measured_at.is_none_or(|at| at.elapsed() >= if stirs { tick } else { self.rest })
    }

    /// Whether the sum of all mails is to be looked at: every `period` when anything stirred since, and else seldom.
    pub fn owes_audit(&self, period: Duration) -> bool {
        self.audited_at.is_none_or(|at| {
            let stirred = self.stirred_at.is_some_and(|stirred| stirred >= at);
            at.elapsed() >= if stirred { period } else { period * AUDIT_SELDOM }
        })
    }

    /// Takes in what the API server shows. A leader that was stopped, and does not know yet that it leads no more, may
    /// have written over it.
    pub fn notice(&mut self, observed: Option<&MailRelayStatus>) {
        let settled = self.written.is_some_and(|written| written.elapsed() >= FIGURES_EVERY);
        let (Some(observed), Some(ours)) = (observed.filter(|_| settled), &self.status) else { return };
        if steady(observed) != steady(ours) {
            self.status = Some(observed.clone());
        }
    }

    /// What is owed while `new` is the status and `old` is written, if a write is worth it by now.
    pub fn owes(&mut self, key: &RelayKey, new: &MailRelayStatus, old: &MailRelayStatus) -> Option<Debt> {
        if new == old {
            self.behind = None;
            return None;
        }
        let since = *self.behind.get_or_insert_with(BootTime::now);
        let (new, old) = (steady(new), steady(old));
        let (owed, patience) = if new.leases != old.leases {
            (Owed::Mirror, PROMPT_EVERY)
        } else if new != old {
            (Owed::Change, PROMPT_EVERY)
        } else {
            (Owed::Figures, FIGURES_EVERY)
        };
        let rests = self.written.is_some_and(|written| written.elapsed() < patience);
        (!rests).then(|| Debt { relay: key.clone(), owed, since, patience })
    }
}

/// Writes that may still be made in this second.
pub struct Allowance {
    left: f64,
    at: Instant,
}

impl Allowance {
    /// A whole second's writes.
    pub fn new() -> Self {
        Self { left: f64::from(WRITES), at: Instant::now() }
    }

    pub fn is_left(&mut self) -> bool {
        let now = Instant::now();
        let gained = (now - self.at).as_secs_f64() * f64::from(WRITES);
        (self.left, self.at) = ((self.left + gained).min(f64::from(WRITES)), now);
        self.left >= 1.0
    }

    pub fn take(&mut self) {
        self.left -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::QueueStatus;

    #[test]
    fn a_status_that_another_leader_wrote_over_is_written_again_once_ours_must_have_been_seen() {
        let ours = MailRelayStatus { ready_workers: Some(2), ..MailRelayStatus::default() };
        let theirs = MailRelayStatus { ready_workers: Some(1), ..MailRelayStatus::default() };
        let after = |seconds, observed: &MailRelayStatus| {
            let written = Instant::now().checked_sub(Duration::from_secs(seconds));
            let mut shown = Shown { status: Some(ours.clone()), written, ..Shown::default() };
            shown.notice(Some(observed));
            shown.status.expect("a status")
        };
        assert_eq!(after(6, &theirs), theirs, "what is compared with is what the API server has");
        assert_eq!(after(1, &theirs), ours, "the watch may be behind our own write");
        let busier =
            MailRelayStatus { queue: Some(QueueStatus { pending: 7, ..QueueStatus::default() }), ..ours.clone() };
        assert_eq!(after(6, &busier), ours, "figures follow by themselves");
    }
}
