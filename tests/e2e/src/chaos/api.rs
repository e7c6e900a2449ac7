//! An API server that is away, slow or restarted.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
