//! Resolving what a dead process left.

use serde::Serialize;

/// What became of a dead process's claims.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Recovery {
    /// Back in their lists.
    pub requeued: u64,
    /// Parked.
    pub held: u64,
    /// To be sent again by policy.
    pub resent: u64,
    /// To the dead letters as poison.
    pub poison: u64,
    /// Left alone, since the claim changed under our hands; repeat the pass.
    pub skipped: u64,
}
