//! Controllers that die, stop, and lead twice.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
