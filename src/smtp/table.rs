//! What an answer of the server means for the mail and for the server: the reply table as one pure function.
//!
//! A refusal judges one of five things: the recipient, the mail, us (our right to send), the server's own state, or our
//! pace. Only the first two may cost an attempt or kill a mail. Read are the words of pace and quota, which many servers
//! say with whatever code, then the enhanced code, the basic code, the other words, and last the stage.

use std::time::Duration;

use super::{
    reply::{Class, Context, EnhancedCode, Event, PauseReason, Reply, Resend, Ruling, Sign, Stage, Verdict, Why},
    reply_text::{ReplyText, Topic, accusation},
};

/// The longest time for which a quota is taken to be used up before the server is asked again.
const LONGEST_QUOTA: u64 = 1_800;
/// The longest window of a mailbox's own limit that is waited for.
const SOON: Duration = Duration::from_secs(3_600);

/// The reply table: one ruling for every stage and event.
pub fn judge(stage: Stage, event: Event<'_>, context: &Context) -> Ruling {
    match event {
        Event::Reply(reply) if stage == Stage::AfterDot && reply.is_completion() => {
            Ruling::new(Verdict::Delivered, Why::Accepted, Sign::Good)
        }
        Event::Reply(reply) if reply.is_transient() || reply.is_permanent() => {
            let words = ReplyText::of(&reply.text);
            refusal(&Refusal { stage, reply, words: &words, context }).after(words.delay())
        }
        // A 2yz or 3yz at the wrong place is as good as a reply that does not parse.
        Event::Reply(_) | Event::Garbled => silence(stage, Event::Garbled, context),
        Event::TimedOut | Event::Broken => silence(stage, event, context),
    }
}

/// No reply, or none that makes sense.
fn silence(stage: Stage, event: Event<'_>, context: &Context) -> Ruling {
    let why = match event {
        Event::TimedOut => Why::TimedOut,
        Event::Broken => Why::ConnectionLost,
        Event::Garbled | Event::Reply(_) => Why::ProtocolError,
    };
    match stage {
        // A connection that breaks in the handshake says as little about TLS as one that breaks before it.
        Stage::Tls if why == Why::ProtocolError => Ruling::free(Why::TlsFailed, Sign::Pause(PauseReason::TlsFailed)),
        Stage::Connect | Stage::Greeting | Stage::Ehlo | Stage::Tls | Stage::Auth => {
            Ruling::free(Why::ConnectFailed, Sign::Failing)
        }
        Stage::Idle => Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None),
        // The server's end of an idle session and our MAIL crossed each other.
        Stage::Mail if why == Why::ConnectionLost && context.reused && !context.resent => {
            Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None)
        }
        Stage::Mail | Stage::Rcpt | Stage::Data if why == Why::ProtocolError => protocol_error(context),
        // Nobody judged the mail, and an unterminated body is not delivered.
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body => Ruling::free(why, Sign::Failing),
        Stage::AfterDot => Ruling::new(Verdict::Unknown, Why::OutcomeUnknown, Sign::Failing),
    }
}

fn protocol_error(context: &Context) -> Ruling {
    if context.resent {
        Ruling::free(Why::ProtocolError, Sign::Failing)
    } else {
        Ruling::resend(Resend::NewSession, Why::ProtocolError, Sign::Failing)
    }
}

/// A 4yz or 5yz, and all that is needed to judge it.
struct Refusal<'a> {
    stage: Stage,
    reply: &'a Reply,
    words: &'a ReplyText,
    context: &'a Context,
}

impl Refusal<'_> {
    fn speaks_of(&self, topic: Topic) -> bool {
        self.words.speaks_of(topic)
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
        matches!(self.stage, Stage::Mail | Stage::Rcpt | Stage::Data)
    }
}

fn refusal(refusal: &Refusal<'_>) -> Ruling {
    let Refusal { stage, reply, .. } = refusal;
    if *stage == Stage::Idle {
        return Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None);
    }
    if let Some(ruling) = pace(refusal) {
        return ruling;
    }
    if stage.is_opening() {
        return opening(refusal);
    }
    if reply.code == 421 {
        if *stage == Stage::Mail && refusal.context.reused && refusal.speaks_of(Topic::Idle) {
            return Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None);
        }
        return Ruling::free(Why::ServiceUnavailable, Sign::Failing);
    }
    if reply.is_transient() { later(refusal) } else { never(refusal) }
}

/// What judges our pace, whatever the code and the stage.
fn pace(refusal: &Refusal<'_>) -> Option<Ruling> {
    let Refusal { stage, reply, words, context } = refusal;
    let says = |topic| words.speaks_of(topic);
    let enhanced = refusal.enhanced();
    // A server that greets us so has judged what we sent before, not how fast we send.
    if stage.is_opening() && reply.is_permanent() && says(Topic::Spam) {
        return None;
    }
    let of_recipient = is_of_mailbox(refusal);
    let rate = !of_recipient && says(Topic::Rate) && !(reply.is_transient() && says(Topic::Greylist));
    if reply.code == 432 || (says(Topic::Connections) && !says(Topic::Frequency) && !of_recipient) {
        return Some(Ruling::free(Why::TooManyConnections, Sign::TooManyConnections));
    }
    if *stage != Stage::AfterDot && !stage.is_opening() && says(Topic::SessionFull) && !says(Topic::Frequency) {
        // In a session without a mail before, it is no reason to open the next one at once.
        return Some(if context.reused {
            Ruling::resend(Resend::NewSession, Why::SessionFull, Sign::SessionFull)
        } else {
            Ruling::free(Why::ServiceUnavailable, Sign::Failing)
        });
    }
    if let Some(ruling) = recipients(refusal) {
        return Some(ruling);
    }
    if !of_recipient && is_quota(refusal) {
        let pause = words.delay().unwrap_or(words.window()).as_secs().min(LONGEST_QUOTA);
        return Some(Ruling::free(Why::QuotaExceeded, Sign::QuotaExceeded(Duration::from_secs(pause))));
    }
    let congested = enhanced == Some((4, 5)) || matches!(reply.enhanced, Some(EnhancedCode(4, 7, 500..)));
    (rate || congested).then(|| Ruling::free(Why::Throttled, Sign::SlowDown))
}

/// Whether it is about what a mailbox may hold or get, and not about what we may send.
fn is_of_mailbox(refusal: &Refusal<'_>) -> bool {
    if refusal.speaks_of(Topic::Outgoing) {
        return false;
    }
    refusal.subject() == Some(2) || (refusal.stage != Stage::Mail && refusal.speaks_of(Topic::Mailbox))
}

/// The sender's quota at this server. Without more, 552 and whatever is said of a recipient are about room, not about us.
fn is_quota(refusal: &Refusal<'_>) -> bool {
    let vague = refusal.reply.code == 552 || refusal.stage == Stage::Rcpt;
    refusal.speaks_of(Topic::Quota) || (!vague && refusal.speaks_of(Topic::VagueQuota))
}

/// More recipients than one transaction may have: the rest goes in another one, once some were taken.
fn recipients(refusal: &Refusal<'_>) -> Option<Ruling> {
    let Refusal { stage, reply, context, .. } = refusal;
    if *stage != Stage::Rcpt || !matches!(reply.code, 450..=459 | 550..=559) || refusal.subject() == Some(2) {
        return None;
    }
    let said = (refusal.speaks_of(Topic::Recipients) && !refusal.speaks_of(Topic::Frequency))
        || refusal.enhanced() == Some((5, 3));
    let implied = matches!(reply.code, 452 | 552) && context.accepted > 0;
    match (said || implied, context.accepted) {
        (false, _) => None,
        (true, 0) => Some(Ruling::free(Why::TooManyRecipients, Sign::None)),
        (true, _) => Some(Ruling::resend(Resend::NewTransaction, Why::TooManyRecipients, Sign::None)),
    }
}

/// A refusal before any mail was offered judges no mail.
fn opening(refusal: &Refusal<'_>) -> Ruling {
    let Refusal { stage, reply, words, .. } = refusal;
    let transient = reply.is_transient();
    match stage {
        Stage::Tls if transient => return Ruling::free(Why::TlsFailed, Sign::Failing),
        Stage::Tls => return Ruling::free(Why::TlsFailed, Sign::Pause(PauseReason::TlsFailed)),
        Stage::Auth if transient => return Ruling::free(Why::AuthenticationFailed, Sign::Failing),
        Stage::Auth => return Ruling::cannot_authenticate(),
        _ => {}
    }
    if reply.code == 421 && !words.speaks_of(Topic::List) {
        return Ruling::free(Why::ServiceUnavailable, Sign::Failing);
    }
    let accused = if words.speaks_of(Topic::List) { Some(Topic::List) } else { accusation(words, reply) };
    match accused.map(about_us) {
        // Nothing but our own name was said so far.
        None if *stage == Stage::Ehlo && matches!(reply.code, 501 | 504) => {
            Ruling::free(Why::HeloRefused, Sign::RefusesUs(Why::HeloRefused))
        }
        None if !transient && words.names_us() && !words.speaks_of(Topic::Server) => {
            Ruling::free(Why::ClientRefused, Sign::RefusesUs(Why::ClientRefused))
        }
        None => Ruling::free(Why::GreetingRefused, Sign::Failing),
        Some(why) => Ruling::free(why, Sign::RefusesUs(why)),
    }
}

/// A 4yz of a mail transaction.
fn later(refusal: &Refusal<'_>) -> Ruling {
    let Refusal { stage, reply, words, .. } = refusal;
    let (code, subject) = (reply.code, refusal.subject());
    let (of_recipient, whole) = (*stage == Stage::Rcpt, *stage == Stage::AfterDot);
    if refusal.speaks_of(Topic::Greylist) {
        return Ruling::retry(Class::Greylisted, Why::Greylisted);
    }
    if let Some(why) = accused(refusal).filter(|_| !matches!(subject, Some(3 | 4))) {
        return Ruling::free(why, Sign::RefusesUs(why));
    }
    let ill = Ruling::free(Why::ServiceUnavailable, Sign::Failing);
    match subject {
        Some(3 | 4) if code == 452 => return Ruling::free(Why::OutOfStorage, Sign::Failing),
        Some(3 | 4) => return ill,
        // The name of a recipient's domain, a callout to its server: that may take longer than a mailbox that is busy.
        Some(1) => return Ruling::retry(Class::Patient, Why::RecipientDeferred),
        Some(2) => return Ruling::retry(Class::Judged, Why::RecipientDeferred),
        Some(5 | 6) => return Ruling::retry(Class::Judged, Why::TemporaryFailure),
        Some(7) if of_recipient => return Ruling::retry(Class::Greylisted, Why::Greylisted),
        Some(7) if whole && words.is_rspamds() => return Ruling::retry(Class::Greylisted, Why::Greylisted),
        Some(7) if whole && refusal.speaks_of(Topic::Server) => return ill,
        Some(7) if whole => return Ruling::retry(Class::Patient, Why::TemporaryFailure),
        _ => {}
    }
    match code {
        452 if of_recipient && refusal.speaks_of(Topic::Mailbox) => {
            Ruling::retry(Class::Judged, Why::RecipientDeferred)
        }
        452 => Ruling::free(Why::OutOfStorage, Sign::Failing),
        450 if of_recipient && (refusal.speaks_of(Topic::Server) || refusal.speaks_of(Topic::ComeBack)) => ill,
        450 if of_recipient => Ruling::retry(Class::Judged, Why::RecipientDeferred),
        450 if whole => Ruling::retry(Class::Patient, Why::TemporaryFailure),
        _ => ill,
    }
}

/// A 5yz of a mail transaction.
fn never(refusal: &Refusal<'_>) -> Ruling {
    let Refusal { stage, reply, words, context } = refusal;
    let (code, of_recipient) = (reply.code, *stage == Stage::Rcpt);
    let unknown = blames_recipient(refusal);
    if let Some(why) = accused(refusal).filter(|_| !unknown) {
        return Ruling::suspect(why);
    }
    // What a mailbox may get in an hour is no reason to give the mail up.
    let soon = words.window() <= SOON && (refusal.speaks_of(Topic::Frequency) || refusal.speaks_of(Topic::Hourly));
    if soon && *stage != Stage::Mail && is_of_mailbox(refusal) {
        return Ruling::retry(Class::Greylisted, Why::RecipientDeferred);
    }
    if refusal.enhanced() == Some((3, 4)) || (code == 552 && refusal.subject().is_none()) {
        return if of_recipient { Ruling::dead(Why::RecipientRefused) } else { Ruling::dead(Why::TooLarge) };
    }
    let ill = Ruling::free(Why::ServiceUnavailable, Sign::Failing);
    match refusal.subject() {
        Some(1 | 2) if *stage == Stage::Mail => return Ruling::suspect(Why::SenderRefused),
        Some(1 | 2) => return Ruling::dead(Why::RecipientRefused),
        Some(3 | 4) if unknown || (of_recipient && refusal.subject() == Some(4)) => {
            return Ruling::dead(Why::RecipientRefused);
        }
        Some(3 | 4) if words.speaks_of(Topic::Loop) => return Ruling::dead(Why::PolicyRefused),
        Some(3 | 4) => return ill,
        Some(6) => return Ruling::dead(if of_recipient { Why::RecipientRefused } else { Why::PolicyRefused }),
        None if words.speaks_of(Topic::Server) || words.speaks_of(Topic::ComeBack) => return ill,
        _ => {}
    }
    if matches!(code, 500 | 502 | 503) {
        return if *stage == Stage::AfterDot {
            Ruling::free(Why::ProtocolError, Sign::Failing)
        } else {
            protocol_error(context)
        };
    }
    if unknown || (of_recipient && code == 551) {
        return Ruling::dead(Why::RecipientRefused);
    }
    match stage {
        Stage::Mail => Ruling::suspect(Why::SenderRefused),
        Stage::Rcpt => Ruling::suspect(Why::RecipientRefused),
        _ if refusal.is_of_envelope() => Ruling::suspect(Why::PolicyRefused),
        _ => Ruling::dead(Why::PolicyRefused),
    }
}

/// Whether the words of a refusal at RCPT leave no doubt that the recipient is meant.
fn blames_recipient(refusal: &Refusal<'_>) -> bool {
    let says = |topic| refusal.speaks_of(topic);
    // A server that asks the sender's own server about it passes on what it hears there.
    if refusal.stage != Stage::Rcpt || says(Topic::Callout) || is_listed_by_name(refusal) {
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
    refusal.speaks_of(Topic::List) && refusal.words.names_us()
}

/// What of us a refusal in a mail transaction accuses. A code that names the recipient comes before the words, but for
/// relaying and a list that names us: servers say them with any code. Words about lists at the end of a message are about
/// us only when they name us: otherwise a list has something of the message.
fn accused(refusal: &Refusal<'_>) -> Option<Why> {
    let Refusal { stage, reply, words, .. } = refusal;
    let of_sender = matches!(refusal.enhanced(), Some((1, 7 | 8)));
    let coded = *stage == Stage::Rcpt && matches!(refusal.subject(), Some(1 | 2)) && !of_sender;
    if is_listed_by_name(refusal) || (words.speaks_of(Topic::List) && *stage != Stage::AfterDot && !coded) {
        return Some(Why::Blocked);
    }
    if coded {
        return words.speaks_of(Topic::Relay).then_some(Why::RelayDenied);
    }
    // "send HELO first" is said in a session that is out of step.
    let out_of_step = |topic: &Topic| *topic == Topic::Helo && reply.code == 503;
    accusation(words, reply).filter(|topic| !out_of_step(topic)).map(about_us)
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
