//! Looking at a queue: depths, claims, the state of one mail.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{Stage, UnixMillis};

/// How many mails are where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depths {
    /// Waiting in any list.
    pub pending: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// In the hands of a process.
    pub in_flight: u64,
    /// Parked, outcome unknown.
    pub held: u64,
    /// Dead letters.
    pub dead: u64,
    /// Since when the oldest waits; estimated for mails by plain LPUSH.
    pub oldest: Option<UnixMillis>,
}

/// A process that claimed mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessClaims {
    /// Its id.
    pub process: String,
    /// Its pod's name, as it said at its last claim.
    pub pod: String,
    /// How many it has.
    pub claims: u64,
}

/// The claims of one process by stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Its id.
    pub process: String,
    /// Its pod's name.
    pub pod: String,
    /// How many at which stage.
    pub stages: BTreeMap<Stage, u64>,
    /// Since when the one that waits longest is at its stage.
    pub oldest: Option<UnixMillis>,
}

/// What is known of one mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MailStatus {
    /// Its id.
    pub id: String,
    /// `queued`, `claimed`, `delayed`, `delivered`, `held`, `dead`, `expired`, `discarded`.
    pub state: String,
    /// Since when.
    pub at: UnixMillis,
    /// Its Message-ID, once fixed.
    pub message_id: Option<String>,
    /// When a delayed one is due.
    pub due: Option<UnixMillis>,
    /// Why, in a word.
    pub reason: Option<String>,
    /// The last reply of a server.
    pub reply: Option<String>,
}
