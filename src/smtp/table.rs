//! What an answer of the server means for the mail and for the server: the reply table as one pure function.

use super::{
    reply::{Context, EnhancedCode, Event, PauseReason, Reply, Resend, Ruling, Sign, Stage, Verdict, Why},
    words::Words,
};

/// The reply table: one ruling for every stage and event.
pub fn judge(stage: Stage, event: Event<'_>, context: &Context) -> Ruling {
    match event {
        Event::Reply(reply) if stage == Stage::AfterDot && reply.is_completion() => {
            Ruling::new(Verdict::Delivered, Why::Accepted, Sign::Good)
        }
        Event::Reply(reply) if reply.is_transient() || reply.is_permanent() => {
            let words = Words::of(&reply.text);
            refusal(stage, reply, &words, context).after(words.delay())
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
        // An unterminated body is not delivered. It may be this mail that the server stumbles over, so it costs an
        // attempt; but a server that stumbles over every mail is left alone before it has used up the whole queue.
        Stage::Mail | Stage::Rcpt | Stage::Data | Stage::Body => {
            Ruling::new(Verdict::Retry { delay: None }, why, Sign::Failing)
        }
        Stage::AfterDot => Ruling::new(Verdict::Unknown, Why::OutcomeUnknown, Sign::Failing),
    }
}

fn protocol_error(context: &Context) -> Ruling {
    if context.resent {
        Ruling::new(Verdict::Retry { delay: None }, Why::ProtocolError, Sign::Failing)
    } else {
        Ruling::resend(Resend::NewSession, Why::ProtocolError, Sign::Failing)
    }
}

/// A 4yz or 5yz. First what judges the relay or its pace, whatever the stage, then what judges the mail.
fn refusal(stage: Stage, reply: &Reply, words: &Words, context: &Context) -> Ruling {
    let transient = reply.is_transient();
    if stage == Stage::Idle {
        return Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None);
    }
    if transient && (words.too_many_connections() || reply.code == 432) {
        return Ruling::free(Why::TooManyConnections, Sign::TooManyConnections);
    }
    match stage {
        Stage::Tls if transient => return Ruling::free(Why::TlsFailed, Sign::Failing),
        Stage::Tls => return Ruling::free(Why::TlsFailed, Sign::Pause(PauseReason::TlsFailed)),
        Stage::Greeting | Stage::Ehlo | Stage::Connect => {
            let why = if reply.code == 421 { Why::ServiceUnavailable } else { Why::GreetingRefused };
            return Ruling::free(why, Sign::Failing);
        }
        _ => {}
    }
    if words.daily_quota(reply) {
        return Ruling::free(Why::QuotaExceeded, Sign::Pause(PauseReason::QuotaExceeded));
    }
    if matches!(reply.code, 530 | 534 | 535 | 538) || (stage == Stage::Auth && reply.is_permanent()) {
        return Ruling::free(Why::AuthenticationFailed, Sign::Pause(PauseReason::AuthenticationFailed));
    }
    // In a session without a mail before, it is no reason to open the next one at once.
    if transient && stage != Stage::AfterDot && context.reused && words.too_many_messages() {
        return Ruling::resend(Resend::NewSession, Why::SessionFull, Sign::SessionFull);
    }
    if reply.code == 421 {
        if stage == Stage::Mail && context.reused && words.idle_timeout() {
            return Ruling::resend(Resend::NewSession, Why::SessionGone, Sign::None);
        }
        return Ruling::free(Why::ServiceUnavailable, Sign::Failing);
    }
    if stage == Stage::Rcpt && transient && words.greylisted(reply) {
        return Ruling::retry(Why::Greylisted);
    }
    if transient && words.throttled(reply) {
        return Ruling::free(Why::Throttled, Sign::SlowDown);
    }
    if stage == Stage::Auth {
        return Ruling::free(Why::AuthenticationFailed, Sign::Failing);
    }
    if reply.is_permanent() && words.blocked() {
        return Ruling::free(Why::Blocked, Sign::Pause(PauseReason::Blocked));
    }
    if matches!(reply.code, 500 | 502 | 503) {
        return if stage == Stage::AfterDot { Ruling::retry(Why::ProtocolError) } else { protocol_error(context) };
    }
    debug_assert!(stage.is_transaction(), "every other stage has returned");
    if transient { later(stage, reply, words, context) } else { never(stage, reply, words, context) }
}

/// A 4yz that judges the mail.
fn later(stage: Stage, reply: &Reply, words: &Words, context: &Context) -> Ruling {
    if stage == Stage::Rcpt {
        if words.too_many_recipients(reply) && context.accepted > 0 {
            return Ruling::resend(Resend::NewTransaction, Why::TooManyRecipients, Sign::None);
        }
        return Ruling::retry(Why::RecipientDeferred);
    }
    let full = reply.enhanced.is_none_or(|code| matches!(code, EnhancedCode(4, 3, 1)));
    if reply.code == 452 && full {
        return Ruling::free(Why::OutOfStorage, Sign::Failing);
    }
    Ruling::retry(Why::TemporaryFailure)
}

/// A 5yz that judges the mail.
fn never(stage: Stage, reply: &Reply, words: &Words, context: &Context) -> Ruling {
    let large = reply.code == 552 && reply.enhanced.is_none_or(|code| matches!(code, EnhancedCode(5, 3, 4)))
        || matches!(reply.enhanced, Some(EnhancedCode(5, 3, 4)));
    match stage {
        Stage::Rcpt if reply.code == 552 && words.too_many_recipients(reply) => {
            if context.accepted > 0 {
                Ruling::resend(Resend::NewTransaction, Why::TooManyRecipients, Sign::None)
            } else {
                Ruling::retry(Why::TooManyRecipients)
            }
        }
        Stage::Rcpt => Ruling::dead(Why::RecipientRefused),
        _ if large => Ruling::dead(Why::TooLarge),
        Stage::Mail => Ruling::new(Verdict::Dead, Why::SenderRefused, Sign::SenderRefused),
        _ => Ruling::dead(Why::PolicyRefused),
    }
}

#[cfg(test)]
mod tests;
