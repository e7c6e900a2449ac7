//! Retries, dead letters and what people do with them.

use std::time::Duration;

use mailrelay::{
    api::Retry,
    mail::UnixMillis,
    queue::{Action, DeadLetter, Failure, Filter, Schedule, Settlement, next_step},
};
use redis::cmd;

use super::support::*;

fn failure(schedule: Schedule) -> Failure {
    Failure { schedule, reason: "Greylisted".into(), reply: "451 4.7.1 later".into(), delay: None }
}

#[tokio::test]
async fn retries_are_used_up_then_a_person_drives_it_again() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let mut now = NOW;
    for attempt in 0..4 {
        fixture.queue.promote_due(now, 10).await.expect("promoted");
        let claim = fixture.queue.claim(ONE, "pod", 1, now).await.expect("claim").mails.remove(0);
        assert_eq!(claim.header.attempts, attempt);
        let next = next_step(&claim.header, failure(Schedule::Judged), &Retry::default(), now, 0.5);
        fixture.settle(ONE, &claim, next).await;
        now = now.after(Duration::from_secs(100));
    }
    let letter = fixture.queue.dead_show("one").await.expect("shown").expect("a dead letter");
    assert_eq!((letter.reason.as_str(), letter.attempts, letter.tries.len()), ("RetriesExhausted", 3, 4));
    assert_eq!(letter.payload.as_deref(), Some(mail("one").as_str()));
    assert_eq!(fixture.queue.dead_requeue(&Filter::id("one"), 1, now).await.expect("requeued").done, 1);
    let claim = fixture.claim_one(ONE).await;
    assert_eq!((claim.header.attempts, claim.header.id.as_str()), (0, "one"));
    fixture.settle(ONE, &claim, delivered()).await;
    let audit = fixture.balanced().await;
    assert_eq!((audit.delivered, audit.dead), (1, 0));
}

#[tokio::test]
async fn an_outage_costs_no_attempt() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let mut now = NOW;
    for _ in 0..20 {
        fixture.queue.promote_due(now, 10).await.expect("promoted");
        let claim = fixture.queue.claim(ONE, "pod", 1, now).await.expect("claim").mails.remove(0);
        assert_eq!(claim.header.attempts, 0);
        let next = next_step(&claim.header, failure(Schedule::Free), &Retry::default(), now, 1.0);
        assert!(matches!(&next, Settlement::Delayed { wait, .. } if *wait <= Duration::from_secs(72)));
        fixture.settle(ONE, &claim, next).await;
        now = now.after(Duration::from_secs(100));
    }
    assert_eq!(fixture.balanced().await.delayed, 1);
}

#[tokio::test]
async fn dead_letters_are_filtered_and_discarded_in_bulk() {
    let fixture = fixture();
    for number in 0..250 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    for (number, claim) in fixture.claim(ONE, 250).await.iter().enumerate() {
        fixture.settle(ONE, claim, dead(if number % 2 == 0 { "Policy" } else { "TooLarge" })).await;
    }
    let policy = Filter { reason: Some("policy".into()), ..Filter::default() };
    assert_eq!(fixture.queue.dead_list(&policy, 1_000).await.expect("listed").len(), 125);
    let oldest = fixture.queue.dead_list(&Filter::default(), 2).await.expect("listed");
    assert_eq!(oldest.iter().map(|letter| letter.id.as_str()).collect::<Vec<_>>(), ["m0", "m1"]);
    assert_eq!(fixture.queue.dead_discard(&policy, 100, NOW).await.expect("discarded").done, 100);
    let old = Filter { before: Some(NOW), ..Filter::default() };
    assert_eq!(fixture.queue.dead_discard(&old, 100, NOW).await.expect("discarded").done, 0, "none is that old");
    assert_eq!(fixture.queue.dead_requeue(&Filter::default(), 1_000, NOW).await.expect("requeued").done, 150);
    let audit = fixture.balanced().await;
    assert_eq!((audit.discarded, audit.queued, audit.dead), (100, 150, 0));
}

#[tokio::test]
async fn what_others_put_into_our_lists_is_shown_and_left_alone() {
    let fixture = fixture();
    for entry in [&b"\xff\x00"[..], b"{}", b"[]", b"{\"payload\":7}"] {
        fixture.push("mail_dead_letter_queue", entry).await;
    }
    let letters = fixture.queue.dead_list(&Filter::default(), 10).await.expect("listed");
    assert!(letters.iter().all(|letter| letter.reason == "Malformed"), "{letters:?}");
    let bulk = fixture.queue.dead_requeue(&Filter::default(), 10, NOW).await.expect("skipped");
    assert_eq!((bulk.done, bulk.skipped), (0, 4));
    let _: i64 =
        fixture.store.query(cmd("HSET").arg("{mail_queue}:held").arg("x").arg("rubbish"), LIMIT).await.expect("HSET");
    assert_eq!(fixture.queue.held_list(&Filter::default(), 10).await.expect("listed")[0].reason, "Malformed");
    let _: i64 =
        fixture.store.query(cmd("ZADD").arg("{mail_queue}:delayed").arg(1).arg("x"), LIMIT).await.expect("ZADD");
    assert_eq!(fixture.queue.promote_due(NOW, 10).await.expect("nothing"), 0);
    fixture.queue.depths(NOW).await.expect("depths");
}

#[tokio::test]
async fn a_letter_whose_id_another_mail_has_by_now_is_driven_again_as_a_repeat_of_that_and_counted_once() {
    for ended in [false, true] {
        let fixture = fixture();
        fixture.push("{mail_queue}:high", mail("one")).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, dead("Policy")).await;
        fixture.push("mail_queue", mail("one")).await;
        let other = fixture.claim_one(ONE).await;
        if ended {
            fixture.settle(ONE, &other, delivered()).await;
        }
        assert_eq!(fixture.queue.dead_requeue(&Filter::default(), 1, NOW).await.expect("requeued").done, 1);
        fixture.balanced().await;
        assert_eq!(fixture.length("{mail_queue}:high").await, 1, "it keeps its priority");
        assert!(fixture.claim(TWO, 1).await.is_empty(), "the other one stands for it");
        let audit = fixture.balanced().await;
        assert_eq!((audit.accepted, audit.duplicates), (2, 1), "{audit:?}");
    }
}

#[tokio::test]
async fn letters_of_one_id_that_are_driven_again_at_once_are_one_mail_and_counted_once_each() {
    let fixture = fixture();
    for _ in 0..3 {
        fixture.push("mail_queue", mail("one")).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, dead("Policy")).await;
    }
    assert_eq!(fixture.queue.dead_requeue(&Filter::default(), 3, NOW).await.expect("requeued").done, 3);
    fixture.balanced().await;
    assert_eq!(fixture.claim(TWO, 3).await.len(), 1);
    let audit = fixture.balanced().await;
    assert_eq!((audit.accepted, audit.duplicates, audit.in_flight), (3, 2, 1), "{audit:?}");
}

#[tokio::test]
async fn two_people_at_the_same_dead_letters_decide_each_once() {
    let fixture = fixture();
    for number in 0..300 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    for (number, claim) in fixture.claim(ONE, 300).await.iter().enumerate() {
        fixture.settle(ONE, claim, dead(if number % 3 == 0 { "Policy" } else { "TooLarge" })).await;
    }
    let policy = Filter { reason: Some("Policy".into()), ..Filter::default() };
    let everything = Filter::default();
    let (one, other) = tokio::join!(
        fixture.queue.dead_discard(&policy, usize::MAX, NOW),
        fixture.queue.dead_requeue(&everything, usize::MAX, NOW)
    );
    let (one, other) = (one.expect("discarded"), other.expect("requeued"));
    assert_eq!((one.done + other.done, one.skipped, other.skipped), (300, 0, 0), "{one:?} {other:?}");
    let audit = fixture.balanced().await;
    assert_eq!((audit.dead, audit.discarded, audit.queued), (0, one.done, other.done));
}

/// Dead letters m0, m1, ..., each third of them for another reason.
async fn many_letters(fixture: &Fixture, count: usize) {
    for number in 0..count {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    for (number, claim) in fixture.claim(ONE, count).await.iter().enumerate() {
        fixture.settle(ONE, claim, dead(if number % 3 == 0 { "Policy" } else { "TooLarge" })).await;
    }
}

#[tokio::test]
async fn a_bulk_requeue_ends_though_its_letters_die_again() {
    let fixture = fixture();
    many_letters(&fixture, 100).await;
    let mut again = 0;
    let done = fixture
        .queue
        .dead_decide(Action::Requeue, &Filter::default(), usize::MAX, NOW, async |_| {
            assert!(again < 1_000, "it takes what died meanwhile");
            for claim in fixture.claim(ONE, 10).await {
                fixture.settle(ONE, &claim, dead("Policy")).await;
                again += 1;
            }
            8
        })
        .await
        .expect("requeued");
    assert_eq!((done.done, done.skipped), (100, 0));
    assert!(again >= 90, "{again} died again");
    let audit = fixture.balanced().await;
    assert_eq!((audit.dead, audit.queued), (again, 100 - again));
}

#[tokio::test]
async fn a_bulk_decision_that_is_stopped_leaves_each_letter_in_one_place() {
    let fixture = fixture();
    many_letters(&fixture, 100).await;
    for action in [Action::Requeue, Action::Discard] {
        let mut asked = 0;
        let pace = async |_| {
            asked += 1;
            if asked > 3 { 0 } else { 5 }
        };
        let done = fixture.queue.dead_decide(action, &Filter::default(), usize::MAX, NOW, pace).await.expect("decided");
        assert_eq!((done.done, done.skipped), (15, 0), "{action:?}");
    }
    let audit = fixture.balanced().await;
    assert_eq!((audit.queued, audit.discarded, audit.dead), (15, 15, 70));
    let ids: Vec<String> = fixture.letters().await.into_iter().rev().map(|letter| letter.id).collect();
    assert_eq!(ids, (30..100).map(|number| format!("m{number}")).collect::<Vec<_>>(), "the oldest went");
}

#[tokio::test]
async fn letters_that_others_take_meanwhile_hide_none_that_fit() {
    for taken in [60, 100, 120] {
        let fixture = fixture();
        many_letters(&fixture, 300).await;
        let mut pages = 0;
        // Somebody else discards the oldest while we look for one that is not among them.
        let pace = async |_| {
            pages += 1;
            if pages == 2 {
                for _ in 0..taken {
                    let _: Vec<u8> =
                        fixture.store.query(cmd("RPOP").arg("mail_dead_letter_queue"), LIMIT).await.expect("RPOP");
                }
            }
            1
        };
        let wanted = Filter::id("m130");
        let done = fixture.queue.dead_decide(Action::Discard, &wanted, 1, NOW, pace).await.expect("decided");
        assert_eq!(done.done, 1, "{taken} were taken");
    }
}

#[tokio::test]
async fn letters_are_chosen_by_what_was_said_of_them() {
    let fixture = fixture();
    many_letters(&fixture, 30).await;
    let held_in = |text: &str| Filter { text: Some(text.into()), ..Filter::default() };
    let found = async |text: &str| fixture.queue.dead_list(&held_in(text), 100).await.expect("listed").len();
    assert_eq!(found("554 NO").await, 30);
    assert_eq!(found("M7").await, 1);
    assert_eq!(found("hello").await, 0, "payloads are not looked at");
    assert_eq!(fixture.queue.dead_discard(&held_in("m2"), 100, NOW).await.expect("discarded").done, 11);
    let both = Filter { reason: Some("Policy".into()), ..held_in("m1") };
    assert_eq!(fixture.queue.dead_requeue(&both, 100, NOW).await.expect("requeued").done, 3, "m12, m15, m18");
    fixture.balanced().await;
}

#[tokio::test]
async fn a_dead_letter_that_is_no_mail_has_the_id_of_its_producer() {
    let fixture = fixture();
    fixture.push("mail_queue", r#"{"id":"order-7","from":"nobody","to":"b@example.org","text":"x"}"#).await;
    fixture.push("mail_queue", r#"{"id":"order-8","text":"cut of"#).await;
    assert!(fixture.claim(ONE, 2).await.is_empty());
    for id in ["order-7", "order-8"] {
        let letter = fixture.queue.dead_show(id).await.expect("shown").expect("found by its id");
        assert_eq!(letter.reason, "InvalidMail");
        let state = fixture.queue.status(id).await.expect("asked").expect("known").state;
        assert_eq!(state, "dead");
    }
}

#[test]
fn a_dead_letter_keeps_bytes_that_are_no_text() {
    let letter = DeadLetter::decode(b"\xff\xfe");
    assert_eq!((letter.payload_bytes().as_deref(), letter.at), (Some(&b"\xff\xfe"[..]), UnixMillis(0)));
}
