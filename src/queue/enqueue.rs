//! Taking a mail in, unless the queue is full or has it already.

use redis::cmd;
use serde::Serialize;

use super::{
    At, ClaimId, Header, Queue,
    at::word,
    long::{LONG, limit},
    records::short,
    scripts,
};
use crate::{
    mail::{Mail, MailError, Priority, fresh_id, parse},
    store::StoreError,
};

/// How much may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnqueueLimits {
    /// Mails, waiting and delayed together.
    pub max_length: u64,
    /// Bytes of them; 0 sets no limit.
    pub max_bytes: u64,
}

/// A mail that was taken in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Enqueued {
    /// The id to ask for its state; of the first mail when this one is a duplicate.
    pub id: String,
    /// Whether an earlier mail with the same idempotency key or id stands for it.
    pub duplicate: bool,
    /// Whether that earlier mail is another one: other recipients or another content under the same id or key.
    pub differs: bool,
}

/// Why a mail was not taken in.
#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// It is not a mail.
    #[error("the mail is invalid: {0}")]
    Invalid(#[from] MailError),
    /// As many mails, or bytes, wait as may.
    #[error("the queue is full: {length} of {max} {unit} wait; try again later, or raise spec.queue.maxLength")]
    Full {
        /// How much waits.
        length: u64,
        /// How much may.
        max: u64,
        /// `mails` or `bytes`.
        unit: &'static str,
    },
    /// Redis did not take it; unless the error is definite, it may have been taken: repeating it with this `id` is safe.
    #[error("{source}")]
    Store {
        /// What went wrong.
        source: StoreError,
        /// The mail's id, the producer's or the one that was made for it.
        id: String,
    },
}

impl From<StoreError> for EnqueueError {
    fn from(source: StoreError) -> Self {
        Self::Store { source, id: String::new() }
    }
}

impl Queue {
    /// Takes a mail in, unless the queue is full. `mail` is the producer's JSON; it is stored as it is.
    ///
    /// An earlier mail with the same idempotency key, or the same `id`, stands for this one, unless it is nowhere any more.
    /// After an error that is not definite the mail may have been taken in: repeat it with the `id` that the error names.
    /// After cancelling too: so whoever may cancel gives it an id or key.
    pub async fn enqueue(
        &self,
        mail: &[u8],
        limits: EnqueueLimits,
        at: impl Into<At>,
    ) -> Result<Enqueued, EnqueueError> {
        let (parsed, at) = (parse(mail.to_vec())?, at.into());
        let header = Header::fix(&parsed, None, &fresh_id(), self.estimate(at));
        match self.hand_in(&parsed, &header, mail, limits, at).await {
            Err(EnqueueError::Store { source, .. }) => Err(EnqueueError::Store { source, id: header.id }),
            other => other,
        }
    }

    async fn hand_in(
        &self,
        mail: &Mail,
        header: &Header,
        payload: &[u8],
        limits: EnqueueLimits,
        at: At,
    ) -> Result<Enqueued, EnqueueError> {
        let entry = [&header.encode(mail.priority), payload].concat();
        let records = self.records(&header.id, header.key.as_deref());
        let serial = short(&header.serial);
        let (token, now, sum) = (ClaimId::random(), at.word(), mail.fingerprint());
        let (length, bytes) = (limits.max_length.to_string(), limits.max_bytes.to_string());
        let (due, expires) = (word(mail.not_before), word(mail.expires_at));
        let mut sure: &[u8] = b"";
        loop {
            let arguments: [&[u8]; 12] = [
                &entry,
                serial.as_bytes(),
                header.id.as_bytes(),
                length.as_bytes(),
                bytes.as_bytes(),
                now.as_bytes(),
                due.as_bytes(),
                token.0.as_bytes(),
                expires.as_bytes(),
                sum.as_bytes(),
                sure,
                &records.fields,
            ];
            let answer: Vec<String> = self.run(&scripts::ENQUEUE, &records.buckets, &arguments).await?;
            return match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
                ["queued", _] => Ok(Enqueued { id: header.id.clone(), duplicate: false, differs: false }),
                ["duplicate", id, differs] => {
                    Ok(Enqueued { id: (*id).to_owned(), duplicate: true, differs: !differs.is_empty() })
                }
                ["doubtful", first] => match self.end_lost(&records, &header.id, &header.serial, at).await {
                    Ok(()) => {
                        sure = b"1";
                        continue;
                    }
                    Err(error) if error.is_forbidden() => {
                        self.push(mail.priority, payload, limits).await?;
                        Ok(Enqueued { id: (*first).to_owned(), duplicate: true, differs: false })
                    }
                    Err(error) => Err(error.into()),
                },
                ["expired"] => Err(MailError::new("expiresAt", "already past; nothing was queued").into()),
                ["full", length, max, unit] => Err(EnqueueError::Full {
                    length: length.parse().unwrap_or(0),
                    max: max.parse().unwrap_or(0),
                    unit: if *unit == "bytes" { "bytes" } else { "mails" },
                }),
                other => Err(self.garbled(format!("enqueue answered {other:?}")).into()),
            };
        }
    }

    /// Hands a mail over as its producer made it: whether an earlier one stands for it is seen when it is claimed, by somebody
    /// who may look where that is.
    async fn push(&self, priority: Priority, payload: &[u8], limits: EnqueueLimits) -> Result<(), EnqueueError> {
        let length = self.pending().await?;
        if length >= limits.max_length {
            return Err(EnqueueError::Full { length, max: limits.max_length, unit: "mails" });
        }
        let mut push = cmd("LPUSH");
        push.arg(self.names.list(priority)).arg(payload);
        let store = if payload.len() > LONG { self.store.for_bodies() } else { self.store.clone() };
        let _: u64 = store.query(&push, limit(payload.len())).await?;
        Ok(())
    }
}
