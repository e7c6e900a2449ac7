//! Rest: a process without a session gives its claim back and has no lease to renew. It listens, is heard at long intervals,
//! and claims again when something is to be sent.
//!
//! Its share stays its own. Whoever claims nothing is no danger to the cap, so its silence proves nothing and costs nothing
//! ([`HolderView::is_resting`](crate::lease::HolderView::is_resting)).

use super::{Holder, Stage};

impl Holder {
    /// Gives everything back until [`Holder::wake`], if nothing is open here or to be told of, and nothing is waited for that
    /// others have yet to give back. Returns whether it rests or soon will.
    pub fn rest(&mut self) -> bool {
        let is_quiet = self.stage == Stage::Held && !self.recovering && self.counted() == 0 && !self.is_short();
        if !self.resting && is_quiet && !self.has_untold() && self.proven.is_empty() && !self.closing {
            (self.resting, self.due) = (true, true);
        }
        self.resting
    }

    /// Something is to be sent: claims again at once.
    pub fn wake(&mut self) {
        if std::mem::take(&mut self.resting) {
            self.due = true;
        }
    }

    /// Whether the ledger knows that nothing is wanted here.
    pub fn is_resting(&self) -> bool {
        self.resting && self.stage == Stage::Held && self.deadline.is_none()
    }

    /// How many slots could be used from now on.
    pub(super) fn wanted(&self) -> u32 {
        if self.closing || self.resting { 0 } else { self.want }
    }
}
