//! The reply table, row by row.

use std::time::Duration;

use super::*;

const FRESH: Context = Context { accepted: 0, resent: false, reused: false };
const KEPT: Context = Context { accepted: 0, resent: false, reused: true };
const RESENT: Context = Context { accepted: 0, resent: true, reused: true };
const SOME: Context = Context { accepted: 1, resent: false, reused: false };

const FREE: Verdict = Verdict::Defer { resend: Resend::Later, delay: None };
const NEW_SESSION: Verdict = Verdict::Defer { resend: Resend::NewSession, delay: None };
const NEW_TRANSACTION: Verdict = Verdict::Defer { resend: Resend::NewTransaction, delay: None };
const RETRY: Verdict = Verdict::Retry { delay: None };

fn free_after(seconds: u64) -> Verdict {
    Verdict::Defer { resend: Resend::Later, delay: Some(Duration::from_secs(seconds)) }
}

fn retry_after(seconds: u64) -> Verdict {
    Verdict::Retry { delay: Some(Duration::from_secs(seconds)) }
}

/// stage, reply ("550 5.1.1 no such user"), context, what must come of it.
type Row = (Stage, &'static str, Context, Verdict, Why, Sign);

fn check(rows: &[Row]) {
    for (stage, line, context, verdict, why, sign) in rows {
        let (code, text) = line.split_once(' ').unwrap_or((line, ""));
        let reply = Reply::new(code.parse().expect("a code"), text);
        let ruling = judge(*stage, Event::Reply(&reply), context);
        assert_eq!((ruling.verdict, ruling.why, ruling.sign), (*verdict, *why, *sign), "{stage:?} {line}");
    }
}

fn check_silence(stages: &[Stage], events: &[Event<'_>], context: Context, verdict: Verdict, why: &[Why], sign: Sign) {
    for stage in stages {
        for event in events {
            let ruling = judge(*stage, *event, &context);
            assert_eq!((ruling.verdict, ruling.sign), (verdict, sign), "{stage:?} {event:?}");
            assert!(why.contains(&ruling.why), "{stage:?} {event:?} {:?}", ruling.why);
        }
    }
}

use Sign::{Failing, None as Nothing, SlowDown};
use Stage::{AfterDot, Auth, Body, Connect, Data, Ehlo, Greeting, Idle, Mail, Rcpt, Tls};

#[test]
fn no_connection_is_free_and_counts_against_the_server() {
    let lost = [Event::TimedOut, Event::Broken];
    check_silence(&[Connect, Greeting, Ehlo, Tls, Auth], &lost, FRESH, FREE, &[Why::ConnectFailed], Failing);
}

#[test]
fn too_many_connections_shrinks_the_budget_wherever_it_is_said() {
    let row = |stage, line| (stage, line, FRESH, FREE, Why::TooManyConnections, Sign::TooManyConnections);
    check(&[
        row(Greeting, "421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1"),
        row(Greeting, "421 Too many concurrent SMTP connections; please try again later."),
        row(Greeting, "450 too many sessions"),
        row(Ehlo, "421 4.3.2 Too many concurrent connections"),
        row(Auth, "421 too many concurrent sessions for this user"),
        row(Mail, "451 4.7.0 Too many simultaneous connections"),
        row(Rcpt, "421 4.7.0 too many connections"),
        row(Data, "432 4.3.2 Concurrent connections limit exceeded"),
        row(AfterDot, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded"),
    ]);
}

#[test]
fn a_5yz_greeting_judges_us_and_not_the_mail() {
    check(&[
        (Greeting, "554 5.7.1 go away", FRESH, FREE, Why::GreetingRefused, Failing),
        (Greeting, "450 4.3.0 later", FRESH, FREE, Why::GreetingRefused, Failing),
        (Ehlo, "550 5.7.1 bad name", FRESH, FREE, Why::GreetingRefused, Failing),
    ]);
}

#[test]
fn any_failure_of_tls_pauses_the_server() {
    let pause = Sign::Pause(PauseReason::TlsFailed);
    check(&[
        (Tls, "454 4.7.0 TLS not available", FRESH, FREE, Why::TlsFailed, Failing),
        (Tls, "502 5.5.1 not implemented", FRESH, FREE, Why::TlsFailed, pause),
        (Tls, "250 what?", FRESH, FREE, Why::TlsFailed, pause),
    ]);
    check_silence(&[Tls], &[Event::Garbled], FRESH, FREE, &[Why::TlsFailed], pause);
}

#[test]
fn a_refused_login_pauses_the_server_and_kills_no_mail() {
    let pause = Sign::Pause(PauseReason::AuthenticationFailed);
    let row = |stage, line| (stage, line, FRESH, FREE, Why::AuthenticationFailed, pause);
    check(&[
        row(Auth, "535 5.7.8 authentication credentials invalid"),
        row(Auth, "534 5.7.9 mechanism too weak"),
        row(Auth, "530 5.7.0 must issue STARTTLS first"),
        row(Auth, "538 5.7.11 encryption required"),
        row(Auth, "504 5.5.4 unrecognized authentication type"),
        row(Mail, "530 5.7.0 authentication required"),
        row(Rcpt, "530 5.7.1 authentication required"),
    ]);
}

#[test]
fn a_temporary_failure_of_the_login_is_the_servers() {
    check(&[(Auth, "454 4.7.0 temporary authentication failure", FRESH, FREE, Why::AuthenticationFailed, Failing)]);
}

#[test]
fn too_many_messages_means_another_session_at_once() {
    let row = |line| (Mail, line, KEPT, NEW_SESSION, Why::SessionFull, Sign::SessionFull);
    check(&[
        row("421 4.7.0 too many messages in this session"),
        row("421 too many messages in this connection"),
        row("451 4.7.1 Too many mails in one session"),
    ]);
}

#[test]
fn any_other_421_is_the_servers() {
    for stage in [Mail, Rcpt, Data, AfterDot] {
        check(&[(stage, "421 4.3.0 service not available", KEPT, FREE, Why::ServiceUnavailable, Failing)]);
    }
    check(&[(Greeting, "421 4.3.2 shutting down", FRESH, FREE, Why::ServiceUnavailable, Failing)]);
}

#[test]
fn a_pace_that_is_too_fast_is_slowed_down() {
    let row = |stage, line| (stage, line, FRESH, FREE, Why::Throttled, SlowDown);
    check(&[
        row(Mail, "450 4.7.1 rate limit exceeded"),
        row(Rcpt, "450 4.7.1 Error: too much mail from 192.0.2.1"),
        row(Mail, "451 4.4.5 please slow down"),
        row(AfterDot, "452 4.4.5 congested"),
        row(Data, "451 4.7.500 Server busy"),
        row(AfterDot, "454 Throttling failure: Maximum sending rate exceeded."),
        row(Rcpt, "452 4.7.0 no"),
    ]);
    check(&[(Mail, "451 4.7.0 rate limited, retry in 30 seconds", FRESH, free_after(30), Why::Throttled, SlowDown)]);
}

#[test]
fn an_exceeded_daily_quota_pauses_the_server() {
    let pause = Sign::Pause(PauseReason::QuotaExceeded);
    for stage in [Mail, Rcpt, Data, AfterDot] {
        check(&[
            (stage, "454 Throttling failure: Daily message quota exceeded.", FRESH, FREE, Why::QuotaExceeded, pause),
            (stage, "550 5.4.5 Daily user sending limit exceeded", FRESH, FREE, Why::QuotaExceeded, pause),
        ]);
    }
    // The recipient's quota is another matter.
    check(&[(Rcpt, "552 5.2.2 mailbox over quota, daily limit", FRESH, Verdict::Dead, Why::RecipientRefused, Nothing)]);
}

#[test]
fn a_full_disk_is_the_servers() {
    for stage in [Mail, Data, AfterDot] {
        check(&[
            (stage, "452 4.3.1 insufficient system storage", FRESH, FREE, Why::OutOfStorage, Failing),
            (stage, "452 insufficient system storage", FRESH, FREE, Why::OutOfStorage, Failing),
        ]);
    }
}

#[test]
fn too_many_recipients_go_in_another_transaction_once_some_were_accepted() {
    let row = |line| (Rcpt, line, SOME, NEW_TRANSACTION, Why::TooManyRecipients, Nothing);
    check(&[
        row("452 4.5.3 too many recipients"),
        row("452 too many recipients"),
        row("552 5.5.3 too many recipients"),
        (Rcpt, "452 4.5.3 too many recipients", FRESH, RETRY, Why::RecipientDeferred, Nothing),
        (Rcpt, "552 5.5.3 too many recipients", FRESH, RETRY, Why::TooManyRecipients, Nothing),
    ]);
}

#[test]
fn greylisting_is_a_retry_not_before_the_time_it_says() {
    let row = |line, verdict| (Rcpt, line, FRESH, verdict, Why::Greylisted, Nothing);
    check(&[
        row("450 4.7.1 <a@example.com>: Recipient address rejected: Greylisted", RETRY),
        row("451 4.7.1 try again later", RETRY),
        row("451 4.7.1 Greylisting in action, please come back in 00:04:59", retry_after(299)),
        row("450 4.7.1 greylisted, try again in 5 minutes", retry_after(300)),
        row("450 greylisted for 300 seconds.", retry_after(300)),
        row("450 4.2.0 greylisted, wait 60s", retry_after(60)),
        row("450 4.7.1 come back in 1 hour", retry_after(3600)),
    ]);
    check(&[(Rcpt, "450 4.2.1 mailbox busy", FRESH, RETRY, Why::RecipientDeferred, Nothing)]);
}

#[test]
fn a_refused_recipient_is_dead() {
    let row = |line| (Rcpt, line, SOME, Verdict::Dead, Why::RecipientRefused, Nothing);
    check(&[
        row("550 5.1.1 no such user"),
        row("551 5.1.6 moved away"),
        row("553 5.1.3 bad address"),
        row("550 5.2.1 mailbox disabled"),
        row("554 5.7.1 relay access denied"),
    ]);
}

#[test]
fn a_refused_sender_is_dead_and_counted() {
    let row = |line| (Mail, line, FRESH, Verdict::Dead, Why::SenderRefused, Sign::SenderRefused);
    check(&[row("550 5.7.1 sender refused"), row("553 5.1.8 sender domain does not exist"), row("550 no")]);
}

#[test]
fn a_message_that_is_too_large_is_dead() {
    for stage in [Mail, Data, AfterDot] {
        check(&[
            (stage, "552 5.3.4 message size exceeds fixed limit", FRESH, Verdict::Dead, Why::TooLarge, Nothing),
            (stage, "552 message too large", FRESH, Verdict::Dead, Why::TooLarge, Nothing),
        ]);
    }
}

#[test]
fn a_message_against_the_policy_is_dead() {
    for stage in [Data, AfterDot] {
        check(&[
            (stage, "554 transaction failed", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
            (stage, "550 5.6.0 bad content", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
            (stage, "550 5.7.1 message rejected as spam", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
        ]);
    }
}

#[test]
fn a_block_list_pauses_the_server_instead() {
    let pause = Sign::Pause(PauseReason::Blocked);
    for stage in [Mail, Rcpt, Data, AfterDot] {
        check(&[
            (
                stage,
                "554 5.7.1 Service unavailable; Client host blocked using zen.example.org",
                FRESH,
                FREE,
                Why::Blocked,
                pause,
            ),
            (stage, "550 5.7.1 your IP is on our blacklist", FRESH, FREE, Why::Blocked, pause),
        ]);
    }
}

#[test]
fn a_reply_out_of_sequence_is_free_once_and_then_a_retry() {
    for stage in [Mail, Rcpt, Data] {
        check(&[
            (stage, "503 5.5.1 bad sequence", FRESH, NEW_SESSION, Why::ProtocolError, Failing),
            (stage, "503 5.5.1 bad sequence", RESENT, RETRY, Why::ProtocolError, Failing),
        ]);
        check_silence(&[stage], &[Event::Garbled], FRESH, NEW_SESSION, &[Why::ProtocolError], Failing);
        check_silence(&[stage], &[Event::Garbled], RESENT, RETRY, &[Why::ProtocolError], Failing);
    }
    check(&[(Mail, "354 go on", FRESH, NEW_SESSION, Why::ProtocolError, Failing)]);
}

#[test]
fn what_breaks_before_the_dot_is_a_retry() {
    let lost = [Event::TimedOut, Event::Broken];
    let why = [Why::TimedOut, Why::ConnectionLost];
    check_silence(&[Mail, Rcpt, Data, Body], &lost, FRESH, RETRY, &why, Failing);
    check_silence(&[Rcpt, Data, Body], &lost, KEPT, RETRY, &why, Failing);
}

#[test]
fn a_2yz_after_the_dot_is_a_delivery() {
    check(&[
        (AfterDot, "250 2.0.0 queued", FRESH, Verdict::Delivered, Why::Accepted, Sign::Good),
        (AfterDot, "250", FRESH, Verdict::Delivered, Why::Accepted, Sign::Good),
        (AfterDot, "252 who knows", FRESH, Verdict::Delivered, Why::Accepted, Sign::Good),
    ]);
}

#[test]
fn a_4yz_or_5yz_after_the_dot_is_definite() {
    check(&[
        (AfterDot, "451 4.3.0 local error", FRESH, RETRY, Why::TemporaryFailure, Nothing),
        (AfterDot, "451 4.3.0 try again in 2 minutes", FRESH, retry_after(120), Why::TemporaryFailure, Nothing),
        (AfterDot, "503 5.5.1 bad sequence", FRESH, RETRY, Why::ProtocolError, Nothing),
        (AfterDot, "554 5.3.0 no", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
    ]);
}

#[test]
fn anything_else_after_the_dot_is_unknown() {
    let all = [Event::TimedOut, Event::Broken, Event::Garbled];
    check_silence(&[AfterDot], &all, FRESH, Verdict::Unknown, &[Why::OutcomeUnknown], Failing);
    check(&[(AfterDot, "354 go on", FRESH, Verdict::Unknown, Why::OutcomeUnknown, Failing)]);
}

#[test]
fn the_end_of_a_session_at_rest_is_no_failure() {
    check(&[
        (Idle, "421 4.4.2 idle timeout", KEPT, NEW_SESSION, Why::SessionGone, Nothing),
        // It crossed our MAIL.
        (Mail, "421 4.4.2 timeout exceeded", KEPT, NEW_SESSION, Why::SessionGone, Nothing),
        (Mail, "421 4.4.2 timeout exceeded", FRESH, FREE, Why::ServiceUnavailable, Failing),
    ]);
    check_silence(&[Idle], &[Event::Broken], KEPT, NEW_SESSION, &[Why::SessionGone], Nothing);
    check_silence(&[Mail], &[Event::Broken], KEPT, NEW_SESSION, &[Why::SessionGone], Nothing);
    check_silence(&[Mail], &[Event::Broken], RESENT, RETRY, &[Why::ConnectionLost], Failing);
}

#[test]
fn enhanced_codes_are_read_where_they_are() {
    assert_eq!(EnhancedCode::parse("4.7.1 text"), Some(EnhancedCode(4, 7, 1)));
    assert_eq!(EnhancedCode::parse("5.7.500"), Some(EnhancedCode(5, 7, 500)));
    for text in ["", "text", "3.1.1 text", "4.7 text", "127.0.0.1 said", "4.x.1"] {
        assert_eq!(EnhancedCode::parse(text), None, "{text}");
    }
}

#[test]
fn a_wish_is_read_only_where_there_is_one() {
    let delay = |text: &str| Words::of(text).delay().map(|delay| delay.as_secs());
    for (text, seconds) in [
        ("try again in 5 minutes", Some(300)),
        ("(retry after 90 sec)", Some(90)),
        ("wait=30s", Some(30)),
        ("in 100 hours", Some(86_400)),
        ("2 recipients refused", None),
        ("4.7.1 later", None),
        ("from 192.0.2.1 at 3 points", None),
        ("", None),
    ] {
        assert_eq!(delay(text), seconds, "{text}");
    }
}
