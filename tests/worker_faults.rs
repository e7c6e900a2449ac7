//! What a worker must stand: servers that misbehave, shares that move, mail that breaks its sender.

mod scene;

use std::{net::TcpListener, time::Duration};

use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use nix::sys::signal::Signal;
use scene::{Scene, eventually, mail};
use serde_json::json;

/// Pushes entries as a producer does, past every check.
async fn push(scene: &Scene, entry: &str) {
    let _: i64 = scene
        .store
        .query(redis::cmd("LPUSH").arg("mail_queue").arg(entry), Duration::from_secs(5))
        .await
        .expect("LPUSH");
}

/// How many sessions a server sees in a while from a worker that has mail for it.
async fn sessions_in_three_seconds(behaviour: Behaviour) -> u64 {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(behaviour);
    scene.send(20).await;
    scene.sink_until("the first session", |stats| stats.sessions > 0).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let sessions = scene.sink.stats().sessions;
    scene.sink.set_behaviour(Behaviour::default());
    scene.logs_are_clean();
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_each_session_before_its_first_mail_is_not_hammered() {
    let goodbye = Failure::reply(FailureStage::Ehlo, "250 hello and goodbye").and_close();
    let sessions = sessions_in_three_seconds(Behaviour::failing([goodbye])).await;
    assert!(sessions < 100, "{sessions} sessions in 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_mail_in_any_session_is_not_hammered() {
    let none = Behaviour { max_messages_per_session: Some(0), ..Behaviour::default() };
    let sessions = sessions_in_three_seconds(none).await;
    assert!(sessions < 100, "{sessions} sessions in 3 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn shares_that_move_while_mail_trickles_in_leave_no_mail_behind() {
    let mut scene = Scene::sixteen(2, json!({})).await;
    for round in 0..60 {
        let shares = if round % 2 == 0 { [15, 1] } else { [1, 15] };
        scene.share(16, &shares).await;
        scene.send(8).await;
    }
    scene.all_delivered(480).await;
    assert_eq!((scene.sink.stats().duplicates, scene.sink.stats().rejected), (0, 0));
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_breaks_its_sender_is_a_dead_letter_and_stops_nobody() {
    let scene = Scene::sixteen(1, json!({ "retry": { "initialBackoff": "100ms", "maxBackoff": "100ms" } })).await;
    let header = json!({
        "id": "forged", "serial": "0123456789abcdef0123456789abcdef", "messageId": "<forged@example.com>",
        "firstSeen": u64::MAX, "since": 1,
    });
    push(&scene, &format!("mailrelay/1 n {header}\n{}", mail("b@example.org"))).await;
    scene.send(20).await;
    // The audit does not add up, since nobody counted the forged entry.
    eventually("all settled", async || {
        let depths =
            scene.queue.depths(mailrelay::queue::UnixMillis::now()).await.map_err(|error| error.to_string())?;
        let settled = (depths.pending, depths.delayed, depths.in_flight, depths.held, depths.dead) == (0, 0, 0, 0, 1);
        (settled && scene.sink.stats().accepted == 20).then_some(()).ok_or(format!("{depths:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_greet_keeps_no_later_mail_from_another() {
    let mute = TcpListener::bind("127.0.0.1:0").expect("a port");
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    let port = mute.local_addr().expect("an address").port();
    scene
        .change(|record| {
            let mut first = record.spec.servers[0].clone();
            first.name = "mute".into();
            first.port = port;
            record.spec.servers.insert(0, first);
        })
        .await;
    scene.add_worker();
    scene.share(16, &[16]).await;
    scene.send(1).await;
    eventually("the mute server is tried", async || {
        let (_, page) = scene.workers[0].get("/metrics").await.ok_or("no page".to_owned())?;
        page.contains("mailrelay_slots_counted{pool=\"127.0.0.1\"} 1\n").then_some(()).ok_or(page)
    })
    .await;
    for count in 1..=3 {
        scene.send(1).await;
        tokio::time::timeout(
            Duration::from_secs(5),
            scene.sink_until("it goes to the other server", |stats| stats.accepted >= count),
        )
        .await
        .expect("while 15 slots are free");
    }
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_connections_without_an_end_of_the_session_is_withheld_for_the_longer_time() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({ "server": { "sessionTimeout": "77s" } })).await;
    let refused = Failure::reply(FailureStage::Greeting, "421 4.7.0 too many connections").and_close().times(1);
    scene.sink.set_behaviour(Behaviour { close_delay_ms: 5_000, ..Behaviour::failing([refused]) });
    scene.add_worker();
    scene.share(4, &[4]).await;
    scene.send(1).await;
    let seconds = eventually("the slot is withheld", async || {
        let ledger = scene.ledger().snapshot().await.map_err(|error| error.to_string())?.ledger.ok_or("no ledger")?;
        ledger.quarantine.first().map(|entry| entry.seconds).ok_or_else(|| "nothing is withheld".to_owned())
    })
    .await;
    assert_eq!(seconds, 77, "nobody saw the server's end: it may count the session for its sessionTimeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_does_not_wait_for_a_server_that_does_not_greet() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    scene.sink.set_behaviour(Behaviour { greeting_delay_ms: 60_000, ..Behaviour::default() });
    scene.add_worker();
    scene.share(4, &[4]).await;
    scene.send(1).await;
    scene.sink_until("the session begins", |stats| stats.open == 1).await;
    scene.workers[0].signal(Signal::SIGTERM);
    let ended = tokio::time::timeout(Duration::from_secs(6), scene.workers[0].ended()).await;
    assert_eq!(ended.expect("at once").code(), Some(0), "{}", scene.workers[0].log());
    let ledger = scene.ledger().snapshot().await.expect("snapshot").ledger.expect("a ledger");
    assert!(ledger.holders.is_empty(), "the slots went back: {ledger:?}");
    assert_eq!(ledger.quarantine.iter().map(|entry| entry.slots).sum::<u32>(), 1, "but for the one without an end");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_says_about_us_is_told_without_addresses() {
    let scene = Scene::sixteen(1, json!({})).await;
    let later = Failure::reply(FailureStage::Mail, "421 4.3.0 <app@example.com>: come back later");
    scene.sink.set_behaviour(Behaviour::failing([later]));
    scene.send(20).await;
    let told = eventually("the worker says so", async || {
        let report = scene.report(0).await.ok_or("no report")?;
        report.servers[0].unavailable.clone().ok_or("available")
    })
    .await;
    assert!(told.message.contains("come back later") && !told.message.contains('@'), "{told:?}");
    scene.logs_are_clean();
}
