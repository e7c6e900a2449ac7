//! The reply table, row by row.

mod blame;
mod message;
mod opening;
mod pace;

use std::time::Duration;

use super::*;

use Sign::{Failing, None as Nothing, SlowDown};

use Stage::{AfterDot, Auth, Body, Connect, Data, Ehlo, Greeting, Idle, Mail, Rcpt, Tls};

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
