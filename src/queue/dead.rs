//! Dead letters and held mails: looking at them, sending them again, discarding them.

use serde::{Deserialize, Serialize};

use super::{Refusal, Stage, Try, UnixMillis};

/// Which entries to act on; empty fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this id.
    pub id: Option<String>,
    /// Only this reason.
    pub reason: Option<String>,
    /// Only those parked before.
    pub before: Option<UnixMillis>,
}

/// What a bulk operation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bulk {
    /// Entries that fit and were acted on.
    pub done: u64,
    /// Entries that fit but were gone when it was their turn, or can't be acted on.
    pub skipped: u64,
}

/// A mail that a person must look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// Its id; empty when none was ever fixed.
    #[serde(default)]
    pub id: String,
    /// Why, in a word.
    pub reason: String,
    /// When.
    pub at: UnixMillis,
    /// At what stage.
    pub stage: Option<Stage>,
    /// The last reply of a server, or the error.
    #[serde(default)]
    pub reply: String,
    /// Tries, oldest first.
    #[serde(default)]
    pub tries: Vec<Try>,
    /// Recipients it is dead for, when others have it.
    #[serde(default)]
    pub refused: Vec<Refusal>,
    /// The producer's bytes as text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
}

/// A mail whose outcome nobody knows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldMail {
    /// Names the entry.
    pub claim_id: String,
    /// Its id; empty when none was ever fixed.
    pub id: String,
    /// Its Message-ID, to look for at the server.
    pub message_id: String,
    /// Why, in a word.
    pub reason: String,
    /// When.
    pub at: UnixMillis,
    /// The process that had it.
    pub process: String,
    /// What was read last, or the error.
    pub reply: String,
}
