//! Nothing is dropped in silence, and nothing is refused for a mail that is nowhere any more.

use mailrelay::{
    api::UnknownOutcome,
    queue::{Claimed, Filter, RecoverOptions, Settlement, Stage},
};
use redis::cmd;

use super::support::*;

const HELD: fn() -> Settlement = || Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() };

fn keyed(id: &str) -> String {
    mail_with(id, r#""idempotencyKey":"k""#)
}

#[tokio::test]
async fn another_mail_under_the_same_id_or_key_is_counted_and_told_when_it_is_dropped() {
    let fixture = fixture();
    fixture.push("mail_queue", keyed("one")).await;
    fixture.claim_one(ONE).await;
    // The same mail again, written in another way, is an ordinary duplicate.
    let same = keyed("one").replace(r#"{"id":"one","#, r#"{ "traceparent": "", "id": "one","#);
    fixture.push("mail_queue", &same).await;
    assert!(fixture.claim(ONE, 1).await.is_empty());
    assert!(!fixture.queue.enqueue(same.as_bytes(), NO_LIMITS, NOW).await.expect("taken").differs);
    assert_eq!(fixture.queue.counters().await.expect("counters").get("duplicates.other"), None);
    let others = [
        keyed("one").replace("hello", "goodbye"),
        keyed("two").replace("b@example.org", "c@example.org"),
        keyed("one").replace("a@example.com", "other@example.com"),
    ];
    for (number, other) in others.iter().enumerate() {
        fixture.push("mail_queue", other).await;
        assert!(fixture.claim(ONE, 1).await.is_empty());
        let sent = fixture.queue.enqueue(other.as_bytes(), NO_LIMITS, NOW).await.expect("taken");
        assert!(sent.duplicate && sent.differs, "{other}");
        let counters = fixture.queue.counters().await.expect("counters");
        assert_eq!(counters["duplicates.other"], 2 * (i64::try_from(number).expect("few") + 1), "{other}");
    }
    assert_eq!(fixture.balanced().await.duplicates, 8);
}

/// Whether a mail of this id and key would be dropped now, at both doors.
async fn is_blocked(fixture: &Fixture, raw: bool) -> bool {
    if raw {
        fixture.push("mail_queue", keyed("one")).await;
        let claimed: Vec<Claimed> = fixture.claim(TWO, 1).await;
        return claimed.is_empty();
    }
    fixture.queue.enqueue(keyed("one").as_bytes(), NO_LIMITS, NOW).await.expect("taken").duplicate
}

async fn del(fixture: &Fixture, keys: &[&str]) {
    let _: i64 = fixture.store.query(cmd("DEL").arg(keys), LIMIT).await.expect("DEL");
}

#[tokio::test]
async fn an_id_whose_mail_was_removed_by_hand_is_free_again_wherever_the_mail_was() {
    for raw in [false, true] {
        for place in ["list", "delayed", "held", "claims", "promoted", "given back", "list, and others came"] {
            let fixture = fixture();
            let early = keyed("one").replace('{', &format!(r#"{{"notBefore":{},"#, NOW.0 + 1));
            let body = if place == "delayed" || place == "promoted" { early } else { keyed("one") };
            fixture.queue.enqueue(body.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
            match place {
                "delayed" => del(&fixture, &["{mail_queue}:delayed", "{mail_queue}:delayed:mails"]).await,
                "held" => {
                    let claim = fixture.claim_one(ONE).await;
                    fixture.settle(ONE, &claim, HELD()).await;
                    del(&fixture, &["{mail_queue}:held"]).await;
                }
                "claims" => {
                    fixture.claim_one(ONE).await;
                    del(&fixture, &[&format!("{{mail_queue}}:claims:{ONE}")]).await;
                }
                "promoted" => {
                    let later = NOW.after(std::time::Duration::from_secs(1));
                    assert_eq!(fixture.queue.promote_due(later, 1).await.expect("promoted"), 1);
                    del(&fixture, &["mail_queue"]).await;
                }
                "given back" => {
                    let claim = fixture.claim_one(ONE).await;
                    fixture.queue.requeue_claim(ONE, &claim.claim_id, NOW).await.expect("given back");
                    del(&fixture, &["mail_queue"]).await;
                }
                _ => del(&fixture, &["mail_queue"]).await,
            }
            if place == "list, and others came" {
                fixture.push("mail_queue", mail("other")).await;
                // Nobody can know yet, but once everything that waits was taken.
                assert_eq!(fixture.claim(ONE, 10).await.len(), 1);
            }
            assert!(!is_blocked(&fixture, raw).await, "{place}, raw {raw}");
            // It is not free twice.
            assert!(is_blocked(&fixture, raw).await, "{place}, raw {raw}");
        }
    }
}

#[tokio::test]
async fn an_id_whose_mail_is_anywhere_stays_taken() {
    const HOLD: RecoverOptions =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };
    for place in ["list", "claimed", "sending", "held", "given back", "recovered", "released", "delivered", "taken"] {
        let fixture = fixture();
        if place != "list" {
            // All lists were seen empty before and after: that alone says nothing.
            assert!(fixture.claim(ONE, 1).await.is_empty());
        }
        fixture.queue.enqueue(keyed("one").as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        if place == "taken" {
            // What a worker leaves that died between the two scripts of a claim.
            let entry: Vec<u8> = fixture.store.query(cmd("RPOP").arg("mail_queue"), LIMIT).await.expect("RPOP");
            for (key, value) in [("claims", entry.as_slice()), ("stages", b"taken 1 n")] {
                let key = format!("{{mail_queue}}:{key}:{ONE}");
                let _: i64 = fixture.store.query(cmd("HSET").arg(key).arg("c1").arg(value), LIMIT).await.expect("HSET");
            }
            let _: i64 = fixture
                .store
                .query(cmd("HSET").arg("{mail_queue}:processes").arg(ONE).arg("pod"), LIMIT)
                .await
                .expect("HSET");
        } else if place != "list" {
            let claim = fixture.claim_one(ONE).await;
            assert!(fixture.claim(ONE, 1).await.is_empty());
            match place {
                "sending" => drop(fixture.advance(ONE, &claim, Stage::Sending).await),
                "held" | "released" => drop(fixture.settle(ONE, &claim, HELD()).await),
                "given back" => {
                    fixture.queue.requeue_claim(ONE, &claim.claim_id, NOW).await.expect("given back");
                }
                "recovered" => drop(fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered")),
                "delivered" => drop(fixture.settle(ONE, &claim, delivered()).await),
                _ => {}
            }
            if place == "released" {
                fixture.queue.held_release(&Filter::default(), 1, NOW).await.expect("released");
            }
        }
        assert!(fixture.queue.enqueue(keyed("two").as_bytes(), NO_LIMITS, NOW).await.expect("taken").duplicate);
        fixture.push("mail_queue", keyed("three")).await;
        let again: Vec<String> = fixture.claim(TWO, 10).await.into_iter().map(|claim| claim.header.id).collect();
        assert!(again.iter().all(|id| id == "one"), "{place}: {again:?}");
        assert!(fixture.queue.audit().await.expect("audit").duplicates >= 2, "{place}");
    }
}
