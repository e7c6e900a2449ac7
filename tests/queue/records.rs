//! What is remembered of mails: small, for a time, and never for ever.

use std::time::Duration;

use mailrelay::{
    api,
    mail::UnixMillis,
    queue::{Filter, OperationId, PerRecipient, Refusal, Settlement},
};
use redis::cmd;
use sha2::{Digest, Sha256};

use super::support::*;

const DAY: Duration = Duration::from_secs(24 * 3_600);
const HELD: fn() -> Settlement = || Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() };

/// Where a record lies.
fn bucket(kind: &str, text: &str) -> u16 {
    let digest = Sha256::digest(format!("{kind}:{text}"));
    u16::from_be_bytes([digest[12], digest[13]]) % (1 << 14)
}

/// Texts whose records share so many buckets.
fn sharing(kind: &'static str, buckets: u16) -> impl Iterator<Item = String> {
    (0..).map(move |number| format!("{kind}-{number}")).filter(move |text| bucket(kind, text) < buckets)
}

async fn memory(fixture: &Fixture) -> u64 {
    let mut bytes = 0;
    for bucket in fixture.buckets().await {
        let mut ask = cmd("MEMORY");
        ask.arg("USAGE").arg(bucket).arg("SAMPLES").arg(0);
        bytes += fixture.store.query::<u64>(&ask, LIMIT).await.expect("MEMORY USAGE");
    }
    bytes
}

async fn encodings(fixture: &Fixture) -> Vec<String> {
    let mut all = Vec::new();
    for bucket in fixture.buckets().await {
        let mut ask = cmd("OBJECT");
        ask.arg("ENCODING").arg(bucket);
        all.push(fixture.store.query(&ask, LIMIT).await.expect("OBJECT ENCODING"));
    }
    all
}

/// As many to a bucket as a million mails have in all of them.
async fn deliver(fixture: &Fixture, keyed: bool, count: usize) {
    let buckets = u16::try_from(count / 61).expect("few");
    let mut keys = sharing("key", buckets);
    for id in sharing("id", buckets).take(count) {
        let key = keys.next().filter(|_| keyed).map(|key| format!(r#","idempotencyKey":"{key}""#));
        fixture
            .queue
            .enqueue(mail_with(&id, &format!(r#""subject":"s"{}"#, key.unwrap_or_default())).as_bytes(), NO_LIMITS, NOW)
            .await
            .expect("enqueued");
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, delivered()).await;
    }
}

#[tokio::test]
async fn what_is_remembered_of_a_delivered_mail_takes_at_most_100_bytes_with_and_without_a_key() {
    for keyed in [false, true] {
        let fixture = fixture();
        deliver(&fixture, keyed, 1_830).await;
        let records = fixture.records().await.len();
        assert_eq!(records, if keyed { 3_660 } else { 1_830 });
        let each = memory(&fixture).await.div_ceil(records as u64);
        println!("{each} bytes a record, keys: {keyed}");
        assert!(each <= 100, "{each} bytes a record, keys: {keyed}");
        assert!(encodings(&fixture).await.iter().all(|encoding| encoding == "listpack"));
    }
}

#[tokio::test]
async fn a_mail_that_waits_costs_at_most_200_bytes_beside_its_own() {
    let fixture = fixture();
    // Its id is made here, so where its record lies is chance: as many as fill the buckets are too many for a test.
    let body = r#"{"from":"a@example.com","to":"b@example.org","text":"hello"}"#;
    fixture.queue.enqueue(body.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    let entry: Vec<u8> = fixture.store.query(cmd("LINDEX").arg("mail_queue").arg(0), LIMIT).await.expect("LINDEX");
    let header = entry.len() - body.len();
    let buckets = 50;
    for id in sharing("id", buckets).take(61 * usize::from(buckets)) {
        fixture.queue.enqueue(mail(&id).as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    }
    let record = memory(&fixture).await.div_ceil(fixture.records().await.len() as u64);
    println!("{header} bytes of header and {record} of record");
    assert!(header as u64 + record <= 200, "{header} bytes of header and {record} of record");
}

/// Whether a mail of this id or key would be dropped at that time.
async fn is_blocked(fixture: &Fixture, body: &str, at: UnixMillis) -> bool {
    fixture.queue.enqueue(body.as_bytes(), NO_LIMITS, at).await.expect("taken").duplicate
}

#[tokio::test]
async fn a_record_that_has_ended_forbids_nothing_though_it_still_lies_there() {
    let fixture = fixture();
    let body = mail_with("one", r#""idempotencyKey":"k""#);
    fixture.push("mail_queue", &body).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delivered()).await;
    assert!(is_blocked(&fixture, &body, NOW.after(Duration::from_secs(24 * 3_600 - 1))).await);
    assert_eq!(fixture.records().await.len(), 2);
    assert!(!is_blocked(&fixture, &body, NOW.after(DAY)).await);
    assert_eq!(fixture.queue.status("one").await.expect("status").expect("known").state, "queued");
}

#[tokio::test]
async fn final_records_are_kept_as_long_as_the_relay_asks() {
    let fixture = fixture();
    let asked: api::Queue = serde_json::from_str(r#"{"recordRetention":"90m"}"#).expect("a queue");
    assert_eq!(api::Queue::default().record_retention.get(), DAY);
    fixture.queue.keep_records(asked.record_retention.get()).await.expect("told");
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delivered()).await;
    let minutes = |minutes: u64| NOW.after(Duration::from_secs(60 * minutes));
    assert!(is_blocked(&fixture, &mail("one"), minutes(89)).await);
    assert!(!is_blocked(&fixture, &mail("one"), minutes(90)).await);
}

#[tokio::test]
async fn the_stream_of_outcomes_is_as_long_as_the_relay_asks() {
    let fixture = fixture();
    assert_eq!(api::Queue::default().events_length, 10_000);
    for (asked, most) in [(100, 300), (1_000, 1_200)] {
        fixture.queue.keep_events(asked).await.expect("told");
        for number in 0..1_500 {
            let body = mail_with(&format!("m{asked}-{number}"), r#""expiresAt":"2001-01-01T00:00:00Z""#);
            fixture.push("mail_queue", body).await;
        }
        assert!(fixture.claim(ONE, 1_000).await.is_empty() && fixture.claim(ONE, 1_000).await.is_empty());
        let kept: u64 = fixture.store.query(cmd("XLEN").arg("{mail_queue}:events"), LIMIT).await.expect("XLEN");
        // Whole blocks of a hundred are dropped.
        assert!((asked..most).contains(&kept), "{kept} of {asked}");
    }
}

/// So many mails, one after the other, whose records lie in bucket 0.
async fn fill(fixture: &Fixture, from: usize, count: usize, at: UnixMillis) {
    for id in sharing("id", 1).skip(from).take(count) {
        fixture.queue.enqueue(mail(&id).as_bytes(), NO_LIMITS, at).await.expect("enqueued");
    }
}

#[tokio::test]
async fn what_has_ended_is_taken_out_when_others_come() {
    let fixture = fixture();
    for id in sharing("id", 1).take(31) {
        fixture.push("mail_queue", mail(&id)).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, delivered()).await;
    }
    assert_eq!(fixture.records().await.len(), 31);
    fill(&fixture, 31, 1, NOW.after(2 * DAY)).await;
    assert_eq!(fixture.records().await.len(), 1);
}

#[tokio::test]
async fn a_record_of_a_mail_that_is_nowhere_ends_30_days_later_and_of_one_that_waits_it_does_not() {
    for removed in [false, true] {
        let fixture = fixture();
        fill(&fixture, 0, 31, NOW).await;
        fill(&fixture, 31, 1, NOW.after(29 * DAY)).await;
        assert_eq!(fixture.records().await.len(), 32, "not yet");
        if removed {
            let _: i64 = fixture.store.query(cmd("DEL").arg("mail_queue"), LIMIT).await.expect("DEL");
            // Somebody saw that the lists were empty.
            assert!(fixture.claim(ONE, 1).await.is_empty());
        }
        fill(&fixture, 32, 32, NOW.after(31 * DAY)).await;
        assert_eq!(fixture.records().await.len(), if removed { 33 } else { 64 }, "removed: {removed}");
    }
}

#[tokio::test]
async fn a_bucket_in_which_nothing_happens_ends_by_itself() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delivered()).await;
    let bucket = fixture.buckets().await.remove(0);
    let ends: i64 = fixture.store.query(cmd("PTTL").arg(bucket), LIMIT).await.expect("PTTL");
    assert!(ends > 60 * 86_400_000 && ends <= 120 * 86_400_000, "{ends}");
}

#[tokio::test]
async fn a_keys_record_answers_the_id_of_the_first_mail_however_long_it_is() {
    for id in ["short".to_owned(), "l".repeat(64), "l".repeat(65), "l".repeat(200)] {
        let fixture = fixture();
        let first = mail_with(&id, r#""idempotencyKey":"k""#);
        fixture.queue.enqueue(first.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        let second = mail_with("second", r#""idempotencyKey":"k""#);
        let answer = fixture.queue.enqueue(second.as_bytes(), NO_LIMITS, NOW).await.expect("taken");
        assert!(answer.duplicate);
        assert_eq!(answer.id, id);
        assert_eq!(fixture.queue.status(&id).await.expect("status").expect("known").state, "queued");
    }
}

/// To so many people, all of whom have it but the last.
async fn nearly_all_have_it(fixture: &Fixture, id: &str, count: usize) -> Vec<String> {
    let all: Vec<String> = (0..count).map(|number| format!("recipient-{number}@example.org")).collect();
    let to = serde_json::to_string(&all).expect("JSON");
    fixture.push("mail_queue", format!(r#"{{"id":"{id}","from":"a@example.com","to":{to},"text":"x"}}"#)).await;
    let claim = fixture.claim_one(ONE).await;
    let refused = Refusal { recipient: all[count - 1].clone(), reply: "550 5.1.1 who?".into() };
    let progress =
        PerRecipient { accepted: all[..count - 1].to_vec(), refused: vec![refused], ..PerRecipient::default() };
    let operation = OperationId::random();
    fixture.queue.settle(ONE, &claim, &operation, &delivered(), &progress, NOW).await.expect("settled");
    all
}

#[tokio::test]
async fn a_bucket_stays_small_through_all_that_can_become_of_a_mail() {
    let fixture = fixture();
    for end in [delivered(), dead("Policy"), delayed(Duration::ZERO), HELD()] {
        let id = format!("{}-{}", "l".repeat(150), fixture.records().await.len());
        fixture.push("mail_queue", mail_with(&id, &format!(r#""idempotencyKey":"{id}""#))).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, end).await;
        fixture.push("mail_queue", mail(&id)).await;
        fixture.claim(ONE, 1).await;
    }
    nearly_all_have_it(&fixture, "many", 100).await;
    fixture.queue.dead_discard(&Filter::default(), 10, NOW).await.expect("discarded");
    fixture.queue.held_discard(&Filter::default(), 10, NOW).await.expect("discarded");
    let encodings = encodings(&fixture).await;
    assert!(encodings.len() > 5 && encodings.iter().all(|encoding| encoding == "listpack"), "{encodings:?}");
    fixture.balanced().await;
}

#[tokio::test]
async fn who_has_a_mail_is_known_from_a_bucket_that_grew_large_too() {
    for entries in ["512", "4"] {
        let fixture = fixture();
        fixture.redis.command(&["CONFIG", "SET", "hash-max-listpack-entries", entries]).expect("CONFIG SET");
        let all = nearly_all_have_it(&fixture, "many", 100).await;
        let to = serde_json::to_string(&all).expect("JSON");
        let again = format!(r#"{{"id":"many","from":"a@example.com","to":{to},"text":"x"}}"#);
        fixture.push("mail_queue", again).await;
        assert_eq!(fixture.claim_one(ONE).await.mail.recipients, all[99..], "{entries}");
    }
}

#[tokio::test]
async fn what_lies_beside_a_record_ends_with_it() {
    let fixture = fixture();
    let all = nearly_all_have_it(&fixture, "many", 20).await;
    let to = serde_json::to_string(&all).expect("JSON");
    let again = format!(r#"{{"id":"many","from":"a@example.com","to":{to},"text":"x"}}"#);
    fixture.queue.enqueue(again.as_bytes(), NO_LIMITS, NOW.after(DAY)).await.expect("enqueued");
    let bucket = fixture.buckets().await.remove(0);
    let fields: u64 = fixture.store.query(cmd("HLEN").arg(bucket), LIMIT).await.expect("HLEN");
    assert_eq!(fields, 1);
    let claims = fixture.queue.claim(ONE, "pod", 1, NOW.after(DAY)).await.expect("claim").mails;
    assert_eq!(claims[0].mail.recipients, all);
}
