//! Ledgers that nothing happens to are not looked at, and what happens behind the leader's back is noticed all the same.

use std::time::{Duration, Instant};

use mailrelay::lease::LedgerState;
use testkit::eventually;

use crate::house::{House, seconds_since};

/// A house with so many relays, each with a pod and an open ledger.
async fn settled(relays: u32) -> House {
    let mut house = House::empty();
    for number in 0..relays {
        house.relay(&format!("r{number}"), number);
        house.pod(&format!("p{number}"), &format!("r{number}"));
    }
    house.lead();
    for number in 0..relays {
        let pool = format!("r{number}");
        house.shares(&pool, &[(&format!("p{number}"), 16)]).await;
        state(&house, &pool, LedgerState::Open).await;
    }
    house
}

/// Waits until a ledger is so.
async fn state(house: &House, pool: &str, wanted: LedgerState) {
    eventually(&format!("the ledger of {pool} is {wanted:?}"), async || match house.ledger(pool).await {
        Some(ledger) if ledger.state == wanted => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// How many commands Redis served so far, those that scripts sent included.
async fn commands(house: &House) -> u64 {
    let stats = house.info("commandstats").await;
    let calls = stats.lines().filter_map(|line| line.split_once(":calls=")?.1.split(',').next()?.parse::<u64>().ok());
    calls.sum()
}

#[tokio::test]
async fn ledgers_and_queues_of_which_nothing_is_new_cost_redis_next_to_nothing() {
    let house = settled(12).await;
    // Until the shares of pods without a worker are lent, and that is shown, there is something to come.
    tokio::time::sleep(Duration::from_secs(18)).await;
    let before = commands(&house).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let each_second = (commands(&house).await - before) / 5;
    // Twins four times a second, a look at each ledger in a minute, one at the reports in thirty seconds: about 25.
    assert!(each_second < 60, "{each_second}");
}

#[tokio::test]
async fn mail_that_comes_while_no_worker_runs_is_told_within_two_seconds_and_so_is_its_end() {
    let house = settled(3).await;
    house.edit("r1", |spec| spec["queue"]["depthThreshold"] = 2.into());
    house.until("r1", "QueueDepthHigh", "False", "BelowThreshold").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let start = Instant::now();
    house.redis(&["LPUSH", "r1", "a", "b", "c"]).await;
    house.until("r1", "QueueDepthHigh", "True", "AboveThreshold").await;
    let start_of_end = Instant::now();
    house.redis(&["DEL", "r1"]).await;
    house.until("r1", "QueueDepthHigh", "False", "BelowThreshold").await;
    let (told, over) = ((start_of_end - start).as_secs_f64(), seconds_since(start_of_end));
    assert!(told < 3.0 && over < 3.0, "{told} {over}");
    house.redis(&["LPUSH", "r1_dead", "x"]).await;
    house.until("r1", "DeadLettersPresent", "True", "DeadLetters").await;
}

#[tokio::test]
async fn a_ledger_that_is_deleted_while_its_twin_stays_is_made_anew_at_once() {
    let house = settled(2).await;
    let start = Instant::now();
    house.redis(&["DEL", "mailrelay:{r1}:ledger"]).await;
    state(&house, "r1", LedgerState::Rec).await;
    assert!(seconds_since(start) < 2.0, "{}", seconds_since(start));
}

#[tokio::test]
async fn a_worker_that_comes_and_falls_silent_is_noticed_by_the_twin_and_by_time() {
    let house = settled(2).await;
    let worker = house.register("r1", "p1").await;
    let start = Instant::now();
    eventually("its slots are withheld", async || match house.ledger("r1").await {
        Some(ledger) if ledger.quarantined() == 16 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let took = seconds_since(start);
    assert!((6.5..10.0).contains(&took), "{took} of {}", worker.process());
}

#[tokio::test]
async fn a_worker_of_a_release_that_knows_no_twins_is_not_taken_for_silent() {
    let house = settled(1).await;
    let mut worker = house.register("r0", "p0").await;
    // Its SYNC leaves the twin as it was.
    let twin: String = house.get("mailrelay:{r0}:twin").await;
    let start = Instant::now();
    while seconds_since(start) < 17.0 {
        assert_eq!(worker.renew().await, 16);
        house.redis(&["SETRANGE", "mailrelay:{r0}:twin", "0", &twin]).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
