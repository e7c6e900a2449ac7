//! Names of claims and of settlements.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::mail::fresh_id;

/// Names one claim: one mail in the hands of one process. Never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimId(pub(super) String);

impl ClaimId {
    /// As text, 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn random() -> Self {
        Self(fresh_id())
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one settlement, so that repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub(super) String);

impl OperationId {
    /// A new one; make it once for each settlement and keep it for the repetitions.
    pub fn random() -> Self {
        Self(fresh_id())
    }
}
