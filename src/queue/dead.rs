//! Dead letters: their form, looking at them, sending them again, discarding them.
//!
//! The dead-letter list holds one JSON object for each mail, so that people can read it with LRANGE. The producer's
//! bytes lie in `payload` when they are text, exact to the byte, and in `payloadBase64` otherwise. The newest is first.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use redis::cmd;
use serde::{Deserialize, Serialize};

use super::{
    At, Entry, Header, Priority, Queue, Refusal, Stage, Try, UnixMillis,
    bodies::{limit, number},
    envelope,
    ids::fresh_id,
    records::{Records, short},
    scripts,
};
use crate::{store::StoreError, telemetry::log::mask_id};

/// Which entries to act on; empty fits all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Only this id, or for a held mail also its claim.
    pub id: Option<String>,
    /// Only this reason, in whatever case.
    pub reason: Option<String>,
    /// Only those parked before; never one whose age nobody knows.
    pub before: Option<UnixMillis>,
}

impl Filter {
    /// One mail by its id.
    pub fn id(id: impl Into<String>) -> Self {
        Self { id: Some(id.into()), ..Self::default() }
    }

    pub(super) fn fits(&self, ids: &[&str], reason: &str, at: UnixMillis) -> bool {
        self.id.as_deref().is_none_or(|id| ids.contains(&id))
            && self.reason.as_ref().is_none_or(|wanted| wanted.eq_ignore_ascii_case(reason))
            && self.before.is_none_or(|before| at != UnixMillis::default() && at < before)
    }
}

/// What a bulk operation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bulk {
    /// Entries that fit and were acted on.
    pub done: u64,
    /// Entries that fit but were gone when it was their turn, or that can't be acted on.
    pub skipped: u64,
}

/// A mail that a person must look at, as it lies in the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeadLetter {
    /// Its id; empty when none was ever fixed.
    pub id: String,
    /// Why, in a word: `InvalidMail`, `PayloadMissing`, `PayloadUnreadable`, `MalformedEnvelope`, `RetriesExhausted`, `RecipientsRefused`,
    /// `Poison`, or what the server's reply was read as. `Malformed` is an entry that is no dead letter of ours.
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
        let (key, tries, remaining, refused) =
            header.map(|h| (h.key, h.tries, h.remaining, h.refused)).unwrap_or_default();
        Self {
            id,
            reason: reason.to_owned(),
            at: now,
            stage,
            reply: envelope::cut(reply),
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

    /// The entry that goes back to the queue: same id, serial and Message-ID, counters at zero.
    fn revived(&self, now: UnixMillis) -> Option<Vec<u8>> {
        if self.reason == "Malformed" {
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
            tries: Vec::new(),
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

/// How many dead letters one command looks at.
const PAGE: usize = 100;
/// How many bytes of them it looks at.
const PAGE_BYTES: usize = 1024 * 1024;
/// Up to this length a dead letter that is to be queued again comes whole with its page.
const WITH_PAGE: usize = 16 * 1024;
/// How often a bulk operation begins anew since others act on the same list.
const BEGINNINGS: usize = 1_000;

/// A dead letter without its payload, and where it lies.
struct Head {
    /// From the end of the list, negative; right until an older one goes.
    place: isize,
    /// Bytes of the whole entry.
    length: usize,
    /// The entry up to its payload, or all of it.
    begin: Vec<u8>,
    letter: DeadLetter,
}

impl Head {
    fn read(place: isize, length: usize, begin: Vec<u8>) -> Self {
        let letter = if begin.len() == length {
            DeadLetter::decode(&begin)
        } else {
            serde_json::from_slice(&[&begin, b"}".as_slice()].concat()).unwrap_or_default()
        };
        Self { place, length, begin, letter }
    }
}

impl Queue {
    /// Dead letters that fit, oldest first, at most `limit`, without their payloads ([`Queue::dead_show`] has them).
    pub async fn dead_list(&self, filter: &Filter, limit: usize) -> Result<Vec<DeadLetter>, StoreError> {
        let mut letters = Vec::new();
        let keep = |page| {
            letters.extend(page);
            Ok::<_, StoreError>(())
        };
        self.dead_pages(filter, limit, keep).await?;
        Ok(letters)
    }

    /// The same page by page, in bounded memory here and in Redis, until `show` fails. Pages may be short, and are never
    /// empty.
    pub async fn dead_pages<E: From<StoreError>>(
        &self,
        filter: &Filter,
        limit: usize,
        mut show: impl FnMut(Vec<DeadLetter>) -> Result<(), E>,
    ) -> Result<(), E> {
        let (mut place, mut left) = (-1, limit);
        while left > 0 {
            let heads = self.letters_from(place, 0).await?;
            let Some(last) = heads.last() else { break };
            place = last.place - 1;
            let letters = heads.into_iter().map(|head| head.letter.without_payload());
            let page: Vec<_> =
                letters.filter(|letter| filter.fits(&[&letter.id], &letter.reason, letter.at)).take(left).collect();
            left -= page.len();
            if !page.is_empty() {
                show(page)?;
            }
        }
        Ok(())
    }

    /// The oldest dead letter of this id, with its payload.
    pub async fn dead_show(&self, id: &str) -> Result<Option<DeadLetter>, StoreError> {
        let filter = Filter::id(id);
        let mut place = -1;
        loop {
            let heads = self.letters_from(place, WITH_PAGE).await?;
            let Some(last) = heads.last() else { return Ok(None) };
            place = last.place - 1;
            let fits = |head: &Head| filter.fits(&[&head.letter.id], &head.letter.reason, head.letter.at);
            if let Some(head) = heads.into_iter().find(fits) {
                match self.whole(head).await? {
                    Some(letter) => return Ok(Some(letter)),
                    // Others act on the list meanwhile.
                    None => place = -1,
                }
            }
        }
    }

    /// Re-drives dead letters that fit, oldest first, at most `limit`: to the end of their lists, counters at zero, same
    /// id. Entries that are no dead letters of ours are skipped. Cancelling stops between two entries.
    pub async fn dead_requeue(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.dead_decide(filter, limit, "requeue", at.into()).await
    }

    /// Discards dead letters that fit, oldest first, at most `limit`; they are counted as discarded.
    pub async fn dead_discard(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.dead_decide(filter, limit, "discard", at.into()).await
    }

    async fn dead_decide(&self, filter: &Filter, limit: usize, action: &str, at: At) -> Result<Bulk, StoreError> {
        let mut bulk = Bulk::default();
        let mut place = -1;
        let mut beginnings = BEGINNINGS;
        'pages: loop {
            let heads = self.letters_from(place, if action == "requeue" { WITH_PAGE } else { 0 }).await?;
            if heads.is_empty() {
                break;
            }
            // What goes moves all that are newer one place towards the end.
            let mut gone = 0;
            for mut head in heads {
                head.place += gone;
                place = head.place - 1;
                if !filter.fits(&[&head.letter.id], &head.letter.reason, head.letter.at) {
                    continue;
                }
                if bulk.done + bulk.skipped >= limit as u64 {
                    break 'pages;
                }
                match self.dead_decide_one(head, action, at).await? {
                    Decided::Done => {
                        bulk.done += 1;
                        gone += 1;
                        place += 1;
                    }
                    Decided::Moved if beginnings > 0 => {
                        beginnings -= 1;
                        (place, bulk.skipped) = (-1, 0);
                        continue 'pages;
                    }
                    Decided::Unable | Decided::Moved => bulk.skipped += 1,
                }
            }
        }
        Ok(bulk)
    }

    async fn dead_decide_one(&self, head: Head, action: &str, at: At) -> Result<Decided, StoreError> {
        let (place, length, begin) = (head.place, head.length, head.begin.clone());
        let (letter, revived) = if action == "requeue" {
            if head.letter.reason == "Malformed" {
                return Ok(Decided::Unable);
            }
            let Some(letter) = self.whole(head).await? else { return Ok(Decided::Moved) };
            let Some(revived) = letter.revived(self.estimate(at)) else { return Ok(Decided::Unable) };
            (letter, revived)
        } else {
            (head.letter, Vec::new())
        };
        let Records { buckets, fields } = self.records(&letter.id, letter.key.as_deref());
        let (at, serial) = (at.word(), short(&letter.serial));
        let (place, length) = (place.to_string(), length.to_string());
        let arguments: [&[u8]; 10] = [
            &begin,
            action.as_bytes(),
            &revived,
            at.as_bytes(),
            letter.id.as_bytes(),
            serial.as_bytes(),
            &fields,
            place.as_bytes(),
            length.as_bytes(),
            letter.message_id.as_bytes(),
        ];
        let answer: String = self.run(&scripts::DEAD, &buckets, &arguments).await?;
        if answer != "done" {
            return Ok(Decided::Moved);
        }
        tracing::info!(mail.id = &*mask_id(&letter.id), action, "a dead letter was decided on");
        Ok(Decided::Done)
    }

    /// Dead letters from this place on, oldest first; those up to `whole` bytes with their payloads.
    async fn letters_from(&self, place: isize, whole: usize) -> Result<Vec<Head>, StoreError> {
        let words = [place.to_string(), PAGE.to_string(), PAGE_BYTES.to_string(), whole.to_string()];
        let arguments = words.each_ref().map(String::as_bytes);
        let answer: Vec<Vec<u8>> = self.run_long(&scripts::LETTERS, &[], &arguments, PAGE_BYTES).await?;
        let mut words = answer.into_iter();
        let (mut heads, mut place) = (Vec::new(), place);
        while let (Some(length), Some(begin)) = (words.next(), words.next()) {
            let length = number(&length).ok_or_else(|| self.garbled("a dead letter without a length".into()))?;
            heads.push(Head::read(place, length, begin));
            place -= 1;
        }
        Ok(heads)
    }

    /// The letter with its payload; none when it lies there no more.
    async fn whole(&self, head: Head) -> Result<Option<DeadLetter>, StoreError> {
        if head.begin.len() == head.length {
            return Ok(Some(head.letter));
        }
        let mut command = cmd("LINDEX");
        command.arg(self.names.dead_letter()).arg(head.place);
        let entry: Option<Vec<u8>> = self.store.for_bodies().query(&command, limit(head.length)).await?;
        let entry = entry.filter(|entry| entry.len() == head.length && entry.starts_with(&head.begin));
        Ok(entry.map(|entry| DeadLetter::decode(&entry)))
    }
}

/// What became of one decision.
enum Decided {
    Done,
    /// It lies there no more.
    Moved,
    /// It can't be acted on.
    Unable,
}
