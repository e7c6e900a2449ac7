//! Pods that end, vanish, or are scaled.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
