//! The handle on one queue, what goes in and out of it, and its errors.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::{Header, Mail, MailError, QueueNames, Refusal, UnixMillis};
use crate::store::{Store, StoreError};

/// How long a script may take: `committing` may wait for an fsync (leases.md, Timing).
pub const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

/// One queue in one Redis; clones share everything.
#[derive(Clone)]
pub struct Queue {
    pub(super) store: Store,
    pub(super) names: QueueNames,
}

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
        Self(uuid::Uuid::new_v4().simple().to_string())
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
        Self(uuid::Uuid::new_v4().simple().to_string())
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
        Self { store, names }
    }

    /// The names of its keys.
    pub fn names(&self) -> &QueueNames {
        &self.names
    }

    /// Takes a mail in, unless the queue is full.
    pub async fn enqueue(
        &self,
        _mail: &[u8],
        _limits: EnqueueLimits,
        _now: UnixMillis,
    ) -> Result<Enqueued, EnqueueError> {
        todo!()
    }

    /// Claims up to `max` mails.
    pub async fn claim(
        &self,
        _process: &str,
        _pod: &str,
        _max: usize,
        _now: UnixMillis,
    ) -> Result<Vec<Claimed>, StoreError> {
        todo!()
    }

    /// Goes on to a stage.
    pub async fn advance(
        &self,
        _process: &str,
        _claim: &ClaimId,
        _stage: super::Stage,
        _now: UnixMillis,
    ) -> Result<Advance, StoreError> {
        todo!()
    }

    /// Ends a claim.
    pub async fn settle(
        &self,
        _process: &str,
        _claim: &Claimed,
        _operation: &OperationId,
        _outcome: &Settlement,
        _progress: &Progress,
        _now: UnixMillis,
    ) -> Result<Settled, StoreError> {
        todo!()
    }

    /// Gives a claim back of which nothing was sent, to the end that is taken next; `Lost` once it is committing or taken over.
    pub async fn requeue_claim(
        &self,
        _process: &str,
        _claim: &ClaimId,
        _now: UnixMillis,
    ) -> Result<Advance, StoreError> {
        todo!()
    }

    /// Moves mails whose time has come from delayed to their lists.
    pub async fn promote_due(&self, _now: UnixMillis, _cap: usize) -> Result<usize, StoreError> {
        todo!()
    }

    /// Resolves every claim of a process that is proven dead.
    pub async fn recover(
        &self,
        _process: &str,
        _options: &super::RecoverOptions,
        _now: UnixMillis,
    ) -> Result<super::Recovery, StoreError> {
        todo!()
    }

    /// Every process that has claims.
    pub async fn processes(&self) -> Result<Vec<super::ProcessClaims>, StoreError> {
        todo!()
    }

    /// How many mails are where.
    pub async fn depths(&self, _now: UnixMillis) -> Result<super::Depths, StoreError> {
        todo!()
    }

    /// Mails in the hands of processes, by pod and stage.
    pub async fn in_flight(&self) -> Result<Vec<super::InFlight>, StoreError> {
        todo!()
    }

    /// The state of one mail by its id, while its record is kept.
    pub async fn status(&self, _id: &str) -> Result<Option<super::MailStatus>, StoreError> {
        todo!()
    }

    /// The conservation sum.
    pub async fn audit(&self) -> Result<super::Audit, StoreError> {
        todo!()
    }

    /// Dead letters that fit, oldest first, at most `limit`.
    pub async fn dead_list(
        &self,
        _filter: &super::Filter,
        _limit: usize,
    ) -> Result<Vec<super::DeadLetter>, StoreError> {
        todo!()
    }

    /// One dead letter.
    pub async fn dead_show(&self, _id: &str) -> Result<Option<super::DeadLetter>, StoreError> {
        todo!()
    }

    /// Re-drives dead letters that fit, at most `limit`.
    pub async fn dead_requeue(
        &self,
        _filter: &super::Filter,
        _limit: usize,
        _now: UnixMillis,
    ) -> Result<super::Bulk, StoreError> {
        todo!()
    }

    /// Discards dead letters that fit, at most `limit`.
    pub async fn dead_discard(
        &self,
        _filter: &super::Filter,
        _limit: usize,
        _now: UnixMillis,
    ) -> Result<super::Bulk, StoreError> {
        todo!()
    }

    /// Held mails that fit, at most `limit`.
    pub async fn held_list(&self, _filter: &super::Filter, _limit: usize) -> Result<Vec<super::HeldMail>, StoreError> {
        todo!()
    }

    /// Sends held mails again.
    pub async fn held_release(
        &self,
        _filter: &super::Filter,
        _limit: usize,
        _now: UnixMillis,
    ) -> Result<super::Bulk, StoreError> {
        todo!()
    }

    /// Discards held mails.
    pub async fn held_discard(
        &self,
        _filter: &super::Filter,
        _limit: usize,
        _now: UnixMillis,
    ) -> Result<super::Bulk, StoreError> {
        todo!()
    }
}
