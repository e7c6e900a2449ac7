//! Reading entries and texts that may be long: first what stands before the payload, and then all of it, in parts.

use redis::cmd;

use super::{
    Queue, SCRIPT_LIMIT,
    long::{LONG, limit},
    scripts::{self, number},
};
use crate::store::StoreError;

/// How much of a long entry is read at once.
const PART: usize = 2 * 1024 * 1024;

/// After how many bytes a look at entries stops, so that Redis is not held up.
const LOOK: usize = 1024 * 1024;

/// An entry of a hash, without its payload.
pub(super) struct Head {
    pub field: String,
    /// Bytes of the whole entry.
    pub length: usize,
    /// Its first lines, as many as were asked for: those with headers.
    pub lines: Vec<u8>,
}

impl Queue {
    /// The entries of a hash from a cursor on, and the next cursor: 0 at the end.
    pub(super) async fn heads(&self, hash: &str, cursor: u64, lines: u8) -> Result<(u64, Vec<Head>), StoreError> {
        self.look(hash, &[cursor.to_string(), LOOK.to_string(), lines.to_string()]).await
    }

    /// These entries of a hash, as far as they are there.
    pub(super) async fn heads_of(&self, hash: &str, fields: &[String], lines: u8) -> Result<Vec<Head>, StoreError> {
        if fields.is_empty() {
            return Ok(Vec::new());
        }
        let words = [&["0".to_owned(), LOOK.to_string(), lines.to_string()], fields].concat();
        Ok(self.look(hash, &words).await?.1)
    }

    async fn look(&self, hash: &str, words: &[String]) -> Result<(u64, Vec<Head>), StoreError> {
        let arguments: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let answer: Vec<Vec<u8>> = self.run_long(&scripts::HEADS, &[hash.to_owned()], &arguments, LOOK).await?;
        let mut words = answer.into_iter();
        let cursor = words.next().and_then(|cursor| number(&cursor));
        let cursor = cursor.ok_or_else(|| self.garbled("a look without a cursor".into()))?;
        let mut heads = Vec::new();
        while let Some(field) = words.next() {
            let length = words.next().and_then(|length| number(&length));
            let (Some(length), Some(lines)) = (length, words.next()) else {
                return Err(self.garbled("an entry without a length".into()));
            };
            heads.push(Head { field: String::from_utf8_lossy(&field).into_owned(), length, lines });
        }
        Ok((cursor, heads))
    }

    /// The whole entry of a hash; none when it is not there, or not as long. A long one comes in parts, so that it is in
    /// memory once and a slow link carries it in the end.
    pub(super) async fn entry(&self, hash: &str, field: &str, length: usize) -> Result<Option<Vec<u8>>, StoreError> {
        if length <= LONG {
            let entry: Option<Vec<u8>> = self.store.query(cmd("HGET").arg(hash).arg(field), SCRIPT_LIMIT).await?;
            return Ok(entry.filter(|entry| entry.len() == length));
        }
        let mut entry = Vec::with_capacity(length);
        while entry.len() < length {
            let range = [entry.len() + 1, entry.len() + PART].map(|place| place.to_string());
            let words = [field.as_bytes(), range[0].as_bytes(), range[1].as_bytes()];
            let part: Option<Vec<u8>> = self.run_long(&scripts::PART, &[hash.to_owned()], &words, PART).await?;
            match part {
                Some(part) if !part.is_empty() && entry.len() + part.len() <= length => entry.extend(part),
                _ => return Ok(None),
            }
        }
        Ok(Some(entry))
    }

    /// The beginning of a text under a key of its own: all of it when it is shorter than [`LONG`], empty when there is none.
    pub(super) async fn text_begin(&self, key: &str) -> Result<Vec<u8>, StoreError> {
        self.store.query(cmd("GETRANGE").arg(key).arg(0).arg(LONG - 1), SCRIPT_LIMIT).await
    }

    /// Its length.
    pub(super) async fn text_length(&self, key: &str) -> Result<usize, StoreError> {
        self.store.query(cmd("STRLEN").arg(key), SCRIPT_LIMIT).await
    }

    /// All of it, in parts as above, behind what was read already; as far as it is there.
    pub(super) async fn text_rest(&self, key: &str, mut text: Vec<u8>, length: usize) -> Result<Vec<u8>, StoreError> {
        text.reserve_exact(length.saturating_sub(text.len()));
        while text.len() < length {
            let end = (text.len() + PART).min(length);
            let mut command = cmd("GETRANGE");
            command.arg(key).arg(text.len()).arg(end - 1);
            let more: Vec<u8> = self.store.for_bodies().query(&command, limit(PART)).await?;
            if more.is_empty() {
                break;
            }
            text.extend(more);
        }
        Ok(text)
    }
}
