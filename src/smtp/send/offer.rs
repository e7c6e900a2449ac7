//! The envelope: MAIL, RCPT, and the command before the message.

use std::{fmt::Write, time::Duration};

use super::way::{Way, knows_no_bdat};
use crate::smtp::{
    fault::Fault,
    reply::{Reply, Step},
    session::{Chunking, Session},
    transaction::{Course, Over, Transaction},
};

/// How long the reply may take to a command that a server has read already.
const AT_ONCE: Duration = Duration::from_secs(30);

impl Session {
    /// MAIL, RCPT and the command before the message, if there is one; together, when PIPELINING is offered.
    pub(super) async fn offer(&mut self, transaction: &Transaction<'_>, course: &mut Course) -> Result<Way, Over> {
        let (way, before) = self.way(transaction);
        if self.pipelining() {
            let mut text = self.envelope(transaction);
            if let Some(command) = &before {
                let _ = write!(text, "{command}\r\n");
            }
            if let Err(written) = self.transport.write(text.as_bytes(), self.limits.block).await {
                return self.not_written(course, Step::Mail, &written).await.map(|()| way);
            }
            self.read_envelope(transaction, course, Step::Mail, u8::from(before.is_some())).await?;
            if before.is_some() && course.is_open() {
                let reply = self.transport.reply(self.limits.data).await;
                return self.may_send(course, way, reply).await;
            }
            return Ok(way);
        }
        let reply = self.exchange(self.mail_command(transaction).trim_end(), self.limits.command).await;
        let reply = self.take(course, Step::Mail, Step::Mail, reply)?;
        if !reply.is_completion() {
            return self.refused(course, Step::Mail, &reply).map(|()| way);
        }
        for (place, recipient) in transaction.recipients.iter().enumerate() {
            let reply = self.exchange(&format!("RCPT TO:<{recipient}>"), self.limits.command).await;
            let reply = self.take(course, Step::Rcpt, Step::Rcpt, reply)?;
            Self::recipient(course, place, &reply)?;
        }
        match before {
            Some(command) if course.is_open() => {
                let reply = self.exchange(&command, self.limits.data).await;
                self.may_send(course, way, reply).await
            }
            _ => Ok(way),
        }
    }

    /// The replies to MAIL and RCPT that went out together with `more` other commands. A lost reply is judged as of
    /// `lost`, or of its own step before the commit.
    pub(super) async fn read_envelope(
        &mut self,
        transaction: &Transaction<'_>,
        course: &mut Course,
        lost: Step,
        more: u8,
    ) -> Result<(), Over> {
        let step_if_lost = |own| if lost == Step::AfterDot { lost } else { own };
        let reply = self.transport.reply(self.limits.command).await;
        let reply = self.take(course, Step::Mail, step_if_lost(Step::Mail), reply)?;
        if !reply.is_completion() {
            self.refused(course, Step::Mail, &reply)?;
            return self.skip(transaction.recipients.len() + usize::from(more)).await;
        }
        for place in 0..transaction.recipients.len() {
            let reply = self.transport.reply(self.limits.command).await;
            let reply = self.take(course, Step::Rcpt, step_if_lost(Step::Rcpt), reply)?;
            Self::recipient(course, place, &reply)?;
        }
        if course.is_open() { Ok(()) } else { self.skip(usize::from(more)).await }
    }

    fn recipient(course: &mut Course, place: usize, reply: &Reply) -> Result<(), Over> {
        if reply.is_completion() {
            course.situation.accepted += 1;
            return Ok(());
        }
        if !(reply.is_transient() || reply.is_permanent()) {
            return Self::out_of_step(course, Step::Rcpt);
        }
        let disposition = course.judge(Step::Rcpt, reply);
        course.decide(place, disposition, Some(reply));
        if reply.code == 421 {
            // It should close now. Should it go on all the same, its later replies count.
            course.farewell = Some(reply.clone());
        }
        Ok(())
    }

    /// The reply to the command before the message.
    async fn may_send(&mut self, course: &mut Course, way: Way, read: Result<Reply, Fault>) -> Result<Way, Over> {
        let mut reply = self.take(course, Step::Data, Step::Data, read)?;
        if let Way::Chunks { .. } = way {
            if reply.is_completion() {
                self.features.chunking = Chunking::Proven;
                return Ok(way);
            }
            if !knows_no_bdat(&reply) {
                return self.refused(course, Step::Data, &reply).map(|()| way);
            }
            self.features.chunking = Chunking::Off;
            // The line behind it was no command either, and is answered by itself.
            let read = self.transport.reply(AT_ONCE).await;
            self.take(course, Step::Data, Step::Data, read)?;
            let read = self.exchange("DATA", self.limits.data).await;
            reply = self.take(course, Step::Data, Step::Data, read)?;
        }
        if reply.code != 354 {
            self.refused(course, Step::Data, &reply)?;
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
