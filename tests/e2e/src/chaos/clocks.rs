//! Clocks that jump.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
