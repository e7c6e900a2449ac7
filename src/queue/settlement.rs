//! What becomes of a claimed mail, and how saying so ended.

use std::time::Duration;

use super::{Counted, Refusal, Schedule};

/// How an attempt to go on to a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Written durably.
    Done,
    /// The claim was taken over: abort, and settle nothing.
    Lost,
}

/// What became of a claimed mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The server has it. With recipients refused in this try (or earlier), the refused rest is a dead letter.
    Delivered {
        /// The server's reply.
        reply: String,
    },
    /// To be tried again.
    Delayed {
        /// How long after the settlement, by Redis' clock.
        wait: Duration,
        /// What it costs.
        counted: Counted,
        /// A word for the kind of failure.
        reason: String,
        /// The server's reply or the error.
        reply: String,
    },
    /// A person must look.
    Dead {
        /// A word for the kind of failure.
        reason: String,
        /// The server's reply or the error.
        reply: String,
    },
    /// Nobody knows whether the server has it.
    Held {
        /// A word for what happened.
        reason: String,
        /// What was read last, or the error.
        reply: String,
    },
}

/// What became of single recipients in this try; empty when all shared the mail's own outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PerRecipient {
    /// Addresses that need nothing more: the server has the mail for them.
    pub accepted: Vec<String>,
    /// Addresses that were refused for good; with the last outcome they become a dead letter of this mail.
    pub refused: Vec<Refusal>,
    /// Addresses that the server judged and said later, with the schedule they go on by; empty when it is the whole mail,
    /// by the schedule that `maxRetries` counts.
    pub judged: Vec<(String, Schedule)>,
    /// Whether a refusal may have judged us and not the mail.
    pub suspect: bool,
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Done,
    /// It had taken effect before; nothing changed.
    Repeated,
    /// The claim was recovered meanwhile, but nobody had taken the mail up: it was moved to its true outcome.
    Late,
    /// Someone else has the mail, or a person decided; nothing changed.
    Lost,
}
