//! Whom a refusal blames: the recipient, or us.

use super::*;

#[test]
fn whatever_else_is_said_of_a_recipient_relaying_and_a_list_that_names_us_are_about_us() {
    let row = |line, why| (Rcpt, line, FRESH, Verdict::Suspect, why, ServerSignal::RefusesUs(why));
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
fn a_recipients_domain_or_callout_has_more_time_than_a_mailbox() {
    let row = |line, verdict| (Rcpt, line, FRESH, verdict, Why::RecipientDeferred, Nothing);
    check(&[
        row("450 4.1.2 <a@b.example>: Recipient address rejected: Domain not found", PATIENT),
        row("450 4.1.1 <a@b.example>: unverified address: Address verification in course", PATIENT),
        row("450 4.2.0 mailbox busy", RETRY),
        row("450 mailbox unavailable", RETRY),
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
    let row = |step, line, why| (step, line, FRESH, Verdict::Suspect, why, ServerSignal::RefusesUs(why));
    for step in [Mail, Rcpt, Data] {
        check(&[
            row(step, "554 5.7.1 <ann@example.org>: Relay access denied", Why::RelayDenied),
            row(step, "550 relaying denied", Why::RelayDenied),
            row(step, "550 5.7.64 TenantAttribution; Relay Access Denied", Why::RelayDenied),
            row(step, "530 5.7.1 relaying to bad@example.org needs a login", Why::LoginRequired),
            row(step, "530 5.7.0 Must issue a STARTTLS command first", Why::LoginRequired),
            row(step, "550 5.7.57 Client was not authenticated to send anonymous mail", Why::LoginRequired),
            row(step, "504 5.5.2 <relay>: Helo command rejected: need fully-qualified hostname", Why::HeloRefused),
            row(step, "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied", Why::ClientRefused),
            row(step, "550 5.7.25 The IP address has no PTR record", Why::ClientRefused),
            row(step, "553 5.7.1 <a@b.example>: Sender address rejected: not owned by user app", Why::SenderRefused),
            row(step, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", Why::SenderRefused),
            row(step, "550 5.1.8 Access denied, bad outbound sender", Why::SenderRefused),
            row(step, "504 5.5.2 <app>: Sender address rejected: need fully-qualified address", Why::SenderRefused),
            row(
                step,
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
    let row = |line, why| (Rcpt, line, FRESH, FREE, why, ServerSignal::RefusesUs(why));
    check(&[
        row("450 4.1.8 <app@example.com>: Sender address rejected: Domain not found", Why::SenderRefused),
        row("450 4.7.25 Client host rejected: cannot find your hostname, [192.0.2.1]", Why::ClientRefused),
        row("450 4.7.1 Client host rejected: cannot find your reverse hostname, [192.0.2.1]", Why::ClientRefused),
        row("450 4.7.1 <relay>: Helo command rejected: Host not found", Why::HeloRefused),
    ]);
}
