//! Held mails: nobody knows whether the server has them, and a person or a rule decides.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    At, Bulk, ClaimId, Claimed, Entry, Filter, OperationId, PerRecipient, Queue, Refusal, Settled, Settlement, Stage,
    Try, envelope,
    payload::bare_id,
    records::{Records, short},
    scripts,
};
use crate::{
    mail::{UnixMillis, parse},
    store::StoreError,
    telemetry::log::mask_id,
};

/// A mail whose outcome nobody knows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
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
    /// At what stage.
    pub stage: Option<Stage>,
    /// What was read last, or the error.
    pub reply: String,
    /// When it was first seen; no server can have heard of it before.
    pub first_seen: UnixMillis,
    /// Tries and refusals of the envelope are not repeated here; the key is, for its record.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) serial: String,
}

impl HeldMail {
    pub(super) fn encode(&self) -> Vec<u8> {
        // A plain struct always serialises, and on one line.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Reads an entry: a line of JSON, then the envelope. One that makes no sense is shown with what its envelope tells.
    fn decode(claim: &str, entry: &[u8]) -> Self {
        let end = entry.iter().position(|&byte| byte == b'\n').unwrap_or(entry.len());
        let mut held: Self = serde_json::from_slice(&entry[..end])
            .unwrap_or_else(|_| Self { reason: "Malformed".into(), ..Self::default() });
        claim.clone_into(&mut held.claim_id);
        if let Entry::Sealed(header, _) = Entry::decode(entry.get(end + 1..).unwrap_or_default()) {
            held.first_seen = header.first_seen;
            if held.id.is_empty() {
                (held.id, held.message_id, held.key, held.serial) =
                    (header.id, header.message_id, header.key, header.serial);
            }
        }
        held
    }

    fn fits(&self, filter: &Filter) -> bool {
        let texts = [&*self.message_id, &*self.reply];
        filter.fits(&[&self.id, &self.claim_id], &self.reason, self.at, texts)
    }

    /// Whether its Message-ID tells it from all others: a header that was only taken was never checked.
    pub fn is_identified(&self) -> bool {
        self.stage.is_some_and(|stage| stage != Stage::Taken) && !self.message_id.is_empty()
    }
}

/// A held mail with everything known about it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HeldDetails {
    /// What the list shows.
    #[serde(flatten)]
    pub mail: HeldMail,
    /// Tries before, oldest first.
    pub tries: Vec<Try>,
    /// Recipients that were refused for good.
    pub refused: Vec<Refusal>,
    /// Recipients still to be sent to, once some had an outcome of their own; absent means all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub remaining: Option<Vec<String>>,
    /// The producer's bytes; what is no UTF-8 in them is shown as U+FFFD.
    pub payload: String,
}

impl Queue {
    /// Held mails that fit, oldest first, at most `limit`.
    pub async fn held_list(&self, filter: &Filter, limit: usize) -> Result<Vec<HeldMail>, StoreError> {
        let mut fitting = Vec::new();
        let mut cursor = 0u64;
        loop {
            // What is known of it, and the header of its envelope.
            let (next, page) = self.heads(&self.names.held, cursor, 2).await?;
            let mails = page.iter().map(|head| HeldMail::decode(&head.field, &head.lines));
            fitting.extend(mails.filter(|held| held.fits(filter)));
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        fitting.sort_by(|a, b| (a.at, &a.claim_id).cmp(&(b.at, &b.claim_id)));
        fitting.dedup_by(|a, b| a.claim_id == b.claim_id);
        fitting.truncate(limit);
        Ok(fitting)
    }

    /// Sends held mails that fit again, at most `limit`, with the same Message-ID: whoever decides this has looked
    /// whether the server has them, or takes the risk.
    pub async fn held_release(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.held_decide(filter, limit, "release", at.into()).await
    }

    /// Discards held mails that fit, at most `limit`; they are counted as discarded. Whoever decides this says that the
    /// server has them: a repeat with the same id or key is a duplicate.
    pub async fn held_discard(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.held_decide(filter, limit, "discard", at.into()).await
    }

    /// One held mail by its id or claim, the oldest of several, with everything known about it; of a header that was not
    /// checked yet only what the mail's record vouches for, since it may be a producer's.
    pub async fn held_show(&self, id: &str) -> Result<Option<HeldDetails>, StoreError> {
        let Some(mail) = self.held_list(&Filter::id(id), 1).await?.pop() else { return Ok(None) };
        let Some(envelope) = self.held_envelope(&mail).await? else { return Ok(None) };
        let entry = Entry::decode(&envelope);
        let payload = String::from_utf8_lossy(entry.payload()).into_owned();
        let checked = mail.stage != Some(Stage::Taken) || self.vouches(&mail.id, &mail.serial).await?;
        let (tries, refused, remaining) = match entry {
            Entry::Sealed(header, _) if checked => (header.tries, header.refused, header.remaining),
            _ => Default::default(),
        };
        Ok(Some(HeldDetails { mail, tries, refused, remaining, payload }))
    }

    /// Gives a held mail the outcome that somebody knows, as a late answer of the server would have; whether it was still
    /// held, and what it says could be read.
    pub async fn held_settle(
        &self,
        held: &HeldMail,
        outcome: &Settlement,
        at: impl Into<At>,
    ) -> Result<bool, StoreError> {
        let Some(envelope) = self.held_envelope(held).await? else { return Ok(false) };
        let Entry::Sealed(header, payload) = Entry::decode(&envelope) else { return Ok(false) };
        let fetched = match bare_id(payload) {
            Some(id) => {
                let found = self.payload_at(&self.names.payload(&id)).await?;
                let Some(text) = found.and_then(|(found, _)| found.text()) else { return Ok(false) };
                Some(text)
            }
            None => None,
        };
        let payload = Bytes::copy_from_slice(payload);
        let Ok(mut mail) = parse(fetched.as_ref().unwrap_or(&payload).clone()) else { return Ok(false) };
        if let Some(remaining) = &header.remaining {
            mail.recipients.retain(|recipient| remaining.contains(recipient));
        }
        mail.priority = envelope::priority(&envelope);
        let claim = Claimed {
            claim_id: ClaimId(held.claim_id.clone()),
            header: *header,
            mail,
            payload,
            fetched,
            alone: false,
            share: Arc::default(),
        };
        let (operation, per_recipient) = (OperationId::random(), PerRecipient::default());
        let settled = self.settle(&held.process, &claim, &operation, outcome, &per_recipient, at).await?;
        Ok(settled == Settled::Late)
    }

    /// The envelope of a held mail.
    async fn held_envelope(&self, held: &HeldMail) -> Result<Option<Vec<u8>>, StoreError> {
        let claim = [held.claim_id.clone()];
        let Some(found) = self.heads_of(&self.names.held, &claim, 0).await?.pop() else { return Ok(None) };
        let Some(mut entry) = self.entry(&self.names.held, &found.field, found.length).await? else { return Ok(None) };
        let end = entry.iter().position(|&byte| byte == b'\n').map_or(entry.len(), |at| at + 1);
        Ok(Some(entry.split_off(end)))
    }

    async fn held_decide(&self, filter: &Filter, limit: usize, action: &str, at: At) -> Result<Bulk, StoreError> {
        let mut bulk = Bulk::default();
        let at = at.word();
        for held in self.held_list(filter, limit).await? {
            let Records { buckets, fields } = self.records(&held.id, held.key.as_deref());
            let serial = short(&held.serial);
            let arguments: [&[u8]; 8] = [
                held.claim_id.as_bytes(),
                action.as_bytes(),
                at.as_bytes(),
                held.id.as_bytes(),
                serial.as_bytes(),
                &fields,
                held.stage.map_or("", Stage::as_str).as_bytes(),
                held.message_id.as_bytes(),
            ];
            let answer: String = self.run(&scripts::RELEASE, &buckets, &arguments).await?;
            match answer.as_str() {
                "done" => bulk.done += 1,
                _ => bulk.skipped += 1,
            }
            tracing::info!(mail.id = &*mask_id(&held.id), action, answer, "a person decided on a held mail");
        }
        Ok(bulk)
    }
}
