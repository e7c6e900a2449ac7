//! What an answer means for the transaction, and what it means that there is none.

use crate::smtp::{
    fault::{Fault, WriteFault},
    reply::{Event, Reply, Step},
    session::{Session, State},
    table::judge,
    transaction::{Course, Over},
};

impl Session {
    /// The server has ended the session while it was at rest: no failure of the mail.
    pub(super) async fn refuse_to_start(&mut self, course: &mut Course) {
        let reply = if self.is_usable() { self.last_words().await } else { None };
        self.state = State::Broken;
        course.outcome.started = false;
        course.outcome.last_reply.clone_from(&reply);
        let disposition = judge(Step::Idle, Event::Broken, &course.situation);
        course.decide_rest(disposition, reply.as_ref());
    }

    /// Notes a reply, or what its absence means.
    pub(super) fn take(
        &mut self,
        course: &mut Course,
        step: Step,
        lost: Step,
        read: Result<Reply, Fault>,
    ) -> Result<Reply, Over> {
        match read {
            Ok(reply) => {
                course.read(step, &reply);
                Ok(reply)
            }
            Err(_) if course.farewell.is_some() => self.gone(course),
            Err(fault) => {
                let disposition = course.fault(lost, &fault);
                course.decide_rest(disposition, None);
                Err(Over)
            }
        }
    }

    /// The server said 421 to a recipient and took nothing after that: so it is with all that have no disposition yet.
    pub(super) fn gone<T>(&mut self, course: &mut Course) -> Result<T, Over> {
        if let Some(reply) = course.farewell.take() {
            let disposition = course.judge(Step::Rcpt, &reply);
            course.decide_rest(disposition, Some(&reply));
            self.state = State::Finished;
        }
        Err(Over)
    }

    /// A refusal of the whole mail. After 421 the server goes, and nothing more can be read.
    pub(super) fn refused(&mut self, course: &mut Course, step: Step, reply: &Reply) -> Result<(), Over> {
        if !(reply.is_transient() || reply.is_permanent()) {
            return Self::out_of_step(course, step);
        }
        let disposition = course.judge(step, reply);
        course.decide_rest(disposition, Some(reply));
        if reply.code == 421 {
            self.state = State::Finished;
            return Err(Over);
        }
        Ok(())
    }

    /// A 2yz or 3yz where none can be. When the whole message is with the server already, it may have it.
    pub(super) fn out_of_step(course: &mut Course, step: Step) -> Result<(), Over> {
        let step = if course.outcome.committed { Step::AfterDot } else { step };
        let disposition = course.fault(step, &Fault::Garbled("a reply that belongs elsewhere".into()));
        course.decide_rest(disposition, None);
        Err(Over)
    }

    /// Not all could be written: the server may have said why. Without its last byte a message is not delivered.
    pub(super) async fn not_written(
        &mut self,
        course: &mut Course,
        step: Step,
        written: &WriteFault,
    ) -> Result<(), Over> {
        if written.complete && course.outcome.committed {
            let disposition = course.fault(Step::AfterDot, &written.fault);
            course.decide_rest(disposition, None);
        } else if let Some(reply) = self.last_words().await {
            let step = if step == Step::Body { Step::Data } else { step };
            course.read(step, &reply);
            let disposition = course.judge(step, &reply);
            course.decide_rest(disposition, Some(&reply));
        } else {
            let disposition = course.fault(step, &written.fault);
            course.decide_rest(disposition, None);
        }
        Err(Over)
    }
}
