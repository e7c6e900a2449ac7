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
const RETRY: Verdict = Verdict::Retry { class: Class::Judged, delay: None };
const PATIENT: Verdict = Verdict::Retry { class: Class::Patient, delay: None };
const GREY: Verdict = Verdict::Retry { class: Class::Greylisted, delay: None };

fn free_after(seconds: u64) -> Verdict {
    Verdict::Defer { resend: Resend::Later, delay: Some(Duration::from_secs(seconds)) }
}

fn grey_after(seconds: u64) -> Verdict {
    Verdict::Retry { class: Class::Greylisted, delay: Some(Duration::from_secs(seconds)) }
}

fn quota(seconds: u64) -> Sign {
    Sign::QuotaExceeded(Duration::from_secs(seconds))
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
        // C13, SES.
        row("421 4.4.2 Connection closed by server. Maximum message count per session reached."),
        row("550 5.7.0 too many messages in this session"),
    ]);
    // In a session without a mail before, the next one would hear the same.
    check(&[(Mail, "421 4.7.0 too many messages in this session", FRESH, FREE, Why::ServiceUnavailable, Failing)]);
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
        row(Greeting, "421 4.7.0 Connection rate limit exceeded"),
        row(Rcpt, "450 4.7.1 too many connections per minute"),
        // The words win over the class (C14).
        row(AfterDot, "550 5.7.0 Requested action not taken: too many emails per second"),
        row(Mail, "550 5.7.1 sorry, too many emails"),
    ]);
    check(&[(Mail, "451 4.7.0 rate limited, retry in 30 seconds", FRESH, free_after(30), Why::Throttled, SlowDown)]);
}

#[test]
fn an_exceeded_quota_of_ours_is_free_whatever_the_code_and_rests_for_its_window() {
    for stage in [Mail, Rcpt, Data, AfterDot] {
        let row = |line, seconds| (stage, line, FRESH, FREE, Why::QuotaExceeded, quota(seconds));
        check(&[
            row("454 Throttling failure: Daily message quota exceeded.", 1_800),
            row("550 5.4.5 Daily user sending limit exceeded", 1_800),
            // C15, C16.
            row(
                "550 Domain example.com has exceeded the max emails per hour (100/100 (100%)) allowed. Message discarded.",
                1_800,
            ),
            row("550 User has exceeded outgoing email quota", 900),
            row("554 5.2.0 STOREDRV.Submission.Exception:SubmissionQuotaExceededException; cannot submit message", 900),
        ]);
    }
    check(&[(
        Mail,
        "451 4.7.1 hourly limit reached, try again in 10 minutes",
        FRESH,
        free_after(600),
        Why::QuotaExceeded,
        quota(600),
    )]);
}

#[test]
fn a_quota_of_the_recipient_is_the_recipients() {
    let row = |line, verdict, why| (Rcpt, line, FRESH, verdict, why, Nothing);
    check(&[
        row("552 5.2.2 mailbox over quota, daily limit", Verdict::Dead, Why::RecipientRefused),
        // C48.
        row(
            "550 5.2.1 this user has reached the daily limit of mails he can receive",
            Verdict::Dead,
            Why::RecipientRefused,
        ),
        row("452 4.2.2 The email account that you tried to reach is over quota", RETRY, Why::RecipientDeferred),
        row(
            "450 4.2.1 The user you are trying to contact is receiving mail too quickly",
            RETRY,
            Why::RecipientDeferred,
        ),
        row("452 mailbox full", RETRY, Why::RecipientDeferred),
        // An hour is waited for, a day is not.
        row("550 5.2.1 The user is receiving mail at a rate that is too high", GREY, Why::RecipientDeferred),
        row(
            "554 5.2.122 The recipient has exceeded their limit for the number of messages they can receive per hour",
            GREY,
            Why::RecipientDeferred,
        ),
        row("550 5.4.7 <a@b.example>: Domain Hourly Quota of recipient exceeded", GREY, Why::RecipientDeferred),
    ]);
}

#[test]
fn whatever_else_is_said_of_a_recipient_relaying_and_a_list_that_names_us_are_about_us() {
    let row = |line, why| (Rcpt, line, FRESH, Verdict::Suspect, why, Sign::RefusesUs(why));
    check(&[
        row("550 5.1.2 Relay not allowed.", Why::RelayDenied),
        row("550 5.2.1 Mailbox unavailable. Your IP address 192.0.2.1 is blacklisted", Why::Blocked),
        // Postfix says this of a client that did not log in, and a policy service of whatever it likes.
        row("554 5.7.1 <a@b.example>: Recipient address rejected: Access denied", Why::RecipientRefused),
        row("550 5.7.1 <a@b.example>: Recipient address rejected: SPF fail", Why::SenderRefused),
    ]);
    let dead = |line| (Rcpt, line, FRESH, Verdict::Dead, Why::RecipientRefused, Nothing);
    check(&[
        dead("550 5.1.1 <a@b.example>: Recipient address rejected: 192.0.2.9 says: no such user"),
        dead("540 5.7.1 <a@b.example>: recipient address rejected: Inactive"),
    ]);
}

#[test]
fn a_greeting_that_refuses_an_address_names_a_setting() {
    let row = |line| (Greeting, line, FRESH, FREE, Why::ClientRefused, Sign::RefusesUs(Why::ClientRefused));
    check(&[
        row("554 192.0.2.1 has been temporarily blocked"),
        row("554 Your IP is generating excessive authentication failures."),
        row("550 192.0.2.1: Sender IP rejected: spam rate exceeded"),
        (Greeting, "554 [192.0.2.1] service not available", FRESH, FREE, Why::GreetingRefused, Failing),
    ]);
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
        // Whatever the words, RFC 5321 section 4.5.3.1.10 (C17).
        row("452 4.3.1 recipient limit reached, send the rest later"),
        row("452 no"),
        (Rcpt, "452 4.5.3 too many recipients", FRESH, FREE, Why::TooManyRecipients, Nothing),
        (Rcpt, "552 5.5.3 too many recipients", FRESH, FREE, Why::TooManyRecipients, Nothing),
        (Rcpt, "452 4.2.2 mailbox full", SOME, RETRY, Why::RecipientDeferred, Nothing),
    ]);
}

#[test]
fn greylisting_is_a_retry_not_before_the_time_it_says() {
    let row = |line, verdict| (Rcpt, line, FRESH, verdict, Why::Greylisted, Nothing);
    check(&[
        row("450 4.7.1 <a@example.com>: Recipient address rejected: Greylisted", GREY),
        row("451 4.7.1 try again later", GREY),
        // C03: the words before the code.
        row("450 4.2.0 recipient address refused: greylisted, see http://greylist.example/help", GREY),
        row("452 4.7.0 no", GREY),
        row("451 4.7.1 Greylisting in action, please come back in 00:04:59", grey_after(299)),
        row("450 4.7.1 greylisted, try again in 5 minutes", grey_after(300)),
        row("450 greylisted for 300 seconds.", grey_after(300)),
        row("450 4.2.0 greylisted, wait 60s", grey_after(60)),
        row("450 4.7.1 come back in 1 hour", grey_after(3600)),
    ]);
    check(&[
        (Rcpt, "450 4.2.1 mailbox busy", FRESH, RETRY, Why::RecipientDeferred, Nothing),
        // Rspamd's own words (C55); a policy that says no more is waited for an hour (C30).
        (AfterDot, "451 4.7.1 Try again later", FRESH, GREY, Why::Greylisted, Nothing),
        (AfterDot, "451 4.7.1 please try again later", FRESH, PATIENT, Why::TemporaryFailure, Nothing),
        (Mail, "451 4.7.1 greylisted, try again", FRESH, GREY, Why::Greylisted, Nothing),
    ]);
}

#[test]
fn a_recipients_domain_or_callout_has_more_time_than_a_mailbox() {
    let row = |line, verdict| (Rcpt, line, FRESH, verdict, Why::RecipientDeferred, Nothing);
    check(&[
        row("450 4.1.2 <a@b.example>: Recipient address rejected: Domain not found", PATIENT),
        row("450 4.1.1 <a@b.example>: unverified address: Address verification in progress", PATIENT),
        row("450 4.2.0 mailbox busy", RETRY),
        row("450 mailbox unavailable", RETRY),
    ]);
}

#[test]
fn row_38_the_servers_own_state_judges_no_mail() {
    for stage in [Mail, Rcpt, Data, AfterDot] {
        let row = |line| (stage, line, FRESH, FREE, Why::ServiceUnavailable, Failing);
        check(&[
            row("451 4.3.0 <ann@example.org>: Temporary lookup failure"),
            row("451 4.3.5 Server configuration error"),
            row("451 4.4.1 no answer from the filter"),
            row("451 try again later"),
            row("451 Requested action aborted: local error in processing"),
            row("454 4.3.0 try again later"),
            row("550 5.3.0 system is in maintenance"),
            row("554 5.3.2 system not accepting network messages"),
            row("554 temporary lookup failure"),
        ]);
    }
    check(&[
        (
            Mail,
            "451 4.7.0 Temporary server error. Please try again later. PRX4",
            FRESH,
            FREE,
            Why::ServiceUnavailable,
            Failing,
        ),
        (AfterDot, "451 4.3.0 try again in 2 minutes", FRESH, free_after(120), Why::ServiceUnavailable, Failing),
    ]);
}

#[test]
fn a_refused_recipient_is_dead() {
    let row = |line| (Rcpt, line, SOME, Verdict::Dead, Why::RecipientRefused, Nothing);
    check(&[
        row("550 5.1.1 no such user"),
        row("551 5.1.6 moved away"),
        row("553 5.1.3 bad address"),
        row("550 5.2.1 mailbox disabled"),
        row("550 <ann@example.org>... No such user here"),
        row("550 5.1.1 <ann@example.org>: Recipient address rejected: User unknown in relay recipient table"),
        row("550 5.7.1 user unknown"),
        row("550 5.4.1 Recipient address rejected: Access denied"),
        row("551 user not local"),
    ]);
}

#[test]
fn row_38_a_5yz_that_may_be_about_us_is_suspect() {
    let row = |stage, line, why| (stage, line, FRESH, Verdict::Suspect, why, Sign::RefusesUs(why));
    for stage in [Mail, Rcpt, Data] {
        check(&[
            row(stage, "554 5.7.1 <ann@example.org>: Relay access denied", Why::RelayDenied),
            row(stage, "550 relaying denied", Why::RelayDenied),
            row(stage, "550 5.7.64 TenantAttribution; Relay Access Denied", Why::RelayDenied),
            row(stage, "530 5.7.1 relaying to bad@example.org needs a login", Why::LoginRequired),
            row(stage, "530 5.7.0 Must issue a STARTTLS command first", Why::LoginRequired),
            row(stage, "550 5.7.57 Client was not authenticated to send anonymous mail", Why::LoginRequired),
            row(stage, "504 5.5.2 <relay>: Helo command rejected: need fully-qualified hostname", Why::HeloRefused),
            row(stage, "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", Why::ClientRefused),
            row(stage, "550 5.7.25 The IP address has no PTR record", Why::ClientRefused),
            row(stage, "553 5.7.1 <a@b.example>: Sender address rejected: not owned by user app", Why::SenderRefused),
            row(stage, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", Why::SenderRefused),
            row(stage, "550 5.1.8 Access denied, bad outbound sender", Why::SenderRefused),
            row(stage, "504 5.5.2 <app>: Sender address rejected: need fully-qualified address", Why::SenderRefused),
            row(
                stage,
                "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.example.org",
                Why::Blocked,
            ),
        ]);
    }
    check(&[
        row(Rcpt, "550 5.7.1 no", Why::RecipientRefused),
        row(Rcpt, "550 Access denied", Why::RecipientRefused),
        row(Rcpt, "550 5.7.1 bad@example.org: recipient has your address on a blocklist", Why::Blocked),
        row(Mail, "550 5.7.1 sender refused", Why::SenderRefused),
        row(Mail, "550 no", Why::SenderRefused),
        row(Data, "554 5.7.1 no", Why::PolicyRefused),
        row(AfterDot, "550 5.7.26 Unauthenticated email from example.com is not accepted", Why::SenderRefused),
        row(AfterDot, "554 5.7.1 relay access denied", Why::RelayDenied),
    ]);
}

#[test]
fn row_38_a_4yz_about_us_is_free_and_held_against_the_server() {
    let row = |line, why| (Rcpt, line, FRESH, FREE, why, Sign::RefusesUs(why));
    check(&[
        row("450 4.1.8 <app@example.com>: Sender address rejected: Domain not found", Why::SenderRefused),
        row("450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", Why::ClientRefused),
        row("450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", Why::ClientRefused),
        row("450 4.7.1 <relay>: Helo command rejected: Host not found", Why::HeloRefused),
    ]);
}

#[test]
fn row_38_a_session_that_is_refused_for_our_sake_says_why() {
    let row = |stage, line, why| (stage, line, FRESH, FREE, why, Sign::RefusesUs(why));
    check(&[
        row(Greeting, "554 5.7.1 your IP is on our blacklist", Why::Blocked),
        row(Greeting, "554 5.7.1 Client host rejected: Access denied", Why::ClientRefused),
        row(Ehlo, "504 5.5.2 <relay>: need fully-qualified hostname", Why::HeloRefused),
        row(Ehlo, "550 Access denied - Invalid HELO name", Why::HeloRefused),
    ]);
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
    let row = |line| (AfterDot, line, FRESH, Verdict::Dead, Why::PolicyRefused, Nothing);
    check(&[row("554 transaction failed"), row("550 5.6.0 bad content"), row("550 5.7.1 message rejected as spam")]);
}

#[test]
fn a_list_is_about_us_only_where_it_names_us_or_before_the_message() {
    check(&[
        // C01: about a link in this message.
        (
            AfterDot,
            "554 5.7.1 message refused: blacklisted URL in body",
            FRESH,
            Verdict::Dead,
            Why::PolicyRefused,
            Nothing,
        ),
        (
            AfterDot,
            "554 5.7.1 your IP is on our blacklist",
            FRESH,
            Verdict::Suspect,
            Why::Blocked,
            Sign::RefusesUs(Why::Blocked),
        ),
        (Mail, "554 5.7.1 sender is blacklisted", FRESH, Verdict::Suspect, Why::Blocked, Sign::RefusesUs(Why::Blocked)),
    ]);
}

#[test]
fn a_reply_out_of_sequence_goes_on_at_once_and_then_later() {
    for stage in [Mail, Rcpt, Data] {
        check(&[
            (stage, "503 5.5.1 bad sequence", FRESH, NEW_SESSION, Why::ProtocolError, Failing),
            (stage, "503 5.5.1 bad sequence", RESENT, FREE, Why::ProtocolError, Failing),
        ]);
        check_silence(&[stage], &[Event::Garbled], FRESH, NEW_SESSION, &[Why::ProtocolError], Failing);
        check_silence(&[stage], &[Event::Garbled], RESENT, FREE, &[Why::ProtocolError], Failing);
    }
    check(&[(Mail, "354 go on", FRESH, NEW_SESSION, Why::ProtocolError, Failing)]);
}

#[test]
fn what_breaks_before_the_dot_judges_no_mail() {
    let lost = [Event::TimedOut, Event::Broken];
    let why = [Why::TimedOut, Why::ConnectionLost];
    check_silence(&[Mail, Rcpt, Data, Body], &lost, FRESH, FREE, &why, Failing);
    check_silence(&[Rcpt, Data, Body], &lost, KEPT, FREE, &why, Failing);
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
        (AfterDot, "451 4.3.0 local error", FRESH, FREE, Why::ServiceUnavailable, Failing),
        (AfterDot, "450 no", FRESH, PATIENT, Why::TemporaryFailure, Nothing),
        (AfterDot, "451 4.6.0 no", FRESH, RETRY, Why::TemporaryFailure, Nothing),
        (AfterDot, "503 5.5.1 bad sequence", FRESH, FREE, Why::ProtocolError, Failing),
        (AfterDot, "554 5.7.1 no", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
        (AfterDot, "554 5.4.6 too many hops", FRESH, Verdict::Dead, Why::PolicyRefused, Nothing),
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
    check_silence(&[Mail], &[Event::Broken], RESENT, FREE, &[Why::ConnectionLost], Failing);
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
fn phrases_are_found_as_whole_words() {
    for (text, topic, found) in [
        ("cannot find your hostname", Topic::Ourselves, false),
        ("your host is listed", Topic::Ourselves, true),
        ("throttling failure", Topic::Rate, true),
        ("unthrottled", Topic::Rate, false),
        ("adapter", Topic::Client, false),
    ] {
        assert_eq!(Words::of(text).speak_of(topic), found, "{text}");
    }
}
