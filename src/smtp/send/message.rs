//! The message, with its end held back until the caller says [`Commit::Go`].

use std::time::Duration;

use super::{encoder::Encoder, way::Way};
use crate::smtp::{
    reply::{Disposition, Step},
    session::Session,
    transaction::{Commit, Course, Over, Transaction},
};

/// The last part of a message, which is held back until the caller says [`Commit::Go`].
const TAIL: usize = 16 * 1024;

/// How much of a message is made ready for the wire at once.
const BLOCK: usize = 64 * 1024;

/// How long a reply may take of which the first byte is there already.
const EARLY: Duration = Duration::from_millis(250);

impl Session {
    /// The message: all but its tail, the caller's word, the tail, the reply.
    pub(super) async fn complete(
        &mut self,
        transaction: &Transaction<'_>,
        course: &mut Course,
        way: Way,
        before_commit: impl AsyncFnOnce() -> Commit,
    ) -> Result<(), Over> {
        if course.farewell.is_some() {
            return self.gone(course);
        }
        if !course.is_open() {
            return Ok(());
        }
        let chunking = matches!(way, Way::Chunks { .. });
        let mut sent = if let Way::Chunks { sent } = way { sent } else { 0 };
        let length = transaction.length - sent;
        let head = length.saturating_sub(TAIL);
        let (mut left, mut tail) = (head, Vec::with_capacity(length - head));
        // A long message is never in memory as a whole because of us.
        let mut encoder = Encoder::new(chunking, length);
        for block in transaction.message.blocks() {
            let (before, block) = block.split_at(sent.min(block.len()));
            sent -= before.len();
            let (early, late) = block.split_at(left.min(block.len()));
            left -= early.len();
            for part in early.chunks(BLOCK) {
                let written = self.transport.write(&encoder.encode(part), self.limits.block).await;
                if let Err(written) = written {
                    return self.not_written(course, Step::Body, &written).await;
                }
            }
            tail.extend_from_slice(late);
        }
        let tail = encoder.end(&tail);
        if before_commit().await == Commit::Abort {
            course.outcome.step = Step::Body;
            course.decide_rest(Disposition::aborted(), None);
            // Once the server waits for content, only the end of the connection leaves it incomplete.
            return if chunking && head == 0 { Ok(()) } else { Err(Over) };
        }
        self.is_awaited(course).await?;
        course.outcome.committed = true;
        if let Err(written) = self.transport.write(&tail, self.limits.block).await {
            return self.not_written(course, Step::Body, &written).await;
        }
        self.read_end(course).await
    }

    /// A reply counts only for what was sent before it: one that is there before the message is complete is no answer to
    /// it, and the message is not completed.
    async fn is_awaited(&mut self, course: &mut Course) -> Result<(), Over> {
        if self.transport.is_quiet().await {
            return Ok(());
        }
        match self.transport.reply(EARLY).await {
            Ok(reply) => {
                course.read(Step::Data, &reply);
                self.refused(course, Step::Data, &reply)?;
            }
            Err(fault) => {
                let disposition = course.fault(Step::Body, &fault);
                course.decide_rest(disposition, None);
            }
        }
        Err(Over)
    }

    /// The reply to the whole message.
    pub(super) async fn read_end(&mut self, course: &mut Course) -> Result<(), Over> {
        let reply = self.transport.reply(self.limits.dot).await;
        let reply = self.take(course, Step::AfterDot, Step::AfterDot, reply)?;
        let disposition = course.judge(Step::AfterDot, &reply);
        course.decide_rest(disposition, Some(&reply));
        // 3yz: it waits for something that we do not know.
        if (200..300).contains(&reply.code) || reply.code >= 400 { Ok(()) } else { Err(Over) }
    }
}
