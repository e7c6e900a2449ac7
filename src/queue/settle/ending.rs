//! What a settlement comes down to for the whole mail. Pure.

use std::time::Duration;

use crate::{
    mail::UnixMillis,
    queue::{Claimed, Counted, Header, PerRecipient, Refusal, Settlement, Try, header::cut},
};

/// What a settlement comes down to for the whole mail.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Ending {
    pub action: &'static str,
    pub header: Header,
    pub wait: Duration,
    pub reason: String,
    pub reply: String,
    /// Who has the mail since this try, as far as the mail is not over for all: they must not get it again.
    pub accepted: Vec<String>,
}

/// One mail ends in one place: while some recipients wait for a retry, those that were refused are remembered in the
/// header; in the end the refused ones make it a dead letter for them alone.
pub(super) fn ending(claim: &Claimed, outcome: &Settlement, per_recipient: &PerRecipient, now: UnixMillis) -> Ending {
    let tried = Tried::of(claim, per_recipient, now);
    match outcome {
        Settlement::Delivered { reply } if tried.header.refused.is_empty() => {
            Ending { accepted: Vec::new(), ..tried.whole("delivered", "", cut(reply)) }
        }
        // All but the refused have it, named or not.
        Settlement::Delivered { .. } => {
            let accepted = per_recipient.accepted.iter().chain(&tried.open).cloned().collect();
            tried.refused_rest(accepted)
        }
        Settlement::Delayed { .. } if tried.open.is_empty() && !tried.header.refused.is_empty() => {
            tried.refused_rest(per_recipient.accepted.clone())
        }
        Settlement::Delayed { wait, counted, reason, reply } => tried.delayed(*wait, *counted, reason, cut(reply)),
        Settlement::Dead { reason, reply } => tried.dead(reason, cut(reply)),
        Settlement::Held { reason, reply } => tried.with_open().whole("held", reason, cut(reply)),
    }
}

/// A mail after a try.
struct Tried<'a> {
    /// With those that were refused in it.
    header: Header,
    per_recipient: &'a PerRecipient,
    /// Recipients without an outcome of their own.
    open: Vec<String>,
    /// Whether some recipients had an outcome of their own, now or before.
    partial: bool,
    now: UnixMillis,
}

impl<'a> Tried<'a> {
    fn of(claim: &Claimed, per_recipient: &'a PerRecipient, now: UnixMillis) -> Self {
        let mut header = claim.header.clone();
        for refusal in &per_recipient.refused {
            let refusal = Refusal { reply: cut(&refusal.reply), recipient: refusal.recipient.clone() };
            if !header.refused.contains(&refusal) {
                header.refused.push(refusal);
            }
        }
        let is_refused = |recipient: &String| header.refused.iter().any(|refusal| refusal.recipient == *recipient);
        let recipients = claim.mail.recipients.iter();
        let open = recipients.filter(|one| !per_recipient.accepted.contains(one) && !is_refused(one));
        let open = open.cloned().collect();
        let partial = !per_recipient.accepted.is_empty() || !header.refused.is_empty() || header.remaining.is_some();
        Self { header, per_recipient, open, partial, now }
    }

    fn whole(self, action: &'static str, reason: &str, reply: String) -> Ending {
        let accepted = self.per_recipient.accepted.clone();
        Ending { action, header: self.header, wait: Duration::ZERO, reason: reason.to_owned(), reply, accepted }
    }

    /// A dead letter for those alone that were refused.
    fn refused_rest(mut self, accepted: Vec<String>) -> Ending {
        self.header.remaining = Some(self.refused().collect());
        let reply = self.header.refused.last().map(|refusal| refusal.reply.clone()).unwrap_or_default();
        Ending { accepted, ..self.whole("dead", "RecipientsRefused", reply) }
    }

    fn delayed(mut self, wait: Duration, counted: Counted, reason: &str, reply: String) -> Ending {
        match counted {
            Counted::Attempt => self.header.count_attempt(&self.open, &self.per_recipient.judged, self.now),
            Counted::Deferral => self.header.deferrals = self.header.deferrals.saturating_add(1),
        }
        Ending { wait, ..self.with_open().with_try(reason, &reply).whole("delayed", reason, reply) }
    }

    fn dead(mut self, reason: &str, reply: String) -> Ending {
        if self.partial {
            self.header.remaining = Some(self.open.iter().cloned().chain(self.refused()).collect());
        }
        self.with_try(reason, &reply).whole("dead", reason, reply)
    }

    /// Nothing open and nothing refused makes no sense; the recipients are then left as they were.
    fn with_open(mut self) -> Self {
        if self.partial && !self.open.is_empty() {
            self.header.remaining = Some(std::mem::take(&mut self.open));
        }
        self
    }

    fn with_try(mut self, reason: &str, reply: &str) -> Self {
        let suspect = self.per_recipient.suspect;
        let tried = Try { at: self.now, reason: reason.to_owned(), reply: reply.to_owned(), suspect };
        self.header = self.header.with_try(tried);
        self
    }

    fn refused(&self) -> impl Iterator<Item = String> {
        self.header.refused.iter().map(|refusal| refusal.recipient.clone())
    }
}
