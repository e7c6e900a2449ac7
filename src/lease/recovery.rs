//! What the leader does to a ledger besides writing shares: pure decisions on what it saw, on its own clock.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    clock::BootTime,
    state::{Missing, Quarantine, Snapshot},
    timing::Timing,
};

/// What the leader knows besides the ledger.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// For each boot of a node (boot id), when the leader last saw the node's Lease renewed, on the leader's clock.
    pub nodes: BTreeMap<String, BootTime>,
    /// UIDs of pods whose worker process is proven dead by R5b, in the same boot of the node that the ledger names.
    pub dead: BTreeSet<String>,
}

/// How long slots are withheld, by the server (api.md).
#[derive(Clone, Copy, Debug)]
pub struct Holds {
    /// `closeGrace`.
    pub close_grace: Duration,
    /// `sessionTimeout`.
    pub session_timeout: Duration,
}

/// What the leader is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// INIT with the node's fence, a new token and the current policy.
    Init {
        /// The fence to name.
        fence: String,
        /// Quarantine that is not over.
        quarantine: Vec<Quarantine>,
    },
    /// OPEN.
    Open {
        /// The token to name.
        token: String,
        /// Who did not re-assert.
        missing: Vec<Missing>,
    },
    /// REAP.
    Reap {
        /// The token to name.
        token: String,
        /// The incarnation.
        inc: String,
        /// The seq to compare.
        seq: u64,
        /// For how long its slots are withheld.
        quarantine: Duration,
    },
    /// `REAP_DEAD`.
    ReapDead {
        /// The token to name.
        token: String,
        /// The incarnation.
        inc: String,
        /// For how long its slots are withheld.
        quarantine: Duration,
    },
    /// CLEAR.
    Clear {
        /// The token to name.
        token: String,
        /// The entry.
        id: String,
    },
}

/// What a leader saw of one pool, on its own clock.
#[derive(Clone, Debug, Default)]
pub struct Watch {}

impl Watch {
    /// Takes in a snapshot that was asked for at `now` or later.
    pub fn observe(&mut self, snapshot: &Snapshot, now: BootTime) {
        let _ = (snapshot, now);
    }
    /// What is to be done now. `opened`: whether the pool was ever open (R9's mark); a fresh one opens at once.
    pub fn actions(
        &self,
        now: BootTime,
        timing: &Timing,
        holds: Holds,
        opened: bool,
        evidence: &Evidence,
    ) -> Vec<Action> {
        let _ = (now, timing, holds, opened, evidence);
        Vec::new()
    }
}
