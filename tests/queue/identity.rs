//! One mail stays one mail: commands that come late, mails that are driven again, entries that pretend.

use std::time::Duration;

use mailrelay::{
    api::UnknownOutcome,
    queue::{
        Advance, Claimed, Filter, OperationId, PerRecipient, Queue, RecoverOptions, Refusal, Settled, Settlement, Stage,
    },
};
use redis::cmd;

use super::{courier::Courier, support::*};

#[tokio::test]
async fn a_late_admission_does_not_make_a_mail_a_duplicate_of_itself() {
    let entries = [
        mail("named"),
        mail_with("keyed", r#""idempotencyKey":"k""#),
        r#"{"from":"a@example.com","to":"b@example.org","text":"x"}"#.to_owned(),
        r#"{"from":"a@example.com","to":"b@example.org","text":"x","idempotencyKey":"k"}"#.to_owned(),
        "stored".to_owned(),
    ];
    futures::future::join_all(entries.map(async |entry| {
        let fixture = fixture();
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.warm(&fixture).await;
        let stored = mail_with("other", r#""idempotencyKey":"s""#);
        let _: () = fixture.store.query(cmd("SET").arg("mail:stored").arg(&stored), LIMIT).await.expect("SET");
        fixture.push("mail_queue", &entry).await;
        courier.hold(digest!("admit"));
        queue.claim(ONE, "pod", 1, NOW).await.expect_err("its answer does not come");
        let claimed = queue.claim(ONE, "pod", 1, NOW.after(Duration::from_secs(3))).await.expect("claim").mails;
        assert_eq!(claimed.len(), 1, "{entry}");
        let status = fixture.queue.status(&claimed[0].header.id).await.expect("status");
        assert_eq!(status.map(|status| status.state).as_deref(), Some("claimed"), "{entry}: under the id it has");
        let audit = fixture.balanced().await;
        assert_eq!((audit.in_flight, audit.duplicates), (2, 0), "{entry}");
        let records: Vec<String> = fixture.records().await;
        let named = 1 + usize::from(entry.contains("idempotencyKey") || entry == "stored");
        assert_eq!(records.len(), 1 + named, "{entry}: no record of an id that nobody has: {records:?}");
    }))
    .await;
}

/// Again until Redis answers: what every caller does.
async fn again<T, E>(ask: impl AsyncFn() -> Result<T, E>) -> T {
    loop {
        if let Ok(answer) = ask().await {
            return answer;
        }
    }
}

async fn claimed(queue: &Queue) -> Claimed {
    loop {
        let batch = again(async || queue.claim(ONE, "pod", 1, NOW).await).await;
        if let Some(claim) = batch.mails.into_iter().next() {
            return claim;
        }
    }
}

/// One mail goes through all its stages once.
async fn live(fixture: &Fixture, queue: &Queue, id: &str) {
    fixture.push("mail_queue", mail(id)).await;
    let claim = claimed(queue).await;
    again(async || queue.requeue_claim(ONE, &claim.claim_id, NOW).await).await;
    for settlement in [delayed(Duration::ZERO), delivered()] {
        let (claim, operation) = (claimed(queue).await, OperationId::random());
        assert_eq!(claim.header.id, id);
        let committed = again(async || queue.advance(ONE, &claim.claim_id, Stage::Committing, NOW).await).await;
        assert_eq!(committed, Advance::Done);
        let progress = PerRecipient::default();
        let settled = again(async || queue.settle(ONE, &claim, &operation, &settlement, &progress, NOW).await).await;
        assert!(matches!(settled, Settled::Done | Settled::Repeated), "{settled:?}");
        again(async || queue.promote_due(NOW, 1).await).await;
    }
}

#[tokio::test]
async fn whichever_command_of_a_mail_comes_late_it_is_delivered_once_and_the_sum_is_right() {
    let scripts = [
        digest!("take"),
        digest!("admit"),
        digest!("advance"),
        digest!("settle"),
        digest!("recover"),
        digest!("promote"),
    ];
    futures::future::join_all(scripts.map(async |digest| {
        let fixture = fixture();
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.warm(&fixture).await;
        live(&fixture, &queue, "first").await;
        fixture.balanced().await;
        courier.hold(digest);
        live(&fixture, &queue, "second").await;
        let audit = fixture.balanced().await;
        assert_eq!((audit.delivered, audit.duplicates, audit.in_flight), (2, 0, 1), "{audit:?}");
        assert_eq!(audit.accepted, 3, "{audit:?}");
    }))
    .await;
}

#[tokio::test]
async fn a_dead_letter_without_a_header_that_is_driven_again_is_no_duplicate_of_itself() {
    let fixture = fixture();
    fixture.push("mail_queue", "later").await;
    assert!(fixture.claim(ONE, 1).await.is_empty(), "nothing lies under its id");
    let json = r#"{"from":"a@example.com","to":"b@example.org","text":"x"}"#;
    let _: () = fixture.store.query(cmd("SET").arg("mail:later").arg(json), LIMIT).await.expect("SET");
    assert_eq!(fixture.queue.dead_requeue(&Filter::id("later"), 1, NOW).await.expect("requeued").done, 1);
    fixture.balanced().await;
    assert_eq!(fixture.claim_one(ONE).await.header.id, "later");
    assert_eq!(fixture.balanced().await.duplicates, 0);
}

const ALL: [&str; 2] = ["ann@x.org", "bad@x.org"];

fn to_all(id: &str, key: &str) -> String {
    format!(
        r#"{{"id":"{id}","from":"a@example.com","to":["ann@x.org","bad@x.org"],"text":"x","idempotencyKey":"{key}"}}"#
    )
}

/// Ann has it, the other one was refused.
fn half() -> PerRecipient {
    let refused = Refusal { recipient: "bad@x.org".into(), reply: "550 5.1.1 who?".into() };
    PerRecipient { accepted: vec!["ann@x.org".into()], refused: vec![refused], ..PerRecipient::default() }
}

async fn settle_with(fixture: &Fixture, claim: &Claimed, outcome: &Settlement, progress: &PerRecipient) {
    let operation = OperationId::random();
    fixture.queue.settle(ONE, claim, &operation, outcome, progress, NOW).await.expect("settled");
}

/// What may be pushed for the same mail: both, the id alone, the key alone.
fn repeats() -> [String; 3] {
    let without_key = to_all("one", "k").replace(r#","idempotencyKey":"k""#, "");
    [to_all("one", "k"), without_key, to_all("two", "k")]
}

#[tokio::test]
async fn a_repeat_goes_to_those_alone_who_lack_the_mail() {
    for repeat in repeats() {
        for enqueued in [false, true] {
            let fixture = fixture();
            fixture.push("mail_queue", to_all("one", "k")).await;
            let claim = fixture.claim_one(ONE).await;
            assert_eq!(claim.mail.recipients, ALL);
            settle_with(&fixture, &claim, &delivered(), &half()).await;
            // Twice: what is known of the first must not be forgotten by the second.
            for _ in 0..2 {
                if enqueued {
                    let sent = fixture.queue.enqueue(repeat.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
                    assert!(!sent.duplicate, "{repeat}: one of them lacks it");
                } else {
                    fixture.push("mail_queue", &repeat).await;
                }
                let claim = fixture.claim_one(ONE).await;
                assert_eq!(claim.mail.recipients, ["bad@x.org"], "{repeat}");
                settle_with(&fixture, &claim, &dead("RecipientRefused"), &PerRecipient::default()).await;
            }
            fixture.push("mail_queue", repeat.replace(r#","bad@x.org""#, "")).await;
            assert!(fixture.claim(ONE, 1).await.is_empty(), "{repeat}: everybody in it has it");
            let audit = fixture.balanced().await;
            assert_eq!((audit.dead, audit.duplicates), (3, 1), "{repeat}");
        }
    }
}

#[tokio::test]
async fn whatever_ends_a_mail_that_some_have_they_do_not_get_it_again() {
    const CRASHED: RecoverOptions =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: true, out_of_memory: false };
    for end in ["retries", "poison", "expired", "discarded", "driven again", "held and discarded"] {
        let fixture = fixture();
        let later = NOW.after(Duration::from_secs(60));
        let body = to_all("one", "k");
        let body = if end == "expired" { body.replace('{', &format!(r#"{{"expiresAt":{},"#, later.0)) } else { body };
        fixture.push("mail_queue", &body).await;
        let claim = fixture.claim_one(ONE).await;
        let some = PerRecipient { accepted: vec!["ann@x.org".into()], ..PerRecipient::default() };
        settle_with(&fixture, &claim, &delayed(Duration::ZERO), &some).await;
        assert_eq!(fixture.queue.promote_due(NOW, 1).await.expect("promoted"), 1);
        if end == "expired" {
            assert!(fixture.queue.claim(ONE, "pod", 1, later).await.expect("claim").mails.is_empty());
        } else {
            let mut claim = fixture.claim_one(ONE).await;
            assert_eq!(claim.mail.recipients, ["bad@x.org"], "{end}");
            if end == "poison" {
                for _ in 0..3 {
                    fixture.advance(ONE, &claim, Stage::Sending).await;
                    fixture.queue.recover(ONE, &CRASHED, NOW).await.expect("recovered");
                    if let Some(again) = fixture.claim(ONE, 1).await.pop() {
                        claim = again;
                    }
                }
            } else if end == "held and discarded" {
                let held = Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() };
                settle_with(&fixture, &claim, &held, &PerRecipient::default()).await;
                fixture.queue.held_discard(&Filter::default(), 1, NOW).await.expect("discarded");
            } else {
                settle_with(&fixture, &claim, &dead("RetriesExhausted"), &PerRecipient::default()).await;
            }
        }
        match end {
            "discarded" => drop(fixture.queue.dead_discard(&Filter::default(), 1, NOW).await.expect("discarded")),
            "driven again" => {
                fixture.queue.dead_requeue(&Filter::default(), 1, NOW).await.expect("requeued");
                let claim = fixture.claim_one(ONE).await;
                assert_eq!(claim.mail.recipients, ["bad@x.org"]);
                settle_with(&fixture, &claim, &dead("RecipientRefused"), &PerRecipient::default()).await;
            }
            _ => {}
        }
        fixture.push("mail_queue", to_all("two", "k")).await;
        let repeated: Vec<String> =
            fixture.claim(TWO, 1).await.into_iter().flat_map(|claim| claim.mail.recipients).collect();
        let lacking: &[&str] = if end == "held and discarded" { &[] } else { &["bad@x.org"] };
        assert_eq!(repeated, lacking, "{end}");
        fixture.balanced().await;
    }
}

#[tokio::test]
async fn a_held_mail_that_was_discarded_since_it_was_delivered_is_not_sent_again() {
    let fixture = fixture();
    fixture.push("mail_queue", mail_with("one", r#""idempotencyKey":"k""#)).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() }).await;
    assert_eq!(fixture.queue.held_discard(&Filter::default(), 1, NOW).await.expect("discarded").done, 1);
    for id in ["one", "two"] {
        let again = mail_with(id, r#""idempotencyKey":"k""#);
        assert!(fixture.queue.enqueue(again.as_bytes(), NO_LIMITS, NOW).await.expect("taken").duplicate, "{id}");
        fixture.push("mail_queue", again).await;
    }
    assert!(fixture.claim(ONE, 5).await.is_empty());
    assert_eq!(fixture.balanced().await.duplicates, 4);
}

#[tokio::test]
async fn a_header_that_a_producer_wrote_is_not_believed() {
    for more in [
        "",
        r#","attempts":3"#,
        r#","crashes":2"#,
        r#","remaining":["victim@x.org"]"#,
        r#","refused":[{"recipient":"b@example.org","reply":"550 no"}]"#,
        r#","key":"stolen""#,
        r#","tries":[{"at":1,"reason":"ProtocolError"}]"#,
    ] {
        let fixture = fixture();
        fixture.push("mail_queue", forged("forged", more)).await;
        fixture.balanced().await;
        let claim = fixture.claim_one(ONE).await;
        let header = &claim.header;
        assert_eq!((header.id.as_str(), header.message_id.as_str()), ("honest", "<honest@example.com>"), "{more}");
        assert_eq!((header.attempts, header.crashes, claim.alone), (0, 0, false), "{more}");
        assert!(header.refused.is_empty() && header.tries.is_empty() && header.key.is_none(), "{more}: {header:?}");
        assert_eq!(claim.mail.recipients, ["b@example.org"], "{more}");
        assert_eq!(fixture.queue.status("forged").await.expect("status"), None, "{more}");
        fixture.balanced().await;
        fixture.settle(ONE, &claim, delivered()).await;
        let audit = fixture.balanced().await;
        assert_eq!((audit.accepted, audit.delivered), (1, 1), "{more}");
    }
}

#[tokio::test]
async fn a_header_that_a_producer_wrote_becomes_ours_in_no_way() {
    const HOLD: RecoverOptions =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };
    let ways = [("queue", HOLD), ("held", RecoverOptions { fence_changed: true, ..HOLD })];
    for (way, options) in ways {
        let fixture = fixture();
        // What a worker leaves that dies between the two scripts of a claim.
        let courier = Courier::open(&fixture, 0, &[]).await;
        let queue = courier.warm(&fixture).await;
        let more =
            r#","attempts":3,"remaining":["victim@x.org"],"refused":[{"recipient":"b@example.org","reply":"550"}]"#;
        fixture.push("mail_queue", forged("forged", more)).await;
        courier.hold(digest!("admit"));
        queue.claim(TWO, "pod", 1, NOW).await.expect_err("the second script does not come");
        fixture.balanced().await;
        fixture.queue.recover(TWO, &options, NOW).await.expect("recovered");
        fixture.balanced().await;
        if way == "held" {
            let shown = fixture.queue.held_show("forged").await.expect("held").expect("it is held");
            assert!(shown.remaining.is_none() && shown.refused.is_empty(), "{shown:?}");
            assert_eq!(fixture.queue.held_release(&Filter::default(), 1, NOW).await.expect("released").done, 1);
        }
        let claim = fixture.claim_one(ONE).await;
        assert_eq!((claim.header.id.as_str(), claim.header.attempts), ("honest", 0), "{way}");
        fixture.balanced().await;
    }
}

#[tokio::test]
async fn an_entry_that_pretends_to_be_counted_does_not_spoil_the_audit() {
    let fixture = fixture();
    for entry in [format!("mailrelay/1 h {{}}\n{}", mail("bare")), "mailrelay/1 n {}\n{}".into(), "mailrelay/1 ".into()]
    {
        fixture.push("mail_queue", entry).await;
        fixture.balanced().await;
    }
    assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
    let audit = fixture.balanced().await;
    assert_eq!((audit.accepted, audit.in_flight, audit.dead), (3, 1, 2));
}
