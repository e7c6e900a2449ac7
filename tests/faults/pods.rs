//! A pod that is selected and never registers: its share is for the others, and someone is told why.

use std::time::Instant;

use serde_json::json;
use testkit::eventually;

use crate::house::{House, seconds_since};

#[tokio::test(flavor = "multi_thread")]
async fn the_share_of_a_pod_that_never_registers_is_lent_within_fifteen_seconds_and_comes_back() {
    let mut house = House::empty();
    house.relay("one", 1);
    house.pod("works", "one");
    house.pod("silent", "one");
    house.lead();
    house.shares("one", &[("works", 8), ("silent", 8)]).await;
    let start = Instant::now();
    let mut works = house.register("one", "works").await;
    works.alive_while(house.shares("one", &[("works", 16), ("silent", 0)])).await;
    assert!(seconds_since(start) < 15.0, "{} s", seconds_since(start));
    let told = works.alive_while(house.until("one", "WorkersMissing", "True", "NotRegistered")).await;
    for part in ["pod silent", "MAILRELAY_NAME", "kubectl logs -n mail silent"] {
        assert!(told.contains(part), "{told}");
    }
    assert_eq!(house.says("one", "Stalled").1, "", "the others go on");
    // A new leader does not give it an idle share again.
    house.lead();
    works
        .alive_while(eventually("the new leader has looked", async || {
            let epoch = house.ledger("one").await.map(|ledger| ledger.epoch);
            if epoch == Some(2) { Ok(()) } else { Err(format!("{epoch:?}")) }
        }))
        .await;
    house.shares("one", &[("works", 16), ("silent", 0)]).await;
    let mut late = house.register("one", "silent").await;
    let halves = late.alive_while(house.shares("one", &[("works", 8), ("silent", 8)]));
    works.alive_while(Box::pin(halves)).await;
    let settled = eventually("nothing is missing any more", async || {
        let found = house.says("one", "WorkersMissing");
        if found.1.is_empty() { Ok(()) } else { Err(format!("{found:?}")) }
    });
    works.alive_while(Box::pin(late.alive_while(settled))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_two_relays_select_is_named_with_the_other_relay() {
    let mut house = House::empty();
    let spec = |name: &str| {
        json!({
            "servers": [{ "name": "primary", "host": name }],
            "queue": { "name": name, "deadLetterName": format!("{name}_dead") },
            "workers": { "selector": { "matchLabels": { "app": "web" } } },
        })
    };
    house.relay_of("one", 1, &spec("one"));
    house.relay_of("two", 2, &spec("two"));
    house.pod_with("web-0", &json!({ "app": "web" }));
    house.lead();
    house.shares("one", &[("web-0", 16)]).await;
    let told = house.until("two", "WorkersMissing", "True", "NotRegistered").await;
    assert!(told.contains("selected by mail/one as well"), "{told}");
    // It serves the one of them that it names.
    let mut worker = house.register("one", "web-0").await;
    let named = eventually("the other says where it is", async || {
        let told = house.says("two", "WorkersMissing").2;
        if told.contains("registered with one") { Ok(()) } else { Err(told) }
    });
    worker.alive_while(named).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pods_without_the_label_are_seen_as_soon_as_a_relay_selects_by_labels_of_its_own() {
    let mut house = House::empty();
    house.relay("one", 1);
    house.pod("labelled", "one");
    house.pod_with("web-0", &json!({ "app": "web" }));
    house.lead();
    house.shares("one", &[("labelled", 16)]).await;
    house.edit("one", |spec| spec["workers"] = json!({ "selector": { "matchLabels": { "app": "web" } } }));
    house.shares("one", &[("web-0", 16)]).await;
    // And those that come later, and with whatever label.
    house.pod_with("web-1", &json!({ "app": "web" }));
    house.shares("one", &[("web-0", 8), ("web-1", 8)]).await;
    house.edit("one", |spec| spec["workers"] = json!({}));
    house.shares("one", &[("labelled", 16)]).await;
}
