//! What mailrelay knows of a mail beside the producer's own bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Patience;
use crate::{
    api::UnknownOutcome,
    mail::{Mail, UnixMillis, is_id, is_message_id, sortable_id},
};

/// What mailrelay knows of a mail beside the producer's own bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "Line", into = "Line")]
pub struct Header {
    /// The producer's id of the mail, or one that was made.
    pub id: String,
    /// Names this mail among all that may carry the same id or idempotency key: 32 hexadecimal digits, its first claim's.
    /// A header is believed because the record of its id names its serial, which no producer knows.
    pub serial: String,
    /// With the angle brackets; derived from the id, so that even a resend can be recognised downstream.
    pub message_id: String,
    /// How often a server judged this mail and said later.
    pub attempts: u32,
    /// How often the relay could not be used for it; costs no attempt.
    pub deferrals: u32,
    /// How often a process died of a crash while it sent this mail.
    pub crashes: u32,
    /// When the enqueue script or the first claim saw it.
    pub first_seen: UnixMillis,
    /// Since when it waits: `first_seen`, or `notBefore` when that is later.
    pub since: UnixMillis,
    /// The idempotency key, when the producer gave one.
    pub key: Option<String>,
    /// Recipients (addresses) still to be sent to, once some had an outcome of their own; absent means all.
    pub remaining: Option<Vec<String>>,
    /// Recipients that were refused for good while others went on.
    pub refused: Vec<Refusal>,
    /// What of `attempts` counts by which schedule, for the whole mail.
    pub patience: Patience,
    /// The same for single recipients (addresses), once they differ: one that is put off uses up no other's attempts.
    pub recipients: BTreeMap<String, Patience>,
    /// The last tries, oldest first; at most [`MAX_TRIES`] are kept.
    pub tries: Vec<Try>,
    /// What becomes of it when its final answer is lost, when its producer said so.
    pub unknown_outcome: Option<UnknownOutcome>,
}

/// A header as it is written: without what follows from the rest, since a million of them wait in memory.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    /// Absent when it was made of the time and the serial.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    serial: String,
    /// From its `@` on, without the bracket, when the id stands before that.
    message_id: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    attempts: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    deferrals: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    crashes: u32,
    first_seen: UnixMillis,
    /// Absent when it is `first_seen`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since: Option<UnixMillis>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    remaining: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    refused: Vec<Refusal>,
    /// Absent when all attempts are of the schedule that `maxRetries` counts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    patience: Option<Patience>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    recipients: BTreeMap<String, Patience>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tries: Vec<Try>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    unknown_outcome: Option<UnknownOutcome>,
}

impl From<Header> for Line {
    fn from(header: Header) -> Self {
        let Header {
            id,
            serial,
            message_id,
            attempts,
            deferrals,
            crashes,
            first_seen,
            since,
            key,
            remaining,
            refused,
            patience,
            recipients,
            tries,
            unknown_outcome,
        } = header;
        let domain = message_id.strip_prefix('<').and_then(|rest| rest.strip_prefix(&*id)?.strip_suffix('>'));
        let message_id = match domain.filter(|domain| domain.starts_with('@')) {
            Some(domain) => domain.to_owned(),
            None => message_id,
        };
        let id = Some(id).filter(|id| *id != sortable_id(first_seen, &serial));
        let since = Some(since).filter(|since| *since != first_seen);
        let patience = Some(patience).filter(|patience| *patience != judged(attempts));
        Self {
            id,
            serial,
            message_id,
            attempts,
            deferrals,
            crashes,
            first_seen,
            since,
            key,
            remaining,
            refused,
            patience,
            recipients,
            tries,
            unknown_outcome,
        }
    }
}

impl From<Line> for Header {
    fn from(line: Line) -> Self {
        let Line {
            id,
            serial,
            message_id,
            attempts,
            deferrals,
            crashes,
            first_seen,
            since,
            key,
            remaining,
            refused,
            patience,
            recipients,
            tries,
            unknown_outcome,
        } = line;
        let id = id.unwrap_or_else(|| sortable_id(first_seen, &serial));
        let message_id = if message_id.starts_with('@') { format!("<{id}{message_id}>") } else { message_id };
        let since = since.unwrap_or(first_seen);
        let patience = patience.unwrap_or(judged(attempts));
        Self {
            id,
            serial,
            message_id,
            attempts,
            deferrals,
            crashes,
            first_seen,
            since,
            key,
            remaining,
            refused,
            patience,
            recipients,
            tries,
            unknown_outcome,
        }
    }
}

fn judged(attempts: u32) -> Patience {
    Patience { judged: attempts, ..Patience::default() }
}

/// The year 10000, which no `Date` header can hold.
const END_OF_TIME: UnixMillis = UnixMillis(253_402_300_800_000);

/// How many tries an envelope remembers.
pub const MAX_TRIES: usize = 8;

/// A recipient that a server refused for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Refusal {
    /// The address.
    pub recipient: String,
    /// The server's reply.
    pub reply: String,
}

/// One try that did not settle the mail for good.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Try {
    /// When.
    pub at: UnixMillis,
    /// A word for the kind of failure, as the outcome events carry it.
    pub reason: String,
    /// The server's reply or the error, cut to [`MAX_REPLY`] bytes.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reply: String,
    /// Whether the refusal may have judged us and not the mail.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub suspect: bool,
}

/// How much of a reply is kept.
pub const MAX_REPLY: usize = 512;

impl Header {
    /// Fixes the header of a mail that has none yet. `id` is the bare id that lay in the list, if that was all; else
    /// the mail's own counts, or one is made. The same arguments give the same header: whoever looks twice at one claim
    /// must see one mail.
    pub fn fix(mail: &Mail, id: Option<&str>, serial: &str, now: UnixMillis) -> Self {
        let id = id.map(str::to_owned).or_else(|| mail.id.clone()).unwrap_or_else(|| sortable_id(now, serial));
        Self {
            message_id: mail.message_id(&id),
            serial: serial.to_owned(),
            attempts: 0,
            deferrals: 0,
            crashes: 0,
            first_seen: now,
            since: mail.not_before.unwrap_or(now).max(now),
            key: mail.idempotency_key.clone(),
            remaining: None,
            refused: Vec::new(),
            patience: Patience::default(),
            recipients: BTreeMap::new(),
            tries: Vec::new(),
            unknown_outcome: mail.unknown_outcome,
            id,
        }
    }

    /// Whether it can be trusted with what it is used for: key names and header lines of the message.
    pub(super) fn is_sound(&self) -> bool {
        is_id(&self.id)
            && self.first_seen < END_OF_TIME
            && self.serial.len() == 32
            && self.serial.bytes().all(|byte| byte.is_ascii_hexdigit())
            && is_message_id(&self.message_id)
    }

    /// The same header with one more try in its history.
    pub fn with_try(mut self, tried: Try) -> Self {
        if self.tries.len() >= MAX_TRIES {
            self.tries.drain(..=self.tries.len() - MAX_TRIES);
        }
        self.tries.push(tried);
        self
    }
}

/// At most [`MAX_REPLY`] bytes of a reply, cut at a character.
pub(super) fn cut(reply: &str) -> String {
    let mut end = reply.len().min(MAX_REPLY);
    while !reply.is_char_boundary(end) {
        end -= 1;
    }
    reply[..end].to_owned()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(number: &u32) -> bool {
    *number == 0
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub fn header() -> Header {
        Header {
            id: "id".into(),
            serial: "0123456789abcdef0123456789abcdef".into(),
            message_id: "<id@example.com>".into(),
            attempts: 0,
            deferrals: 0,
            crashes: 0,
            first_seen: UnixMillis(1),
            since: UnixMillis(2),
            key: None,
            remaining: None,
            refused: Vec::new(),
            patience: Patience::default(),
            recipients: BTreeMap::new(),
            tries: Vec::new(),
            unknown_outcome: None,
        }
    }

    proptest! {
        #[test]
        fn a_reply_is_cut_at_a_character(reply in "\\PC{0,600}") {
            let short = cut(&reply);
            prop_assert!(short.len() <= MAX_REPLY && reply.starts_with(&short));
        }
    }

    #[test]
    fn the_history_keeps_the_last_tries() {
        let tried = |n| Try { at: UnixMillis(n), reason: "x".into(), reply: String::new(), suspect: false };
        let header = (0..20).fold(header(), |header, n| header.with_try(tried(n)));
        assert_eq!(header.tries.len(), MAX_TRIES);
        assert_eq!(header.tries.last(), Some(&tried(19)));
    }
}
