//! The handle on one queue, what goes in and out of it, and its errors.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{
    At, Header, Mail, MailError, QueueNames, Refusal, Room, Schedule, UnixMillis,
    ids::fresh_id,
    parse,
    records::{Records, short},
    room::Share,
    scripts, time,
};
use crate::{
    store::{Store, StoreError},
    telemetry::log::mask_id,
};

/// How long a script may take: `committing` may wait for an fsync.
pub const SCRIPT_LIMIT: Duration = Duration::from_secs(2);

/// One queue in one Redis; clones share everything.
#[derive(Clone)]
pub struct Queue {
    pub(super) store: Store,
    pub(super) names: QueueNames,
    /// Claim ids whose fate is not known here: the answer to a claim was lost. The next claim asks for them.
    pub(super) orphans: Arc<Mutex<Vec<Orphan>>>,
    /// Claim ids of calls that are under way: a long mail takes its time until it is read.
    pub(super) on_the_way: Arc<Mutex<BTreeSet<ClaimId>>>,
    /// For the mails that are claimed here.
    pub(super) room: Room,
    /// What Redis' clock said when it was heard last, and when that was.
    heard: Arc<Mutex<Option<(UnixMillis, Instant)>>>,
}

/// A claim id that Redis may or may not have given a mail to.
#[derive(Clone, Debug)]
pub(super) struct Orphan {
    pub process: String,
    pub id: ClaimId,
    pub since: Instant,
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
    pub payload: Bytes,
    /// The JSON, when the list held only an id.
    pub fetched: Option<Bytes>,
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
        /// How long after the settlement, by Redis' clock.
        wait: Duration,
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
    /// Addresses that the server judged and said later, with the schedule they go on by; empty when it is the whole mail,
    /// by the schedule that `maxRetries` counts.
    pub judged: Vec<(String, Schedule)>,
    /// Whether a refusal may have judged us and not the mail.
    pub suspect: bool,
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
        Self {
            store,
            names,
            orphans: Arc::default(),
            on_the_way: Arc::default(),
            room: Room::default(),
            heard: Arc::default(),
        }
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
        let mut entry = header.encode(parsed.priority);
        entry.extend_from_slice(mail);
        match self.hand_in(&parsed, &header, &entry, limits, at).await {
            Err(EnqueueError::Store { source, .. }) => Err(EnqueueError::Store { source, id: header.id }),
            other => other,
        }
    }

    async fn hand_in(
        &self,
        mail: &Mail,
        header: &Header,
        entry: &[u8],
        limits: EnqueueLimits,
        at: At,
    ) -> Result<Enqueued, EnqueueError> {
        let records = self.records(&header.id, header.key.as_deref());
        let serial = short(&header.serial);
        let (token, now, sum) = (ClaimId::random(), at.word(), mail.fingerprint());
        let (length, bytes) = (limits.max_length.to_string(), limits.max_bytes.to_string());
        let (due, expires) = (time::word(mail.not_before), time::word(mail.expires_at));
        let mut sure: &[u8] = b"";
        loop {
            let arguments: [&[u8]; 12] = [
                entry,
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
                ["doubtful"] => {
                    self.end_lost(&records, &header.id, &header.serial, at).await?;
                    sure = b"1";
                    continue;
                }
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

    /// Ends the records that forbid the mail of this serial while their own mail is nowhere any more: it was removed by
    /// hand. A mail that is in any list, hand or place is found.
    pub(super) async fn end_lost(&self, records: &Records, id: &str, serial: &str, at: At) -> Result<(), StoreError> {
        let (now, serial) = (at.word(), short(serial));
        for _ in 0..super::inspect::TRIES {
            // The keys of a script must be known beforehand; when a process came or went in between, look again.
            let processes: Vec<String> = self.pods().await?.into_keys().collect();
            let mut keys = records.buckets.clone();
            keys.extend(processes.iter().map(|process| self.names.claims(process)));
            let mut arguments = vec![now.as_bytes(), id.as_bytes(), serial.as_bytes(), &*records.fields];
            arguments.extend(processes.iter().map(String::as_bytes));
            let lost: Option<Vec<String>> = self.run(&scripts::LOST, &keys, &arguments).await?;
            let Some(lost) = lost else { continue };
            for id in lost {
                tracing::warn!(
                    mail.id = &*mask_id(&id),
                    "a mail that was accepted is nowhere any more; its id is free again"
                );
            }
            break;
        }
        Ok(())
    }

    /// Moves mails whose time has come from delayed to their lists; returns how many. At most `cap`, and while other mail
    /// waits at most half as many as were taken since the last ones: old retries never starve new mail, whatever the
    /// number of workers that call this.
    pub async fn promote_due(&self, at: impl Into<At>, cap: usize) -> Result<usize, StoreError> {
        let (now, cap) = (at.into().word(), cap.min(1_000).to_string());
        self.run(&scripts::PROMOTE, &[], &[now.as_bytes(), cap.as_bytes()]).await
    }

    /// What time it is for Redis, about: from what it said last. For what people read; scripts ask Redis themselves.
    pub fn estimate(&self, at: impl Into<At>) -> UnixMillis {
        match (at.into(), *self.heard.lock().unwrap_or_else(PoisonError::into_inner)) {
            (At::Fixed(now), _) => now,
            (At::Redis, Some((said, when))) => said.after(when.elapsed()),
            (At::Redis, None) => UnixMillis::now(),
        }
    }

    pub(super) fn heard(&self, time: UnixMillis) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// Asks Redis for its time, for [`Queue::estimate`].
    pub async fn ask_time(&self) -> Result<UnixMillis, StoreError> {
        let (seconds, micros): (u64, u64) = self.store.query(&redis::cmd("TIME"), SCRIPT_LIMIT).await?;
        let time = UnixMillis(seconds.saturating_mul(1_000).saturating_add(micros / 1_000));
        self.heard(time);
        Ok(time)
    }

    /// What time `at` is; for Redis' own it is asked.
    pub async fn time(&self, at: At) -> Result<UnixMillis, StoreError> {
        match at {
            At::Redis => self.ask_time().await,
            At::Fixed(now) => Ok(now),
        }
    }

    pub(super) fn garbled(&self, detail: String) -> StoreError {
        StoreError::Garbled { address: self.store.address().to_owned(), detail }
    }
}

impl From<StoreError> for EnqueueError {
    fn from(source: StoreError) -> Self {
        Self::Store { source, id: String::new() }
    }
}
