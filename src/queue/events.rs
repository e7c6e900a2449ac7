//! What became of mails, from the stream of outcomes (docs/events.md).

use redis::cmd;
use serde::Serialize;

use super::{Queue, SCRIPT_LIMIT};
use crate::{mail::UnixMillis, store::StoreError};

/// How many are read at once.
const PAGE: usize = 500;

/// One outcome of one mail. A mail has one for each try, not only for the last.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Names it in the stream; the next `XREAD` goes on after it.
    pub event: String,
    /// The mail's id; empty when it never had one.
    pub id: String,
    /// What became of it: `delivered`, `delayed`, `held`, `dead`, `queued` (again), `resend`, `expired`, `discarded`,
    /// `duplicate`, `lost`.
    pub outcome: String,
    /// When, by Redis' clock.
    pub at: UnixMillis,
    /// Why, in a word; of a duplicate the id of the mail that stands for it.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the server said, without addresses.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub reply: String,
    /// Its Message-ID, once fixed.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub message_id: String,
}

impl Outcome {
    /// Fields in any order; unknown ones are of a later version.
    fn read(event: String, words: &[Vec<u8>]) -> Self {
        let mut outcome = Self { event, ..Self::default() };
        for pair in words.chunks_exact(2) {
            let value = String::from_utf8_lossy(&pair[1]).into_owned();
            match pair[0].as_slice() {
                b"id" => outcome.id = value,
                b"outcome" => outcome.outcome = value,
                b"at" => outcome.at = UnixMillis(value.parse().unwrap_or(0)),
                b"reason" => outcome.reason = value,
                b"reply" => outcome.reply = value,
                b"messageId" => outcome.message_id = value,
                _ => {}
            }
        }
        outcome
    }

    /// Whether it tells of the mail itself, not of another one that was dropped since it has the same id.
    fn is_its_own(&self) -> bool {
        self.outcome != "duplicate"
    }
}

/// What the outcomes of a mail say of it beyond its state.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub message_id: Option<String>,
    pub reply: Option<String>,
}

impl Queue {
    /// The outcomes of one mail that the stream still has, oldest first: the newest `limit` of them. It is read page by
    /// page, so memory is bounded by `limit`; the time by the length of the stream.
    pub async fn history(&self, id: &str, limit: usize) -> Result<Vec<Outcome>, StoreError> {
        Ok(self.outcomes(id, limit, false).await?.0)
    }

    /// The Message-ID of a mail and what was said of it last.
    pub(super) async fn told(&self, id: &str) -> Result<Told, StoreError> {
        Ok(self.outcomes(id, 0, true).await?.1)
    }

    /// Both, in one way through the stream; the second as far as it is wanted.
    pub(super) async fn outcomes(
        &self,
        id: &str,
        limit: usize,
        wants_told: bool,
    ) -> Result<(Vec<Outcome>, Told), StoreError> {
        let (mut found, mut told) = (Vec::new(), Told::default());
        self.newest_first(|outcome| {
            if outcome.id == id {
                if outcome.is_its_own() {
                    told.reply.get_or_insert_with(|| outcome.reply.clone());
                    let message_id = Some(&outcome.message_id).filter(|text| !text.is_empty()).cloned();
                    told.message_id = told.message_id.take().or(message_id);
                }
                if found.len() < limit {
                    found.push(outcome);
                }
            }
            found.len() < limit || (wants_told && (told.reply.is_none() || told.message_id.is_none()))
        })
        .await?;
        told.reply = told.reply.filter(|text| !text.is_empty());
        found.reverse();
        Ok((found, told))
    }

    /// Goes through the stream from its newest entry for as long as `look` wants more.
    async fn newest_first(&self, mut look: impl FnMut(Outcome) -> bool) -> Result<(), StoreError> {
        let mut end = "+".to_owned();
        loop {
            let mut command = cmd("XREVRANGE");
            command.arg(self.names.events()).arg(&end).arg("-").arg("COUNT").arg(PAGE);
            let page: Vec<(String, Vec<Vec<u8>>)> = self.store.query(&command, SCRIPT_LIMIT).await?;
            let is_last = page.len() < PAGE;
            if let Some((event, _)) = page.last() {
                end = format!("({event}");
            }
            for (event, words) in page {
                if !look(Outcome::read(event, &words)) {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
