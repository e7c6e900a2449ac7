//! When a slot is free again: the ends of sessions as workers see them, with servers and boxes on the way that make it hard.

mod scene;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mailrelay::lease::LedgerView;
use mailsink::{Behaviour, Ending, SinkConfig};
use nix::sys::signal::Signal;
use scene::{Scene, eventually};
use serde_json::json;
use testkit::{ForgetfulBox, throughout};

async fn ledger(scene: &Scene) -> Result<LedgerView, String> {
    let snapshot = scene.ledger().snapshot().await.map_err(|error| error.to_string())?;
    snapshot.ledger.map(Arc::unwrap_or_clone).ok_or_else(|| "no ledger".to_owned())
}

/// What is withheld: seconds and why, one for each slot.
async fn withheld(scene: &Scene) -> Result<Vec<(u64, String)>, String> {
    let quarantine = ledger(scene).await?.quarantine;
    Ok(quarantine.into_iter().map(|entry| (entry.seconds, entry.why)).collect())
}

async fn until_withheld(scene: &Scene, count: usize) -> Vec<(u64, String)> {
    eventually("slots are withheld", async || {
        let withheld = withheld(scene).await?;
        if withheld.len() == count { Ok(withheld) } else { Err(format!("{withheld:?}")) }
    })
    .await
}

/// A relay with a budget of 4 and one worker, before a server that behaves so.
async fn four(behaviour: Behaviour, server: serde_json::Value) -> Scene {
    let mut scene = Scene::open(4, SinkConfig { limit: 100, ..SinkConfig::default() }, server).await;
    scene.sink.set_behaviour(behaviour);
    scene.add_worker_with(&["--idle-timeout", "300ms"]);
    scene.share(4, &[4]).await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_a_box_on_the_way_forgets_are_never_more_than_the_budget_at_the_server() {
    for at_rest in [true, false] {
        let mut scene = Scene::open(4, SinkConfig { limit: 100, ..SinkConfig::default() }, json!({})).await;
        let way = ForgetfulBox::open(scene.sink.smtp()).await.expect("a port");
        if at_rest {
            way.forget_after("queued", Duration::from_millis(50));
        } else {
            way.forget_before("QUIT");
        }
        let port = way.address().port();
        scene.change(|record| record.spec.servers[0].port = port).await;
        scene.add_worker_with(&["--idle-timeout", "300ms"]);
        scene.share(4, &[4]).await;
        scene.send(4).await;
        let withheld = eventually("all are withheld", async || {
            scene.send(1).await;
            let withheld = withheld(&scene).await?;
            if withheld.len() == 4 { Ok(withheld) } else { Err(format!("{withheld:?}")) }
        })
        .await;
        assert!(withheld.iter().all(|(seconds, _)| *seconds == 40), "sessionTimeout and the margin: {withheld:?}");
        scene.send(20).await;
        throughout(Duration::from_secs(2), "no session more", async || {
            let stats = scene.sink.stats();
            if stats.sessions == 4 { Ok(()) } else { Err(format!("{stats:?}")) }
        })
        .await;
        assert_eq!((scene.sink.stats().peak, way.forgotten()), (4, 4));
        scene.logs_are_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_its_sessions_late_gives_their_slots_back_when_it_does() {
    let scene = four(Behaviour { close_delay_ms: 4_000, ..Behaviour::default() }, json!({})).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    let entries = until_withheld(&scene, 1).await;
    assert_eq!(entries[0].0, 40, "nobody knows yet when it will end: {entries:?}");
    let since = Instant::now();
    assert_eq!(scene.sink.stats().open, 1);
    until_withheld(&scene, 0).await;
    assert!(since.elapsed() < Duration::from_secs(8), "{:?}", since.elapsed());
    assert_eq!(scene.sink.stats().open, 0, "not before its end");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_long_outage_of_redis_in_mid_mail_the_slots_are_free_when_the_server_has_ended_its_sessions() {
    let scene = four(Behaviour { mail_delay_ms: 10_000, ..Behaviour::default() }, json!({})).await;
    scene.send(4).await;
    scene.sink_until("mails are being sent", |stats| stats.open == 4).await;
    scene.redis.pause();
    scene.sink_until("the server has looked up", |stats| stats.open == 0).await;
    scene.sink.set_behaviour(Behaviour::default());
    scene.redis.unpause();
    let back = Instant::now();
    scene.send(20).await;
    scene.sink_until("mail flows", |stats| stats.accepted >= 20).await;
    assert!(back.elapsed() < Duration::from_secs(8), "{:?}", back.elapsed());
    until_withheld(&scene, 0).await;
    assert!(scene.sink.stats().peak <= 4);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_after_the_farewell_costs_the_slot_its_close_grace_and_no_more() {
    let scene = four(Behaviour { ending: Ending::Reset, ..Behaviour::default() }, json!({})).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    let entries = until_withheld(&scene, 1).await;
    assert_eq!((entries[0].0, entries[0].1.as_str()), (1, "reset_after_farewell"));
    until_withheld(&scene, 0).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_counts_processes_has_a_moment_to_see_them_go() {
    let counts = Behaviour { limit: Some(4), count_after_close_ms: 60, ..Behaviour::default() };
    let scene = four(counts, json!({ "server": { "maxMessagesPerConnection": 1 } })).await;
    let start = Instant::now();
    scene.send(100).await;
    scene.all_delivered(100).await;
    // 25 sessions on each of four slots, which rest side by side.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    let stats = scene.sink.stats();
    assert_eq!((stats.sessions, stats.rejected, stats.peak_attempted), (100, 0, 4), "{stats:?}");
    println!("100 mails in 100 sessions on 4 slots: {:?}", start.elapsed());
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_process_waits_for_all_slots_to_settle_at_once() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 300, ..Behaviour::default() });
    scene.add_worker_with(&["--idle-timeout", "60s"]);
    scene.share(16, &[16]).await;
    scene.send(16).await;
    scene.all_delivered(16).await;
    assert_eq!(scene.sink.stats().open, 16, "all are at rest");
    let told = Instant::now();
    scene.workers[0].signal(Signal::SIGTERM);
    assert_eq!(scene.workers[0].ended().await.code(), Some(0));
    println!("16 sessions at rest, handed over in {:?}", told.elapsed());
    assert!(told.elapsed() < Duration::from_millis(1_500), "{:?}", told.elapsed());
    let ledger = ledger(&scene).await.expect("a ledger");
    assert!(ledger.holders.is_empty() && ledger.quarantine.is_empty(), "{ledger:?}");
}
