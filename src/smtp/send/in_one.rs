//! A short mail in one write, to a server that takes chunks.

use crate::smtp::{
    reply::{Disposition, Step},
    session::{Session, State},
    transaction::{Commit, Course, Over, Transaction},
};

impl Session {
    /// PIPELINING and CHUNKING: everything in one write, and then all replies.
    pub(super) async fn send_in_one(
        &mut self,
        transaction: &Transaction<'_>,
        course: &mut Course,
        before_commit: impl AsyncFnOnce() -> Commit,
    ) -> Result<(), Over> {
        if before_commit().await == Commit::Abort {
            course.outcome.started = false;
            course.decide_rest(Disposition::aborted(), None);
            self.messages -= 1;
            self.state = State::Ready;
            return Err(Over);
        }
        if !self.transport.is_quiet().await {
            self.messages -= 1;
            self.state = State::Ready;
            self.refuse_to_start(course).await;
            return Err(Over);
        }
        course.outcome.committed = true;
        let mut bytes = self.envelope(transaction).into_bytes();
        bytes.extend(format!("BDAT {} LAST\r\n", transaction.length).bytes());
        transaction.message.blocks().for_each(|block| bytes.extend_from_slice(&block));
        if let Err(written) = self.transport.write(&bytes, self.limits.block).await {
            return self.not_written(course, Step::Mail, &written).await;
        }
        // From here on, only a reply makes anything definite.
        self.read_envelope(transaction, course, Step::AfterDot, 1).await?;
        if course.is_open() { self.read_end(course).await } else { Ok(()) }
    }
}
