//! From the connection to the login.

use super::*;

#[test]
fn no_connection_is_free_and_counts_against_the_server() {
    let lost = [Event::TimedOut, Event::Broken];
    check_silence(&[Connect, Greeting, Ehlo, Tls, Auth], &lost, FRESH, FREE, &[Why::ConnectFailed], Failing);
}

#[test]
fn too_many_connections_shrinks_the_budget_wherever_it_is_said() {
    let row = |step, line| (step, line, FRESH, FREE, Why::TooManyConnections, ServerSignal::TooManyConnections);
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
    let pause = ServerSignal::Pause(PauseReason::TlsFailed);
    check(&[
        (Tls, "454 4.7.0 TLS not available", FRESH, FREE, Why::TlsFailed, Failing),
        (Tls, "502 5.5.1 not implemented", FRESH, FREE, Why::TlsFailed, pause),
        (Tls, "250 what?", FRESH, FREE, Why::TlsFailed, pause),
    ]);
    check_silence(&[Tls], &[Event::Garbled], FRESH, FREE, &[Why::TlsFailed], pause);
}

#[test]
fn a_refused_login_pauses_the_server_and_kills_no_mail() {
    let pause = ServerSignal::Pause(PauseReason::AuthenticationFailed);
    let row = |step, line| (step, line, FRESH, FREE, Why::AuthenticationFailed, pause);
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
fn a_greeting_that_refuses_an_address_names_a_setting() {
    let row = |line| (Greeting, line, FRESH, FREE, Why::ClientRefused, ServerSignal::RefusesUs(Why::ClientRefused));
    check(&[
        row("554 192.0.2.1 has been temporarily blocked"),
        row("554 Your IP is generating excessive authentication failures."),
        row("550 192.0.2.1: Sender IP rejected: spam rate exceeded"),
        (Greeting, "554 [192.0.2.1] service not available", FRESH, FREE, Why::GreetingRefused, Failing),
    ]);
}

#[test]
fn row_38_a_session_that_is_refused_for_our_sake_says_why() {
    let row = |step, line, why| (step, line, FRESH, FREE, why, ServerSignal::RefusesUs(why));
    check(&[
        row(Greeting, "554 5.7.1 your IP is on our blacklist", Why::Blocked),
        row(Greeting, "554 5.7.1 Client host rejected: Access denied", Why::ClientRefused),
        row(Ehlo, "504 5.5.2 <relay>: need fully-qualified hostname", Why::HeloRefused),
        row(Ehlo, "550 Access denied - Invalid HELO name", Why::HeloRefused),
    ]);
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
