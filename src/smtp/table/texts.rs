//! What servers of the field say, in their own words, and whom it judges.

use super::*;

/// Whom a reply judges, and what becomes of the mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    /// The recipient or the mail, for good.
    Dead(Why),
    /// The recipient or the mail, for now.
    Later(Class),
    /// Us, perhaps: suspect when it is a 5yz, free when it is a 4yz.
    Us(Why),
    /// The server's state: free.
    Ill,
    /// Our pace: free.
    Pace(Why),
    /// Anything else.
    Other(Disposition),
}

fn judged(step: Step, line: &str) -> Judged {
    let (code, text) = line.split_once(' ').unwrap_or((line, ""));
    let reply = Reply::new(code.parse().expect("a code"), text);
    let Disposition { verdict, why, signal } = judge(step, Event::Reply(&reply), &Situation::default());
    match (verdict, signal) {
        (Verdict::Dead, _) => Judged::Dead(why),
        (Verdict::Retry { class, .. }, _) => Judged::Later(class),
        (Verdict::Suspect, ServerSignal::RefusesUs(_)) => Judged::Us(why),
        (Verdict::Defer { .. }, ServerSignal::RefusesUs(_)) if reply.is_transient() || step.is_opening() => {
            Judged::Us(why)
        }
        (Verdict::Defer { .. }, ServerSignal::Failing) => Judged::Ill,
        (
            Verdict::Defer { .. },
            ServerSignal::SlowDown | ServerSignal::TooManyConnections | ServerSignal::QuotaExceeded(_),
        ) => Judged::Pace(why),
        _ => Judged::Other(Disposition { verdict, why, signal }),
    }
}

use Class::{Greylisted, Judged as Few, Patient};
use Judged::{Dead, Ill, Later, Pace, Us};
use Step::{AfterDot, Auth, Data, Greeting, Mail, Rcpt};

const UNKNOWN: Judged = Dead(Why::RecipientRefused);
const CONTENT: Judged = Dead(Why::PolicyRefused);

/// When it is said, the text, and whom it judges.
const TEXTS: &[(Step, &str, Judged)] = &[
    // Postfix
    (Rcpt, "450 4.2.0 <a@b.example>: Recipient address rejected: Greylisted for 300 seconds", Later(Greylisted)),
    (Rcpt, "450 4.1.1 <a@b.example>: Recipient address rejected: unverified address: lookup in course", Later(Patient)),
    (Rcpt, "550 5.1.1 <a@b.example>: Recipient address rejected: User unknown in local recipient table", UNKNOWN),
    (
        Rcpt,
        "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org; https://www.spamhaus.org/query/ip/192.0.2.1",
        Us(Why::Blocked),
    ),
    (Rcpt, "450 4.7.1 Client host rejected: cannot find your hostname, [192.0.2.1]", Us(Why::ClientRefused)),
    (Rcpt, "553 5.7.1 <app@example.com>: Sender address rejected: not logged in", Us(Why::LoginRequired)),
    (Rcpt, "454 4.7.1 <a@b.example>: Relay access denied", Us(Why::RelayDenied)),
    (Mail, "452 4.3.1 Insufficient system storage", Ill),
    (Rcpt, "451 4.3.5 Server configuration problem", Ill),
    (Rcpt, "450 4.3.2 Service currently unavailable", Ill),
    (Data, "451 4.7.1 Service unavailable - try again later", Ill),
    (AfterDot, "451 4.3.0 Error: queue file write error", Ill),
    (AfterDot, "550 5.7.1 Blocked by SpamAssassin", CONTENT),
    (
        AfterDot,
        "554 5.7.1 id=12-34 - Rejected by next-hop MTA on relaying, from MTA(smtp:[127.0.0.1]:10025): 554 5.7.1",
        CONTENT,
    ),
    (Greeting, "421 4.7.0 mx.example.com Error: too many connections from 192.0.2.1", Pace(Why::TooManyConnections)),
    (Rcpt, "450 4.7.1 Error: too many recipients from 192.0.2.1 per minute", Pace(Why::Throttled)),
    // Exim
    (Rcpt, "550 relay not permitted", Us(Why::RelayDenied)),
    (Rcpt, "550 Unrouteable address", UNKNOWN),
    (Rcpt, "451 Temporary local problem - please try later", Ill),
    (
        Rcpt,
        "550 Verification failed for <app@example.com> No Such User Here Sender verify failed",
        Us(Why::SenderRefused),
    ),
    (Rcpt, "451 Could not complete sender verify callout", Us(Why::SenderRefused)),
    (Rcpt, "550 Administrative prohibition", Us(Why::RecipientRefused)),
    (Greeting, "421 Too many concurrent SMTP connections; please try again later.", Pace(Why::TooManyConnections)),
    (AfterDot, "550 This message was classified as SPAM and may not be delivered", CONTENT),
    (AfterDot, "552 Message size exceeds maximum permitted", Dead(Why::TooLarge)),
    (
        AfterDot,
        "550 Domain example.com has exceeded the max defers and failures per hour (5/5 (100%)) allowed. Message discarded.",
        Pace(Why::QuotaExceeded),
    ),
    // Exchange and Microsoft 365
    (Rcpt, "550 5.7.54 SMTP; Unable to relay recipient in non-accepted domain", Us(Why::RelayDenied)),
    (
        Mail,
        "530 5.7.57 SMTP; Client was not authenticated to send anonymous mail during MAIL FROM",
        Us(Why::LoginRequired),
    ),
    (AfterDot, "550 5.7.60 SMTP; Client does not have permissions to send as this sender", Us(Why::SenderRefused)),
    (
        AfterDot,
        "554 5.2.252 SendAsDenied; app@example.com not allowed to send as ceo@example.com",
        Us(Why::SenderRefused),
    ),
    (AfterDot, "432 4.3.2 STOREDRV.ClientSubmit; sender thread limit exceeded", Pace(Why::TooManyConnections)),
    (AfterDot, "452 4.3.1 Insufficient system resources (UsedVersionBuckets[C:])", Ill),
    (Rcpt, "451 4.7.500 Server busy. Please try again later from [192.0.2.1]. (S77714)", Pace(Why::Throttled)),
    (Rcpt, "550 5.7.606 Access denied, banned sending IP [192.0.2.1]", Us(Why::Blocked)),
    (AfterDot, "550 5.7.708 Service unavailable. Access denied, traffic not accepted from this IP.", Us(Why::Blocked)),
    (Rcpt, "550 5.4.1 Recipient address rejected: Access denied", UNKNOWN),
    (Rcpt, "550 5.1.10 RESOLVER.ADR.RecipientNotFound; Recipient not found by SMTP address lookup", UNKNOWN),
    (
        Mail,
        "550 5.7.1 Unfortunately, messages from [192.0.2.1] weren't sent. Please contact your Internet service provider since part of their network is on our block list (S3140).",
        Us(Why::Blocked),
    ),
    // Gmail
    (
        AfterDot,
        "421 4.7.28 Our system has detected an unusual rate of unsolicited mail originating from your IP address",
        Pace(Why::Throttled),
    ),
    (
        AfterDot,
        "550 5.7.1 [192.0.2.1 12] Our system has detected that this message is likely unsolicited mail.",
        CONTENT,
    ),
    (AfterDot, "550 5.7.26 This mail has been blocked because the sender is unauthenticated.", Us(Why::SenderRefused)),
    (Rcpt, "552 5.2.2 The email account that you tried to reach is over quota", UNKNOWN),
    (AfterDot, "552 5.7.0 This message was blocked because its content presents a potential security issue", CONTENT),
    (AfterDot, "550 5.4.5 Daily user sending limit exceeded", Pace(Why::QuotaExceeded)),
    (
        Rcpt,
        "450 4.2.1 The user you are trying to contact is receiving mail at a rate that prevents additional messages from being delivered.",
        Later(Few),
    ),
    (
        AfterDot,
        "550 5.7.25 The IP address sending this message does not have a PTR record setup",
        Us(Why::ClientRefused),
    ),
    // Yahoo
    (
        Mail,
        "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to unexpected volume or user complaints",
        Ill,
    ),
    (
        Greeting,
        "553 5.7.1 [BL21] Connections will not be accepted from 192.0.2.1, because the ip is in Spamhaus's list",
        Us(Why::Blocked),
    ),
    (AfterDot, "554 5.7.9 Message not accepted for policy reasons.", CONTENT),
    // qmail
    (Rcpt, "553 sorry, that domain isn't in my list of allowed rcpthosts (#5.7.1)", Us(Why::RelayDenied)),
    (Rcpt, "550 sorry, no mailbox here by that name (#5.1.1)", UNKNOWN),
    (AfterDot, "451 qq temporary problem (#4.3.0)", Ill),
    (AfterDot, "552 sorry, that message size exceeds my databytes limit (#5.3.4)", Dead(Why::TooLarge)),
    // Sendmail
    (Rcpt, "550 5.7.1 <a@b.example>... Relaying denied", Us(Why::RelayDenied)),
    (Rcpt, "550 5.1.1 <a@b.example>... User unknown", UNKNOWN),
    (Mail, "451 4.1.8 Domain of sender address app@example.com does not resolve", Us(Why::SenderRefused)),
    (
        Mail,
        "553 5.1.8 <app@example.com>... Domain of sender address app@example.com does not exist",
        Us(Why::SenderRefused),
    ),
    (Greeting, "421 4.3.2 Connection rate limit exceeded.", Pace(Why::Throttled)),
    (Rcpt, "452 4.4.5 Insufficient disk space; try again later", Pace(Why::Throttled)),
    // Others
    (Rcpt, "550 Mailbox is full", UNKNOWN),
    (Rcpt, "554 delivery error: dd This user doesn't have a yahoo.example account", UNKNOWN),
    (Mail, "554 5.7.0 Your IP is blocked", Us(Why::ClientRefused)),
    (Mail, "451 4.7.1 Received too many messages from a new or untrusted IP: 192.0.2.1", Pace(Why::Throttled)),
    (Mail, "550 5.7.1 Sending limit reached. Max 500 mails per day", Pace(Why::QuotaExceeded)),
    (AfterDot, "550 Message limit exceeded for today", Pace(Why::QuotaExceeded)),
    (AfterDot, "450 4.7.0 Mail limit reached. Try again in 1 hour", Pace(Why::QuotaExceeded)),
    (AfterDot, "451 4.7.0 Temporary server error. Please try again later. PRX2", Ill),
    (AfterDot, "554 5.7.1 This message has been blocked because it contains a banned attachment", CONTENT),
    (AfterDot, "571 5.7.1 blocked by policy: client IP 192.0.2.1 not trusted", Us(Why::Blocked)),
    (
        Rcpt,
        "450 4.7.1 <a@b.example>: Recipient address rejected: Policy delay, try again in 300 seconds",
        Later(Greylisted),
    ),
    (Rcpt, "550 Sender IP reverse lookup rejected", Us(Why::ClientRefused)),
    // Providers
    (
        AfterDot,
        "554 Message rejected: Email address is not verified. The following identities failed the check in region EU-WEST-1",
        Us(Why::SenderRefused),
    ),
    (AfterDot, "454 Throttling failure: Maximum sending rate exceeded.", Pace(Why::Throttled)),
    (Auth, "451 Authentication failed: Maximum credits exceeded", Pace(Why::QuotaExceeded)),
    (
        AfterDot,
        "550 The from address does not match a verified Sender Identity. Mail cannot be sent until this error is resolved.",
        Us(Why::SenderRefused),
    ),
    (AfterDot, "451 4.7.1 Try again later", Later(Greylisted)),
];

#[test]
fn row_38_texts_of_the_field_judge_whom_their_servers_mean() {
    let wrong: Vec<_> = TEXTS
        .iter()
        .filter(|(step, line, wanted)| judged(*step, line) != *wanted)
        .map(|(step, line, _)| format!("{step:?} {line}: {:?}", judged(*step, line)))
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}
