//! What the server counts.

use super::*;

#[test]
fn too_many_messages_means_another_session_at_once() {
    let row = |line| (Mail, line, KEPT, NEW_SESSION, Why::SessionFull, ServerSignal::SessionFull);
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
    for step in [Mail, Rcpt, Data, AfterDot] {
        check(&[(step, "421 4.3.0 service not available", KEPT, FREE, Why::ServiceUnavailable, Failing)]);
    }
    check(&[(Greeting, "421 4.3.2 shutting down", FRESH, FREE, Why::ServiceUnavailable, Failing)]);
}

#[test]
fn a_pace_that_is_too_fast_is_slowed_down() {
    let row = |step, line| (step, line, FRESH, FREE, Why::Throttled, SlowDown);
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
    for step in [Mail, Rcpt, Data, AfterDot] {
        let row = |line, seconds| (step, line, FRESH, FREE, Why::QuotaExceeded, quota(seconds));
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
fn a_full_disk_is_the_servers() {
    for step in [Mail, Data, AfterDot] {
        check(&[
            (step, "452 4.3.1 insufficient system storage", FRESH, FREE, Why::OutOfStorage, Failing),
            (step, "452 insufficient system storage", FRESH, FREE, Why::OutOfStorage, Failing),
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
fn row_38_the_servers_own_state_judges_no_mail() {
    for step in [Mail, Rcpt, Data, AfterDot] {
        let row = |line| (step, line, FRESH, FREE, Why::ServiceUnavailable, Failing);
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
