//! Relays that change while mail flows.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
