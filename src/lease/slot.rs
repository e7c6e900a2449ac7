//! The worker's handle on a pool.
#![allow(missing_docs, clippy::all, unused_variables, dead_code)]
use std::time::Duration;

use super::{clock::BootTime, deadman::DeadManSwitch, evidence::Identity, timing::Timing};
use crate::store::Store;

/// What a worker holds of a pool now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SlotStatus {
    /// Whether the ledger knows this incarnation and its lease has not ended.
    pub registered: bool,
    /// Whether the ledger is in recovery, so that nothing grows.
    pub recovering: bool,
    /// The pod's share.
    pub entitlement: u32,
    /// Slots counted against us.
    pub claim: u32,
    /// Slots we may open up to.
    pub limit: u32,
    /// Slots counted here: from before connect() until EOF.
    pub counted: u32,
    /// Sessions connected.
    pub open: u32,
    /// Sessions in a mail transaction.
    pub busy: u32,
    /// When the lease ends, unless renewed.
    pub deadline: Option<BootTime>,
}

#[derive(Clone)]
pub struct SlotPool {
    _x: (),
}
impl SlotPool {
    pub fn spawn(store: Store, pool: &str, identity: Identity, timing: Timing) -> Self {
        todo!()
    }
    pub fn spawn_with(
        store: Store,
        pool: &str,
        identity: Identity,
        timing: Timing,
        switch: Box<dyn DeadManSwitch>,
    ) -> Self {
        todo!()
    }
    pub async fn acquire(&self) -> Slot {
        todo!()
    }
    pub fn try_acquire(&self) -> Option<Slot> {
        todo!()
    }
    pub fn status(&self) -> SlotStatus {
        todo!()
    }
    pub fn watch(&self) -> tokio::sync::watch::Receiver<SlotStatus> {
        todo!()
    }
    pub fn set_want(&self, n: u32) {
        todo!()
    }
    pub fn set_session_timeout(&self, hold: Duration) {
        todo!()
    }
    pub fn set_close_grace(&self, grace: Duration) {
        todo!()
    }
    pub async fn shutdown(self) {
        todo!()
    }
}
pub struct Slot {
    _x: (),
}
impl Slot {
    pub fn set_busy(&self, busy: bool) {
        todo!()
    }
    pub fn is_revoked(&self) -> bool {
        todo!()
    }
    pub async fn revoked(&self) {
        todo!()
    }
    pub fn may_start(&self) -> bool {
        todo!()
    }
    pub fn may_commit(&self) -> bool {
        todo!()
    }
    pub fn time_left(&self) -> Duration {
        todo!()
    }
    pub async fn expired(&self) {
        todo!()
    }
    pub fn connected(&self) {
        todo!()
    }
    pub fn release(self) {
        todo!()
    }
    pub fn quarantine(self, why: &'static str, hold: Duration) {
        todo!()
    }
}
