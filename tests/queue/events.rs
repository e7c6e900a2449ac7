//! The stream of outcomes, as producers read it.

use std::time::Duration;

use mailrelay::{
    api::UnknownOutcome,
    queue::{Filter, Outcome, RecoverOptions, Settlement, Stage},
};
use redis::cmd;

use super::support::*;

async fn history(fixture: &Fixture, id: &str) -> Vec<Outcome> {
    fixture.queue.history(id, 100).await.expect("history")
}

fn outcomes(history: &[Outcome]) -> Vec<&str> {
    history.iter().map(|event| &*event.outcome).collect()
}

#[tokio::test]
async fn each_outcome_of_a_mail_is_told_with_its_message_id_oldest_first() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    let message_id = claim.header.message_id.clone();
    fixture.settle(ONE, &claim, delayed(Duration::ZERO)).await;
    fixture.queue.promote_due(NOW, 10).await.expect("promoted");
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, dead("Policy")).await;
    fixture.queue.dead_requeue(&Filter::id("one"), 1, NOW).await.expect("requeued");
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() }).await;
    fixture.queue.held_release(&Filter::id("one"), 1, NOW).await.expect("released");
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delivered()).await;
    let history = history(&fixture, "one").await;
    assert_eq!(outcomes(&history), ["delayed", "dead", "queued", "held", "queued", "delivered"]);
    assert!(history.iter().all(|event| event.message_id == message_id && event.at == NOW), "{history:?}");
    assert_eq!((&*history[0].reason, &*history[0].reply), ("Greylisted", "451 later"));
    assert_eq!((&*history[5].reason, &*history[5].reply), ("", "250 2.0.0 queued"));
}

#[tokio::test]
async fn the_status_of_a_mail_has_its_message_id_and_last_reply_from_its_outcomes() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.settle(ONE, &claim, delivered()).await;
    // A repeat under the same id tells nothing of the first.
    fixture.push("mail_queue", mail("one")).await;
    assert!(fixture.claim(ONE, 1).await.is_empty());
    let status = fixture.queue.status("one").await.expect("status").expect("known");
    assert_eq!(status.message_id, Some(claim.header.message_id));
    assert_eq!((status.state.as_str(), status.reply.as_deref()), ("delivered", Some("250 2.0.0 queued")));
}

#[tokio::test]
async fn what_recovery_and_people_decide_is_told_with_the_message_id() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.advance(ONE, &claim, Stage::Committing).await;
    let options =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };
    fixture.queue.recover(ONE, &options, NOW).await.expect("recovered");
    fixture.queue.held_discard(&Filter::id("one"), 1, NOW).await.expect("discarded");
    let history = history(&fixture, "one").await;
    assert_eq!(outcomes(&history), ["held", "discarded"]);
    assert!(history.iter().all(|event| event.message_id == claim.header.message_id), "{history:?}");
}

#[tokio::test]
async fn a_reply_that_comes_when_the_mail_lies_in_a_list_again_is_an_outcome() {
    let fixture = fixture();
    fixture.push("mail_queue", mail("one")).await;
    let claim = fixture.claim_one(ONE).await;
    fixture.advance(ONE, &claim, Stage::Committing).await;
    let options =
        RecoverOptions { unknown: UnknownOutcome::Resend, fence_changed: false, crashed: false, out_of_memory: false };
    fixture.queue.recover(ONE, &options, NOW).await.expect("recovered");
    fixture.queue.promote_due(NOW.after(Duration::from_secs(60)), 10).await.expect("promoted");
    fixture.settle(ONE, &claim, delivered()).await;
    assert!(fixture.claim(TWO, 1).await.is_empty(), "it is not sent again");
    let history = history(&fixture, "one").await;
    assert_eq!(outcomes(&history), ["resend", "delivered"]);
    assert_eq!(history[1].reply, "250 2.0.0 queued");
}

#[tokio::test]
async fn a_history_goes_through_a_long_stream_and_has_the_newest_of_a_mail() {
    let fixture = fixture();
    let event = |id: String| {
        let mut command = cmd("XADD");
        command.arg("{mail_queue}:events").arg("*").arg(&["id", &id, "outcome", "delayed", "at", "1", "later", "x"]);
        command
    };
    for number in 0..1_200 {
        let id = if number % 300 == 0 { "one".to_owned() } else { format!("m{number}") };
        let _: String = fixture.store.query(&event(id), LIMIT).await.expect("XADD");
    }
    let all = history(&fixture, "one").await;
    assert_eq!(all.len(), 4);
    assert_eq!(fixture.queue.history("one", 3).await.expect("history"), all[1..]);
    assert_eq!(history(&fixture, "nobody").await, []);
}
