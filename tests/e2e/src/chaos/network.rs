//! Cuts between worker, Redis and mail server.

use super::Scenario;

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[];
