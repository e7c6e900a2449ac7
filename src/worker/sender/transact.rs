//! One mail transaction: what the server must not see before Redis has it, and what stops it.

use std::pin::pin;

use futures::FutureExt;

use super::{Sender, handles::Handles};
use crate::{
    lease::Slot,
    queue::{Advance, At, Stage},
    smtp::{Commit, MailOutcome, Transaction},
    telemetry::{log::mask_id, metrics::ByKind},
    worker::settle::Work,
};

/// Why our side did not complete a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// Somebody else has the mail now.
    Lost,
    /// The lease ends too soon for an answer to be read.
    NoTime,
    /// Redis did not confirm `committing`.
    Store,
    /// It stayed too long at its stage.
    Stuck,
}

impl Sender {
    /// One mail transaction, none if the lease ended in the middle; and why our side stopped it, if it did.
    pub(super) async fn transact(
        &mut self,
        transaction: &Transaction<'_>,
        work: &Work,
    ) -> (Option<MailOutcome>, Option<Stopped>) {
        let Self { handles, slot, session, .. } = self;
        work.begin();
        let mut stopped = None;
        let sent = {
            let before_commit = async || {
                stopped = may_commit(handles, slot, work).await.err();
                if stopped.is_some() {
                    return Commit::Abort;
                }
                work.commit();
                Commit::Go
            };
            // The server need not wait for Redis to write that a transaction has begun: only `committing` must come
            // before what it announces, and hides a note of `sending` that comes after it.
            let mut sending = pin!(advance(handles, work, Stage::Sending).fuse());
            let mut transacting = pin!(session.transact(transaction, before_commit));
            let mut overdue = pin!(handles.deadlines.overdue(|| work.committed_at(), transaction.length()));
            loop {
                tokio::select! {
                    biased;
                    _ = &mut sending => {}
                    outcome = &mut transacting => break Ok(outcome),
                    () = slot.expired() => break Err(None),
                    stage = &mut overdue => break Err(Some(stage)),
                }
            }
        };
        match sent {
            Ok(outcome) => (Some(outcome), stopped),
            Err(None) => (None, stopped),
            Err(Some(stage)) => {
                self.note_stuck(stage, &work.claimed);
                (None, Some(Stopped::Stuck))
            }
        }
    }
}

/// The last word before the bytes that complete a message go out: the stage is on disk and the lease holds.
async fn may_commit(handles: &Handles, slot: &Slot, work: &Work) -> Result<(), Stopped> {
    if !slot.may_commit() {
        return Err(Stopped::NoTime);
    }
    match advance(handles, work, Stage::Committing).await {
        Ok(Advance::Done) if slot.may_commit() => Ok(()),
        Ok(Advance::Done) => Err(Stopped::NoTime),
        Ok(Advance::Lost) => Err(Stopped::Lost),
        Err(()) => Err(Stopped::Store),
    }
}

async fn advance(handles: &Handles, work: &Work, stage: Stage) -> Result<Advance, ()> {
    let claim = &work.claimed.claim_id;
    work.queue.advance(handles.process.as_str(), claim, stage, At::Redis).await.map_err(|error| {
        handles.metrics.store_failures.get_or_create(&ByKind { kind: "advance" }).inc();
        tracing::debug!(mail.id = &*mask_id(&work.claimed.header.id), %error, stage = stage.as_str(), "the stage was not recorded");
    })
}
