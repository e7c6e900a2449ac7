//! What is shown of one relay, and how often that may be written.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    compose::steady,
    debts::{Debt, Owed},
    measured::Measured,
};
use crate::{api::MailRelayStatus, controller::plan::RelayKey, lease::BootTime};

/// How often a status is written when nothing but figures moved.
const FIGURES_EVERY: Duration = Duration::from_secs(5);
/// The least time between two writes of one status.
const PROMPT_EVERY: Duration = Duration::from_millis(250);
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
    pub audited_at: Option<Instant>,
}

impl Shown {
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
