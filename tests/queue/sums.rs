//! The audit sees what is missing, whatever lies beside it, and says what it cannot see.

use mailrelay::queue::{Acceptance, Correction};
use redis::cmd;

use super::support::*;

async fn del(fixture: &Fixture, key: &str) {
    let _: i64 = fixture.store.query(cmd("DEL").arg(key), LIMIT).await.expect("DEL");
}

async fn enqueue(fixture: &Fixture, count: usize) {
    for number in 0..count {
        let mail = mail(&format!("counted{number}"));
        fixture.queue.enqueue(mail.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    }
}

#[tokio::test]
async fn raw_mail_that_waits_does_not_stand_in_for_counted_mail_that_was_lost() {
    for raw in [0, 3, 5, 9] {
        let fixture = fixture();
        enqueue(&fixture, 5).await;
        assert!(fixture.balanced().await.unverified.is_empty());
        del(&fixture, "mail_queue").await;
        for number in 0..raw {
            fixture.push("mail_queue", mail(&format!("raw{number}"))).await;
        }
        let audit = fixture.queue.audit().await.expect("audit");
        assert_eq!((audit.difference, audit.raw_waiting), (5, raw), "{audit:?}");
        assert!(audit.unverified[0].contains("5 counted mails should wait and 0 do"), "{audit:?}");
        // It stays known when the raw ones are gone too.
        while !fixture.claim(ONE, 100).await.is_empty() {}
        assert_eq!(fixture.queue.audit().await.expect("audit").difference, 5);
    }
}

#[tokio::test]
async fn counters_that_are_gone_are_missed() {
    let fixture = fixture();
    enqueue(&fixture, 3).await;
    assert_eq!(fixture.balanced().await.since, Some(NOW));
    del(&fixture, "{mail_queue}:counters").await;
    let audit = fixture.queue.audit().await.expect("audit");
    assert_eq!(audit.since, None, "{audit:?}");
    assert!(audit.unverified[0].contains("3 waiting mails look counted and 0 were"), "{audit:?}");
    // Mail that is counted from now on hides nothing.
    enqueue(&fixture, 1).await;
    fixture.queue.enqueue(mail("more").as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    assert!(
        fixture.queue.audit().await.expect("audit").unverified[0].contains("4 waiting mails look counted and 1 were")
    );
    let parked = super::support::fixture();
    parked.push("mail_dead_letter_queue", "{}").await;
    let audit = parked.queue.audit().await.expect("audit");
    assert!(audit.unverified[0].contains("counters are gone") && audit.difference == -1, "{audit:?}");
}

#[tokio::test]
async fn a_script_that_failed_half_way_again_and_again_hides_no_loss_and_makes_none() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delayed(std::time::Duration::ZERO)).await;
    let _: () = fixture.store.query(cmd("SET").arg("mail_queue").arg("x"), LIMIT).await.expect("SET");
    for _ in 0..4 {
        assert!(fixture.queue.promote_due(NOW, 1).await.is_err());
    }
    del(&fixture, "mail_queue").await;
    let audit = fixture.queue.audit().await.expect("audit");
    assert_eq!((audit.difference, audit.delayed), (0, 1), "{audit:?}");
    for number in 0..3 {
        fixture.push("mail_queue", mail(&format!("raw{number}"))).await;
    }
    let audit = fixture.queue.audit().await.expect("audit");
    assert_eq!((audit.difference, audit.raw_waiting), (0, 3), "{audit:?}");
}

#[tokio::test]
async fn a_due_time_without_a_mail_counts_for_none() {
    let fixture = fixture();
    let early = mail_with("early", &format!(r#""notBefore":{}"#, NOW.0 + 1));
    fixture.queue.enqueue(early.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    fixture.balanced().await;
    del(&fixture, "{mail_queue}:delayed:mails").await;
    let audit = fixture.queue.audit().await.expect("audit");
    assert_eq!(audit.difference, 1, "{audit:?}");
    assert!(audit.unverified[0].contains("0 delayed mails have 1 due times"), "{audit:?}");
}

#[tokio::test]
async fn what_a_producer_forged_is_told_and_makes_no_difference() {
    let fixture = fixture();
    fixture.push("mail_queue", "mailrelay/1 n {\"id\":\"x\"}\n{}").await;
    let audit = fixture.balanced().await;
    assert!(audit.unverified[0].contains("1 waiting mails look counted and 0 were"), "{audit:?}");
}

#[tokio::test]
async fn a_difference_that_a_person_accepts_is_written_down_and_the_next_one_is_news() {
    let fixture = fixture();
    enqueue(&fixture, 5).await;
    del(&fixture, "mail_queue").await;
    let accept = async |difference| fixture.queue.audit_accept(difference, "ann", NOW).await.expect("asked");
    assert_eq!(accept(4).await, Acceptance::Differs(5), "only what was seen is accepted");
    assert_eq!(fixture.queue.audit().await.expect("audit").difference, 5);
    let expected = Correction { at: NOW, by: "ann".into(), difference: 5, counted: Some(5) };
    assert_eq!(accept(5).await, Acceptance::Accepted(expected.clone()));
    assert!(fixture.balanced().await.unverified.is_empty());
    assert_eq!(accept(0).await, Acceptance::Nothing);
    for number in 0..3 {
        fixture.queue.enqueue(mail(&format!("later{number}")).as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    }
    assert!(fixture.balanced().await.unverified.is_empty(), "what comes is counted as ever");
    del(&fixture, "mail_queue").await;
    assert_eq!(fixture.queue.audit().await.expect("audit").difference, 3);
    assert_eq!(fixture.queue.audit_corrections(10).await.expect("listed"), [expected]);
}

#[tokio::test]
async fn counters_that_were_lost_can_be_accepted() {
    let fixture = fixture();
    enqueue(&fixture, 3).await;
    del(&fixture, "{mail_queue}:counters").await;
    let audit = fixture.queue.audit().await.expect("audit");
    assert!(!audit.unverified.is_empty(), "{audit:?}");
    let accepted = fixture.queue.audit_accept(audit.difference, "ann", NOW).await.expect("asked");
    assert!(matches!(accepted, Acceptance::Accepted(_)), "{accepted:?}");
    assert!(fixture.balanced().await.unverified.is_empty());
    fixture.claim(ONE, 3).await;
    fixture.balanced().await;
}
