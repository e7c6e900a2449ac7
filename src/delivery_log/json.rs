//! JSON, one object on each line, as mail services and log shippers export it.
//!
//! | what | the first of these fields that is there | values |
//! |---|---|---|
//! | Message-ID | `messageId`, `message_id`, `message-id`, `Message-ID`, `msgid`; or `commonHeaders.messageId` in `mail` (Amazon SES), `headers.message-id` in `message` (Mailgun) | with or without angle brackets |
//! | outcome | `outcome`, `status`, `event`, `eventType`, `notificationType`, `action`, `result` | in any case of letters. Taken: `accepted`, `queued`, `processed`, `sent`, `send`, `delivered`, `delivery`, `deferred`, `delayed`, `deliverydelay`, `bounced`, `bounce`, `complained`, `complaint`, `opened`, `open`, `clicked`, `click`. Refused: `rejected`, `reject`, `refused`. Anything else is unclear |
//! | time | `time`, `timestamp`, `@timestamp`, `ts`, `date` | RFC 3339, or a number of seconds or milliseconds since 1970 |
//! | words of a refusal | `reply`, `response`, `reason` | text |

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::finding::{Finding, bare};

const IDS: [&str; 5] = ["messageId", "message_id", "message-id", "Message-ID", "msgid"];
const OUTCOMES: [&str; 7] = ["outcome", "status", "event", "eventType", "notificationType", "action", "result"];
const TIMES: [&str; 5] = ["time", "timestamp", "@timestamp", "ts", "date"];
const WORDS: [&str; 3] = ["reply", "response", "reason"];

/// What one object says.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Read {
    pub(super) when: Option<Timestamp>,
    pub(super) said: Option<(String, Finding)>,
}

pub(super) fn read(line: &str) -> Option<Read> {
    if !line.trim_start().starts_with('{') {
        return None;
    }
    let object: Map<String, Value> = serde_json::from_str(line).ok()?;
    let first = |names: &[&str]| names.iter().find_map(|name| object.get(*name));
    let when = first(&TIMES).and_then(moment);
    let inside = |path: [&str; 3]| object.get(path[0])?.get(path[1])?.get(path[2])?.as_str();
    let id = first(&IDS)
        .and_then(Value::as_str)
        .or_else(|| inside(["mail", "commonHeaders", "messageId"]))
        .or_else(|| inside(["message", "headers", "message-id"]));
    let said = id.map(|id| {
        let outcome = first(&OUTCOMES).and_then(Value::as_str).unwrap_or_default();
        let words = first(&WORDS).and_then(Value::as_str).unwrap_or_default();
        (bare(id).to_owned(), finding(outcome, words))
    });
    Some(Read { when, said })
}

fn finding(outcome: &str, words: &str) -> Finding {
    match &*outcome.to_ascii_lowercase() {
        "accepted" | "queued" | "processed" | "sent" | "send" | "delivered" | "delivery" | "deferred" | "delayed"
        | "deliverydelay" | "bounced" | "bounce" | "complained" | "complaint" | "opened" | "open" | "clicked"
        | "click" => Finding::Taken,
        "rejected" | "reject" | "refused" => Finding::Refused(words.to_owned()),
        other => Finding::Unclear(other.to_owned()),
    }
}

fn moment(value: &Value) -> Option<Timestamp> {
    /// Seconds since 1970 reach this number in the year 5138; milliseconds did in 1973.
    const MILLISECONDS_FROM: f64 = 1e11;
    match value {
        Value::String(text) => text.parse().ok(),
        Value::Number(number) => {
            let number = number.as_f64()?;
            let seconds = if number.abs() >= MILLISECONDS_FROM { number / 1_000.0 } else { number };
            Timestamp::from_duration(jiff::SignedDuration::try_from_secs_f64(seconds).ok()?).ok()
        }
        _ => None,
    }
}
