//! A short mail in one write, to a server that takes chunks.

use crate::smtp::{
    reply::{Ruling, Stage},
    session::{Session, State},
    transaction::{Commit, Over, Progress, Transaction},
};

impl Session {
    /// PIPELINING and CHUNKING: everything in one write, and then all replies.
    pub(super) async fn send_in_one(
        &mut self,
        transaction: &Transaction<'_>,
        progress: &mut Progress,
        before_commit: impl AsyncFnOnce() -> Commit,
    ) -> Result<(), Over> {
        if before_commit().await == Commit::Abort {
            progress.outcome.started = false;
            progress.rule_rest(Ruling::aborted(), None);
            self.messages -= 1;
            self.state = State::Ready;
            return Err(Over);
        }
        if !self.transport.is_quiet().await {
            self.messages -= 1;
            self.state = State::Ready;
            self.refuse_to_start(progress).await;
            return Err(Over);
        }
        progress.outcome.committed = true;
        let mut bytes = self.envelope(transaction).into_bytes();
        bytes.extend(format!("BDAT {} LAST\r\n", transaction.length).bytes());
        transaction.message.blocks().for_each(|block| bytes.extend_from_slice(&block));
        if let Err(written) = self.transport.write(&bytes, self.limits.block).await {
            return self.not_written(progress, Stage::Mail, &written).await;
        }
        // From here on, only a reply makes anything definite.
        self.read_envelope(transaction, progress, Stage::AfterDot, 1).await?;
        if progress.is_open() { self.read_end(progress).await } else { Ok(()) }
    }
}
