//! The `ConfigMap` in which it is written down that a pool was opened cannot be written: a new pool waits, and nothing else.

use std::time::{Duration, Instant};

use serde_json::json;
use testkit::eventually;

use crate::house::{House, MARKS, seconds_since};

/// A relay that works, and a `ConfigMap` that someone made immutable.
async fn immutable() -> House {
    let mut house = House::empty();
    house.relay("old", 1);
    house.pod("old-0", "old");
    house.pod("old-1", "old");
    house.lead();
    house.shares("old", &[("old-0", 8), ("old-1", 8)]).await;
    eventually("the pool is marked", async || {
        let map = house.api.get("configmaps", MARKS).unwrap_or_default();
        if map["data"]["opened-pools"].as_str().is_some_and(|opened| opened.contains("old")) {
            Ok(())
        } else {
            Err(map)
        }
    })
    .await;
    house.api.edit("configmaps", MARKS, |map| map["immutable"] = json!(true));
    house
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_config_map_holds_up_a_new_pool_and_nothing_else() {
    let house = immutable().await;
    house.relay("new", 2);
    house.pod("new-0", "new");
    let message = house.until("new", "Ready", "False", "MarkNotWritten").await;
    assert!(message.contains("mailrelay-controller-epoch"), "{message}");
    // A third pod of another relay gets its share.
    let start = Instant::now();
    house.pod("old-2", "old");
    house.shares("old", &[("old-0", 6), ("old-1", 5), ("old-2", 5)]).await;
    assert!(seconds_since(start) < 5.0, "{} s", seconds_since(start));
    // Nothing hangs in deletion.
    for relay in ["old", "new"] {
        house.delete(relay);
    }
    eventually("both are gone", async || {
        let left: Vec<_> = ["old", "new"]
            .iter()
            .filter(|relay| house.api.get("mailrelays", &format!("mail/{relay}")).is_some())
            .collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_that_cannot_be_written_is_tried_again_at_growing_intervals() {
    let house = immutable().await;
    let tries = || house.api.requests("PUT", "configmaps", Some(MARKS));
    house.relay("new", 2);
    house.pod("new-0", "new");
    house.until("new", "Ready", "False", "MarkNotWritten").await;
    let (before, start) = (tries(), Instant::now());
    // More relays that change do not make it hurry.
    testkit::throughout(Duration::from_secs(6), "tries are spaced", async || {
        house.pod(&format!("old-{}", start.elapsed().as_millis()), "old");
        let made = tries() - before;
        if made <= 6 { Ok(()) } else { Err(format!("{made} tries")) }
    })
    .await;
    assert!(tries() > before, "it goes on trying");
    house.api.edit("configmaps", MARKS, |map| map["immutable"] = json!(false));
    house.shares("new", &[("new-0", 16)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_immutable_config_map_keeps_no_new_leader_from_leading() {
    let mut house = immutable().await;
    house.lead();
    house.pod("old-2", "old");
    house.shares("old", &[("old-0", 6), ("old-1", 5), ("old-2", 5)]).await;
}
