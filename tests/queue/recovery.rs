//! What becomes of the claims of a process that died.

use std::time::Duration;

use mailrelay::{
    api::UnknownOutcome,
    queue::{Advance, Filter, RecoverOptions, Recovery, Settled, Stage},
};

use super::support::*;

const HOLD: RecoverOptions =
    RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };
const CRASHED: RecoverOptions = RecoverOptions { crashed: true, ..HOLD };
const RESEND: RecoverOptions = RecoverOptions { unknown: UnknownOutcome::Resend, ..HOLD };

#[tokio::test]
async fn before_committing_mail_goes_back_and_committing_is_held() {
    let fixture = fixture();
    for id in ["claimed", "sending", "committing"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claims = fixture.claim(ONE, 3).await;
    fixture.advance(ONE, &claims[1], Stage::Sending).await;
    fixture.advance(ONE, &claims[2], Stage::Committing).await;
    let recovery = fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered");
    let decisions =
        [((Stage::Claimed, "requeued"), 1), ((Stage::Sending, "requeued"), 1), ((Stage::Committing, "held"), 1)];
    assert_eq!(recovery, Recovery { requeued: 2, held: 1, decisions: decisions.into(), ..Recovery::default() });
    assert!(fixture.queue.processes().await.expect("processes").is_empty());
    let audit = fixture.balanced().await;
    assert_eq!((audit.queued, audit.held, audit.in_flight), (2, 1, 0));
    for claim in fixture.claim(TWO, 10).await {
        assert_eq!((claim.header.attempts, claim.header.crashes, claim.alone), (0, 0, false));
    }
    // The old worker wakes up: it may not go on with what others have.
    assert_eq!(fixture.advance(ONE, &claims[1], Stage::Committing).await, Advance::Lost);
    assert_eq!(fixture.settle(ONE, &claims[0], delivered()).await, Settled::Lost);
    let held = fixture.queue.held_list(&Filter::default(), 10).await.expect("listed");
    assert_eq!((held[0].id.as_str(), held[0].process.as_str()), ("committing", ONE));
    let counters = fixture.queue.counters().await.expect("counters");
    assert_eq!(counters["recovered.sending.queue"], 1);
    assert_eq!(counters["recovered.committing.held"], 1);
    assert_eq!(fixture.queue.recover(ONE, &HOLD, NOW).await.expect("again"), Recovery::default());
}

#[tokio::test]
async fn of_a_process_that_lives_only_the_claims_that_it_does_not_know_are_resolved() {
    let fixture = fixture();
    for id in ["mine", "taken", "committing"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claims = fixture.claim(ONE, 3).await;
    fixture.advance(ONE, &claims[2], Stage::Committing).await;
    let ids = fixture.queue.claims_of(ONE).await.expect("listed");
    let strangers: Vec<String> = ids.into_iter().filter(|id| id != claims[0].claim_id.as_str()).collect();
    assert_eq!(strangers.len(), 2);
    let unknown = RecoverOptions { fence_changed: true, ..HOLD };
    let gone = ["nothing".to_owned()];
    let none = fixture.queue.recover_claims(ONE, &gone, &unknown, NOW).await.expect("nothing to do");
    assert_eq!(none, Recovery::default());
    let recovery = fixture.queue.recover_claims(ONE, &strangers, &unknown, NOW).await.expect("recovered");
    let decisions = [((Stage::Claimed, "held"), 1), ((Stage::Committing, "held"), 1)];
    assert_eq!(recovery, Recovery { held: 2, decisions: decisions.into(), ..Recovery::default() });
    assert_eq!(fixture.settle(ONE, &claims[0], delivered()).await, Settled::Done);
    let audit = fixture.balanced().await;
    assert_eq!((audit.delivered, audit.held, audit.in_flight), (1, 2, 0));
}

#[tokio::test]
async fn a_sending_that_arrives_late_does_not_take_committing_back() {
    // The worker writes `sending` beside the transaction: a stopped Redis may read it, on an older connection, after the
    // `committing` that followed on a newer one.
    let fixture = fixture();
    fixture.push("mail_queue", mail("late")).await;
    let claims = fixture.claim(ONE, 1).await;
    fixture.advance(ONE, &claims[0], Stage::Committing).await;
    assert_eq!(fixture.advance(ONE, &claims[0], Stage::Sending).await, Advance::Lost);
    let recovery = fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered");
    assert_eq!(recovery.held, 1);
}

#[tokio::test]
async fn a_process_that_died_between_taking_and_looking_loses_nothing() {
    let fixture = fixture();
    fixture.push("{mail_queue}:high", mail("raw")).await;
    // What the first of the claim's two scripts leaves.
    let _: i64 = fixture
        .store
        .query(redis::cmd("HINCRBY").arg("{mail_queue}:counters").arg("accepted").arg(1), LIMIT)
        .await
        .expect("counted");
    let entry: Vec<u8> = fixture.store.query(redis::cmd("RPOP").arg("{mail_queue}:high"), LIMIT).await.expect("RPOP");
    for (key, value) in [("claims", entry.as_slice()), ("stages", b"taken 1 h")] {
        let key = format!("{{mail_queue}}:{key}:{ONE}");
        let _: i64 = fixture.store.query(redis::cmd("HSET").arg(key).arg("c1").arg(value), LIMIT).await.expect("HSET");
    }
    let _: i64 = fixture
        .store
        .query(redis::cmd("HSET").arg("{mail_queue}:processes").arg(ONE).arg("pod"), LIMIT)
        .await
        .expect("HSET");
    assert_eq!(fixture.balanced().await.in_flight, 1);
    let recovery = fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered");
    assert_eq!(recovery.requeued, 1);
    assert_eq!(fixture.length("{mail_queue}:high").await, 1, "back to where it came from");
    assert_eq!(fixture.balanced().await.accepted, 1);
    assert_eq!(fixture.claim_one(TWO).await.header.id, "raw");
    fixture.balanced().await;
}

#[tokio::test]
async fn a_late_reply_moves_a_held_mail_to_its_true_outcome() {
    let fixture = fixture();
    for id in ["ok", "no", "gone"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claims = fixture.claim(ONE, 3).await;
    for claim in &claims {
        fixture.advance(ONE, claim, Stage::Committing).await;
    }
    assert_eq!(fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered").held, 3);
    assert_eq!(fixture.settle(ONE, &claims[0], delivered()).await, Settled::Late);
    assert_eq!(fixture.settle(ONE, &claims[1], dead("Policy")).await, Settled::Late);
    let released = fixture.queue.held_release(&Filter::id("gone"), 10, NOW).await.expect("released");
    assert_eq!(released.done, 1);
    assert_eq!(fixture.settle(ONE, &claims[2], delivered()).await, Settled::Lost, "a person decided");
    let audit = fixture.balanced().await;
    assert_eq!((audit.delivered, audit.dead, audit.queued, audit.held), (1, 1, 1, 0));
    assert_eq!(fixture.claim_one(TWO).await.header.message_id, claims[2].header.message_id);
}

#[tokio::test]
async fn a_resend_keeps_the_message_id_unless_the_late_reply_comes_first() {
    let fixture = fixture();
    for id in ["one", "two", "three"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claims = fixture.claim(ONE, 3).await;
    for claim in &claims {
        fixture.advance(ONE, claim, Stage::Committing).await;
    }
    assert_eq!(fixture.queue.recover(ONE, &RESEND, NOW).await.expect("recovered").resent, 3);
    assert_eq!(fixture.settle(ONE, &claims[0], delivered()).await, Settled::Late);
    let later = NOW.after(Duration::from_secs(10));
    assert_eq!(fixture.queue.promote_due(later, 10).await.expect("promoted"), 2);
    // It lies in its list again, and still nobody has it.
    assert_eq!(fixture.settle(ONE, &claims[1], delivered()).await, Settled::Late);
    fixture.balanced().await;
    let claimed = fixture.claim(TWO, 10).await;
    assert_eq!(claimed.len(), 1);
    assert_eq!(claimed[0].header.message_id, claims[2].header.message_id);
    assert_eq!(fixture.settle(ONE, &claims[2], delivered()).await, Settled::Lost);
    let audit = fixture.balanced().await;
    assert_eq!((audit.delivered, audit.in_flight), (2, 1));
}

#[tokio::test]
async fn a_mail_that_crashes_its_senders_is_sent_alone_and_then_never_again() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("poison")).await;
    for crash in 0..3 {
        let claim = fixture.claim_one(ONE).await;
        assert_eq!((claim.header.crashes, claim.alone), (crash, crash >= 2));
        fixture.advance(ONE, &claim, Stage::Sending).await;
        fixture.queue.recover(ONE, &CRASHED, NOW).await.expect("recovered");
    }
    let letter = fixture.queue.dead_show("poison").await.expect("shown").expect("a dead letter");
    assert_eq!((letter.reason.as_str(), letter.crashes), ("Poison", 3));
    assert_eq!(fixture.balanced().await.dead, 1);
}

#[tokio::test]
async fn mails_that_were_sent_together_when_processes_crashed_are_sent_alone_and_none_is_blamed() {
    let fixture = fixture();
    for number in 0..40 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    for _ in 0..10 {
        let claims = fixture.claim(ONE, 40).await;
        assert_eq!(claims.len(), 40);
        for claim in &claims {
            fixture.advance(ONE, claim, Stage::Sending).await;
        }
        assert_eq!(fixture.queue.recover(ONE, &CRASHED, NOW).await.expect("recovered").requeued, 40);
    }
    // Now each goes alone, and only one of them can be why.
    let guilty = fixture.claim_one(ONE).await;
    assert!(guilty.alone);
    fixture.advance(ONE, &guilty, Stage::Sending).await;
    assert_eq!(fixture.queue.recover(ONE, &CRASHED, NOW).await.expect("recovered").poison, 1);
    assert_eq!((fixture.balanced().await.dead, fixture.claim(ONE, 40).await.len()), (1, 39));
}

#[tokio::test]
async fn a_small_mail_is_not_blamed_when_memory_runs_out() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("small")).await;
    let killed = RecoverOptions { out_of_memory: true, ..CRASHED };
    for _ in 0..10 {
        let claim = fixture.claim_one(ONE).await;
        fixture.advance(ONE, &claim, Stage::Sending).await;
        assert_eq!(fixture.queue.recover(ONE, &killed, NOW).await.expect("recovered").requeued, 1);
    }
    assert!(fixture.claim_one(ONE).await.alone);
}

#[tokio::test]
async fn after_a_change_of_the_fence_nothing_is_sent_again_blindly() {
    let fixture = fixture();
    for id in ["claimed", "sending"] {
        fixture.push("mail_queue", mail(id)).await;
    }
    let claims = fixture.claim(ONE, 2).await;
    fixture.advance(ONE, &claims[1], Stage::Sending).await;
    let options = RecoverOptions { fence_changed: true, ..HOLD };
    assert_eq!(fixture.queue.recover(ONE, &options, NOW).await.expect("recovered").held, 2);
    let discarded = fixture.queue.held_discard(&Filter::id("sending"), 10, NOW).await.expect("discarded");
    assert_eq!(discarded.done, 1);
    let audit = fixture.balanced().await;
    assert_eq!((audit.held, audit.discarded), (1, 1));
}

#[tokio::test]
async fn two_who_recover_at_once_move_each_claim_once() {
    let fixture = fixture();
    for number in 0..300 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    assert_eq!(fixture.claim(ONE, 300).await.len(), 300);
    let (first, second) = tokio::join!(fixture.queue.recover(ONE, &HOLD, NOW), fixture.queue.recover(ONE, &HOLD, NOW));
    assert_eq!(first.expect("first").requeued + second.expect("second").requeued, 300);
    assert_eq!(fixture.balanced().await.queued, 300);
}

#[tokio::test]
async fn a_recovery_beside_a_process_that_lives_after_all_sends_nothing_twice() {
    let fixture = fixture();
    for number in 0..400 {
        fixture.push("mail_queue", mail(&format!("m{number}"))).await;
    }
    let (done, stop) = tokio::sync::oneshot::channel::<()>();
    let queue = fixture.queue.clone();
    let recovering = tokio::spawn(async move {
        let mut stop = stop;
        let mut total = 0;
        while stop.try_recv().is_err() {
            total += queue.recover(ONE, &HOLD, NOW).await.expect("recovered").requeued;
        }
        total
    });
    let mut sent = std::collections::HashMap::<String, u32>::new();
    let mut idle = 0;
    while idle < 3 {
        let claims = fixture.claim(ONE, 8).await;
        idle = if claims.is_empty() { idle + 1 } else { 0 };
        for claim in claims {
            let ready = fixture.advance(ONE, &claim, Stage::Sending).await == Advance::Done
                && fixture.advance(ONE, &claim, Stage::Committing).await == Advance::Done;
            if ready {
                *sent.entry(claim.header.id.clone()).or_default() += 1;
                let settled = fixture.settle(ONE, &claim, delivered()).await;
                assert!(matches!(settled, Settled::Done | Settled::Late), "{settled:?}");
            }
        }
    }
    done.send(()).expect("still recovering");
    assert!(recovering.await.expect("recovered") > 0, "the two met");
    assert!(sent.values().all(|times| *times == 1), "{sent:?}");
    assert_eq!((sent.len(), fixture.balanced().await.delivered), (400, 400));
}

#[tokio::test]
async fn a_claim_whose_stage_is_unreadable_is_held() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    fixture.claim(ONE, 1).await;
    let _: i64 =
        fixture.store.query(redis::cmd("DEL").arg(format!("{{mail_queue}}:stages:{ONE}")), LIMIT).await.expect("DEL");
    assert_eq!(fixture.queue.recover(ONE, &HOLD, NOW).await.expect("recovered").held, 1);
    fixture.balanced().await;
}

#[tokio::test]
async fn a_key_of_the_wrong_type_stops_a_move_but_loses_no_mail() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delayed(Duration::ZERO)).await;
    for (key, again) in [("mail_queue", "mail_queue"), ("{mail_queue}:counters", "")] {
        let aside = format!("{key}:aside");
        let _: redis::Value =
            fixture.store.query(redis::cmd("RENAME").arg(key).arg(&aside), LIMIT).await.unwrap_or(redis::Value::Nil);
        let _: () = fixture.store.query(redis::cmd("SET").arg(key).arg("x"), LIMIT).await.expect("SET");
        assert!(fixture.queue.promote_due(NOW, 1).await.is_err());
        let _: i64 = fixture.store.query(redis::cmd("DEL").arg(key), LIMIT).await.expect("DEL");
        if again.is_empty() {
            let _: () = fixture.store.query(redis::cmd("RENAME").arg(&aside).arg(key), LIMIT).await.expect("RENAME");
        }
    }
    assert_eq!(fixture.queue.promote_due(NOW, 1).await.expect("promoted"), 1);
    assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
}

/// A mail may say for itself what becomes of it when its final answer is lost; a re-drive of its dead letter keeps that.
#[tokio::test]
async fn a_mail_says_for_itself_what_becomes_of_it_when_its_outcome_is_unknown() {
    for (own, of_relay, held) in [("Hold", UnknownOutcome::Resend, 1), ("resend", UnknownOutcome::Hold, 0)] {
        let fixture = fixture();
        let mail = format!(r#"{{"id":"m","from":"a@x.org","to":"b@x.org","text":"x","unknownOutcome":"{own}"}}"#);
        fixture.push("mail_queue", mail).await;
        let claim = fixture.claim_one(ONE).await;
        fixture.settle(ONE, &claim, dead("Policy")).await;
        fixture.queue.dead_requeue(&Filter::default(), 1, NOW).await.expect("requeued");
        let claim = fixture.claim_one(ONE).await;
        fixture.advance(ONE, &claim, Stage::Committing).await;
        let options = RecoverOptions { unknown: of_relay, fence_changed: false, crashed: false, out_of_memory: false };
        fixture.queue.recover(ONE, &options, NOW).await.expect("recovered");
        let depths = fixture.queue.depths(NOW).await.expect("depths");
        assert_eq!((depths.held, depths.delayed), (held, 1 - held), "{own}");
    }
}
