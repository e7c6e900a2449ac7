//! Redis that dies, forgets, or remembers too much.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
