//! Where a worker stands in a pool.

use super::clock::BootTime;

/// What a worker holds of a pool now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// Whether the ledger knows this incarnation and its lease has not ended.
    pub registered: bool,
    /// Whether it claims nothing until it is woken.
    pub resting: bool,
    /// Whether the ledger was in recovery at the last answer, so that nothing grows.
    pub recovering: bool,
    /// The pod's share.
    pub entitlement: u32,
    /// Slots counted against us in the ledger.
    pub claim: u32,
    /// Slots we may open up to.
    pub limit: u32,
    /// Slots counted here: from before `connect()` until EOF.
    pub counted: u32,
    /// Sessions connected.
    pub open: u32,
    /// Sessions in a mail transaction.
    pub busy: u32,
    /// When the lease ends, unless renewed; `None` also while nothing is claimed that could end.
    pub deadline: Option<BootTime>,
}
