//! What a worker must stand: servers that misbehave, shares that move, mail that breaks its sender.

mod scene;

use std::{net::TcpListener, time::Duration};

use mailrelay::{api::Reason, mail::UnixMillis, queue::Stage};
use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use nix::sys::signal::Signal;
use scene::{Scene, eventually, mail};
use serde_json::json;
use testkit::{ClockLibrary, WallClock, throughout};

/// Pushes entries as a producer does, past every check.
async fn push(scene: &Scene, entry: &str) {
    let _: i64 = scene
        .store
        .query(redis::cmd("LPUSH").arg("mail_queue").arg(entry), Duration::from_secs(5))
        .await
        .expect("LPUSH");
}

/// A worker that has mail for such a server opens a session now and then only.
async fn is_not_hammered(behaviour: Behaviour) {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(behaviour);
    scene.send(20).await;
    scene.sink_until("the first session", |stats| stats.sessions > 0).await;
    throughout(Duration::from_secs(3), "few sessions", async || {
        let sessions = scene.sink.stats().sessions;
        if sessions < 100 { Ok(()) } else { Err(format!("{sessions} sessions")) }
    })
    .await;
    scene.sink.set_behaviour(Behaviour::default());
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_each_session_before_its_first_mail_is_not_hammered() {
    let goodbye = Failure::reply(FailureStage::Ehlo, "250 hello and goodbye").and_close();
    is_not_hammered(Behaviour::failing([goodbye])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_goodbye_before_the_first_mail_is_not_hammered() {
    let goodbye = Failure::raw(FailureStage::Ehlo, "250 hello\r\n421 4.3.2 goodbye\r\n").and_close();
    is_not_hammered(Behaviour::failing([goodbye])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_no_mail_in_any_session_is_not_hammered() {
    is_not_hammered(Behaviour { max_messages_per_session: Some(0), ..Behaviour::default() }).await;
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
        let depths = scene.queue.depths(UnixMillis::now()).await.map_err(|error| error.to_string())?;
        let settled = (depths.pending, depths.delayed, depths.in_flight, depths.held, depths.dead) == (0, 0, 0, 0, 1);
        (settled && scene.sink.stats().accepted == 20).then_some(()).ok_or(format!("{depths:?}"))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_a_producer_wrote_is_in_the_log() {
    let scene = Scene::sixteen(1, json!({})).await;
    push(&scene, "ann@example.org").await;
    push(&scene, r#"{"id":"bob@example.org","from":"app@example.com","to":"b@example.org","text":"x","headers":{"X-cee@example.org":1,"Secret:word":"x"}}"#).await;
    push(&scene, r#"{"id":"dan@example.org","from":"app@example.com","to":"b@example.org","text":"x"}"#).await;
    eventually("all settled", async || {
        let depths = scene.queue.depths(UnixMillis::now()).await.map_err(|error| error.to_string())?;
        let settled = (depths.pending, depths.in_flight, depths.dead) == (0, 0, 2);
        (settled && scene.sink.stats().accepted == 1).then_some(()).ok_or(format!("{depths:?}"))
    })
    .await;
    let log = scene.workers[0].log();
    assert!(log.contains("went to the dead letters"), "{log}");
    assert!(!log.contains("Secret") && !log.contains("@example"), "{log}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_yield_nothing_hold_up_no_mail_behind_them() {
    let scene = Scene::sixteen(1, json!({})).await;
    let mut seen = mail("seen@example.org");
    seen["id"] = "seen".into();
    scene.send_one(seen.clone()).await;
    scene.all_delivered(1).await;
    let (mut expired, mut early) = (mail("e@example.org"), mail("n@example.org"));
    expired["expiresAt"] = 1.into();
    early["notBefore"] = (UnixMillis::now().0 + 3_600_000).into();
    for _ in 0..25 {
        for entry in ["{".to_owned(), seen.to_string(), expired.to_string(), early.to_string()] {
            push(&scene, &entry).await;
        }
    }
    scene.send(1).await;
    let start = std::time::Instant::now();
    scene.sink_until("the mail behind them is sent", |stats| stats.accepted == 2).await;
    // An intake that rests after each batch that yields nothing needs ten.
    assert!(start.elapsed() < Duration::from_secs(8), "{:?}", start.elapsed());
    let audit = scene.audit_until("all is settled", |audit| audit.queued + audit.in_flight == 0).await;
    assert_eq!((audit.dead, audit.duplicates, audit.expired, audit.delayed), (25, 25, 25, 25), "{audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_whose_clock_is_hours_off_expires_nothing_and_sends_nothing_early_or_late() {
    let library = ClockLibrary::build();
    let preload = format!("LD_PRELOAD={}", library.path().display());
    for hours in [-3, 3] {
        let mut scene = Scene::open(
            4,
            SinkConfig::default(),
            json!({ "retry": { "initialBackoff": "100ms", "maxBackoff": "1s" } }),
        )
        .await;
        scene.add_worker_behind(&["env", &preload], &[]);
        let pid = scene.workers[0].pid();
        let clock =
            eventually("the clock can be moved", async || WallClock::of(pid).map_err(|error| error.to_string())).await;
        clock.move_to(hours * 3_600).expect("moved");
        // One is put off by the server, and comes back in a moment.
        let busy = Failure::reply(FailureStage::Mail, "451 4.7.1 greylisted, try again").times(1);
        scene.sink.set_behaviour(Behaviour::failing([busy]));
        let (mut valid, mut early, mut over) = (mail("v@example.org"), mail("n@example.org"), mail("o@example.org"));
        let now = UnixMillis::now().0;
        valid["expiresAt"] = (now + 3_600_000).into();
        early["notBefore"] = (now + 3_600_000).into();
        over["expiresAt"] = (now - 3_600_000).into();
        for entry in [&valid, &early, &over] {
            push(&scene, &entry.to_string()).await;
        }
        scene.share(4, &[4]).await;
        let audit = scene
            .audit_until("the valid mail is delivered", |audit| audit.delivered == 1 && audit.in_flight == 0)
            .await;
        assert_eq!((audit.expired, audit.delayed, audit.queued), (1, 1, 0), "{hours} hours: {audit:?}");
        scene.logs_are_clean();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_greet_keeps_no_mail_from_another() {
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
    for count in 1..=3 {
        tokio::time::timeout(
            Duration::from_secs(5),
            scene.sink_until("it goes to the other server", |stats| stats.accepted >= count),
        )
        .await
        .expect("while 15 slots are free");
        scene.send(1).await;
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
    assert_eq!(
        seconds, 107,
        "nobody saw the server's end: it may count the session for its sessionTimeout, and a margin"
    );
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
async fn a_server_that_does_not_greet_is_told_of_while_it_is_waited_for() {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour { greeting_delay_ms: 60_000, ..Behaviour::default() });
    scene.send(1).await;
    let told = eventually("the worker says so", async || {
        let report = scene.report(0).await.ok_or("no report")?;
        report.servers[0].unavailable.clone().ok_or("no reason")
    })
    .await;
    assert!(told.reason == Reason::ConnectFailed && told.message.contains("not greeted us for 20 s"), "{told:?}");
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

/// How many mails of 200 a server that ends every session at this stage has used up before it is left alone.
async fn used_up(stage: FailureStage) -> u64 {
    let scene = Scene::sixteen(1, json!({ "retry": { "initialBackoff": "10ms", "maxBackoff": "20ms" } })).await;
    let hide = vec!["CHUNKING".to_owned()];
    scene.sink.set_behaviour(Behaviour { hide, ..Behaviour::failing([Failure::closing(stage)]) });
    scene.send(200).await;
    eventually("the server is left alone, or all mail is gone", async || {
        let audit = scene.queue.audit().await.map_err(|error| error.to_string())?;
        let report = scene.report(0).await.and_then(|report| report.servers[0].unavailable.clone());
        let over = audit.in_flight == 0 && (audit.queued + audit.delayed == 0 || scene.sink.stats().open == 0);
        (over && (report.is_some() || audit.queued + audit.delayed == 0)).then_some(()).ok_or(format!("{audit:?}"))
    })
    .await;
    let audit = scene.queue.audit().await.expect("audit");
    scene.logs_are_clean();
    audit.dead + audit.held
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_ends_every_session_before_the_message_does_not_empty_the_queue_into_the_dead_letters() {
    let dead = used_up(FailureStage::Data).await;
    assert!(dead <= 32, "{dead} dead letters");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_never_answers_the_whole_message_does_not_turn_the_queue_into_held_mail() {
    let held = used_up(FailureStage::Dot).await;
    assert!(held <= 32, "{held} held");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_broken_handshake_does_not_stop_the_server_for_minutes() {
    let config = SinkConfig { tls: true, ..SinkConfig::default() };
    let mut scene = Scene::open(4, config, json!({ "server": { "tls": "StartTLS" } })).await;
    let credentials = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(credentials.path().join("primary")).expect("a folder");
    let certificate = scene.sink.certificate().expect("TLS");
    std::fs::write(credentials.path().join("primary/ca.crt"), certificate).expect("written");
    let restarts = Failure::closing(FailureStage::Starttls).times(1);
    let busy = Failure::reply(FailureStage::Starttls, "454 4.7.0 TLS not available due to local problem").times(1);
    scene.sink.set_behaviour(Behaviour::failing([restarts, busy]));
    scene.add_worker_with(&["--credentials-dir", credentials.path().to_str().expect("UTF-8")]);
    scene.share(4, &[4]).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_drain_cannot_finish_is_told_before_the_process_ends() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    let silent = Failure::default();
    let never = Failure { stage: FailureStage::Rcpt, recipient: Some("slow".into()), delay_ms: 60_000, ..silent };
    let hide = vec!["CHUNKING".to_owned()];
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 60_000, hide, ..Behaviour::failing([never]) });
    scene.add_worker_with(&["--drain-timeout", "1s"]);
    scene.share(4, &[4]).await;
    scene.send(2).await;
    scene.send_one(mail("slow@example.org")).await;
    let sending = "mails are being sent";
    eventually(sending, async || {
        let flights = scene.queue.in_flight().await.map_err(|error| error.to_string())?;
        let stages = flights.first().map(|flight| flight.stages.clone()).unwrap_or_default();
        let count = |stage| stages.get(&stage).copied().unwrap_or(0);
        let fits = count(Stage::Committing) == 2 && count(Stage::Sending) == 1;
        fits.then_some(()).ok_or(format!("{stages:?}"))
    })
    .await;
    scene.workers[0].signal(Signal::SIGTERM);
    assert_eq!(scene.workers[0].ended().await.code(), Some(1), "it says so");
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.in_flight, audit.held, audit.queued + audit.delayed), (0, 2, 1), "{audit:?}");
    let ledger = scene.ledger().snapshot().await.expect("snapshot").ledger.expect("a ledger");
    assert!(ledger.holders.is_empty(), "{ledger:?}");
    assert_eq!(ledger.quarantine.iter().map(|entry| entry.slots).sum::<u32>(), 3, "{ledger:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_fewer_sessions_than_the_budget_is_used_as_far_as_it_goes() {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour { limit: Some(8), mail_delay_ms: 300, ..Behaviour::default() });
    scene.send(200).await;
    let start = std::time::Instant::now();
    eventually("the worker says so", async || {
        let report = scene.report(0).await.ok_or("no report".to_owned())?;
        let trouble = report.servers[0].unavailable.clone();
        trouble
            .as_ref()
            .is_some_and(|why| why.reason == Reason::TooManyConnections)
            .then_some(())
            .ok_or(format!("{trouble:?}"))
    })
    .await;
    scene.all_delivered(200).await;
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}, where 8 sessions need 8 s", start.elapsed());
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_outlives_a_redis_that_restarts_just_before_its_mail_is_complete() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    // The server answers MAIL and RCPT late, so that the mail is being sent for a while before it could be complete.
    let hide = vec!["PIPELINING".into()];
    scene.sink.set_behaviour(Behaviour { reply_delay_ms: 500, hide, ..Behaviour::default() });
    scene.send(1).await;
    eventually("the mail is being sent", async || {
        let flights = scene.queue.in_flight().await.map_err(|error| error.to_string())?;
        let sending = flights.first().and_then(|flight| flight.stages.get(&Stage::Sending).copied());
        (sending == Some(1)).then_some(()).ok_or(format!("{flights:?}"))
    })
    .await;
    scene.redis.crash();
    eventually("the last stage cannot be written", async || {
        let (_, metrics) = scene.workers[0].get("/metrics").await.ok_or("no metrics")?;
        let told = metrics.lines().any(|line| line.contains("store_failures") && line.contains("\"advance\""));
        told.then_some(()).ok_or("not yet")
    })
    .await;
    scene.redis.resume();
    scene.all_delivered(1).await;
    let stats = scene.sink.stats();
    assert_eq!((stats.sessions, stats.duplicates), (1, 0), "the session went on: {stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn mails_that_an_older_copy_of_redis_puts_back_into_a_worker_s_hands_are_held() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 300, ..Behaviour::default() });
    scene.send(16).await;
    scene.sink_until("16 mails are being sent", |stats| stats.open == 16).await;
    eventually("all are in the worker's hands", async || {
        let depths = scene.queue.depths(UnixMillis::now()).await.map_err(|error| error.to_string())?;
        if depths.in_flight == 16 { Ok(()) } else { Err(format!("{depths:?}")) }
    })
    .await;
    let copy = scene.redis.copy_data();
    scene.all_delivered(16).await;
    // The worker must have heard that, or it would rightly tell the older copy too.
    eventually("the worker has nothing in its hands", async || {
        let (_, metrics) = scene.workers[0].get("/metrics").await.ok_or("no metrics")?;
        let none = metrics.lines().any(|line| line.contains("claims_open") && line.ends_with(" 0"));
        none.then_some(()).ok_or("some claims are open")
    })
    .await;
    scene.redis.crash();
    scene.redis.restore_data(&copy);
    scene.redis.resume();
    let audit = scene.audit_until("nothing is in any hand", |audit| audit.in_flight == 0 && audit.queued == 0).await;
    assert_eq!((audit.held, audit.delivered), (16, 0), "{audit:?}");
    assert_eq!(scene.sink.stats().accepted, 16, "none was sent again");
    // What is claimed from now on is as safe as ever.
    scene.send(20).await;
    scene.audit_until("new mail is sent", |audit| audit.delivered == 20 && audit.in_flight == 0).await;
    scene.logs_are_clean();
}
