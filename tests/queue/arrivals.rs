//! Waiting for mail.

use std::time::{Duration, Instant};

use mailrelay::queue::{Arrivals, Wake};
use redis::cmd;
use testkit::eventually;

use super::support::*;

async fn until_blocked(fixture: &Fixture, clients: usize) {
    eventually("the clients are blocked", async || {
        let info: String = fixture.store.query(cmd("INFO").arg("clients"), LIMIT).await.expect("INFO");
        if info.contains(&format!("blocked_clients:{clients}\r")) { Ok(()) } else { Err(info) }
    })
    .await;
}

#[tokio::test]
async fn a_waiting_worker_is_woken_by_each_list() {
    let fixture = fixture();
    let mut arrivals = Arrivals::spawn(&fixture.queue);
    for list in ["mail_queue", "{mail_queue}:high", "{mail_queue}:low"] {
        let waiting = tokio::spawn(async move {
            let wake = arrivals.wait(Duration::from_secs(5)).await;
            (arrivals, wake)
        });
        until_blocked(&fixture, 3).await;
        let before = Instant::now();
        fixture.push(list, mail(&list.replace(['{', '}'], ""))).await;
        let (back, wake) = waiting.await.expect("waited");
        arrivals = back;
        assert_eq!(wake, Wake::Arrived);
        assert!(before.elapsed() < Duration::from_millis(500));
        assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
    }
    fixture.balanced().await;
}

#[tokio::test]
async fn a_cancelled_wait_loses_no_mail_and_tells_the_next_one() {
    let fixture = fixture();
    let mut arrivals = Arrivals::spawn(&fixture.queue);
    let cancelled = tokio::time::timeout(Duration::from_millis(50), arrivals.wait(Duration::from_secs(5))).await;
    assert!(cancelled.is_err());
    until_blocked(&fixture, 3).await;
    fixture.push("mail_queue", mail("one")).await;
    assert_eq!(arrivals.wait(Duration::from_secs(5)).await, Wake::Arrived);
    assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
}

#[tokio::test]
async fn what_a_stopped_client_receives_lies_where_everyone_looks() {
    let fixture = fixture();
    // A client that blocks and never reads its answer: as stopped as one gets.
    let mut stopped = std::net::TcpStream::connect(("127.0.0.1", fixture.redis.port())).expect("connected");
    std::io::Write::write_all(&mut stopped, b"BLMOVE mail_queue {mail_queue}:arrived RIGHT LEFT 0\r\n").expect("sent");
    until_blocked(&fixture, 1).await;
    fixture.push("mail_queue", mail("one")).await;
    assert_eq!(fixture.length("{mail_queue}:arrived").await, 1);
    assert_eq!(fixture.claim_one(ONE).await.header.id, "one");
    fixture.balanced().await;
}

#[tokio::test]
async fn a_promoted_mail_wakes_whoever_waits() {
    let fixture = fixture();
    let due = mail_with("one", &format!(r#""notBefore":{}"#, NOW.0 + 1));
    fixture.queue.enqueue(due.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    let mut arrivals = Arrivals::spawn(&fixture.queue);
    let waiting = tokio::spawn(async move { arrivals.wait(Duration::from_secs(5)).await });
    until_blocked(&fixture, 3).await;
    assert_eq!(fixture.queue.promote_due(NOW.after(Duration::from_secs(1)), 1).await.expect("promoted"), 1);
    assert_eq!(waiting.await.expect("waited"), Wake::Arrived);
}

#[tokio::test]
async fn waiting_without_redis_neither_spins_nor_hangs() {
    let mut fixture = fixture();
    let mut arrivals = Arrivals::spawn(&fixture.queue);
    fixture.redis.crash();
    let before = Instant::now();
    assert_eq!(arrivals.wait(Duration::from_secs(5)).await, Wake::Failed);
    assert!((Duration::from_millis(900)..Duration::from_secs(4)).contains(&before.elapsed()), "{:?}", before.elapsed());
    fixture.redis.resume();
    let deadline = Instant::now() + Duration::from_secs(10);
    fixture.push("mail_queue", mail("one")).await;
    while arrivals.wait(Duration::from_secs(5)).await != Wake::Arrived {
        assert!(Instant::now() < deadline);
    }
    assert_eq!(fixture.claim(ONE, 5).await.len(), 1);
}
