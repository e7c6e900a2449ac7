//! In, out, and the idempotency in between.

use std::{collections::HashSet, time::Duration};

use mailrelay::queue::{
    Advance, EnqueueError, EnqueueLimits, OperationId, PerRecipient, Refusal, Settled, Settlement, Stage,
};
use redis::cmd;
use testkit::Persistence;

use super::support::*;

#[tokio::test]
async fn two_hundred_mails_are_claimed_once_each_by_four_processes() {
    let fixture = fixture();
    for number in 0..200 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    let mut tasks = tokio::task::JoinSet::new();
    for process in 0..4 {
        let (queue, process) = (fixture.queue.clone(), format!("{process:032}"));
        tasks.spawn(async move {
            let mut ids = Vec::new();
            loop {
                let claimed = queue.claim(&process, "pod", 3, NOW).await.expect("claim").mails;
                if claimed.is_empty() {
                    return ids;
                }
                ids.extend(claimed.into_iter().map(|claim| claim.header.id));
            }
        });
    }
    let ids: Vec<String> = tasks.join_all().await.into_iter().flatten().collect();
    assert_eq!(ids.len(), 200);
    assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 200);
    assert_eq!(fixture.balanced().await.in_flight, 200);
}

#[tokio::test]
async fn a_mail_goes_through_its_life_and_its_state_can_be_asked_for() {
    let fixture = fixture();
    let enqueued = fixture.queue.enqueue(mail("one").as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    assert_eq!((enqueued.id.as_str(), enqueued.duplicate), ("one", false));
    assert_eq!(fixture.queue.status("one").await.expect("status").expect("known").state, "queued");
    let claim = fixture.claim_one(ONE).await;
    assert_eq!(claim.header.message_id, "<one@example.com>");
    assert_eq!(claim.payload, mail("one").as_bytes());
    assert_eq!(fixture.advance(ONE, &claim, Stage::Sending).await, Advance::Done);
    assert_eq!(fixture.advance(ONE, &claim, Stage::Committing).await, Advance::Done);
    assert_eq!(fixture.queue.in_flight().await.expect("in flight")[0].stages[&Stage::Committing], 1);
    assert_eq!(fixture.settle(ONE, &claim, delivered()).await, Settled::Done);
    let status = fixture.queue.status("one").await.expect("status").expect("known");
    assert_eq!((status.state.as_str(), status.at), ("delivered", NOW));
    assert_eq!(fixture.balanced().await.delivered, 1);
    let events: u64 = fixture.store.query(cmd("XLEN").arg("{mail_queue}:events"), LIMIT).await.expect("XLEN");
    assert_eq!(events, 1);
}

#[tokio::test]
async fn the_same_settlement_twice_changes_nothing() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    let operation = OperationId::random();
    let (outcome, progress) = (dead("Policy"), PerRecipient::default());
    let settle = || fixture.queue.settle(ONE, &claim, &operation, &outcome, &progress, NOW);
    assert_eq!(settle().await.expect("first"), Settled::Done);
    let before = fixture.balanced().await;
    assert_eq!(settle().await.expect("second"), Settled::Repeated);
    assert_eq!(fixture.balanced().await, before);
    assert_eq!(fixture.settle(ONE, &claim, delivered()).await, Settled::Lost);
    assert_eq!(fixture.balanced().await, before);
}

#[tokio::test]
async fn a_second_mail_with_the_same_key_is_dropped_and_counted() {
    let fixture = fixture();
    fixture.push("mail_queue", mail_with("one", r#""idempotencyKey":"invoice 7""#)).await;
    fixture.push("mail_queue", mail_with("two", r#""idempotencyKey":"invoice 7""#)).await;
    let claimed = fixture.claim(ONE, 10).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].header.id, "one");
    let third = mail_with("three", r#""idempotencyKey":"invoice 7""#);
    let again = fixture.queue.enqueue(third.as_bytes(), NO_LIMITS, NOW).await.expect("taken");
    assert_eq!((again.id.as_str(), again.duplicate), ("one", true));
    assert_eq!(fixture.settle(ONE, &claimed[0], delivered()).await, Settled::Done);
    fixture.push("mail_queue", mail_with("four", r#""idempotencyKey":"invoice 7""#)).await;
    assert!(fixture.claim(ONE, 10).await.is_empty(), "after delivery too");
    assert_eq!(fixture.balanced().await.duplicates, 3);
}

#[tokio::test]
async fn the_same_id_twice_is_sent_once_but_a_retried_mail_meets_its_own_record() {
    let fixture = fixture();
    fixture.push("mail_queue", mail_with("one", r#""idempotencyKey":"k""#)).await;
    fixture.push("mail_queue", mail_with("one", r#""idempotencyKey":"k""#)).await;
    let claim = fixture.claim_one(ONE).await;
    assert!(fixture.claim(ONE, 5).await.is_empty());
    fixture.settle(ONE, &claim, delayed(Duration::ZERO)).await;
    assert_eq!(fixture.queue.promote_due(NOW, 10).await.expect("promoted"), 1);
    let again = fixture.claim_one(TWO).await;
    assert_eq!((again.header.id.as_str(), again.header.attempts), ("one", 1));
    assert_eq!(again.header.message_id, claim.header.message_id);
    assert_eq!(fixture.balanced().await.duplicates, 1);
}

#[tokio::test]
async fn after_dead_letter_the_key_is_free_again() {
    let fixture = fixture();
    fixture.push("mail_queue", mail_with("one", r#""idempotencyKey":"k""#)).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, dead("Policy")).await;
    fixture.push("mail_queue", mail_with("two", r#""idempotencyKey":"k""#)).await;
    assert_eq!(fixture.claim_one(ONE).await.header.id, "two");
    // The first one, driven again, now finds that the second stands for it.
    let done = fixture.queue.dead_requeue(&mailrelay::queue::Filter::default(), 10, NOW).await.expect("requeue");
    assert_eq!(done.done, 1);
    assert!(fixture.claim(ONE, 10).await.is_empty());
    assert_eq!(fixture.balanced().await.duplicates, 1);
}

#[tokio::test]
async fn a_full_queue_refuses_with_a_clear_error_and_goes_on_working() {
    let fixture = fixture();
    let limits = EnqueueLimits { max_length: 2, max_bytes: 0 };
    fixture.push("mail_queue", mail("raw")).await;
    fixture.queue.enqueue(mail("one").as_bytes(), limits, NOW).await.expect("room");
    let refused = fixture.queue.enqueue(mail("two").as_bytes(), limits, NOW).await.expect_err("full");
    assert!(matches!(refused, EnqueueError::Full { length: 2, max: 2, unit: "mails" }), "{refused}");
    assert!(refused.to_string().contains("the queue is full: 2 of 2 mails wait"), "{refused}");
    fixture.claim(ONE, 1).await;
    fixture.queue.enqueue(mail("two").as_bytes(), limits, NOW).await.expect("room again");
    let tight = EnqueueLimits { max_length: 100, max_bytes: 600 };
    let refused = fixture.queue.enqueue(mail("three").as_bytes(), tight, NOW).await.expect_err("full");
    assert!(matches!(refused, EnqueueError::Full { unit: "bytes", max: 600, .. }), "{refused}");
    fixture.balanced().await;
}

#[tokio::test]
async fn delayed_mail_comes_back_in_the_order_it_is_due() {
    let fixture = fixture();
    for (id, wait) in [("late", 3_000), ("soon", 1_000), ("next", 2_000)] {
        let at = NOW.after(Duration::from_millis(wait));
        let mail = mail_with(id, &format!(r#""notBefore":{}"#, at.0));
        if id == "next" {
            fixture.push("mail_queue", mail).await;
        } else {
            fixture.queue.enqueue(mail.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        }
    }
    assert!(fixture.claim(ONE, 10).await.is_empty());
    assert_eq!(fixture.balanced().await.delayed, 3);
    let later = NOW.after(Duration::from_millis(2_500));
    assert_eq!(fixture.queue.promote_due(later, 1).await.expect("promoted"), 1, "no more than the cap");
    for id in ["soon", "next"] {
        let claimed = fixture.queue.claim(ONE, "pod", 10, later).await.expect("claim").mails;
        assert_eq!(claimed.iter().map(|claim| claim.header.id.as_str()).collect::<Vec<_>>(), [id]);
        fixture.queue.promote_due(later, 10).await.expect("promoted");
    }
    assert_eq!(fixture.balanced().await.delayed, 1);
    fixture.balanced().await;
}

#[tokio::test]
async fn while_new_mail_waits_due_mail_takes_every_second_place_whatever_the_number_of_workers() {
    let fixture = fixture();
    for number in 0..200 {
        let early = mail_with(&format!("old{number}"), &format!(r#""notBefore":{}"#, NOW.0 + 1));
        fixture.queue.enqueue(early.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        fixture.push("mail_queue", mail(&format!("new{number}"))).await;
    }
    let later = NOW.after(Duration::from_secs(1));
    let (mut old, mut new) = (0, 0);
    for _ in 0..50 {
        let workers = (0..10).map(|_| fixture.queue.promote_due(later, 64));
        futures::future::try_join_all(workers).await.expect("promoted");
        for claim in fixture.queue.claim(ONE, "pod", 4, later).await.expect("claim").mails {
            *(if claim.header.id.starts_with("old") { &mut old } else { &mut new }) += 1;
        }
    }
    assert_eq!(old + new, 200);
    assert!((90..=100).contains(&old), "{old} of 200: at most half, and not much less");
    // With nothing new, they need not wait for one another.
    while !fixture.claim(ONE, 100).await.is_empty() {}
    assert!(fixture.queue.promote_due(later, 64).await.expect("promoted") == 64);
    assert!(fixture.queue.promote_due(later, 64).await.expect("promoted") <= 32, "one worker a tick was enough");
    fixture.balanced().await;
}

#[tokio::test]
async fn a_claim_tells_of_entries_that_yielded_nothing() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("seen")).await;
    fixture.claim(ONE, 1).await;
    let early = NOW.after(Duration::from_secs(60));
    for entry in [
        "{".into(),
        mail("seen"),
        mail_with("e", r#""expiresAt":1"#),
        mail_with("n", &format!(r#""notBefore":{}"#, early.0)),
    ] {
        fixture.push("mail_queue", entry).await;
        let batch = fixture.queue.claim(ONE, "pod", 1, NOW).await.expect("claim");
        assert_eq!((batch.mails.len(), batch.ended), (0, 1));
    }
    assert_eq!(fixture.queue.claim(ONE, "pod", 1, NOW).await.expect("claim"), mailrelay::queue::Batch::default());
}

#[tokio::test]
async fn mails_due_at_once_are_taken_in_the_order_they_were_due() {
    let fixture = fixture();
    for (id, wait) in [("c", 3), ("a", 1), ("b", 2)] {
        let mail = mail_with(id, &format!(r#""notBefore":{}"#, NOW.0 + wait));
        fixture.queue.enqueue(mail.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    }
    let later = NOW.after(Duration::from_secs(1));
    assert_eq!(fixture.queue.promote_due(later, 10).await.expect("promoted"), 3);
    fixture.queue.enqueue(mail("new").as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    let claimed = fixture.queue.claim(ONE, "pod", 10, later).await.expect("claim").mails;
    assert_eq!(claimed.iter().map(|claim| claim.header.id.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "new"]);
}

#[tokio::test]
async fn expired_mail_is_dropped_and_counted() {
    let fixture = fixture();
    fixture.push("mail_queue", mail_with("code", &format!(r#""expiresAt":{}"#, NOW.0 - 1))).await;
    fixture.push("mail_queue", mail_with("fresh", &format!(r#""expiresAt":{}"#, NOW.0 + 60_000))).await;
    let claimed = fixture.claim(ONE, 10).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].header.id, "fresh");
    assert_eq!(fixture.balanced().await.expired, 1);
    assert_eq!(fixture.queue.status("code").await.expect("status").expect("known").state, "expired");
    let past = mail_with("late", &format!(r#""expiresAt":{}"#, NOW.0 - 1));
    let refused = fixture.queue.enqueue(past.as_bytes(), NO_LIMITS, NOW).await.expect_err("past");
    assert!(refused.to_string().contains("expiresAt"), "{refused}");
}

#[tokio::test]
async fn the_urgent_overtake_and_no_priority_starves() {
    let fixture = fixture();
    for (list, letter) in [("{mail_queue}:high", "h"), ("mail_queue", "n"), ("{mail_queue}:low", "l")] {
        for number in 0..70 {
            fixture.push(list, mail(&format!("{letter}{number}"))).await;
        }
    }
    let mut taken = std::collections::HashMap::<String, u32>::new();
    for _ in 0..70 {
        let claim = fixture.claim_one(ONE).await;
        *taken.entry(claim.header.id[..1].to_owned()).or_default() += 1;
    }
    assert_eq!((taken["h"], taken["n"], taken["l"]), (40, 20, 10));
}

#[tokio::test]
async fn an_id_in_the_list_stands_for_the_json_under_its_key() {
    let fixture = fixture();
    let json = r#"{"from":"a@example.com","to":"b@example.org","text":"x"}"#;
    let _: () = fixture.store.query(cmd("SET").arg("mail:4711").arg(json), LIMIT).await.expect("SET");
    fixture.push("mail_queue", "4711").await;
    fixture.push("mail_queue", "gone-1").await;
    let claim = fixture.claim_one(ONE).await;
    assert_eq!((claim.header.id.as_str(), &*claim.payload), ("4711", b"4711".as_slice()));
    assert_eq!(claim.fetched.as_deref(), Some(json.as_bytes()));
    assert!(fixture.claim(ONE, 5).await.is_empty());
    let letter = fixture.queue.dead_show("gone-1").await.expect("shown").expect("a dead letter");
    assert_eq!(letter.reason, "PayloadMissing");
    assert!(letter.reply.contains("payload missing: nothing lies under mail:gone-1"), "{}", letter.reply);
    // A dead letter of a mail that was there keeps all of it.
    fixture.settle(ONE, &claim, dead("Policy")).await;
    let _: i64 = fixture.store.query(cmd("DEL").arg("mail:4711"), LIMIT).await.expect("DEL");
    let letter = fixture.queue.dead_show("4711").await.expect("shown").expect("a dead letter");
    assert_eq!((letter.payload.as_deref(), letter.payload_key.as_deref()), (Some(json), Some("mail:4711")));
    fixture.queue.dead_requeue(&mailrelay::queue::Filter::id("4711"), 1, NOW).await.expect("requeued");
    assert_eq!(fixture.claim_one(ONE).await.header.id, "4711");
    fixture.balanced().await;
}

#[tokio::test]
async fn addresses_in_a_reply_do_not_reach_events() {
    let fixture = fixture();
    let reply = "550 5.1.1 <ann@example.org>: no such user";
    let outcomes = [
        Settlement::Delivered { reply: reply.into() },
        Settlement::Dead { reason: "RecipientRefused".into(), reply: reply.into() },
        Settlement::Held { reason: "OutcomeUnknown".into(), reply: reply.into() },
        Settlement::Delayed {
            wait: std::time::Duration::ZERO,
            counted: mailrelay::queue::Counted::Attempt,
            reason: "x".into(),
            reply: reply.into(),
        },
    ];
    for (number, outcome) in outcomes.into_iter().enumerate() {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, outcome).await;
    }
    let events: redis::Value = fixture
        .store
        .query(cmd("XRANGE").arg("{mail_queue}:events").arg("-").arg("+"), LIMIT)
        .await
        .unwrap_or(redis::Value::Nil);
    assert!(!format!("{events:?}").contains("ann@"), "{events:?}");
    let letter = fixture.queue.dead_show("m1").await.expect("shown").expect("a dead letter");
    assert_eq!(letter.reply, reply, "who looks after it sees the words as they were");
}

#[tokio::test]
async fn malformed_entries_do_not_hold_up_good_ones() {
    let fixture = fixture();
    let bad: [&[u8]; 7] =
        [b"not json {", b"{\"from\":1}", b"\xff\xfe", b"", b"mailrelay/1 n nonsense\n{}", b"mailrelay/1 ", b"[1,2]"];
    for entry in bad {
        fixture.push("mail_queue", entry).await;
    }
    fixture.push("mail_queue", mail("good")).await;
    let claimed = fixture.claim(ONE, 20).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].header.id, "good");
    let audit = fixture.balanced().await;
    assert_eq!((audit.dead, audit.in_flight), (7, 1));
    let letters = fixture.letters().await;
    let payloads: Vec<Vec<u8>> = letters.iter().map(|letter| letter.payload_bytes().expect("kept")).collect();
    for entry in bad {
        assert!(payloads.iter().any(|payload| payload == entry), "{entry:?}");
    }
}

#[tokio::test]
async fn recipients_end_apart_but_the_mail_ends_once() {
    let fixture = fixture();
    let three = r#"{"id":"m","from":"a@example.com","to":["b@x.org","c@x.org","d@x.org"],"text":"x"}"#;
    fixture.push("mail_queue", three).await;
    let claim = fixture.claim_one(ONE).await;
    let progress = PerRecipient {
        accepted: vec!["b@x.org".into()],
        refused: vec![Refusal { recipient: "c@x.org".into(), reply: "550 5.1.1 who?".into() }],
        ..PerRecipient::default()
    };
    let settled =
        fixture.queue.settle(ONE, &claim, &OperationId::random(), &delayed(Duration::ZERO), &progress, NOW).await;
    assert_eq!(settled.expect("settled"), Settled::Done);
    fixture.queue.promote_due(NOW, 1).await.expect("promoted");
    let claim = fixture.claim_one(ONE).await;
    assert_eq!(claim.mail.recipients, ["d@x.org"]);
    fixture.settle(ONE, &claim, delivered()).await;
    let letter = fixture.queue.dead_show("m").await.expect("shown").expect("dead for one");
    assert_eq!((letter.reason.as_str(), letter.reply.as_str()), ("RecipientsRefused", "550 5.1.1 who?"));
    fixture.queue.dead_requeue(&mailrelay::queue::Filter::id("m"), 1, NOW).await.expect("requeued");
    let claim = fixture.claim_one(ONE).await;
    assert_eq!(claim.mail.recipients, ["c@x.org"]);
    fixture.settle(ONE, &claim, delivered()).await;
    let audit = fixture.balanced().await;
    assert_eq!((audit.accepted, audit.delivered), (1, 1));
}

#[tokio::test]
async fn an_unstarted_claim_goes_back_to_the_end_taken_next() {
    let fixture = fixture();
    for id in ["a", "b"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claim = fixture.claim_one(ONE).await;
    assert_eq!(fixture.queue.requeue_claim(ONE, &claim.claim_id, NOW).await.expect("given back"), Advance::Done);
    assert_eq!(fixture.queue.requeue_claim(ONE, &claim.claim_id, NOW).await.expect("again"), Advance::Lost);
    assert!(fixture.queue.processes().await.expect("processes").is_empty());
    let claim = fixture.claim_one(TWO).await;
    assert_eq!((claim.header.id.as_str(), claim.header.attempts), ("a", 0));
    fixture.advance(TWO, &claim, Stage::Committing).await;
    assert_eq!(fixture.queue.requeue_claim(TWO, &claim.claim_id, NOW).await.expect("too late"), Advance::Lost);
    assert_eq!(fixture.balanced().await.in_flight, 1);
}

#[tokio::test]
async fn what_was_taken_when_the_answer_was_lost_is_found_by_the_next_claim() {
    let fixture = fixture();
    assert!(fixture.claim(TWO, 1).await.is_empty(), "loads the script, so that the next call takes in one step");
    for number in 0..5 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    fixture.redis.pause();
    let lost = tokio::time::timeout(Duration::from_millis(200), fixture.queue.claim(ONE, "pod", 3, NOW)).await;
    assert!(lost.is_err(), "no answer while Redis is stopped");
    fixture.redis.unpause();
    // The command that was given up still takes effect; the claims are not forgotten.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while fixture.balanced().await.in_flight < 3 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    let mut ids = HashSet::new();
    while ids.len() < 5 {
        assert!(tokio::time::Instant::now() < deadline, "{ids:?}");
        ids.extend(fixture.claim(ONE, 3).await.into_iter().map(|claim| claim.header.id));
    }
    assert_eq!(fixture.balanced().await.in_flight, 5);
}

#[tokio::test]
async fn what_a_cancelled_claim_took_can_be_given_back() {
    let fixture = fixture();
    assert!(fixture.claim(TWO, 1).await.is_empty(), "loads the script");
    fixture.push("mail_queue", mail("one")).await;
    fixture.redis.pause();
    let lost = tokio::time::timeout(Duration::from_millis(200), fixture.queue.claim(ONE, "pod", 3, NOW)).await;
    assert!(lost.is_err(), "no answer while Redis is stopped");
    fixture.redis.unpause();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(5);
    while fixture.queue.return_lost_claims(ONE, NOW).await.expect("given back") == 0 {
        assert!(tokio::time::Instant::now() < deadline);
    }
    assert_eq!(fixture.balanced().await.queued, 1);
    assert_eq!(fixture.claim_one(TWO).await.header.id, "one");
}

#[tokio::test]
async fn with_redis_down_enqueue_fails_at_once_and_names_the_address() {
    let mut fixture = fixture();
    fixture.redis.crash();
    let before = std::time::Instant::now();
    let error = fixture.queue.enqueue(mail("one").as_bytes(), NO_LIMITS, NOW).await.expect_err("down");
    assert!(before.elapsed() < Duration::from_secs(1));
    assert!(error.to_string().contains(fixture.store.address()), "{error}");
}

#[tokio::test]
async fn a_restart_of_redis_loses_nothing() {
    let mut fixture = fixture_with(Persistence::Always);
    for number in 0..50 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    let first = fixture.claim(ONE, 20).await;
    for claim in &first[..10] {
        assert_eq!(fixture.settle(ONE, claim, delivered()).await, Settled::Done);
    }
    fixture.settle(ONE, &first[10], delayed(Duration::from_secs(1))).await;
    fixture.advance(ONE, &first[11], Stage::Committing).await;
    let before = fixture.balanced().await;
    fixture.redis.crash();
    assert!(fixture.queue.claim(TWO, "pod", 1, NOW).await.is_err());
    fixture.redis.resume();
    assert_eq!(fixture.balanced().await, before);
    assert_eq!(fixture.advance(ONE, &first[12], Stage::Sending).await, Advance::Done);
    assert_eq!(fixture.settle(ONE, &first[11], delivered()).await, Settled::Done);
    assert_eq!(fixture.claim(TWO, 100).await.len(), 30);
    let audit = fixture.balanced().await;
    assert_eq!((audit.accepted, audit.delivered, audit.in_flight, audit.delayed), (50, 11, 38, 1));
}

#[tokio::test]
async fn at_maxmemory_the_queue_still_drains() {
    let fixture = fixture();
    for number in 0..100 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    let _: () =
        fixture.store.query(cmd("CONFIG").arg("SET").arg("maxmemory").arg("100kb"), LIMIT).await.expect("CONFIG");
    let refused = fixture.queue.enqueue(mail("more").as_bytes(), NO_LIMITS, NOW).await.expect_err("out of memory");
    assert!(refused.to_string().contains("OOM"), "{refused}");
    for settlement in [
        delivered(),
        delayed(Duration::ZERO),
        dead("Policy"),
        Settlement::Held { reason: "x".into(), reply: "y".into() },
    ] {
        let claim = fixture.claim_one(ONE).await;
        assert_eq!(fixture.advance(ONE, &claim, Stage::Committing).await, Advance::Done);
        assert_eq!(fixture.settle(ONE, &claim, settlement).await, Settled::Done);
    }
    assert_eq!(fixture.queue.promote_due(NOW, 10).await.expect("promoted"), 1);
    fixture.balanced().await;
}

#[tokio::test]
async fn depths_tell_since_when_the_oldest_waits() {
    let fixture = fixture();
    assert_eq!(fixture.queue.depths(NOW).await.expect("depths").oldest, None);
    fixture.push("mail_queue", mail("raw1")).await;
    let second = |n: u64| NOW.after(Duration::from_secs(n));
    assert_eq!(fixture.queue.depths(second(10)).await.expect("depths").oldest, Some(second(10)), "first seen now");
    fixture.push("mail_queue", mail("raw2")).await;
    let depths = fixture.queue.depths(second(20)).await.expect("depths");
    assert_eq!((depths.pending, depths.oldest), (2, Some(second(10))));
    fixture.claim(ONE, 1).await;
    let depths = fixture.queue.depths(second(30)).await.expect("depths");
    assert_eq!((depths.in_flight, depths.oldest), (1, Some(second(20))), "the second came by then");
    fixture.claim(ONE, 1).await;
    fixture.queue.enqueue(mail("timed").as_bytes(), NO_LIMITS, second(25)).await.expect("enqueued");
    assert_eq!(fixture.queue.depths(second(40)).await.expect("depths").oldest, Some(second(25)));
}

/// A mail that the server puts off again and again is the queue's oldest; one that is meant for later waits for nothing.
#[tokio::test]
async fn a_mail_that_is_put_off_is_as_old_as_it_is() {
    let fixture = fixture();
    let second = |n: u64| NOW.after(Duration::from_secs(n));
    let oldest = async |at| fixture.queue.depths(at).await.expect("depths").oldest;
    let later = r#"{"from":"a@x.org","to":"b@x.org","text":"x","notBefore":"2099-01-01T00:00:00Z"}"#;
    fixture.queue.enqueue(later.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    assert_eq!(oldest(second(1)).await, None);
    fixture.push("mail_queue", mail("slow")).await;
    for _ in 0..3 {
        let claim = fixture.claim_one(ONE).await;
        assert_eq!(fixture.settle(ONE, &claim, delayed(Duration::from_secs(60))).await, Settled::Done);
        assert_eq!(oldest(second(30)).await, Some(claim.header.since));
        assert_eq!(fixture.queue.promote_due(second(60), 10).await.expect("promoted"), 1);
    }
    let claim = fixture.claim_one(ONE).await;
    assert_eq!(fixture.settle(ONE, &claim, delivered()).await, Settled::Done);
    assert_eq!(oldest(second(300)).await, None);
    fixture.balanced().await;
}
