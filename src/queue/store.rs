//! The handle on one queue, what goes in and out of it, and its errors.

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    Header, Mail, MailError, QueueNames, Refusal, Room, UnixMillis, ids::fresh_id, parse, room::Share, scripts,
};
use crate::store::{Store, StoreError};

/// How long a script may take: `committing` may wait for an fsync.
pub const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

/// One queue in one Redis; clones share everything.
#[derive(Clone)]
pub struct Queue {
    pub(super) store: Store,
    pub(super) names: QueueNames,
    /// Claim ids whose fate is not known here: the answer to a claim was lost. The next claim asks for them.
    pub(super) orphans: Arc<Mutex<Vec<Orphan>>>,
    /// For the mails that are claimed here.
    pub(super) room: Room,
}

/// A claim id that Redis may or may not have given a mail to.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub process: String,
    pub id: ClaimId,
    pub since: Instant,
}

/// How long the state of a mail is kept once it is final, and a second mail with its key refused.
pub const RETENTION: Duration = Duration::from_secs(24 * 3_600);

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
    /// Redis did not take it; unless the error is definite, it may have been taken: repeating it with the same `id` or
    /// idempotency key is safe.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Names one claim: one mail in the hands of one process. Never used twice.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ClaimId(pub(super) String);

impl ClaimId {
    /// As text, 32 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn random() -> Self {
        Self(fresh_id())
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Names one settlement, so that repeating it changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OperationId(pub(super) String);

impl OperationId {
    /// A new one; make it once for each settlement and keep it for the repetitions.
    pub fn random() -> Self {
        Self(fresh_id())
    }
}

/// A mail in the hands of a process.
#[derive(Clone, Debug, PartialEq)]
pub struct Claimed {
    /// Names the claim.
    pub claim_id: ClaimId,
    /// What is known of the mail.
    pub header: Header,
    /// The mail; `recipients` are those still to be sent to.
    pub mail: Mail,
    /// The producer's bytes, as they lay in the list.
    pub payload: Vec<u8>,
    /// The JSON, when the list held only an id.
    pub fetched: Option<Vec<u8>>,
    /// To be sent with nothing beside it: it was being sent when processes crashed.
    pub alone: bool,
    /// Its part of the memory that the process may use.
    pub(super) share: Arc<Share>,
}

/// How an attempt to go on to a stage ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Advance {
    /// Written durably.
    Done,
    /// The claim was taken over: abort, and settle nothing.
    Lost,
}

/// What a failed try costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// An attempt: the server judged this mail.
    Attempt,
    /// A deferral: the relay could not be used; free.
    Deferral,
}

/// What became of a claimed mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Settlement {
    /// The server has it. With refused recipients in the progress (or earlier), the refused rest is a dead letter.
    Delivered {
        /// The server's reply.
        reply: String,
    },
    /// To be tried again.
    Delayed {
        /// Not before.
        due: UnixMillis,
        /// What it costs.
        counted: Counted,
        /// A word for the kind of failure.
        reason: String,
        /// The server's reply or the error.
        reply: String,
    },
    /// A person must look.
    Dead {
        /// A word for the kind of failure.
        reason: String,
        /// The server's reply or the error.
        reply: String,
    },
    /// Nobody knows whether the server has it.
    Held {
        /// A word for what happened.
        reason: String,
        /// What was read last, or the error.
        reply: String,
    },
}

/// What became of single recipients in this try; empty when all shared the mail's own outcome.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Addresses that need nothing more: the server has the mail for them.
    pub accepted: Vec<String>,
    /// Addresses that were refused for good; with the last outcome they become a dead letter of this mail.
    pub refused: Vec<Refusal>,
}

/// How a settlement ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// It took effect.
    Done,
    /// It had taken effect before; nothing changed.
    Repeated,
    /// The claim was recovered meanwhile, but nobody had taken the mail up: it was moved to its true outcome.
    Late,
    /// Someone else has the mail, or a person decided; nothing changed.
    Lost,
}

impl Queue {
    /// A queue under these names; nothing is sent.
    pub fn new(store: Store, names: QueueNames) -> Self {
        Self { store, names, orphans: Arc::default(), room: Room::default() }
    }

    /// The same for a process that may hold no more mail than this room has place for.
    pub fn within(self, room: Room) -> Self {
        Self { room, ..self }
    }

    /// The names of its keys.
    pub fn names(&self) -> &QueueNames {
        &self.names
    }

    /// Takes a mail in, unless the queue is full. `mail` is the producer's JSON; it is stored as it is.
    ///
    /// An earlier mail with the same idempotency key, or the same `id`, stands for this one. After an error that is
    /// not definite, and after cancelling, the mail may have been taken in: repeat it with the same `id` or key.
    pub async fn enqueue(&self, mail: &[u8], limits: EnqueueLimits, now: UnixMillis) -> Result<Enqueued, EnqueueError> {
        let parsed = parse(mail)?;
        if parsed.expires_at.is_some_and(|expires| expires <= now) {
            return Err(MailError::new("expiresAt", "already past; nothing was queued").into());
        }
        let due = parsed.not_before.filter(|due| *due > now).map_or_else(String::new, |due| due.0.to_string());
        let header = Header::fix(&parsed, None, now);
        let mut entry = header.encode(parsed.priority);
        entry.extend_from_slice(mail);
        let mut keys = self.records(&header.id, header.key.as_deref());
        keys.truncate(2);
        let token = ClaimId::random();
        let (length, bytes, at) = (limits.max_length.to_string(), limits.max_bytes.to_string(), now.0.to_string());
        let arguments: [&[u8]; 8] = [
            &entry,
            header.serial.as_bytes(),
            header.id.as_bytes(),
            length.as_bytes(),
            bytes.as_bytes(),
            at.as_bytes(),
            due.as_bytes(),
            token.0.as_bytes(),
        ];
        let answer: Vec<String> = self.run(&scripts::ENQUEUE, &keys, &arguments).await?;
        match answer.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["queued", _] => Ok(Enqueued { id: header.id, duplicate: false }),
            ["duplicate", id] => Ok(Enqueued { id: (*id).to_owned(), duplicate: true }),
            ["full", length, max, unit] => Err(EnqueueError::Full {
                length: length.parse().unwrap_or(0),
                max: max.parse().unwrap_or(0),
                unit: if *unit == "bytes" { "bytes" } else { "mails" },
            }),
            other => Err(self.garbled(format!("enqueue answered {other:?}")).into()),
        }
    }

    /// Moves mails whose time has come from delayed to their lists, at most `cap`; returns how many. Every worker does
    /// this at its heartbeat, with at most half of its capacity, so that old retries never starve new mail.
    pub async fn promote_due(&self, now: UnixMillis, cap: usize) -> Result<usize, StoreError> {
        let (now, cap) = (now.0.to_string(), cap.min(1_000).to_string());
        self.run(&scripts::PROMOTE, &[], &[now.as_bytes(), cap.as_bytes()]).await
    }

    pub(super) fn garbled(&self, detail: String) -> StoreError {
        StoreError::Garbled { address: self.store.address().to_owned(), detail }
    }
}
