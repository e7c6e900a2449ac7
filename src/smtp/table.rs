//! What an answer of the server means for the mail and for the server: the reply table as one pure function.
//!
//! A refusal judges one of five things: the recipient, the mail, us (our right to send), the server's own state, or our
//! pace. Only the first two may cost an attempt or kill a mail. Read are the words of pace and quota, which many servers
//! say with whatever code, then the enhanced code, the basic code, the other words, and last the step.

use std::time::Duration;

use super::{
    reply::{
        Class, Disposition, EnhancedCode, Event, PauseReason, Reply, Resend, ServerSignal, Situation, Step, Verdict,
        Why,
    },
    reply_text::{ReplyText, Topic, accusation},
};

/// The longest time for which a quota is taken to be used up before the server is asked again.
const LONGEST_QUOTA: u64 = 1_800;
/// The longest window of a mailbox's own limit that is waited for.
const SOON: Duration = Duration::from_secs(3_600);

/// The reply table: one disposition for every step and event.
pub fn judge(step: Step, event: Event<'_>, situation: &Situation) -> Disposition {
    match event {
        Event::Reply(reply) if step == Step::AfterDot && reply.is_completion() => {
            Disposition::new(Verdict::Delivered, Why::Accepted, ServerSignal::Good)
        }
        Event::Reply(reply) if reply.is_transient() || reply.is_permanent() => {
            let text = ReplyText::of(&reply.text);
            refusal(&Refusal { step, reply, text: &text, situation }).after(text.delay())
        }
        // A 2yz or 3yz at the wrong place is as good as a reply that does not parse.
        Event::Reply(_) | Event::Garbled => silence(step, Event::Garbled, situation),
        Event::TimedOut | Event::Broken => silence(step, event, situation),
    }
}

/// No reply, or none that makes sense.
fn silence(step: Step, event: Event<'_>, situation: &Situation) -> Disposition {
    let why = match event {
        Event::TimedOut => Why::TimedOut,
        Event::Broken => Why::ConnectionLost,
        Event::Garbled | Event::Reply(_) => Why::ProtocolError,
    };
    match step {
        // A connection that breaks in the handshake says as little about TLS as one that breaks before it.
        Step::Tls if why == Why::ProtocolError => {
            Disposition::free(Why::TlsFailed, ServerSignal::Pause(PauseReason::TlsFailed))
        }
        Step::Connect | Step::Greeting | Step::Ehlo | Step::Tls | Step::Auth => {
            Disposition::free(Why::ConnectFailed, ServerSignal::Failing)
        }
        Step::Idle => Disposition::resend(Resend::NewSession, Why::SessionGone, ServerSignal::None),
        // The server's end of an idle session and our MAIL crossed each other.
        Step::Mail if why == Why::ConnectionLost && situation.reused && !situation.resent => {
            Disposition::resend(Resend::NewSession, Why::SessionGone, ServerSignal::None)
        }
        Step::Mail | Step::Rcpt | Step::Data if why == Why::ProtocolError => protocol_error(situation),
        // Nobody judged the mail, and an unterminated body is not delivered.
        Step::Mail | Step::Rcpt | Step::Data | Step::Body => Disposition::free(why, ServerSignal::Failing),
        Step::AfterDot => Disposition::new(Verdict::Unknown, Why::OutcomeUnknown, ServerSignal::Failing),
    }
}

fn protocol_error(situation: &Situation) -> Disposition {
    if situation.resent {
        Disposition::free(Why::ProtocolError, ServerSignal::Failing)
    } else {
        Disposition::resend(Resend::NewSession, Why::ProtocolError, ServerSignal::Failing)
    }
}

/// A 4yz or 5yz, and all that is needed to judge it.
struct Refusal<'a> {
    step: Step,
    reply: &'a Reply,
    text: &'a ReplyText,
    situation: &'a Situation,
}

impl Refusal<'_> {
    fn speaks_of(&self, topic: Topic) -> bool {
        self.text.speaks_of(topic)
    }

    /// Subject and detail of the enhanced code.
    fn enhanced(&self) -> Option<(u16, u16)> {
        self.reply.enhanced.map(|EnhancedCode(_, subject, detail)| (subject, detail))
    }

    fn subject(&self) -> Option<u16> {
        self.enhanced().map(|(subject, _)| subject).filter(|subject| *subject > 0)
    }

    /// Whether it is said of the mail or one of its recipients, the message not being complete.
    fn is_of_envelope(&self) -> bool {
        matches!(self.step, Step::Mail | Step::Rcpt | Step::Data)
    }
}

fn refusal(refusal: &Refusal<'_>) -> Disposition {
    let Refusal { step, reply, .. } = refusal;
    if *step == Step::Idle {
        return Disposition::resend(Resend::NewSession, Why::SessionGone, ServerSignal::None);
    }
    if let Some(disposition) = pace(refusal) {
        return disposition;
    }
    if step.is_opening() {
        return opening(refusal);
    }
    if reply.code == 421 {
        if *step == Step::Mail && refusal.situation.reused && refusal.speaks_of(Topic::Idle) {
            return Disposition::resend(Resend::NewSession, Why::SessionGone, ServerSignal::None);
        }
        return Disposition::free(Why::ServiceUnavailable, ServerSignal::Failing);
    }
    if reply.is_transient() { later(refusal) } else { never(refusal) }
}

/// What judges our pace, whatever the code and the step.
fn pace(refusal: &Refusal<'_>) -> Option<Disposition> {
    let Refusal { step, reply, text, situation } = refusal;
    let says = |topic| text.speaks_of(topic);
    let enhanced = refusal.enhanced();
    // A server that greets us so has judged what we sent before, not how fast we send.
    if step.is_opening() && reply.is_permanent() && says(Topic::Spam) {
        return None;
    }
    let of_recipient = is_of_mailbox(refusal);
    let rate = !of_recipient && says(Topic::Rate) && !(reply.is_transient() && says(Topic::Greylist));
    if reply.code == 432 || (says(Topic::Connections) && !says(Topic::Frequency) && !of_recipient) {
        return Some(Disposition::free(Why::TooManyConnections, ServerSignal::TooManyConnections));
    }
    if *step != Step::AfterDot && !step.is_opening() && says(Topic::SessionFull) && !says(Topic::Frequency) {
        // In a session without a mail before, it is no reason to open the next one at once.
        return Some(if situation.reused {
            Disposition::resend(Resend::NewSession, Why::SessionFull, ServerSignal::SessionFull)
        } else {
            Disposition::free(Why::ServiceUnavailable, ServerSignal::Failing)
        });
    }
    if let Some(disposition) = recipients(refusal) {
        return Some(disposition);
    }
    if !of_recipient && is_quota(refusal) {
        let pause = text.delay().unwrap_or(text.window()).as_secs().min(LONGEST_QUOTA);
        return Some(Disposition::free(Why::QuotaExceeded, ServerSignal::QuotaExceeded(Duration::from_secs(pause))));
    }
    let congested = enhanced == Some((4, 5)) || matches!(reply.enhanced, Some(EnhancedCode(4, 7, 500..)));
    (rate || congested).then(|| Disposition::free(Why::Throttled, ServerSignal::SlowDown))
}

/// Whether it is about what a mailbox may hold or get, and not about what we may send.
fn is_of_mailbox(refusal: &Refusal<'_>) -> bool {
    if refusal.speaks_of(Topic::Outgoing) {
        return false;
    }
    refusal.subject() == Some(2) || (refusal.step != Step::Mail && refusal.speaks_of(Topic::Mailbox))
}

/// The sender's quota at this server. Without more, 552 and whatever is said of a recipient are about room, not about us.
fn is_quota(refusal: &Refusal<'_>) -> bool {
    let vague = refusal.reply.code == 552 || refusal.step == Step::Rcpt;
    refusal.speaks_of(Topic::Quota) || (!vague && refusal.speaks_of(Topic::VagueQuota))
}

/// More recipients than one transaction may have: the rest goes in another one, once some were taken.
fn recipients(refusal: &Refusal<'_>) -> Option<Disposition> {
    let Refusal { step, reply, situation, .. } = refusal;
    if *step != Step::Rcpt || !matches!(reply.code, 450..=459 | 550..=559) || refusal.subject() == Some(2) {
        return None;
    }
    let said = (refusal.speaks_of(Topic::Recipients) && !refusal.speaks_of(Topic::Frequency))
        || refusal.enhanced() == Some((5, 3));
    let implied = matches!(reply.code, 452 | 552) && situation.accepted > 0;
    match (said || implied, situation.accepted) {
        (false, _) => None,
        (true, 0) => Some(Disposition::free(Why::TooManyRecipients, ServerSignal::None)),
        (true, _) => Some(Disposition::resend(Resend::NewTransaction, Why::TooManyRecipients, ServerSignal::None)),
    }
}

/// A refusal before any mail was offered judges no mail.
fn opening(refusal: &Refusal<'_>) -> Disposition {
    let Refusal { step, reply, text, .. } = refusal;
    let transient = reply.is_transient();
    match step {
        Step::Tls if transient => return Disposition::free(Why::TlsFailed, ServerSignal::Failing),
        Step::Tls => return Disposition::free(Why::TlsFailed, ServerSignal::Pause(PauseReason::TlsFailed)),
        Step::Auth if transient => return Disposition::free(Why::AuthenticationFailed, ServerSignal::Failing),
        Step::Auth => return Disposition::cannot_authenticate(),
        _ => {}
    }
    if reply.code == 421 && !text.speaks_of(Topic::List) {
        return Disposition::free(Why::ServiceUnavailable, ServerSignal::Failing);
    }
    let accused = if text.speaks_of(Topic::List) { Some(Topic::List) } else { accusation(text, reply) };
    match accused.map(about_us) {
        // Nothing but our own name was said so far.
        None if *step == Step::Ehlo && matches!(reply.code, 501 | 504) => {
            Disposition::free(Why::HeloRefused, ServerSignal::RefusesUs(Why::HeloRefused))
        }
        None if !transient && text.names_us() && !text.speaks_of(Topic::Server) => {
            Disposition::free(Why::ClientRefused, ServerSignal::RefusesUs(Why::ClientRefused))
        }
        None => Disposition::free(Why::GreetingRefused, ServerSignal::Failing),
        Some(why) => Disposition::free(why, ServerSignal::RefusesUs(why)),
    }
}

/// A 4yz of a mail transaction.
fn later(refusal: &Refusal<'_>) -> Disposition {
    let Refusal { step, reply, text, .. } = refusal;
    let (code, subject) = (reply.code, refusal.subject());
    let (of_recipient, whole) = (*step == Step::Rcpt, *step == Step::AfterDot);
    if refusal.speaks_of(Topic::Greylist) {
        return Disposition::retry(Class::Greylisted, Why::Greylisted);
    }
    if let Some(why) = accused(refusal).filter(|_| !matches!(subject, Some(3 | 4))) {
        return Disposition::free(why, ServerSignal::RefusesUs(why));
    }
    let ill = Disposition::free(Why::ServiceUnavailable, ServerSignal::Failing);
    match subject {
        Some(3 | 4) if code == 452 => return Disposition::free(Why::OutOfStorage, ServerSignal::Failing),
        Some(3 | 4) => return ill,
        // The name of a recipient's domain, a callout to its server: that may take longer than a mailbox that is busy.
        Some(1) => return Disposition::retry(Class::Patient, Why::RecipientDeferred),
        Some(2) => return Disposition::retry(Class::Judged, Why::RecipientDeferred),
        Some(5 | 6) => return Disposition::retry(Class::Judged, Why::TemporaryFailure),
        Some(7) if of_recipient => return Disposition::retry(Class::Greylisted, Why::Greylisted),
        Some(7) if whole && text.is_rspamds() => return Disposition::retry(Class::Greylisted, Why::Greylisted),
        Some(7) if whole && refusal.speaks_of(Topic::Server) => return ill,
        Some(7) if whole => return Disposition::retry(Class::Patient, Why::TemporaryFailure),
        _ => {}
    }
    match code {
        452 if of_recipient && refusal.speaks_of(Topic::Mailbox) => {
            Disposition::retry(Class::Judged, Why::RecipientDeferred)
        }
        452 => Disposition::free(Why::OutOfStorage, ServerSignal::Failing),
        450 if of_recipient && (refusal.speaks_of(Topic::Server) || refusal.speaks_of(Topic::ComeBack)) => ill,
        450 if of_recipient => Disposition::retry(Class::Judged, Why::RecipientDeferred),
        450 if whole => Disposition::retry(Class::Patient, Why::TemporaryFailure),
        _ => ill,
    }
}

/// A 5yz of a mail transaction.
fn never(refusal: &Refusal<'_>) -> Disposition {
    let Refusal { step, reply, text, situation } = refusal;
    let (code, of_recipient) = (reply.code, *step == Step::Rcpt);
    let unknown = blames_recipient(refusal);
    if let Some(why) = accused(refusal).filter(|_| !unknown) {
        return Disposition::suspect(why);
    }
    // What a mailbox may get in an hour is no reason to give the mail up.
    let soon = text.window() <= SOON && (refusal.speaks_of(Topic::Frequency) || refusal.speaks_of(Topic::Hourly));
    if soon && *step != Step::Mail && is_of_mailbox(refusal) {
        return Disposition::retry(Class::Greylisted, Why::RecipientDeferred);
    }
    if refusal.enhanced() == Some((3, 4)) || (code == 552 && refusal.subject().is_none()) {
        return if of_recipient { Disposition::dead(Why::RecipientRefused) } else { Disposition::dead(Why::TooLarge) };
    }
    let ill = Disposition::free(Why::ServiceUnavailable, ServerSignal::Failing);
    match refusal.subject() {
        Some(1 | 2) if *step == Step::Mail => return Disposition::suspect(Why::SenderRefused),
        Some(1 | 2) => return Disposition::dead(Why::RecipientRefused),
        Some(3 | 4) if unknown || (of_recipient && refusal.subject() == Some(4)) => {
            return Disposition::dead(Why::RecipientRefused);
        }
        Some(3 | 4) if text.speaks_of(Topic::Loop) => return Disposition::dead(Why::PolicyRefused),
        Some(3 | 4) => return ill,
        Some(6) => return Disposition::dead(if of_recipient { Why::RecipientRefused } else { Why::PolicyRefused }),
        None if text.speaks_of(Topic::Server) || text.speaks_of(Topic::ComeBack) => return ill,
        _ => {}
    }
    if matches!(code, 500 | 502 | 503) {
        return if *step == Step::AfterDot {
            Disposition::free(Why::ProtocolError, ServerSignal::Failing)
        } else {
            protocol_error(situation)
        };
    }
    if unknown || (of_recipient && code == 551) {
        return Disposition::dead(Why::RecipientRefused);
    }
    match step {
        Step::Mail => Disposition::suspect(Why::SenderRefused),
        Step::Rcpt => Disposition::suspect(Why::RecipientRefused),
        _ if refusal.is_of_envelope() => Disposition::suspect(Why::PolicyRefused),
        _ => Disposition::dead(Why::PolicyRefused),
    }
}

/// Whether the words of a refusal at RCPT leave no doubt that the recipient is meant.
fn blames_recipient(refusal: &Refusal<'_>) -> bool {
    let says = |topic| refusal.speaks_of(topic);
    // A server that asks the sender's own server about it passes on what it hears there.
    if refusal.step != Step::Rcpt || says(Topic::Callout) || is_listed_by_name(refusal) {
        return false;
    }
    if says(Topic::Recipient) || matches!(refusal.enhanced(), Some((7, 504 | 505))) {
        return true;
    }
    // Postfix begins so whatever it was that a policy found fault with, a login that is missing too.
    says(Topic::RecipientPrefix) && !says(Topic::Denial) && accused(refusal).is_none()
}

/// Whether our own address or host is said to be on a list.
fn is_listed_by_name(refusal: &Refusal<'_>) -> bool {
    refusal.speaks_of(Topic::List) && refusal.text.names_us()
}

/// What of us a refusal in a mail transaction accuses. A code that names the recipient comes before the words, but for
/// relaying and a list that names us: servers say them with any code. Words about lists at the end of a message are about
/// us only when they name us: otherwise a list has something of the message.
fn accused(refusal: &Refusal<'_>) -> Option<Why> {
    let Refusal { step, reply, text, .. } = refusal;
    let of_sender = matches!(refusal.enhanced(), Some((1, 7 | 8)));
    let coded = *step == Step::Rcpt && matches!(refusal.subject(), Some(1 | 2)) && !of_sender;
    if is_listed_by_name(refusal) || (text.speaks_of(Topic::List) && *step != Step::AfterDot && !coded) {
        return Some(Why::Blocked);
    }
    if coded {
        return text.speaks_of(Topic::Relay).then_some(Why::RelayDenied);
    }
    // "send HELO first" is said in a session that is out of step.
    let out_of_step = |topic: &Topic| *topic == Topic::Helo && reply.code == 503;
    accusation(text, reply).filter(|topic| !out_of_step(topic)).map(about_us)
}

fn about_us(topic: Topic) -> Why {
    match topic {
        Topic::Login => Why::LoginRequired,
        Topic::Relay => Why::RelayDenied,
        Topic::Helo => Why::HeloRefused,
        Topic::Client => Why::ClientRefused,
        Topic::List => Why::Blocked,
        _ => Why::SenderRefused,
    }
}

#[cfg(test)]
mod corpus;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod texts;
