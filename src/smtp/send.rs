//! How a mail goes over a session: in one round trip, in two, or step by step, as the server allows.

mod answers;
mod encoder;
mod in_one;
mod message;
mod offer;
mod way;

use std::time::Duration;

use tokio::time::Instant;

use super::{
    reply::{Disposition, Reply, ServerSignal, Step, Why},
    session::{Chunking, Session, State},
    transaction::{Commit, Course, MailOutcome, Transaction},
};
use way::knows_no_bdat;

/// The longest message that goes out together with its envelope: a longer one would be in doubt for as long as its
/// bytes take.
const SHORT: usize = 64 * 1024;

/// A session that was used a moment ago is there still. Otherwise the server may just be closing it, and a whole mail
/// written into that would have an unknown outcome.
const FRESH: Duration = Duration::from_secs(2);

impl Session {
    /// Offers one mail. `before_commit` runs at most once, just before the bytes that complete the message are handed
    /// to the socket; when everything goes in one write, that is before that write.
    ///
    /// Cancelling leaves the session unusable ([`Session::is_usable`]) and, after `before_commit`, the outcome unknown.
    pub async fn transact(
        &mut self,
        transaction: &Transaction<'_>,
        before_commit: impl AsyncFnOnce() -> Commit,
    ) -> MailOutcome {
        // A server that does not offer 8 bits may take them all the same, as most do: better than never.
        let seven_bit = if transaction.needs_eight_bit && !self.offers.eight_bit && !transaction.needs_utf8 {
            transaction.message.seven_bit()
        } else {
            None
        };
        let other = seven_bit.as_deref().and_then(|message| transaction.with(message).ok());
        let transaction = other.as_ref().unwrap_or(transaction);
        let mut course = Course::new(transaction, self.messages > 0);
        if let Some(disposition) = self.cannot_take(transaction) {
            course.outcome.started = false;
            course.decide_rest(disposition, None);
            return course.end();
        }
        if !self.is_usable() || !self.transport.is_quiet().await {
            self.refuse_to_start(&mut course).await;
            return course.end();
        }
        let fresh = self.last_used.elapsed() < FRESH;
        let proven = self.offers.chunking && self.features.chunking == Chunking::Proven;
        let in_one = fresh && proven && self.pipelining() && transaction.length <= SHORT;
        // Should this be cancelled half-way, both sides are out of step.
        self.state = State::Broken;
        self.messages += 1;
        let sent = if in_one {
            self.send_in_one(transaction, &mut course, before_commit).await
        } else {
            match self.offer(transaction, &mut course).await {
                Ok(way) => self.complete(transaction, &mut course, way, before_commit).await,
                Err(over) => Err(over),
            }
        };
        let mut outcome = course.end();
        if self.chunking() && outcome.committed && outcome.last_reply.as_ref().is_some_and(knows_no_bdat) {
            self.features.chunking = Chunking::Off;
            // It is well, and DATA will do.
            outcome.signals.retain(|signal| *signal != ServerSignal::Failing);
        }
        if sent.is_ok() {
            self.tidy(&outcome).await;
        }
        self.last_used = Instant::now();
        outcome
    }

    /// Whether the server can take this mail at all, by what it says of itself.
    pub fn takes(&self, transaction: &Transaction<'_>) -> bool {
        self.cannot_take(transaction).is_none()
    }

    /// Known before a byte is sent.
    fn cannot_take(&self, transaction: &Transaction<'_>) -> Option<Disposition> {
        if self.offers.size.flatten().is_some_and(|limit| transaction.length > limit) {
            return Some(Disposition::dead(Why::TooLarge));
        }
        let utf8 = transaction.needs_utf8 && !self.offers.smtp_utf8;
        utf8.then(|| Disposition::dead(Why::NotSupported))
    }

    /// After a transaction that left both sides in step: what may follow in this session.
    async fn tidy(&mut self, outcome: &MailOutcome) {
        let ends = |signal: &ServerSignal| {
            matches!(signal, ServerSignal::TooManyConnections | ServerSignal::SessionFull | ServerSignal::Pause(_))
        };
        let last = outcome.last_reply.as_ref();
        if last.is_some_and(|reply| reply.code == 421) || outcome.signals.iter().any(ends) {
            self.state = State::Finished;
            return;
        }
        let clean = outcome.step == Step::AfterDot && last.is_some_and(Reply::is_completion);
        self.state =
            if clean || self.exchange("RSET", self.limits.command).await.is_ok_and(|reply| reply.is_completion()) {
                State::Ready
            } else {
                State::Broken
            };
    }
}
