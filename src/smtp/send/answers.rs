//! What an answer means for the transaction, and what it means that there is none.

use crate::smtp::{
    fault::{Fault, WriteFault},
    reply::{Event, Reply, Stage},
    session::{Session, State},
    table::judge,
    transaction::{Over, Progress},
};

impl Session {
    /// The server has ended the session while it was at rest: no failure of the mail.
    pub(super) async fn refuse_to_start(&mut self, progress: &mut Progress) {
        let reply = if self.is_usable() { self.last_words().await } else { None };
        self.state = State::Broken;
        progress.outcome.started = false;
        progress.outcome.last_reply.clone_from(&reply);
        let ruling = judge(Stage::Idle, Event::Broken, &progress.context);
        progress.rule_rest(ruling, reply.as_ref());
    }

    /// Notes a reply, or what its absence means.
    pub(super) fn take(
        &mut self,
        progress: &mut Progress,
        stage: Stage,
        lost: Stage,
        read: Result<Reply, Fault>,
    ) -> Result<Reply, Over> {
        match read {
            Ok(reply) => {
                progress.read(stage, &reply);
                Ok(reply)
            }
            Err(_) if progress.farewell.is_some() => self.gone(progress),
            Err(fault) => {
                let ruling = progress.fault(lost, &fault);
                progress.rule_rest(ruling, None);
                Err(Over)
            }
        }
    }

    /// The server said 421 to a recipient and took nothing after that: so it is with all that have no ruling yet.
    pub(super) fn gone<T>(&mut self, progress: &mut Progress) -> Result<T, Over> {
        if let Some(reply) = progress.farewell.take() {
            let ruling = progress.judge(Stage::Rcpt, &reply);
            progress.rule_rest(ruling, Some(&reply));
            self.state = State::Finished;
        }
        Err(Over)
    }

    /// A refusal of the whole mail. After 421 the server goes, and nothing more can be read.
    pub(super) fn refused(&mut self, progress: &mut Progress, stage: Stage, reply: &Reply) -> Result<(), Over> {
        if !(reply.is_transient() || reply.is_permanent()) {
            return Self::out_of_step(progress, stage);
        }
        let ruling = progress.judge(stage, reply);
        progress.rule_rest(ruling, Some(reply));
        if reply.code == 421 {
            self.state = State::Finished;
            return Err(Over);
        }
        Ok(())
    }

    /// A 2yz or 3yz where none can be. When the whole message is with the server already, it may have it.
    pub(super) fn out_of_step(progress: &mut Progress, stage: Stage) -> Result<(), Over> {
        let stage = if progress.outcome.committed { Stage::AfterDot } else { stage };
        let ruling = progress.fault(stage, &Fault::Garbled("a reply that belongs elsewhere".into()));
        progress.rule_rest(ruling, None);
        Err(Over)
    }

    /// Not all could be written: the server may have said why. Without its last byte a message is not delivered.
    pub(super) async fn not_written(
        &mut self,
        progress: &mut Progress,
        stage: Stage,
        written: &WriteFault,
    ) -> Result<(), Over> {
        if written.complete && progress.outcome.committed {
            let ruling = progress.fault(Stage::AfterDot, &written.fault);
            progress.rule_rest(ruling, None);
        } else if let Some(reply) = self.last_words().await {
            let stage = if stage == Stage::Body { Stage::Data } else { stage };
            progress.read(stage, &reply);
            let ruling = progress.judge(stage, &reply);
            progress.rule_rest(ruling, Some(&reply));
        } else {
            let ruling = progress.fault(stage, &written.fault);
            progress.rule_rest(ruling, None);
        }
        Err(Over)
    }
}
