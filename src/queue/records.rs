//! Records: what is remembered of a mail by its id and by its idempotency key, small and for a time.
//!
//! The scripts write them and say in their prelude how; here is where they lie, and how a person reads them.

use std::time::Duration;

use redis::cmd;
use sha2::{Digest, Sha256};

use super::{MailStatus, Outcome, Queue, SCRIPT_LIMIT};
use crate::{
    mail::{UnixMillis, digest, is_id},
    store::StoreError,
};

/// How many hashes share all records: with a million of them some sixty lie in each, which Redis packs into a listpack.
const BUCKETS: u16 = 1 << 14;

/// How many bytes of the digest name a record in its bucket.
const FIELD: usize = 12;

/// How many digits of a serial a record has.
const SERIAL: usize = 12;

/// Into how many pieces an id is cut at most.
const PIECES: usize = 4;

/// The records of one mail, as scripts take them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Records {
    /// The keys they lie in, one for each: the mail's own first, then that of its idempotency key.
    pub buckets: Vec<String>,
    /// Their names there, in a row.
    pub fields: Vec<u8>,
}

impl Queue {
    /// The records of a mail: its own, and that of its idempotency key. None without an id.
    pub(super) fn records(&self, id: &str, key: Option<&str>) -> Records {
        let mut records = Records::default();
        if !id.is_empty() {
            for (kind, text) in std::iter::once(("id", id)).chain(key.map(|key| ("key", key))) {
                let (bucket, field) = place(kind, text);
                records.buckets.push(self.names.records(bucket));
                records.fields.extend(field);
            }
        }
        records
    }

    /// Says how long final records are kept from now on, for all who use this queue; 24 h unless somebody says so.
    pub async fn keep_records(&self, retention: Duration) -> Result<(), StoreError> {
        self.set("retention", retention.as_millis().to_string()).await
    }

    /// Says how many outcomes the stream keeps from now on, about; 10,000 unless somebody says so.
    pub async fn keep_events(&self, length: u64) -> Result<(), StoreError> {
        self.set("eventsLength", length.to_string()).await
    }

    async fn set(&self, name: &str, wanted: String) -> Result<(), StoreError> {
        let mut ask = cmd("HGET");
        ask.arg(&self.names.counters).arg(name);
        let known: Option<String> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        if known.as_ref() != Some(&wanted) {
            let mut write = cmd("HSET");
            write.arg(&self.names.counters).arg(name).arg(wanted);
            let _: u64 = self.store.query(&write, SCRIPT_LIMIT).await?;
        }
        Ok(())
    }

    /// The state of one mail by its id, while its record is kept, or a little longer, with what the stream of outcomes says of
    /// it, which is read for that. A mail by plain LPUSH has none before its first claim.
    pub async fn status(&self, id: &str) -> Result<Option<MailStatus>, StoreError> {
        let Some(state) = self.state(id).await? else { return Ok(None) };
        let told = self.told(id).await?;
        Ok(Some(MailStatus { message_id: told.message_id, reply: told.reply, ..state }))
    }

    /// The same with the newest `limit` outcomes of the mail, oldest first; the stream is read once for both.
    pub async fn status_and_history(
        &self,
        id: &str,
        limit: usize,
    ) -> Result<Option<(MailStatus, Vec<Outcome>)>, StoreError> {
        let Some(state) = self.state(id).await? else { return Ok(None) };
        let (history, told) = self.outcomes(id, limit, true).await?;
        Ok(Some((MailStatus { message_id: told.message_id, reply: told.reply, ..state }, history)))
    }

    /// The state of a mail alone, as its record says it.
    pub(super) async fn recorded(&self, id: &str) -> Result<Option<&'static str>, StoreError> {
        let Records { buckets, fields } = self.records(id, None);
        let mut ask = cmd("HGET");
        ask.arg(&buckets).arg(&fields);
        let value: Option<String> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        Ok(value.as_deref().and_then(Record::read).map(|record| record.state))
    }

    /// Whether the record of this id is that of the mail of this serial: then a header that names both is ours.
    pub(super) async fn vouches(&self, id: &str, serial: &str) -> Result<bool, StoreError> {
        let Records { buckets, fields } = self.records(id, None);
        if buckets.is_empty() {
            return Ok(false);
        }
        let mut ask = cmd("HGET");
        ask.arg(&buckets).arg(&fields);
        let value: Option<String> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        Ok(value.is_some_and(|value| value.get(17..17 + SERIAL) == Some(&*short(serial))))
    }

    /// The same without Message-ID and reply, which only the stream tells: for whoever asks for many mails.
    pub async fn state(&self, id: &str) -> Result<Option<MailStatus>, StoreError> {
        if !is_id(id) {
            return Ok(None);
        }
        let Records { buckets, fields } = self.records(id, None);
        let mut ask = cmd("HMGET");
        ask.arg(&buckets).arg(&fields);
        for piece in 0..PIECES {
            ask.arg([fields.as_slice(), format!("i{piece}").as_bytes()].concat());
        }
        let mut found: Vec<Option<String>> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        let named: String = found.split_off(1).into_iter().map_while(|piece| piece).collect();
        let value = found.pop().flatten();
        let Some(record) = value.as_deref().and_then(Record::read) else { return Ok(None) };
        let due: Option<f64> = match record.claim {
            Some(claim) => self.store.query(cmd("ZSCORE").arg(&self.names.delayed).arg(claim), SCRIPT_LIMIT).await?,
            None => None,
        };
        let reason = if record.state == "duplicate" { named } else { record.reason };
        Ok(Some(MailStatus {
            id: id.to_owned(),
            state: record.state.to_owned(),
            at: record.at,
            message_id: None,
            due: due.and_then(|due| format!("{due:.0}").parse().ok()).map(UnixMillis),
            reason: Some(reason).filter(|reason| !reason.is_empty()),
            reply: None,
        }))
    }
}

/// The number of the bucket and the name in it. Ids and keys are texts of any length, and nobody may choose where they lie.
fn place(kind: &str, text: &str) -> (u16, [u8; FIELD]) {
    let digest = Sha256::digest(format!("{kind}:{text}").as_bytes());
    let mut field = [0; FIELD];
    field.copy_from_slice(&digest[..FIELD]);
    (u16::from_be_bytes([digest[FIELD], digest[FIELD + 1]]) % BUCKETS, field)
}

/// As much of a serial as a record has. One that is none of ours, in a dead letter that somebody wrote, gets as much of its
/// digest.
pub(super) fn short(serial: &str) -> String {
    if serial.len() >= SERIAL && serial.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        serial[..SERIAL].to_owned()
    } else {
        digest(serial)[..SERIAL].to_owned()
    }
}

/// What a person reads of a record.
#[derive(Debug, PartialEq, Eq)]
struct Record<'a> {
    state: &'static str,
    at: UnixMillis,
    /// Of a mail that waits for its time.
    claim: Option<&'a str>,
    reason: String,
}

impl<'a> Record<'a> {
    /// Takes a value apart, as the scripts' prelude says; none when it is not one.
    fn read(text: &'a str) -> Option<Self> {
        let state = match text.get(..1)?.to_ascii_lowercase().as_str() {
            "q" => "queued",
            "c" => "claimed",
            "w" => "delayed",
            "r" => "resend",
            "h" => "held",
            "d" | "l" => "delivered",
            "x" => "dead",
            "t" => "discarded",
            "e" => "expired",
            "b" => "duplicate",
            "n" => "lost",
            _ => return None,
        };
        let at = u64::from_str_radix(text.get(1..9)?, 16).ok()?;
        let rest = text.get(32..)?;
        let waits = matches!(state, "delayed" | "resend");
        let is_final = !waits && !matches!(state, "queued" | "claimed" | "held");
        Some(Self {
            state,
            at: UnixMillis(at * 1_000),
            claim: waits.then_some(rest),
            reason: rest.get(8..).filter(|_| is_final).unwrap_or_default().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_and_a_key_of_the_same_text_lie_apart() {
        assert_ne!(place("id", "x"), place("key", "x"));
        assert!(place("id", "x").0 < BUCKETS);
    }

    #[test]
    fn a_serial_that_is_none_has_a_short_form_too() {
        assert_eq!(short("0123456789abcdef0123456789abcdef"), "0123456789ab");
        for odd in ["", "é", "0123456789a", "not hexadecimal"] {
            assert_eq!(short(odd).len(), SERIAL, "{odd}");
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let value = "x6ab1320000000000000123456789ab---01234567Policy";
        let record = Record::read(&value[..48]).expect("a record");
        assert_eq!((record.state, record.at, record.claim), ("dead", UnixMillis(0x6ab1_3200 * 1_000), None));
        assert_eq!(Record::read("x6ab1"), None);
        assert_eq!(Record::read("?6ab13200"), None);
    }
}
