//! Mails against the counting sink.

use std::time::Duration;

use mailrelay::smtp::{Class, Closed, Commit, Resend, ServerSignal, Step, Transaction, Verdict, Why};
use mailsink::{Behaviour, Failure, FailureStage};

use crate::support::{SOON, go, message, open, send, sink, sink_with, to};

#[tokio::test]
async fn one_mail_arrives_as_it_was_sent() {
    let sink = sink().await;
    let mut session = open(&sink).await;
    let text = b"Message-ID: <dots@test>\r\n\r\n.\r\n..two\r\nend.\r\n".to_vec();
    let recipients = to(&["a@example.com"]);
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    let outcome = session.transact(&transaction, go).await;
    assert!(outcome.is_delivered(), "{outcome:?}");
    assert!(outcome.committed && session.is_usable());
    assert_eq!(outcome.last_reply.expect("a reply").code, 250);
    assert_eq!(sink.messages(), [text]);
    let entry = &sink.journal()[0];
    assert_eq!((entry.message_id.as_str(), entry.from.as_str()), ("dots@test", "me@example.com"));
}

#[tokio::test]
async fn dots_are_stuffed_when_data_is_used() {
    let sink = sink_with(Behaviour { hide: vec!["CHUNKING".into()], ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    let text = b"Message-ID: <dots@test>\r\n\r\n.\r\n..two\r\nend.\r\n".to_vec();
    let recipients = to(&["a@example.com"]);
    let transaction = Transaction::new("", &recipients, &text).expect("a good mail");
    assert!(session.transact(&transaction, go).await.is_delivered());
    assert_eq!(sink.messages(), [text]);
}

#[tokio::test]
async fn a_hundred_mails_share_one_session_and_quit_ends_it() {
    let sink = sink().await;
    let mut session = open(&sink).await;
    for number in 0..100 {
        assert!(send(&mut session, number).await.is_delivered());
    }
    let stats = sink.stats();
    assert_eq!((stats.sessions, stats.unique_message_ids, stats.duplicates, stats.peak), (1, 100, 0, 1));
    assert_eq!(session.close().await, Closed::Eof);
    // The count had fallen before the client could read the end.
    assert_eq!(sink.stats().open, 0);
}

#[tokio::test]
async fn a_mail_takes_one_round_trip_with_chunking_two_with_pipelining_and_four_with_neither() {
    for (hidden, round_trips) in
        [(vec![], 1), (vec!["CHUNKING"], 2), (vec!["PIPELINING"], 3), (vec!["PIPELINING", "CHUNKING"], 4)]
    {
        let hide = hidden.iter().map(|keyword| (*keyword).to_owned()).collect();
        let sink = sink_with(Behaviour { hide, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        for number in 0..3 {
            assert!(send(&mut session, number).await.is_delivered());
        }
        // The first mail's figure has the greeting and EHLO in it; the last reply counts with the mail after it.
        assert_eq!(sink.journal()[2].turnarounds, round_trips, "without {hidden:?}");
    }
}

#[tokio::test]
async fn large_messages_arrive_whole_by_bdat_and_by_data() {
    let mut text = message(1);
    while text.len() < 300_000 {
        text.extend(b".a line that begins with a dot\r\n");
    }
    for hide in [vec![], vec!["CHUNKING".to_owned()]] {
        let sink = sink_with(Behaviour { hide, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let recipients = to(&["a@example.com"]);
        let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
        assert!(session.transact(&transaction, go).await.is_delivered());
        assert!(sink.messages()[0] == text, "the message was changed");
    }
}

#[tokio::test]
async fn refused_recipients_do_not_stop_the_others() {
    for hide in [vec![], vec!["CHUNKING"], vec!["PIPELINING", "CHUNKING"]] {
        let hide = hide.into_iter().map(str::to_owned).collect();
        let failures = vec![
            Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").for_recipient("bad"),
            Failure::reply(FailureStage::Rcpt, "450 4.7.1 greylisted, try again in 5 minutes").for_recipient("grey"),
        ];
        let sink = sink_with(Behaviour { hide, failures, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let recipients = to(&["bad@example.com", "good@example.com", "grey@example.com", "fine@example.com"]);
        let text = message(1);
        let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
        let outcome = session.transact(&transaction, go).await;
        assert_eq!(outcome.places(|verdict| *verdict == Verdict::Delivered), [1, 3], "{outcome:?}");
        assert_eq!(outcome.places(|verdict| *verdict == Verdict::Dead), [0]);
        let in_five_minutes = Verdict::Retry { class: Class::Greylisted, delay: Some(Duration::from_secs(300)) };
        assert_eq!(outcome.places(|verdict| *verdict == in_five_minutes), [2]);
        assert_eq!(sink.journal()[0].to, ["good@example.com", "fine@example.com"]);
        assert!(send(&mut session, 2).await.is_delivered(), "the session goes on");
    }
}

#[tokio::test]
async fn when_nobody_is_accepted_nothing_is_sent_and_the_session_goes_on() {
    for hide in [vec![], vec!["CHUNKING"], vec!["PIPELINING"]] {
        let hide = hide.into_iter().map(str::to_owned).collect();
        let failures = vec![Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").times(1)];
        let sink = sink_with(Behaviour { hide, failures, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let outcome = send(&mut session, 1).await;
        assert_eq!(outcome.recipients[0].disposition.why, Why::RecipientRefused);
        assert_eq!(sink.stats().accepted, 0);
        assert!(send(&mut session, 2).await.is_delivered());
        assert_eq!(sink.stats().sessions, 1);
    }
}

/// What a scripted failure must lead to, with every way of sending.
struct Case {
    failure: Failure,
    verdict: Verdict,
    why: Why,
    step: Step,
    signals: Vec<ServerSignal>,
    usable: bool,
}

const FREE: Verdict = Verdict::Defer { resend: Resend::Later, delay: None };
const AGAIN: Verdict = Verdict::Defer { resend: Resend::NewSession, delay: None };
const RETRY: Verdict = Verdict::Retry { class: Class::Judged, delay: None };

async fn check(case: Case) {
    for hide in [vec![], vec!["CHUNKING"], vec!["PIPELINING"], vec!["PIPELINING", "CHUNKING"]] {
        let hide: Vec<String> = hide.into_iter().map(str::to_owned).collect();
        let behaviour =
            Behaviour { hide: hide.clone(), failures: vec![case.failure.clone().times(1)], ..Behaviour::default() };
        let sink = sink_with(behaviour).await;
        let mut session = open(&sink).await;
        let outcome = send(&mut session, 1).await;
        let disposition = outcome.recipients[0].disposition;
        let seen = (disposition.verdict, disposition.why, outcome.step, outcome.signals.clone(), session.is_usable());
        let wanted = (case.verdict, case.why, case.step, case.signals.clone(), case.usable);
        assert_eq!(seen, wanted, "{:?} without {hide:?}: {outcome:?}", case.failure);
        if case.usable {
            assert!(send(&mut session, 2).await.is_delivered(), "the session goes on after {:?}", case.failure);
        }
        assert_eq!(session.close().await, Closed::Eof);
        assert_eq!(sink.stats().open, 0);
    }
}

#[tokio::test]
async fn a_refusal_before_the_message_is_judged_by_its_stage() {
    let reply = Failure::reply;
    check(Case {
        failure: reply(FailureStage::Mail, "451 4.3.0 not now"),
        verdict: FREE,
        why: Why::ServiceUnavailable,
        step: Step::Mail,
        signals: vec![ServerSignal::Failing],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply(FailureStage::Mail, "452 4.3.1 disk full"),
        verdict: FREE,
        why: Why::OutOfStorage,
        step: Step::Mail,
        signals: vec![ServerSignal::Failing],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply(FailureStage::Mail, "550 5.7.1 sender refused"),
        verdict: Verdict::Suspect,
        why: Why::SenderRefused,
        step: Step::Mail,
        signals: vec![ServerSignal::RefusesUs(Why::SenderRefused)],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply(FailureStage::Mail, "421 4.3.0 going down").and_close(),
        verdict: FREE,
        why: Why::ServiceUnavailable,
        step: Step::Mail,
        signals: vec![ServerSignal::Failing],
        usable: false,
    })
    .await;
    check(Case {
        failure: reply(FailureStage::Rcpt, "421 4.7.0 too many connections").and_close(),
        verdict: FREE,
        why: Why::TooManyConnections,
        step: Step::Rcpt,
        signals: vec![ServerSignal::TooManyConnections],
        usable: false,
    })
    .await;
    check(Case {
        failure: reply(FailureStage::Rcpt, "450 4.2.0 try later"),
        verdict: RETRY,
        why: Why::RecipientDeferred,
        step: Step::Rcpt,
        signals: vec![],
        usable: true,
    })
    .await;
}

#[tokio::test]
async fn a_refusal_of_the_whole_message_is_definite() {
    let reply = |text| Failure::reply(FailureStage::Dot, text);
    check(Case {
        failure: reply("451 4.3.0 not now"),
        verdict: FREE,
        why: Why::ServiceUnavailable,
        step: Step::AfterDot,
        signals: vec![ServerSignal::Failing],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply("554 5.7.1 spam"),
        verdict: Verdict::Dead,
        why: Why::PolicyRefused,
        step: Step::AfterDot,
        signals: vec![],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply("552 5.3.4 too big"),
        verdict: Verdict::Dead,
        why: Why::TooLarge,
        step: Step::AfterDot,
        signals: vec![],
        usable: true,
    })
    .await;
    check(Case {
        failure: reply("554 5.7.1 Client host blocked using list"),
        verdict: Verdict::Suspect,
        why: Why::Blocked,
        step: Step::AfterDot,
        signals: vec![ServerSignal::RefusesUs(Why::Blocked)],
        usable: true,
    })
    .await;
}

#[tokio::test]
async fn only_a_2yz_after_the_dot_is_a_delivery_and_everything_odd_is_unknown() {
    // lettre takes the first one for a success, and can't tell the others from a refusal.
    let odd = [
        Failure::raw(FailureStage::Dot, "354 go on\r\n"),
        Failure::raw(FailureStage::Dot, "ok queued\r\n"),
        Failure::raw(FailureStage::Dot, "250\tok\r\n"),
        Failure::raw(FailureStage::Dot, "250-ok\r\n451 no\r\n"),
        Failure::closing(FailureStage::Dot),
        Failure::closing(FailureStage::Dot).accepting(),
        Failure::raw(FailureStage::Dot, "250 half of a reply").and_close(),
    ];
    for failure in odd {
        check(Case {
            failure,
            verdict: Verdict::Unknown,
            why: Why::OutcomeUnknown,
            step: Step::AfterDot,
            signals: vec![ServerSignal::Failing],
            usable: false,
        })
        .await;
    }
}

#[tokio::test]
async fn a_2yz_without_text_or_in_another_character_set_is_a_delivery() {
    for raw in ["250\r\n", "250 \u{fc}ber\r\n", "250-one\r\n250 two\r\n"] {
        let failure = Failure::raw(FailureStage::Dot, raw).accepting();
        check(Case {
            failure,
            verdict: Verdict::Delivered,
            why: Why::Accepted,
            step: Step::AfterDot,
            signals: vec![ServerSignal::Good],
            usable: true,
        })
        .await;
    }
}

#[tokio::test]
async fn the_end_of_the_connection_after_the_reply_changes_nothing() {
    let failure = Failure::reply(FailureStage::Dot, "250 2.0.0 ok").accepting().and_close();
    let sink = sink_with(Behaviour::failing([failure])).await;
    let mut session = open(&sink).await;
    assert!(send(&mut session, 1).await.is_delivered());
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("the sink has closed");
    let outcome = send(&mut session, 2).await;
    assert!(outcome.is_session_gone() && !session.is_usable(), "{outcome:?}");
}

#[tokio::test]
async fn a_body_without_its_end_is_not_delivered() {
    let sink = sink_with(Behaviour {
        hide: vec!["CHUNKING".into()],
        failures: vec![Failure::closing(FailureStage::Body)],
        ..Behaviour::default()
    })
    .await;
    let mut session = open(&sink).await;
    let mut text = message(1);
    while text.len() < 20_000_000 {
        text.extend([b'x'; 70].iter().chain(b"\r\n"));
    }
    let recipients = to(&["a@example.com"]);
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    let outcome = session.transact(&transaction, async || panic!("it never gets so far")).await;
    assert_eq!(outcome.recipients[0].disposition.verdict, FREE, "{outcome:?}");
    assert_eq!((outcome.step, outcome.committed, sink.stats().accepted), (Step::Body, false, 0));
}

#[tokio::test]
async fn a_caller_who_says_abort_leaves_nothing_delivered() {
    for hide in [vec![], vec!["CHUNKING"], vec!["PIPELINING"]] {
        let hide: Vec<String> = hide.into_iter().map(str::to_owned).collect();
        let sink = sink_with(Behaviour { hide, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let (text, recipients) = (message(1), to(&["a@example.com"]));
        let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
        let outcome = session.transact(&transaction, async || Commit::Abort).await;
        assert_eq!(outcome.recipients[0].disposition.why, Why::Aborted);
        assert!(!outcome.committed);
        if session.is_usable() {
            assert!(send(&mut session, 2).await.is_delivered());
        }
        assert_eq!(session.close().await, Closed::Eof);
        let ids: Vec<_> = sink.journal().into_iter().map(|entry| entry.message_id).collect();
        assert!(!ids.contains(&"1@test".to_owned()));
    }
}

#[tokio::test]
async fn a_session_that_the_server_ended_at_rest_is_no_failure_of_the_mail() {
    let sink = sink_with(Behaviour { idle_limit_ms: Some(50), ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    assert!(send(&mut session, 1).await.is_delivered());
    tokio::time::timeout(SOON, session.ended()).await.expect("the 421 is seen");
    let outcome = session
        .transact(&Transaction::new("", &to(&["a@example.com"]), &message(2)).expect("a good mail"), async || {
            panic!("not started")
        })
        .await;
    assert!(outcome.is_session_gone(), "{outcome:?}");
    assert_eq!(outcome.recipients[0].disposition.verdict, AGAIN);
    assert_eq!(outcome.last_reply.expect("the 421 is kept").code, 421);
    assert!(outcome.signals.is_empty());
    assert_eq!(session.close().await, Closed::Eof);
}

#[tokio::test]
async fn a_server_that_goes_in_the_middle_of_the_recipients_has_delivered_nothing() {
    for hide in [vec![], vec!["CHUNKING"], vec!["PIPELINING"], vec!["PIPELINING", "CHUNKING"]] {
        let hide: Vec<String> = hide.into_iter().map(str::to_owned).collect();
        let goes = Failure::reply(FailureStage::Rcpt, "421 4.3.0 going down").for_recipient("b@").and_close();
        let sink = sink_with(Behaviour { hide: hide.clone(), failures: vec![goes], ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let (text, recipients) = (message(1), to(&["a@example.com", "b@example.com", "c@example.com"]));
        let transaction = Transaction::new("", &recipients, &text).expect("a good mail");
        let outcome = session.transact(&transaction, go).await;
        assert_eq!(outcome.places(|verdict| *verdict == FREE), [0, 1, 2], "without {hide:?}: {outcome:?}");
        assert_eq!((outcome.signals.as_slice(), session.is_usable()), (&[ServerSignal::Failing][..], false));
        // What it left unread makes its kernel reset the connection; its farewell was read before.
        assert!(matches!(session.close().await, Closed::Eof | Closed::Farewell));
        assert_eq!(sink.stats().accepted, 0);
    }
}

#[tokio::test]
async fn a_nonsense_reply_to_the_envelope_is_unknown_only_when_the_message_is_with_the_server() {
    for (hide, verdict) in [(vec![], Verdict::Unknown), (vec!["CHUNKING".to_owned()], AGAIN)] {
        let odd = Failure::raw(FailureStage::Rcpt, "354 go on\r\n");
        let sink = sink_with(Behaviour { hide, failures: vec![odd], ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        let outcome = send(&mut session, 1).await;
        assert_eq!((outcome.recipients[0].disposition.verdict, session.is_usable()), (verdict, false), "{outcome:?}");
    }
}

#[tokio::test]
async fn too_many_mails_in_a_session_are_sent_on_at_once_in_another() {
    let sink = sink_with(Behaviour { max_messages_per_session: Some(1), ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    assert!(send(&mut session, 1).await.is_delivered());
    let outcome = send(&mut session, 2).await;
    assert_eq!(outcome.recipients[0].disposition.verdict, AGAIN);
    assert_eq!(outcome.signals, [ServerSignal::SessionFull]);
    assert!(!session.is_usable());
    assert_eq!(session.close().await, Closed::Eof);
}

#[tokio::test]
async fn too_many_recipients_go_in_a_transaction_of_their_own() {
    let sink = sink_with(Behaviour { max_recipients: Some(2), ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    let (text, recipients) = (message(1), to(&["a@example.com", "b@example.com", "c@example.com"]));
    let outcome = session.transact(&Transaction::new("", &recipients, &text).expect("a good mail"), go).await;
    assert_eq!(outcome.places(|verdict| *verdict == Verdict::Delivered), [0, 1]);
    assert_eq!(
        outcome.recipients[2].disposition.verdict,
        Verdict::Defer { resend: Resend::NewTransaction, delay: None }
    );
    let outcome = session.transact(&Transaction::new("", &recipients[2..], &text).expect("a good mail"), go).await;
    assert!(outcome.is_delivered());
    assert_eq!(sink.stats().duplicates, 0);
}

#[tokio::test]
async fn a_mail_over_the_offered_size_is_not_even_started() {
    let sink = sink_with(Behaviour { size: Some(10), ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    let outcome = send(&mut session, 1).await;
    assert_eq!(
        (outcome.recipients[0].disposition.verdict, outcome.recipients[0].disposition.why),
        (Verdict::Dead, Why::TooLarge)
    );
    assert!(!outcome.started && !outcome.is_session_gone() && session.is_usable());
}

#[tokio::test]
async fn an_address_beyond_ascii_needs_smtputf8() {
    let sink = sink().await;
    let (text, recipients) = (message(1), to(&["j\u{fc}rgen@example.com"]));
    let transaction = Transaction::new("", &recipients, &text).expect("a good mail");
    let mut session = open(&sink).await;
    assert!(session.transact(&transaction, go).await.is_delivered());
    sink.set_behaviour(Behaviour { hide: vec!["SMTPUTF8".into()], ..Behaviour::default() });
    let mut session = open(&sink).await;
    assert_eq!(session.transact(&transaction, go).await.recipients[0].disposition.why, Why::NotSupported);
}
