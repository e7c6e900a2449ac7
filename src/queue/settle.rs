//! Going on with a claim and ending it.

use std::time::Duration;

use super::{
    Advance, At, ClaimId, Claimed, Counted, DeadLetter, Header, HeldMail, OperationId, PerRecipient, Queue, Settled,
    Settlement, Stage, Try, header,
    payload::bare_id,
    records::{Records, short},
    scripts,
};
use crate::{mail::UnixMillis, store::StoreError, telemetry::log::mask};

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
        let Ending { action, header, wait, reason, reply, accepted } = ending(claim, outcome, per_recipient, now);
        let mut parts = None;
        let extra = match action {
            "dead" => {
                let fetched = claim.fetched.as_ref();
                let key = fetched.and_then(|_| bare_id(&claim.payload)).map(|id| self.names.payload(&id));
                let (priority, stage) = (claim.mail.priority, Some(Stage::Sending));
                let letter = DeadLetter::new(Some(&header), priority, &reason, &reply, stage, now).fetched_from(key);
                let brought = self.bring(&letter, fetched.unwrap_or(&claim.payload)).await?;
                parts = brought.key;
                brought.word
            }
            "held" => HeldMail {
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
            }
            .encode(),
            _ => Vec::new(),
        };
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
            &extra,
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

/// What a settlement comes down to for the whole mail.
#[derive(Debug, PartialEq, Eq)]
struct Ending {
    action: &'static str,
    header: Header,
    wait: Duration,
    reason: String,
    reply: String,
    /// Who has the mail since this try, as far as the mail is not over for all: they must not get it again.
    accepted: Vec<String>,
}

/// One mail ends in one place: while some recipients wait for a retry, those that were refused are remembered in the
/// header; in the end the refused ones make it a dead letter for them alone.
fn ending(claim: &Claimed, outcome: &Settlement, per_recipient: &PerRecipient, now: UnixMillis) -> Ending {
    let mut header = claim.header.clone();
    for refusal in &per_recipient.refused {
        let refusal = super::Refusal { reply: header::cut(&refusal.reply), recipient: refusal.recipient.clone() };
        if !header.refused.contains(&refusal) {
            header.refused.push(refusal);
        }
    }
    let is_refused = |header: &Header, recipient: &String| header.refused.iter().any(|r| r.recipient == *recipient);
    let open: Vec<String> = claim
        .mail
        .recipients
        .iter()
        .filter(|recipient| !per_recipient.accepted.contains(recipient) && !is_refused(&header, recipient))
        .cloned()
        .collect();
    let partial = !per_recipient.accepted.is_empty() || !header.refused.is_empty() || header.remaining.is_some();
    let whole = |action, header, reason, reply| Ending {
        action,
        header,
        wait: Duration::ZERO,
        reason,
        reply,
        accepted: per_recipient.accepted.clone(),
    };
    let tried = |reason: &str, reply: &str| Try {
        at: now,
        reason: reason.to_owned(),
        reply: reply.to_owned(),
        suspect: per_recipient.suspect,
    };
    let refused_rest = |mut header: Header, accepted: Vec<String>| {
        header.remaining = Some(header.refused.iter().map(|refusal| refusal.recipient.clone()).collect());
        let reply = header.refused.last().map(|refusal| refusal.reply.clone()).unwrap_or_default();
        Ending { accepted, ..whole("dead", header, "RecipientsRefused".into(), reply) }
    };
    match outcome {
        Settlement::Delivered { reply } if header.refused.is_empty() => {
            Ending { accepted: Vec::new(), ..whole("delivered", header, String::new(), header::cut(reply)) }
        }
        // All but the refused have it, named or not.
        Settlement::Delivered { .. } => {
            refused_rest(header, per_recipient.accepted.iter().chain(&open).cloned().collect())
        }
        Settlement::Delayed { .. } if open.is_empty() && !header.refused.is_empty() => {
            refused_rest(header, per_recipient.accepted.clone())
        }
        Settlement::Delayed { wait, counted, reason, reply } => {
            match counted {
                Counted::Attempt => header.count_attempt(&open, &per_recipient.judged, now),
                Counted::Deferral => header.deferrals = header.deferrals.saturating_add(1),
            }
            // Nothing open and nothing refused makes no sense; the recipients are then left as they were.
            if partial && !open.is_empty() {
                header.remaining = Some(open);
            }
            let reply = header::cut(reply);
            let header = header.with_try(tried(reason, &reply));
            Ending { wait: *wait, ..whole("delayed", header, reason.clone(), reply) }
        }
        Settlement::Dead { reason, reply } => {
            let reply = header::cut(reply);
            if partial {
                let refused = header.refused.iter().map(|refusal| refusal.recipient.clone());
                header.remaining = Some(open.into_iter().chain(refused).collect());
            }
            let header = header.with_try(tried(reason, &reply));
            whole("dead", header, reason.clone(), reply)
        }
        Settlement::Held { reason, reply } => {
            if partial && !open.is_empty() {
                header.remaining = Some(open);
            }
            whole("held", header, reason.clone(), header::cut(reply))
        }
    }
}
