//! Claims of a process whose memory has no place for everything that waits.

use std::time::Duration;

use mailrelay::queue::Room;
use tokio::time::Instant;

use super::support::*;

/// A mail of 200 KB that fills a room of 1 MiB.
fn large(id: &str) -> String {
    mail_with(id, &format!(r#""html":"{}""#, "x".repeat(200_000)))
}

fn cramped() -> Fixture {
    let mut fixture = fixture();
    fixture.queue = fixture.queue.within(Room::of(1024 * 1024));
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
    let other = fixture.queue.clone().within(Room::of(1024 * 1024));
    assert_eq!(ids(&other.claim(TWO, "pod", 5, NOW).await.expect("claim").mails), ["third"], "another worker has room");
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
