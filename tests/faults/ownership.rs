//! A relay asks for what another works with: whoever owns it keeps it, whatever becomes of Redis and of the leader.

use testkit::eventually;

use crate::house::{House, LIMIT, MARKS};

/// Waits until it is written down that a relay owns a queue.
async fn recorded(house: &House, relay: &str) {
    eventually(&format!("what {relay} owns is written down"), async || {
        let map = house.api.get("configmaps", MARKS).unwrap_or_default();
        let owners = map["data"]["owners"].as_str().unwrap_or_default().to_owned();
        let owners: serde_json::Value = serde_json::from_str(&owners).unwrap_or_default();
        if owners[format!("list {relay}")][0] == format!("uid-{relay}") { Ok(()) } else { Err(owners) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_relay_that_edits_its_spec_takes_no_queue_not_even_after_all_is_lost() {
    let mut house = House::empty();
    for (relay, age) in [("old", 1), ("young", 2)] {
        house.relay(relay, age);
        house.pod(&format!("{relay}-0"), relay);
    }
    house.lead();
    house.shares("young", &[("young-0", 16)]).await;
    recorded(&house, "young").await;
    house.edit("old", |spec| spec["queue"]["name"] = "young".into());
    let told = house.until("old", "Ready", "False", "QueueConflict").await;
    assert!(told.contains("mail/young"), "{told}");
    assert_eq!(house.record("young").await.expect("a record").stalled, None);
    // Redis is empty, and another leader decides.
    let _: () = house.store.query(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    house.lead();
    for (relay, stalls) in [("young", false), ("old", true)] {
        eventually(&format!("the new leader publishes {relay}"), async || {
            let record = house.record(relay).await.filter(|record| record.epoch == 2).ok_or("none yet".to_owned())?;
            if record.stalled.is_some() == stalls { Ok(()) } else { Err(format!("{:?}", record.stalled)) }
        })
        .await;
    }
    // The owner's own edit gives it up.
    house.edit("young", |spec| spec["queue"]["name"] = "another".into());
    eventually("the other one has it", async || {
        let stalled = house.record("old").await.and_then(|record| record.stalled);
        stalled.map_or(Ok(()), Err)
    })
    .await;
}
