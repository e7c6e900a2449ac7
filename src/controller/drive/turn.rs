//! One turn of a pool.

use std::collections::BTreeSet;

use crate::{
    controller::observe::Topology,
    lease::{Evidence, Snapshot, Timing},
};

/// What is known beside the ledger in one turn.
pub struct Turn<'a> {
    /// Our epoch.
    pub epoch: u64,
    /// The protocol's times.
    pub timing: &'a Timing,
    /// Proofs of death.
    pub evidence: &'a Evidence,
    /// What the nodes of Redis said of their replication.
    pub topology: &'a Topology,
}

/// How a turn ended.
#[derive(Clone, Debug)]
pub struct Driven {
    /// The last look.
    pub snapshot: Snapshot,
    /// The pool must be marked as opened before it can be.
    pub wants_mark: bool,
    /// The ledger is gone: nobody names the pool and nothing was left on it.
    pub removed: bool,
    /// The slots that are shared out while the server takes fewer sessions than the budget (R10).
    pub effective: Option<u32>,
    /// The new ledger opens only when every worker has come over from a node that may still take writes (R8).
    pub by_roll_call: bool,
    /// UIDs of pods that rest while their shares are lent to other relays.
    pub idle: BTreeSet<String>,
}
