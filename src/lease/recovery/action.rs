//! What the leader knows beside a ledger, and what it is to do.

use std::{collections::BTreeSet, time::Duration};

use crate::lease::state::{Missing, Quarantine};

/// What the leader knows besides the ledger. It says that no new connection comes, never that the server knows of an end:
/// whatever proves a process dead, its slots are withheld for [`crate::lease::Timing::hold`].
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// UIDs of pods whose worker process is proven dead by R5b: pod phase Succeeded or Failed AND the worker's container
    /// terminated with a container id.
    pub dead: BTreeSet<String>,
    /// UIDs of pods whose worker container has never run: nothing can be open there.
    pub never_started: BTreeSet<String>,
}

/// How long a node that was left may still take writes (R8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldPrimary {
    /// It takes none later than this after the node that answers now was seen first; zero when no replica ever followed it.
    StopsWithin(Duration),
    /// Nothing bounds it: the new ledger opens by roll call only, since whoever re-asserted here has left the old one.
    Unbounded,
}

/// What the leader is to do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The ledger in force is an older copy of itself: `LedgerStore::condemn` with the highest version that was seen. It is
    /// lost from then on.
    Condemn {
        /// That version.
        version: u64,
    },
    /// INIT with a new token and the current policy; then read the epoch back (R9).
    Init {
        /// The fence to name.
        fence: String,
        /// Quarantine that is not over.
        quarantine: Vec<Quarantine>,
        /// The highest version that was seen: the new ledger's is above it.
        version: u64,
    },
    /// OPEN, after the mark that the pool was opened is durable (R9).
    Open {
        /// The token to name.
        token: String,
        /// Who did not re-assert.
        missing: Vec<Missing>,
    },
    /// REAP: silent for too long (R5c).
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
    /// `REAP_DEAD`: proven dead (R5b).
    ReapDead {
        /// The token to name.
        token: String,
        /// The incarnation.
        inc: String,
        /// For how long its slots are withheld.
        quarantine: Duration,
    },
    /// CLEAR: quarantines are over.
    Clear {
        /// The token to name.
        token: String,
        /// The entries.
        ids: Vec<String>,
    },
}
