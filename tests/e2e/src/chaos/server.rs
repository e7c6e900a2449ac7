//! Mail servers that misbehave.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
