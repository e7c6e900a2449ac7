//! Going on with a claim and ending it.

mod ending;

use super::{
    Advance, At, ClaimId, Claimed, DeadLetter, HeldMail, OperationId, PerRecipient, Queue, Settled, Settlement, Stage,
    payload::bare_id,
    records::{Records, short},
    scripts,
};
use crate::{mail::UnixMillis, store::StoreError, telemetry::log::mask};
use ending::{Ending, ending};

impl Queue {
    /// Notes that a claim is at a stage now. `Committing` must be `Done` before the bytes that complete the message are
    /// handed to the socket; on `Lost` the claim was taken over: abort, settle nothing. Repeating is safe. After an
    /// error the stage may have been written: repeat, or treat the mail as if it were at that stage.
    pub async fn advance(
        &self,
        process: &str,
        claim: &ClaimId,
        stage: Stage,
        at: impl Into<At>,
    ) -> Result<Advance, StoreError> {
        let keys = [self.names.claims(process), self.names.stages(process)];
        let at = at.into().word();
        let arguments = [claim.as_str().as_bytes(), stage.as_str().as_bytes(), at.as_bytes()];
        match self.run::<String>(&scripts::ADVANCE, &keys, &arguments).await?.as_str() {
            "done" => Ok(Advance::Done),
            "lost" => Ok(Advance::Lost),
            other => Err(self.garbled(format!("advance answered {other:?}"))),
        }
    }

    /// Ends a claim, with counters, state and event in the same script as the removal.
    ///
    /// After an error, or after cancelling, repeat it with the same operation id until it answers: it takes effect
    /// once. A settlement that comes after the claim was recovered still counts while nobody else has the mail (`Late`).
    pub async fn settle(
        &self,
        process: &str,
        claim: &Claimed,
        operation: &OperationId,
        outcome: &Settlement,
        per_recipient: &PerRecipient,
        at: impl Into<At>,
    ) -> Result<Settled, StoreError> {
        let at = at.into();
        let now = self.estimate(at);
        let ending = ending(claim, outcome, per_recipient, now);
        let (parked, parts) = self.parked(process, claim, &ending, now).await?;
        let Ending { action, header, wait, reason, reply, accepted } = ending;
        let mut keys = vec![self.names.claims(process), self.names.stages(process)];
        let Records { buckets, fields } = self.records(&header.id, header.key.as_deref());
        keys.extend(buckets);
        keys.extend(parts);
        let (at, serial, line) = (at.word(), short(&header.serial), header.encode(claim.mail.priority));
        let (wait, accepted) = (wait.as_millis().to_string(), accepted.join("\n"));
        // Events are for everybody who may see the queue; who looks after parked mail has the words as they were.
        let told = mask(&reply);
        let arguments: [&[u8]; 14] = [
            claim.claim_id.0.as_bytes(),
            operation.0.as_bytes(),
            action.as_bytes(),
            at.as_bytes(),
            &line,
            wait.as_bytes(),
            &parked,
            serial.as_bytes(),
            header.id.as_bytes(),
            reason.as_bytes(),
            told.as_bytes(),
            accepted.as_bytes(),
            &fields,
            header.message_id.as_bytes(),
        ];
        let moved = if action == "delivered" { 0 } else { claim.payload.len() };
        match self.run_moving::<String>(&scripts::SETTLE, &keys, &arguments, moved).await?.as_str() {
            "done" => Ok(Settled::Done),
            "repeated" => Ok(Settled::Repeated),
            "late" => Ok(Settled::Late),
            "lost" => Ok(Settled::Lost),
            "missing" => Err(self.not_brought()),
            other => Err(self.garbled(format!("settle answered {other:?}"))),
        }
    }

    /// What is written beside a mail that a person must look at, and where the parts of it lie when it is long.
    async fn parked(
        &self,
        process: &str,
        claim: &Claimed,
        ending: &Ending,
        now: UnixMillis,
    ) -> Result<(Vec<u8>, Option<String>), StoreError> {
        let Ending { action, header, reason, reply, .. } = ending;
        match *action {
            "dead" => {
                let fetched = claim.fetched.as_ref();
                let key = fetched.and_then(|_| bare_id(&claim.payload)).map(|id| self.names.payload(&id));
                let (priority, stage) = (claim.mail.priority, Some(Stage::Sending));
                let letter = DeadLetter::new(Some(header), priority, reason, reply, stage, now).fetched_from(key);
                let brought = self.bring(&letter, fetched.unwrap_or(&claim.payload)).await?;
                Ok((brought.word, brought.key))
            }
            "held" => {
                let held = HeldMail {
                    claim_id: claim.claim_id.0.clone(),
                    id: header.id.clone(),
                    message_id: header.message_id.clone(),
                    reason: reason.clone(),
                    at: now,
                    process: process.to_owned(),
                    stage: Some(Stage::Committing),
                    reply: reply.clone(),
                    first_seen: header.first_seen,
                    key: header.key.clone(),
                    serial: header.serial.clone(),
                };
                Ok((held.encode(), None))
            }
            _ => Ok((Vec::new(), None)),
        }
    }

    /// Gives back a claim of which the server has nothing, to the end that is taken next; costs no attempt. `Lost` once
    /// it is committing, settled or taken over: a worker that noted `committing` and then did not send settles with
    /// [`Settlement::Delayed`] instead. Safe to repeat.
    pub async fn requeue_claim(
        &self,
        process: &str,
        claim: &ClaimId,
        at: impl Into<At>,
    ) -> Result<Advance, StoreError> {
        let keys = [self.names.claims(process), self.names.stages(process)];
        let at = at.into().word();
        let mut arguments: Vec<&[u8]> = vec![process.as_bytes(), at.as_bytes()];
        let none: &[u8] = b"";
        arguments.extend([claim.as_str().as_bytes(), b"early", b"queue"]);
        arguments.extend([none; 8]);
        let answers: Vec<String> = self.run(&scripts::RECOVER, &keys, &arguments).await?;
        Ok(if answers.first().is_some_and(|answer| answer == "queue") { Advance::Done } else { Advance::Lost })
    }
}
