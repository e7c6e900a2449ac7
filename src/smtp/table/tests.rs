//! The reply table, row by row.

mod blame;
mod message;
mod opening;
mod pace;

use std::time::Duration;

use super::*;

use ServerSignal::{Failing, None as Nothing, SlowDown};

use Step::{AfterDot, Auth, Body, Connect, Data, Ehlo, Greeting, Idle, Mail, Rcpt, Tls};

const FRESH: Situation = Situation { accepted: 0, resent: false, reused: false };

const KEPT: Situation = Situation { accepted: 0, resent: false, reused: true };

const RESENT: Situation = Situation { accepted: 0, resent: true, reused: true };

const SOME: Situation = Situation { accepted: 1, resent: false, reused: false };

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

fn quota(seconds: u64) -> ServerSignal {
    ServerSignal::QuotaExceeded(Duration::from_secs(seconds))
}

/// step, reply ("550 5.1.1 no such user"), situation, what must come of it.
type Row = (Step, &'static str, Situation, Verdict, Why, ServerSignal);

fn check(rows: &[Row]) {
    for (step, line, situation, verdict, why, signal) in rows {
        let (code, text) = line.split_once(' ').unwrap_or((line, ""));
        let reply = Reply::new(code.parse().expect("a code"), text);
        let disposition = judge(*step, Event::Reply(&reply), situation);
        assert_eq!(
            (disposition.verdict, disposition.why, disposition.signal),
            (*verdict, *why, *signal),
            "{step:?} {line}"
        );
    }
}

fn check_silence(
    steps: &[Step],
    events: &[Event<'_>],
    situation: Situation,
    verdict: Verdict,
    why: &[Why],
    signal: ServerSignal,
) {
    for step in steps {
        for event in events {
            let disposition = judge(*step, *event, &situation);
            assert_eq!((disposition.verdict, disposition.signal), (verdict, signal), "{step:?} {event:?}");
            assert!(why.contains(&disposition.why), "{step:?} {event:?} {:?}", disposition.why);
        }
    }
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
        assert_eq!(ReplyText::of(text).speaks_of(topic), found, "{text}");
    }
}
