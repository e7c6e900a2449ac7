//! What happened to a pool that people should hear of.

use std::time::Duration;

/// Something that people should hear of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// The pool it happened to.
    pub pool: String,
    /// What happened.
    pub what: Happening,
}

/// What may happen to a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Happening {
    /// A worker fell silent or died without a word, and its slots were taken back.
    WorkerLost {
        /// `namespace/name` of its pod.
        pod: String,
        /// How many slots.
        slots: u32,
        /// How long they stay withheld.
        hold: Duration,
    },
    /// The ledger was lost, or belongs to another Redis: workers say again what they hold.
    RecoveryStarted,
    /// Slots are granted (again).
    Opened,
    /// Who held slots before did not come back: they stay withheld.
    Withheld {
        /// How many slots.
        slots: u32,
        /// For how long, the longest.
        hold: Duration,
    },
}
