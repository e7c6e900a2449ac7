//! Claims of a process whose memory has no place for everything that waits.

use std::time::Duration;

use mailrelay::queue::Room;
use redis::cmd;
use tokio::time::Instant;

use super::support::*;

/// Beside one large mail there is none for another.
const ROOM: usize = 1024 * 1024;

/// A mail of 200 KB, which takes 600 KB of it.
fn large(id: &str) -> String {
    mail_with(id, &format!(r#""html":"{}""#, "x".repeat(200_000)))
}

fn cramped() -> Fixture {
    let mut fixture = fixture();
    fixture.queue = fixture.queue.within(Room::of(ROOM));
    fixture
}

fn ids(claims: &[mailrelay::queue::Claimed]) -> Vec<&str> {
    claims.iter().map(|claim| &*claim.header.id).collect()
}

#[tokio::test]
async fn a_large_mail_waits_for_the_one_before_it_and_holds_up_nothing() {
    let fixture = cramped();
    for id in ["first", "second"] {
        fixture.push("mail_queue", large(id)).await;
    }
    let first = fixture.claim(ONE, 5).await;
    assert_eq!(ids(&first), ["first"]);
    fixture.push("{mail_queue}:low", mail("small")).await;
    let small = fixture.claim(ONE, 5).await;
    assert_eq!(ids(&small), ["small"], "it lies in another list");
    assert_eq!(fixture.claim(ONE, 5).await, []);
    assert_eq!(fixture.balanced().await.queued, 1);
    drop(first);
    let second = fixture.claim(ONE, 5).await;
    assert_eq!(ids(&second), ["second"], "small mail in hand is nothing that it waits for");
    fixture.push("mail_queue", large("third")).await;
    assert_eq!(fixture.claim(ONE, 5).await, []);
    let other = fixture.queue.clone().within(Room::of(ROOM));
    assert_eq!(ids(&other.claim(TWO, "pod", 5, NOW).await.expect("claim").mails), ["third"], "another worker has room");
}

#[tokio::test]
async fn small_mail_passes_a_large_one_that_lies_where_those_who_wait_look_first() {
    let fixture = cramped();
    fixture.push("mail_queue", large("first")).await;
    let first = fixture.claim(ONE, 1).await;
    for mail in [large("second"), mail("small"), large("third")] {
        fixture.push("{mail_queue}:arrived", mail).await;
    }
    assert_eq!(ids(&fixture.claim(ONE, 5).await), ["small"]);
    drop(first);
    for id in ["second", "third"] {
        assert_eq!(ids(&fixture.claim(ONE, 1).await), [id]);
    }
    assert_eq!(fixture.balanced().await.in_flight, 4);
}

#[tokio::test]
async fn what_lies_under_bare_ids_is_not_read_before_there_is_room_for_it() {
    let fixture = cramped();
    for id in ["one", "two", "three"] {
        let set = cmd("SET").arg(format!("mail:{id}")).arg(large(id)).to_owned();
        let () = fixture.store.query(&set, LIMIT).await.expect("SET");
        fixture.push("mail_queue", id).await;
    }
    fixture.push("mail_queue", mail("small")).await;
    let batch = fixture.claim(ONE, 5).await;
    assert_eq!(ids(&batch), ["one", "small"]);
    assert_eq!(fixture.balanced().await.in_flight, 4, "the others are claimed and not read");
    assert_eq!(fixture.queue.return_lost_claims(ONE, NOW).await.expect("returned"), 2);
    let other = fixture.queue.clone().within(Room::of(ROOM));
    assert_eq!(ids(&other.claim(TWO, "pod", 1, NOW).await.expect("claim").mails).len(), 1, "another worker has room");
    drop(batch);
    assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
    let endless = cmd("SETRANGE").arg("mail:endless").arg(40 << 20).arg("x").to_owned();
    let _: i64 = fixture.store.query(&endless, LIMIT).await.expect("SETRANGE");
    fixture.push("mail_queue", "endless").await;
    assert!(fixture.claim(ONE, 5).await.is_empty());
    let letter = fixture.queue.dead_show("endless").await.expect("shown").expect("a dead letter");
    assert!(letter.reason == "PayloadUnreadable" && letter.reply.contains("41943041 bytes"), "{letter:?}");
    fixture.balanced().await;
}

#[tokio::test]
async fn a_claim_that_takes_long_to_read_is_known_all_the_time() {
    let fixture = fixture();
    assert_eq!(fixture.claim(ONE, 1).await, [], "from now on Redis knows the script");
    fixture.push("mail_queue", large("one")).await;
    fixture.redis.pause();
    let claim = tokio::time::timeout(Duration::from_millis(100), fixture.queue.claim(ONE, "pod", 1, NOW));
    assert!(claim.await.is_err());
    fixture.redis.unpause();
    let claims = testkit::eventually("it is claimed", async || {
        let claims = fixture.queue.claims_of(ONE).await.expect("claims");
        if claims.is_empty() { Err("not yet") } else { Ok(claims) }
    })
    .await;
    assert!(fixture.queue.expects(&claims[0]), "an answer that was lost");
    assert_eq!(fixture.claim(ONE, 1).await.len(), 1);
    assert!(!fixture.queue.expects(&claims[0]));
}

#[tokio::test]
async fn a_lost_claim_of_a_large_mail_is_kept_until_there_is_room_however_long_that_takes() {
    let fixture = cramped();
    fixture.push("mail_queue", large("first")).await;
    let first = fixture.claim(ONE, 1).await;
    // A claim that may be of any length, whose answer is lost.
    let elsewhere = fixture.queue.clone().within(Room::default());
    fixture.push("mail_queue", large("lost")).await;
    fixture.redis.pause();
    let lost = tokio::time::timeout(Duration::from_millis(200), elsewhere.claim(ONE, "pod", 3, NOW)).await;
    assert!(lost.is_err(), "no answer while Redis is stopped");
    fixture.redis.unpause();
    let deadline = Instant::now() + Duration::from_secs(5);
    while fixture.balanced().await.in_flight < 2 {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(fixture.claim(ONE, 3).await, [], "seen, and not read");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(600)).await;
    tokio::time::resume();
    fixture.push("mail_queue", mail("small")).await;
    assert_eq!(ids(&fixture.claim(ONE, 3).await), ["small"]);
    drop(first);
    assert_eq!(ids(&fixture.claim(ONE, 3).await), ["lost"]);
    assert_eq!(fixture.balanced().await.in_flight, 3);
}
