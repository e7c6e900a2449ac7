//! The envelope: MAIL, RCPT, and the command before the message.

use std::{fmt::Write, time::Duration};

use super::way::{Way, knows_no_bdat};
use crate::smtp::{
    fault::Fault,
    reply::{Reply, Stage},
    session::{Chunking, Session},
    transaction::{Over, Progress, Transaction},
};

/// How long the reply may take to a command that a server has read already.
const AT_ONCE: Duration = Duration::from_secs(30);

impl Session {
    /// MAIL, RCPT and the command before the message, if there is one; together, when PIPELINING is offered.
    pub(super) async fn offer(&mut self, transaction: &Transaction<'_>, progress: &mut Progress) -> Result<Way, Over> {
        let (way, before) = self.way(transaction);
        if self.pipelining() {
            let mut text = self.envelope(transaction);
            if let Some(command) = &before {
                let _ = write!(text, "{command}\r\n");
            }
            if let Err(written) = self.transport.write(text.as_bytes(), self.limits.block).await {
                return self.not_written(progress, Stage::Mail, &written).await.map(|()| way);
            }
            self.read_envelope(transaction, progress, Stage::Mail, u8::from(before.is_some())).await?;
            if before.is_some() && progress.is_open() {
                let reply = self.transport.reply(self.limits.data).await;
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
    pub(super) async fn read_envelope(
        &mut self,
        transaction: &Transaction<'_>,
        progress: &mut Progress,
        lost: Stage,
        more: u8,
    ) -> Result<(), Over> {
        let stage_if_lost = |own| if lost == Stage::AfterDot { lost } else { own };
        let reply = self.transport.reply(self.limits.command).await;
        let reply = self.take(progress, Stage::Mail, stage_if_lost(Stage::Mail), reply)?;
        if !reply.is_completion() {
            self.refused(progress, Stage::Mail, &reply)?;
            return self.skip(transaction.recipients.len() + usize::from(more)).await;
        }
        for place in 0..transaction.recipients.len() {
            let reply = self.transport.reply(self.limits.command).await;
            let reply = self.take(progress, Stage::Rcpt, stage_if_lost(Stage::Rcpt), reply)?;
            Self::recipient(progress, place, &reply)?;
        }
        if progress.is_open() { Ok(()) } else { self.skip(usize::from(more)).await }
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
            let read = self.transport.reply(AT_ONCE).await;
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
            let reply = self.transport.reply(self.limits.command).await.map_err(|_| Over)?;
            if reply.code == 354 {
                // A server may take DATA without recipients; an empty message ends it (RFC 2920 section 3.1).
                self.exchange(".", self.limits.command).await.map_err(|_| Over)?;
            }
        }
        Ok(())
    }

    pub(super) fn envelope(&self, transaction: &Transaction<'_>) -> String {
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
