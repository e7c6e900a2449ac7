//! Claiming: mails into the hands of a process, looked at before anyone sends them.

mod admit;
mod decide;
mod look;
mod pending;
mod take;

use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use futures::future::try_join_all;

use super::{
    ALONE_FROM, Advance, At, ClaimId, Claimed, Queue,
    room::{Grant, Share},
    scripts,
};
use crate::{store::StoreError, telemetry::log::mask_id};
use decide::Admission;
use look::{Looked, Sight};
use pending::Pending;

/// How many mails one claim takes at most: no script may run long.
const MAX_BATCH: usize = 1_000;

/// What one claim brought.
#[derive(Debug, Default, PartialEq)]
pub struct Batch {
    /// Mails to be sent.
    pub mails: Vec<Claimed>,
    /// Entries that needed no sending and are settled: duplicates, expired and early mail, what is no mail. More may wait
    /// behind them, so whoever got less than was asked for looks again.
    pub ended: usize,
}

impl Queue {
    /// Claims up to `max` mails for a process, from `arrived` first, then by weight from high, normal and low.
    ///
    /// Each is looked at before it is handed out: what can't be parsed goes to the dead letters, expired mail and
    /// duplicates are dropped and counted, early mail is delayed. So fewer than `max` may come back, even none, while
    /// more waits. After an error or after cancelling nothing is lost: the next call finds what was taken.
    pub async fn claim(&self, process: &str, pod: &str, max: usize, at: impl Into<At>) -> Result<Batch, StoreError> {
        if max == 0 {
            return Ok(Batch::default());
        }
        let (max, at) = (max.min(MAX_BATCH), at.into());
        // From here on every id counts as lost until its fate is known, whatever ends this call.
        let mut pending = Pending::new(self, process, max);
        let (grant, mut share) = self.room.reserve();
        let mut taken = self.found_again(process, &mut pending, grant).await?;
        share.found(taken.iter().map(|taken| taken.entry.len()), pending.unread);
        if taken.len() < max {
            let grant = if taken.is_empty() { grant } else { Grant::least() };
            let ids = &pending.fresh()[..max - taken.len()];
            taken.extend(self.take(process, pod, ids, at, grant, &mut share).await?);
        } else {
            share.cut([].into_iter(), 0);
        }
        let now = self.estimate(at);
        let mut looked_at = Vec::with_capacity(taken.len());
        for looked in try_join_all(taken.into_iter().map(|taken| self.look_at(taken, false, now))).await? {
            match looked {
                Sight::Seen(looked) => looked_at.push(*looked),
                Sight::TooLong(claim) => pending.put_off(process, claim),
            }
        }
        let answers = self.admit_all(process, &mut looked_at, at).await?;
        pending.settled();
        Ok(handed_out(looked_at, answers, share))
    }

    /// Whether a claim is known here though nobody has its mail yet: a call is reading it, or its answer was lost.
    pub fn expects(&self, claim: &str) -> bool {
        let claim = ClaimId(claim.to_owned());
        if self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).contains(&claim) {
            return true;
        }
        let orphans = self.orphans.lock().unwrap_or_else(PoisonError::into_inner);
        orphans.iter().any(|orphan| orphan.id == claim)
    }

    /// Whether no call is reading what it claimed, and no answer of one was lost.
    pub fn is_quiet(&self) -> bool {
        self.on_the_way.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
            && self.orphans.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Nothing is to be claimed for a while: nobody need look after the process. Returns whether it has no claim.
    pub async fn rest(&self, process: &str) -> Result<bool, StoreError> {
        let keys = [self.names.claims(process), self.names.stages(process)];
        self.run(&scripts::REST, &keys, &[process.as_bytes()]).await
    }

    /// Gives back what earlier calls of [`Queue::claim`] took and could not hand out, since an answer was lost or they
    /// were cancelled. For a process that will not claim again soon: when it drains, or lost its share. Returns how many.
    pub async fn return_lost_claims(&self, process: &str, at: impl Into<At>) -> Result<usize, StoreError> {
        let (mut pending, at) = (Pending::new(self, process, 0), at.into());
        let lost = pending.old.clone();
        for orphan in lost {
            if self.requeue_claim(process, &orphan.id, at).await? == Advance::Done {
                pending.found.push(orphan.id);
            }
        }
        pending.settled();
        Ok(pending.found.len())
    }
}

/// The mails to be sent, each with its share of the room; what ended is logged and counted.
fn handed_out(looked_at: Vec<Looked>, answers: Vec<String>, mut share: Share) -> Batch {
    let mut batch = Batch { mails: Vec::with_capacity(looked_at.len()), ended: 0 };
    for (looked, answer) in looked_at.into_iter().zip(answers) {
        let id = looked.id().to_owned();
        match (looked.admission, answer.as_str()) {
            (Admission::Keep { header, mail }, "kept") => {
                let length = looked.taken.entry.len() + looked.fetched.as_ref().map_or(0, Bytes::len);
                let share = looked.share.unwrap_or_else(|| share.split(length));
                batch.mails.push(Claimed {
                    alone: header.crashes >= ALONE_FROM,
                    claim_id: looked.taken.id,
                    header: *header,
                    mail: *mail,
                    payload: looked.taken.entry.slice(looked.begin..),
                    fetched: looked.fetched,
                    share: Arc::new(share),
                });
                continue;
            }
            (Admission::Dead(letter, _), "dead") => tracing::warn!(
                mail.id = &*mask_id(&letter.id),
                reason = letter.reason,
                field = letter.field().unwrap_or_default(),
                "a mail can't be sent as it is and went to the dead letters"
            ),
            (_, outcome) => tell(&id, outcome),
        }
        // What was gone is in other hands, and says nothing of what waits.
        batch.ended += usize::from(answer != "gone");
    }
    batch
}

/// Logs how a claim ended before sending. What is dropped and was never sent in another guise must not pass in silence.
fn tell(id: &str, outcome: &str) {
    if let Some(first) = outcome.strip_prefix("duplicate\n") {
        tracing::warn!(
            mail.id = &*mask_id(id),
            mail.first = &*mask_id(first),
            "a mail was dropped as a duplicate of an earlier one with its id or key, but it is another mail: its recipients or its content differ"
        );
    } else {
        tracing::debug!(mail.id = &*mask_id(id), outcome, "a claim ended before sending");
    }
}
