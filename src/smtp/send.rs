//! How a mail goes over a session: in one round trip, in two, or step by step, as the server allows.

use std::{fmt::Write, time::Duration};

use tokio::time::Instant;

use super::{
    reply::{Event, Reply, Ruling, Sign, Stage, Why},
    session::{Chunking, Session, State},
    table::judge,
    transaction::{Commit, MailOutcome, Over, Progress, Transaction},
    wire::{Fault, WriteFault},
};

/// The last part of a message, which is held back until the caller says [`Commit::Go`].
const TAIL: usize = 16 * 1024;
/// How much of a message is made ready for the wire at once.
const BLOCK: usize = 64 * 1024;
/// The longest message that goes out together with its envelope: a longer one would be in doubt for as long as its
/// bytes take.
const SHORT: usize = 64 * 1024;
/// How long a reply may take of which the first byte is there already.
const EARLY: Duration = Duration::from_millis(250);
/// How long the reply may take to a command that a server has read already.
const AT_ONCE: Duration = Duration::from_secs(30);
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
        let mut progress = Progress::new(transaction, self.messages > 0);
        if let Some(ruling) = self.cannot_take(transaction) {
            progress.outcome.started = false;
            progress.rule_rest(ruling, None);
            return progress.end();
        }
        if !self.is_usable() || !self.wire.is_quiet().await {
            self.refuse_to_start(&mut progress).await;
            return progress.end();
        }
        let fresh = self.last_used.elapsed() < FRESH;
        let proven = self.offers.chunking && self.features.chunking == Chunking::Proven;
        let in_one = fresh && proven && self.pipelining() && transaction.length <= SHORT;
        // Should this be cancelled half-way, both sides are out of step.
        self.state = State::Broken;
        self.messages += 1;
        let sent = if in_one {
            self.send_in_one(transaction, &mut progress, before_commit).await
        } else {
            match self.offer(transaction, &mut progress).await {
                Ok(way) => self.complete(transaction, &mut progress, way, before_commit).await,
                Err(over) => Err(over),
            }
        };
        let mut outcome = progress.end();
        if self.chunking() && outcome.committed && outcome.last_reply.as_ref().is_some_and(knows_no_bdat) {
            self.features.chunking = Chunking::Off;
            // It is well, and DATA will do.
            outcome.signs.retain(|sign| *sign != Sign::Failing);
        }
        if sent.is_ok() {
            self.tidy(&outcome).await;
        }
        self.last_used = Instant::now();
        outcome
    }

    fn pipelining(&self) -> bool {
        self.offers.pipelining && self.features.pipelining
    }

    fn chunking(&self) -> bool {
        self.offers.chunking && self.features.chunking != Chunking::Off
    }

    /// How the message goes, when not with everything else in one write; and the command before it, if there is one.
    fn way(&self, transaction: &Transaction<'_>) -> (Way, Option<String>) {
        if self.chunking() && self.features.chunking == Chunking::Proven {
            return (Way::Chunks { sent: 0 }, None);
        }
        match self.chunking().then(|| transaction.harmless_line()).flatten() {
            Some(line) => {
                let (sent, line) = (line.len(), line.trim_end_matches("\r\n"));
                (Way::Chunks { sent }, Some(format!("BDAT {sent}\r\n{line}")))
            }
            None => (Way::Data, Some("DATA".into())),
        }
    }

    /// Whether the server can take this mail at all, by what it says of itself.
    pub fn takes(&self, transaction: &Transaction<'_>) -> bool {
        self.cannot_take(transaction).is_none()
    }

    /// Known before a byte is sent.
    fn cannot_take(&self, transaction: &Transaction<'_>) -> Option<Ruling> {
        if self.offers.size.flatten().is_some_and(|limit| transaction.length > limit) {
            return Some(Ruling::dead(Why::TooLarge));
        }
        let utf8 = transaction.needs_utf8 && !self.offers.smtp_utf8;
        utf8.then(|| Ruling::dead(Why::NotSupported))
    }

    /// The server has ended the session while it was at rest: no failure of the mail.
    async fn refuse_to_start(&mut self, progress: &mut Progress) {
        let reply = if self.is_usable() { self.last_words().await } else { None };
        self.state = State::Broken;
        progress.outcome.started = false;
        progress.outcome.last_reply.clone_from(&reply);
        let ruling = judge(Stage::Idle, Event::Broken, &progress.context);
        progress.rule_rest(ruling, reply.as_ref());
    }

    /// PIPELINING and CHUNKING: everything in one write, and then all replies.
    async fn send_in_one(
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
        if !self.wire.is_quiet().await {
            self.messages -= 1;
            self.state = State::Ready;
            self.refuse_to_start(progress).await;
            return Err(Over);
        }
        progress.outcome.committed = true;
        let mut bytes = self.envelope(transaction).into_bytes();
        bytes.extend(format!("BDAT {} LAST\r\n", transaction.length).bytes());
        transaction.message.blocks().for_each(|block| bytes.extend_from_slice(&block));
        if let Err(written) = self.wire.write(&bytes, self.limits.block).await {
            return self.not_written(progress, Stage::Mail, &written).await;
        }
        // From here on, only a reply makes anything definite.
        self.read_envelope(transaction, progress, Stage::AfterDot, 1).await?;
        if progress.is_open() { self.read_end(progress).await } else { Ok(()) }
    }

    /// MAIL, RCPT and the command before the message, if there is one; together, when PIPELINING is offered.
    async fn offer(&mut self, transaction: &Transaction<'_>, progress: &mut Progress) -> Result<Way, Over> {
        let (way, before) = self.way(transaction);
        if self.pipelining() {
            let mut text = self.envelope(transaction);
            if let Some(command) = &before {
                let _ = write!(text, "{command}\r\n");
            }
            if let Err(written) = self.wire.write(text.as_bytes(), self.limits.block).await {
                return self.not_written(progress, Stage::Mail, &written).await.map(|()| way);
            }
            self.read_envelope(transaction, progress, Stage::Mail, u8::from(before.is_some())).await?;
            if before.is_some() && progress.is_open() {
                let reply = self.wire.reply(self.limits.data).await;
                return self.may_send(progress, way, reply).await;
            }
            return Ok(way);
        }
        let reply = self.exchange(self.mail_command(transaction).trim_end(), self.limits.command).await;
        let reply = self.take(progress, Stage::Mail, Stage::Mail, reply)?;
        if !reply.is_completion() {
            return self.refused(progress, Stage::Mail, &reply).map(|()| way);
        }
        for (place, recipient) in transaction.recipients.iter().enumerate() {
            let reply = self.exchange(&format!("RCPT TO:<{recipient}>"), self.limits.command).await;
            let reply = self.take(progress, Stage::Rcpt, Stage::Rcpt, reply)?;
            Self::recipient(progress, place, &reply)?;
        }
        match before {
            Some(command) if progress.is_open() => {
                let reply = self.exchange(&command, self.limits.data).await;
                self.may_send(progress, way, reply).await
            }
            _ => Ok(way),
        }
    }

    /// The replies to MAIL and RCPT that went out together with `more` other commands. A lost reply is judged as of
    /// `lost`, or of its own stage before the commit.
    async fn read_envelope(
        &mut self,
        transaction: &Transaction<'_>,
        progress: &mut Progress,
        lost: Stage,
        more: u8,
    ) -> Result<(), Over> {
        let stage_if_lost = |own| if lost == Stage::AfterDot { lost } else { own };
        let reply = self.wire.reply(self.limits.command).await;
        let reply = self.take(progress, Stage::Mail, stage_if_lost(Stage::Mail), reply)?;
        if !reply.is_completion() {
            self.refused(progress, Stage::Mail, &reply)?;
            return self.skip(transaction.recipients.len() + usize::from(more)).await;
        }
        for place in 0..transaction.recipients.len() {
            let reply = self.wire.reply(self.limits.command).await;
            let reply = self.take(progress, Stage::Rcpt, stage_if_lost(Stage::Rcpt), reply)?;
            Self::recipient(progress, place, &reply)?;
        }
        if progress.is_open() { Ok(()) } else { self.skip(usize::from(more)).await }
    }

    /// The message: all but its tail, the caller's word, the tail, the reply.
    async fn complete(
        &mut self,
        transaction: &Transaction<'_>,
        progress: &mut Progress,
        way: Way,
        before_commit: impl AsyncFnOnce() -> Commit,
    ) -> Result<(), Over> {
        if progress.farewell.is_some() {
            return self.gone(progress);
        }
        if !progress.is_open() {
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
                let written = self.wire.write(&encoder.encode(part), self.limits.block).await;
                if let Err(written) = written {
                    return self.not_written(progress, Stage::Body, &written).await;
                }
            }
            tail.extend_from_slice(late);
        }
        let tail = encoder.end(&tail);
        if before_commit().await == Commit::Abort {
            progress.outcome.stage = Stage::Body;
            progress.rule_rest(Ruling::aborted(), None);
            // Once the server waits for content, only the end of the connection leaves it incomplete.
            return if chunking && head == 0 { Ok(()) } else { Err(Over) };
        }
        self.is_awaited(progress).await?;
        progress.outcome.committed = true;
        if let Err(written) = self.wire.write(&tail, self.limits.block).await {
            return self.not_written(progress, Stage::Body, &written).await;
        }
        self.read_end(progress).await
    }

    /// A reply counts only for what was sent before it: one that is there before the message is complete is no answer to
    /// it, and the message is not completed.
    async fn is_awaited(&mut self, progress: &mut Progress) -> Result<(), Over> {
        if self.wire.is_quiet().await {
            return Ok(());
        }
        match self.wire.reply(EARLY).await {
            Ok(reply) => {
                progress.read(Stage::Data, &reply);
                self.refused(progress, Stage::Data, &reply)?;
            }
            Err(fault) => {
                let ruling = progress.fault(Stage::Body, &fault);
                progress.rule_rest(ruling, None);
            }
        }
        Err(Over)
    }

    /// The reply to the whole message.
    async fn read_end(&mut self, progress: &mut Progress) -> Result<(), Over> {
        let reply = self.wire.reply(self.limits.dot).await;
        let reply = self.take(progress, Stage::AfterDot, Stage::AfterDot, reply)?;
        let ruling = progress.judge(Stage::AfterDot, &reply);
        progress.rule_rest(ruling, Some(&reply));
        // 3yz: it waits for something that we do not know.
        if (200..300).contains(&reply.code) || reply.code >= 400 { Ok(()) } else { Err(Over) }
    }

    /// Notes a reply, or what its absence means.
    fn take(
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
    fn gone<T>(&mut self, progress: &mut Progress) -> Result<T, Over> {
        if let Some(reply) = progress.farewell.take() {
            let ruling = progress.judge(Stage::Rcpt, &reply);
            progress.rule_rest(ruling, Some(&reply));
            self.state = State::Finished;
        }
        Err(Over)
    }

    /// A refusal of the whole mail. After 421 the server goes, and nothing more can be read.
    fn refused(&mut self, progress: &mut Progress, stage: Stage, reply: &Reply) -> Result<(), Over> {
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
    fn out_of_step(progress: &mut Progress, stage: Stage) -> Result<(), Over> {
        let stage = if progress.outcome.committed { Stage::AfterDot } else { stage };
        let ruling = progress.fault(stage, &Fault::Garbled("a reply that belongs elsewhere".into()));
        progress.rule_rest(ruling, None);
        Err(Over)
    }

    fn recipient(progress: &mut Progress, place: usize, reply: &Reply) -> Result<(), Over> {
        if reply.is_completion() {
            progress.context.accepted += 1;
            return Ok(());
        }
        if !(reply.is_transient() || reply.is_permanent()) {
            return Self::out_of_step(progress, Stage::Rcpt);
        }
        let ruling = progress.judge(Stage::Rcpt, reply);
        progress.rule(place, ruling, Some(reply));
        if reply.code == 421 {
            // It should close now. Should it go on all the same, its later replies count.
            progress.farewell = Some(reply.clone());
        }
        Ok(())
    }

    /// The reply to the command before the message.
    async fn may_send(&mut self, progress: &mut Progress, way: Way, read: Result<Reply, Fault>) -> Result<Way, Over> {
        let mut reply = self.take(progress, Stage::Data, Stage::Data, read)?;
        if let Way::Chunks { .. } = way {
            if reply.is_completion() {
                self.features.chunking = Chunking::Proven;
                return Ok(way);
            }
            if !knows_no_bdat(&reply) {
                return self.refused(progress, Stage::Data, &reply).map(|()| way);
            }
            self.features.chunking = Chunking::Off;
            // The line behind it was no command either, and is answered by itself.
            let read = self.wire.reply(AT_ONCE).await;
            self.take(progress, Stage::Data, Stage::Data, read)?;
            let read = self.exchange("DATA", self.limits.data).await;
            reply = self.take(progress, Stage::Data, Stage::Data, read)?;
        }
        if reply.code != 354 {
            self.refused(progress, Stage::Data, &reply)?;
        }
        Ok(Way::Data)
    }

    /// Replies to commands that went out behind one that was refused.
    async fn skip(&mut self, count: usize) -> Result<(), Over> {
        for _ in 0..count {
            let reply = self.wire.reply(self.limits.command).await.map_err(|_| Over)?;
            if reply.code == 354 {
                // A server may take DATA without recipients; an empty message ends it (RFC 2920 section 3.1).
                self.exchange(".", self.limits.command).await.map_err(|_| Over)?;
            }
        }
        Ok(())
    }

    /// Not all could be written: the server may have said why. Without its last byte a message is not delivered.
    async fn not_written(&mut self, progress: &mut Progress, stage: Stage, written: &WriteFault) -> Result<(), Over> {
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

    /// After a transaction that left both sides in step: what may follow in this session.
    async fn tidy(&mut self, outcome: &MailOutcome) {
        let ends = |sign: &Sign| matches!(sign, Sign::TooManyConnections | Sign::SessionFull | Sign::Pause(_));
        let last = outcome.last_reply.as_ref();
        if last.is_some_and(|reply| reply.code == 421) || outcome.signs.iter().any(ends) {
            self.state = State::Finished;
            return;
        }
        let clean = outcome.stage == Stage::AfterDot && last.is_some_and(Reply::is_completion);
        self.state =
            if clean || self.exchange("RSET", self.limits.command).await.is_ok_and(|reply| reply.is_completion()) {
                State::Ready
            } else {
                State::Broken
            };
    }

    fn envelope(&self, transaction: &Transaction<'_>) -> String {
        let mut text = self.mail_command(transaction);
        for recipient in transaction.recipients {
            let _ = write!(text, "RCPT TO:<{recipient}>\r\n");
        }
        text
    }

    fn mail_command(&self, transaction: &Transaction<'_>) -> String {
        let mut line = format!("MAIL FROM:<{}>", transaction.reverse_path);
        if self.offers.size.is_some() {
            let _ = write!(line, " SIZE={}", transaction.length);
        }
        if transaction.needs_eight_bit && self.offers.eight_bit {
            line.push_str(" BODY=8BITMIME");
        }
        if transaction.needs_utf8 {
            line.push_str(" SMTPUTF8");
        }
        line.push_str("\r\n");
        line
    }
}

/// How a message goes.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// After DATA, up to the dot.
    Data,
    /// In chunks, by BDAT; so many bytes of it are with the server before the last chunk.
    Chunks { sent: usize },
}

/// A server, or a box before it, that offers CHUNKING and cannot do it takes BDAT for a mistake.
fn knows_no_bdat(reply: &Reply) -> bool {
    matches!(reply.code, 500..=504)
}

/// A message block by block as BDAT wants it, behind one line that says how long it is, or as DATA does: a dot more before
/// each leading dot, and the end (RFC 5321 section 4.5.2).
struct Encoder {
    chunking: bool,
    /// The line in front of the first block.
    first: String,
    line_start: bool,
}

impl Encoder {
    fn new(chunking: bool, length: usize) -> Self {
        let first = if chunking { format!("BDAT {length} LAST\r\n") } else { String::new() };
        Self { chunking, first, line_start: true }
    }

    fn encode(&mut self, block: &[u8]) -> Vec<u8> {
        let mut bytes = std::mem::take(&mut self.first).into_bytes();
        bytes.reserve(block.len() + block.len() / 64 + 3);
        if self.chunking {
            bytes.extend(block);
            return bytes;
        }
        for byte in block {
            if self.line_start && *byte == b'.' {
                bytes.push(b'.');
            }
            bytes.push(*byte);
            self.line_start = *byte == b'\n';
        }
        bytes
    }

    /// The last block and what ends the message.
    fn end(mut self, block: &[u8]) -> Vec<u8> {
        let mut bytes = self.encode(block);
        if !self.chunking {
            bytes.extend(b".\r\n");
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::Encoder;

    #[test]
    fn dots_are_doubled_wherever_the_message_is_cut() {
        let message = b".a\r\n..b\r\nc.d\r\n.\r\n";
        for cut in 0..=message.len() {
            let (head, tail) = message.split_at(cut);
            let mut encoder = Encoder::new(false, message.len());
            let sent = [encoder.encode(head), encoder.end(tail)].concat();
            assert_eq!(sent, b"..a\r\n...b\r\nc.d\r\n..\r\n.\r\n", "{cut}");
            let mut encoder = Encoder::new(true, message.len());
            let sent = [encoder.encode(head), encoder.end(tail)].concat();
            assert_eq!(sent, [b"BDAT 17 LAST\r\n", &message[..]].concat(), "{cut}");
        }
    }
}
