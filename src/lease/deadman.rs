//! The seam of the dead-man switch (leases.md R6). The switch itself, a kernel timer that kills the process at the
//! deadline even while it is stopped, comes later; until then [`NoSwitch`] stands in its place.

use super::clock::BootTime;

/// Kills the process at the deadline unless it is armed anew.
pub trait DeadManSwitch: Send + Sync {
    /// Kill at `deadline`. Called before a slot is counted, so before its `connect()`, and at each renewal while any is.
    fn arm(&self, deadline: BootTime);
    /// No slot is counted any more.
    fn disarm(&self);
}

/// No protection: what a stopped process holds stays open past its deadline.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoSwitch;

impl DeadManSwitch for NoSwitch {
    fn arm(&self, _deadline: BootTime) {}
    fn disarm(&self) {}
}
