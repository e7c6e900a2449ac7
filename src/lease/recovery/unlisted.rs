//! What a mirror had no room to list.

use std::collections::BTreeSet;

use crate::lease::state::LedgerView;

/// Slots of holders that the mirror of the leader before did not list.
#[derive(Clone, Debug)]
pub(super) struct Unlisted {
    pub(super) slots: u32,
    /// Processes that it did list.
    pub(super) listed: BTreeSet<String>,
}

impl Unlisted {
    /// The slots of those that did not come back. Whoever re-asserts without having been listed is one of them.
    pub(super) fn missing(&self, view: &LedgerView) -> u32 {
        let back = view.holders.iter().filter(|holder| !self.listed.contains(&holder.process));
        self.slots.saturating_sub(back.fold(0, |sum, holder| sum.saturating_add(holder.claim)))
    }
}
