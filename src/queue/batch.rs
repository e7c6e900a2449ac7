//! Batches: many mails under one name, and how far they are.
//!
//! A mail of a batch is a mail like any other, whose id is made of the batch's name and its number; so its record tells of
//! it, no script knows of batches, and mails without one pay nothing for them. Beside them lies one small hash for each
//! batch, which says how many there are.

use std::{collections::BTreeMap, fmt, str::FromStr, time::Duration};

use futures::{StreamExt, TryStreamExt, stream};
use redis::cmd;
use serde::Serialize;

use super::{Queue, SCRIPT_LIMIT};
use crate::store::StoreError;

/// How long it is known how many mails a batch has.
const KEPT: Duration = Duration::from_secs(30 * 86_400);
/// How many records are asked for at once.
const AT_ONCE: usize = 64;
/// How long a name may be, in bytes.
const LONGEST: usize = 64;

/// The name of a batch: up to 64 letters, digits, `.`, `_` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchName(String);

impl BatchName {
    /// The id of its mail with this number, from 1.
    pub fn id(&self, number: u64) -> String {
        format!("{}-{number}", self.0)
    }
}

impl FromStr for BatchName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_sound = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=LONGEST).contains(&text.len()) && text.bytes().all(is_sound) {
            Ok(Self(text.to_owned()))
        } else {
            Err(format!("the name of a batch has up to {LONGEST} letters, digits, '.', '_' and '-'"))
        }
    }
}

impl fmt::Display for BatchName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How much of a batch was sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchSent {
    /// Mails of it that were read.
    pub mails: u64,
    /// Those of them that were refused.
    pub refused: u64,
    /// Those that were dropped, since a mail outside the batch has the same idempotency key.
    pub duplicates: u64,
    /// Whether these are all.
    pub is_whole: bool,
}

/// How far a batch is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BatchProgress {
    /// What was sent of it.
    #[serde(flatten)]
    pub sent: BatchSent,
    /// How many mails are in which state ([`super::MailStatus`] names them).
    pub states: BTreeMap<&'static str, u64>,
    /// Mails of which nothing is known: their records are over, or whether they were queued was never known.
    pub unknown: u64,
}

impl BatchProgress {
    /// Mails that are on their way.
    pub fn open(&self) -> u64 {
        ["queued", "claimed", "delayed", "resend"].iter().filter_map(|state| self.states.get(state)).sum()
    }

    /// Whether no more will come of it by itself.
    pub fn is_over(&self) -> bool {
        self.sent.is_whole && self.open() == 0
    }

    /// Whether all of it was delivered, or stands for what was.
    pub fn is_delivered(&self) -> bool {
        let good = ["delivered", "duplicate"].iter().filter_map(|state| self.states.get(state)).sum::<u64>();
        self.is_over() && self.sent.refused == 0 && good + self.sent.duplicates == self.sent.mails
    }
}

impl Queue {
    /// Says how much of a batch was sent. One that is sent again has no fewer mails than before.
    pub async fn batch_sent(&self, name: &BatchName, sent: BatchSent) -> Result<(), StoreError> {
        let key = self.names.batch(&name.0);
        let before = self.batch(&key).await?.unwrap_or_default();
        let mails = sent.mails.max(before.mails);
        // A run that begins again has told of fewer than lie there.
        let (refused, duplicates) = if sent.mails < before.mails {
            (before.refused, before.duplicates)
        } else {
            (sent.refused, sent.duplicates)
        };
        let mut write = cmd("HSET");
        write.arg(&key).arg("mails").arg(mails).arg("refused").arg(refused);
        write.arg("duplicates").arg(duplicates).arg("whole").arg(u8::from(sent.is_whole));
        let _: u64 = self.store.query(&write, SCRIPT_LIMIT).await?;
        let mut expire = cmd("EXPIRE");
        expire.arg(&key).arg(KEPT.as_secs());
        let _: u64 = self.store.query(&expire, SCRIPT_LIMIT).await?;
        Ok(())
    }

    /// How far a batch is; none when nobody sent one of this name within 30 days. It asks for the record of each mail, some
    /// at once, so this takes time and no memory.
    pub async fn batch_progress(&self, name: &BatchName) -> Result<Option<BatchProgress>, StoreError> {
        let Some(sent) = self.batch(&self.names.batch(&name.0)).await? else { return Ok(None) };
        let asked = stream::iter(1..=sent.mails).map(|number| {
            let id = name.id(number);
            async move { self.recorded(&id).await }
        });
        let progress = BatchProgress { sent, ..BatchProgress::default() };
        let progress = asked.buffer_unordered(AT_ONCE).try_fold(progress, async |mut progress, state| {
            match state {
                Some(state) => *progress.states.entry(state).or_default() += 1,
                None => progress.unknown += 1,
            }
            Ok(progress)
        });
        let mut progress = progress.await?;
        progress.unknown = progress.unknown.saturating_sub(sent.refused + sent.duplicates);
        Ok(Some(progress))
    }

    async fn batch(&self, key: &str) -> Result<Option<BatchSent>, StoreError> {
        let mut ask = cmd("HMGET");
        ask.arg(key).arg("mails").arg("refused").arg("duplicates").arg("whole");
        let found: Vec<Option<u64>> = self.store.query(&ask, SCRIPT_LIMIT).await?;
        let [Some(mails), Some(refused), Some(duplicates), whole] = found[..] else { return Ok(None) };
        Ok(Some(BatchSent { mails, refused, duplicates, is_whole: whole == Some(1) }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_ids_and_keys_and_nothing_else() {
        assert_eq!("news-2026.11".parse::<BatchName>().map(|name| name.id(7)), Ok("news-2026.11-7".into()));
        for text in ["", "two words", "a:b", "{tag}", &"x".repeat(65)] {
            assert!(text.parse::<BatchName>().is_err(), "{text:?}");
        }
    }
}
