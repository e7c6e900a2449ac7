//! Dead letters: their form; looking at them is in `look`, sending them again and discarding them in `decide`.
//!
//! The dead-letter list holds one JSON object for each mail, so that people can read it with LRANGE. The producer's
//! bytes lie in `payload` when they are text, exact to the byte, and in `payloadBase64` otherwise. The newest is first.

mod decide;
mod look;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};

use crate::api::UnknownOutcome;

use super::{Entry, Header, Refusal, Stage, Try, envelope, header};
use crate::mail::{Priority, UnixMillis, fresh_id};
pub use decide::{Action, Bulk};

/// Which entries to act on; empty fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this id, or for a held mail also its claim.
    pub id: Option<String>,
    /// Only this reason, in whatever case.
    pub reason: Option<String>,
    /// Only those parked before; never one whose age nobody knows.
    pub before: Option<UnixMillis>,
    /// Only those of which something holds this text, in whatever case: id, Message-ID, what was said of the mail or of a
    /// recipient, recipients that were named apart. The payload is not looked at.
    pub text: Option<String>,
}

impl Filter {
    /// One mail by its id.
    pub fn id(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::default() }
    }

    /// `texts` beside the ids.
    pub(super) fn fits<'a>(
        &self,
        ids: &[&'a str],
        reason: &str,
        at: UnixMillis,
        texts: impl IntoIterator<Item = &'a str>,
    ) -> bool {
        let holds = |wanted: &str| {
            let wanted = wanted.to_lowercase();
            ids.iter().copied().chain(texts).any(|text| text.to_lowercase().contains(&wanted))
        };
        self.id.as_deref().is_none_or(|id| ids.contains(&id))
            && self.reason.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(reason))
            && self.before.is_none_or(|before| at != UnixMillis::default() && at < before)
            && self.text.as_deref().is_none_or(holds)
    }
}

/// A mail that a person must look at, as it lies in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeadLetter {
    /// Its id; empty when none was ever fixed.
    pub id: String,
    /// Why, in a word: `InvalidMail`, `PayloadMissing`, `PayloadUnreadable`, `MalformedEnvelope`, `RetriesExhausted`, `TooOld`,
    /// `RecipientsRefused`, `Poison`, or what the server's reply was read as. `Malformed` is an entry that is no dead letter of ours.
    pub reason: String,
    /// When.
    pub at: UnixMillis,
    /// At what stage.
    pub stage: Option<Stage>,
    /// The last reply of a server, or the error.
    pub reply: String,
    /// Its Message-ID, once fixed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message_id: String,
    /// How often a server judged it and said later.
    pub attempts: u32,
    /// How often the relay could not be used for it.
    pub deferrals: u32,
    /// How often a process crashed while it sent it.
    pub crashes: u32,
    /// When it was first seen.
    pub first_seen: UnixMillis,
    /// Its idempotency key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// Names it among all of the same id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub serial: String,
    /// Where it goes when it is re-driven.
    pub priority: Priority,
    /// Tries, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tries: Vec<Try>,
    /// The recipients it is dead for, when others have it: a re-drive sends to these alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Vec<String>>,
    /// What the server said of single recipients.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<Refusal>,
    /// What becomes of it when its final answer is lost, when its producer said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unknown_outcome: Option<UnknownOutcome>,
    /// Where the JSON lay, when the list held only an id; the JSON itself is in `payload` if it was there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_key: Option<String>,
    /// The producer's bytes, when they are text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    /// The producer's bytes otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload_base64: Option<String>,
}

impl Default for DeadLetter {
    fn default() -> Self {
        Self::new(None, Priority::Normal, "Malformed", "", None, UnixMillis::default())
    }
}

impl DeadLetter {
    pub(super) fn new(
        header: Option<&Header>,
        priority: Priority,
        reason: &str,
        reply: &str,
        stage: Option<Stage>,
        now: UnixMillis,
    ) -> Self {
        let header = header.cloned();
        let (id, message_id, serial) =
            header.as_ref().map(|h| (h.id.clone(), h.message_id.clone(), h.serial.clone())).unwrap_or_default();
        let (attempts, deferrals, crashes) =
            header.as_ref().map(|h| (h.attempts, h.deferrals, h.crashes)).unwrap_or_default();
        let first_seen = header.as_ref().map_or(now, |h| h.first_seen);
        let unknown_outcome = header.as_ref().and_then(|h| h.unknown_outcome);
        let (key, tries, remaining, refused) =
            header.map(|h| (h.key, h.tries, h.remaining, h.refused)).unwrap_or_default();
        Self {
            id,
            reason: reason.to_owned(),
            at: now,
            stage,
            reply: header::cut(reply),
            message_id,
            attempts,
            deferrals,
            crashes,
            first_seen,
            key,
            serial,
            priority,
            tries,
            remaining,
            refused,
            unknown_outcome,
            payload_key: None,
            payload: None,
            payload_base64: None,
        }
    }

    /// With the place where its JSON lay, when the list held only an id.
    pub(super) fn fetched_from(self, payload_key: Option<String>) -> Self {
        Self { payload_key, ..self }
    }

    pub(super) fn with_payload(mut self, payload: &[u8]) -> Self {
        match std::str::from_utf8(payload) {
            Ok(text) => self.payload = Some(text.to_owned()),
            Err(_) => self.payload_base64 = Some(STANDARD.encode(payload)),
        }
        self
    }

    /// With an id from elsewhere, when the header gave none; a mail that never had a serial gets one for its record.
    pub(super) fn named(mut self, id: Option<String>) -> Self {
        if let Some(id) = id {
            self.id = id;
        }
        if self.serial.is_empty() {
            self.serial = fresh_id();
        }
        self
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        // A plain struct always serialises.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads an entry of the list; one that is no dead letter of ours is shown as `Malformed`, with its bytes.
    pub fn decode(entry: &[u8]) -> Self {
        match serde_json::from_slice::<Self>(entry) {
            Ok(letter) if letter.payload.is_some() || letter.payload_base64.is_some() => letter,
            _ => Self::default().with_payload(entry),
        }
    }

    /// The field of the mail that is wrong, when that is why it is dead: all that may be told of it in a log.
    pub(super) fn field(&self) -> Option<&str> {
        let end = self.reply.find(|c: char| !c.is_ascii_alphabetic());
        end.filter(|_| self.reason == "InvalidMail").map(|end| &self.reply[..end])
    }

    fn fits(&self, filter: &Filter) -> bool {
        let said = self.tries.iter().map(|tried| &*tried.reply);
        let refused = self.refused.iter().flat_map(|refusal| [&*refusal.recipient, &*refusal.reply]);
        let remaining = self.remaining.iter().flatten().map(|recipient| &**recipient);
        let texts = [&*self.message_id, &*self.reply].into_iter().chain(said).chain(refused).chain(remaining);
        filter.fits(&[&self.id], &self.reason, self.at, texts)
    }

    fn without_payload(self) -> Self {
        Self { payload: None, payload_base64: None, ..self }
    }

    /// The producer's bytes; none when the entry is no dead letter of ours.
    pub fn payload_bytes(&self) -> Option<Vec<u8>> {
        match (&self.payload, &self.payload_base64) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(base64)) => STANDARD.decode(base64).ok(),
            (None, None) => None,
        }
    }

    /// Whether it is a dead letter of ours, and not what others put into the list.
    fn is_ours(&self) -> bool {
        self.reason != "Malformed"
    }

    /// The entry that goes back to the queue: same id, serial and Message-ID, counters at zero.
    fn revived(&self, now: UnixMillis) -> Option<Vec<u8>> {
        if !self.is_ours() {
            return None;
        }
        let payload = self.payload_bytes()?;
        let header = Header {
            id: self.id.clone(),
            serial: self.serial.clone(),
            message_id: self.message_id.clone(),
            attempts: 0,
            deferrals: 0,
            crashes: 0,
            first_seen: self.first_seen,
            since: now,
            key: self.key.clone(),
            remaining: self.remaining.clone(),
            refused: Vec::new(),
            patience: super::Patience::default(),
            recipients: std::collections::BTreeMap::new(),
            tries: Vec::new(),
            unknown_outcome: self.unknown_outcome,
        };
        let mut entry = header.encode(self.priority);
        entry.extend_from_slice(&payload);
        // One that never had a whole header gets it at its next claim.
        Some(if matches!(Entry::decode(&entry), Entry::Sealed(..)) {
            entry
        } else {
            envelope::bare(self.priority, &payload)
        })
    }
}
