//! The message, up to the dot and after it.

use super::*;

#[test]
fn a_message_that_is_too_large_is_dead() {
    for step in [Mail, Data, AfterDot] {
        check(&[
            (step, "552 5.3.4 message size exceeds fixed limit", FRESH, Verdict::Dead, Why::TooLarge, Nothing),
            (step, "552 message too large", FRESH, Verdict::Dead, Why::TooLarge, Nothing),
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
            ServerSignal::RefusesUs(Why::Blocked),
        ),
        (
            Mail,
            "554 5.7.1 sender is blacklisted",
            FRESH,
            Verdict::Suspect,
            Why::Blocked,
            ServerSignal::RefusesUs(Why::Blocked),
        ),
    ]);
}

#[test]
fn a_reply_out_of_sequence_goes_on_at_once_and_then_later() {
    for step in [Mail, Rcpt, Data] {
        check(&[
            (step, "503 5.5.1 bad sequence", FRESH, NEW_SESSION, Why::ProtocolError, Failing),
            (step, "503 5.5.1 bad sequence", RESENT, FREE, Why::ProtocolError, Failing),
        ]);
        check_silence(&[step], &[Event::Garbled], FRESH, NEW_SESSION, &[Why::ProtocolError], Failing);
        check_silence(&[step], &[Event::Garbled], RESENT, FREE, &[Why::ProtocolError], Failing);
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
        (AfterDot, "250 2.0.0 queued", FRESH, Verdict::Delivered, Why::Accepted, ServerSignal::Good),
        (AfterDot, "250", FRESH, Verdict::Delivered, Why::Accepted, ServerSignal::Good),
        (AfterDot, "252 who knows", FRESH, Verdict::Delivered, Why::Accepted, ServerSignal::Good),
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
