//! The worker's contracts: real processes, a real Redis, and the sink that counts.

mod scene;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use mailrelay::{mail::UnixMillis, queue::EnqueueLimits};
use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use nix::sys::signal::Signal;
use scene::{Scene, eventually, mail};
use serde_json::json;
use testkit::{Postfix, throughout};

fn slow(milliseconds: u64) -> Behaviour {
    Behaviour { mail_delay_ms: milliseconds, ..Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_mails_at_once_16_are_being_sent_and_none_is_lost() {
    let scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(50));
    scene.send(200).await;
    let peak = scene.sink_until("16 sessions", |stats| stats.open == 16).await;
    assert!(peak.accepted < 200, "the mails must still be queued: {peak:?}");
    scene.all_delivered(200).await;
    let stats = scene.sink.stats();
    assert_eq!((stats.peak, stats.peak_attempted, stats.rejected), (16, 16, 0), "{stats:?}");
    assert_eq!((stats.accepted, stats.unique_message_ids, stats.duplicates), (200, 200, 0), "{stats:?}");
    let recipients: BTreeSet<_> = scene.sink.journal().into_iter().flat_map(|entry| entry.to).collect();
    assert_eq!(recipients.len(), 200);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_mails_at_once_postfix_gets_all_and_refuses_no_connection() {
    // Its limit counts by client address, and both workers have the same; that the 17th is refused is a test of its own
    // (tests/smtp).
    let postfix = Postfix::start(16);
    let scene = Scene::sixteen(2, json!({ "server": { "port": postfix.address().port() } })).await;
    // The domain that it delivers for.
    let sending = (0..200).map(|number| scene.send_one(mail(&format!("r{number}@example.com"))));
    let ids: BTreeSet<String> = futures::future::join_all(sending).await.into_iter().collect();
    scene.all_delivered(200).await;
    eventually("200 mails in the mailbox", async || match postfix.delivered().len() {
        200 => Ok(()),
        count => Err(count),
    })
    .await;
    let delivered: BTreeSet<String> =
        postfix.delivered().iter().filter_map(|id| Some(id.split_once('@')?.0.to_owned())).collect();
    assert_eq!(delivered, ids);
    let log = postfix.log();
    assert_eq!(postfix.refused_connections(), 0, "{log}");
    assert!(!log.to_lowercase().contains("too many connections"), "{log}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn sigterm_finishes_the_mails_being_sent_and_leaves_no_claim() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.share(16, &[8]).await;
    scene.sink.set_behaviour(slow(300));
    scene.send(60).await;
    scene.sink_until("mails being sent", |stats| stats.open == 8 && stats.accepted >= 8).await;
    scene.workers[0].signal(Signal::SIGTERM);
    let exit = scene.workers[0].ended().await;
    assert_eq!(exit.code(), Some(0), "{}", scene.workers[0].log());
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.in_flight, audit.held, audit.difference), (0, 0, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!(
        (stats.open, audit.delivered, audit.queued),
        (0, stats.accepted, 60 - stats.accepted),
        "{audit:?} {stats:?}"
    );
    assert!(stats.accepted >= 8 && stats.accepted < 60, "{stats:?}");
    let ledger = scene.ledger().snapshot().await.expect("snapshot").ledger.expect("a ledger");
    assert!(ledger.holders.is_empty() && ledger.quarantine.is_empty(), "{ledger:?}");
    scene.logs_are_clean();
}

/// Claiming takes longer than a session is kept without work: a large mail, a slow Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_mail_is_being_claimed_for_is_not_at_rest() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    let door = scene.add_worker_behind_door(&["--idle-timeout", "10ms"]).await;
    scene.share(16, &[4]).await;
    door.delay(Duration::from_millis(20));
    scene.send(20).await;
    scene.all_delivered(20).await;
    scene.logs_are_clean();
}

/// The server lets nobody rest for as long as a claim takes: the mail waits for the next session, not in the queue.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_session_ended_while_it_was_claimed_gets_the_next_one() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    let door = scene.add_worker_behind_door(&[]).await;
    scene.share(16, &[1]).await;
    scene.sink.set_behaviour(Behaviour { idle_limit_ms: Some(300), ..Behaviour::default() });
    door.delay(Duration::from_millis(100));
    // Three times there and back: what is next, what lies under that name, and that it is taken.
    for number in 0..5 {
        let (name, text) = (format!("mail-{number}"), mail(&format!("r{number}@example.com")).to_string());
        let () = scene.query(redis::cmd("SET").arg(format!("mail:{name}")).arg(text)).await;
        let _: i64 = scene.query(redis::cmd("LPUSH").arg("mail_queue").arg(name)).await;
    }
    scene.all_delivered(5).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_under_load_loses_nothing_and_doubles_nothing() {
    let mut scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(30));
    scene.send(200).await;
    scene.sink_until("mail flows", |stats| stats.accepted >= 40).await;
    scene.workers[0].crash();
    scene.workers[0].restart();
    // What the dead one had handed over and not settled is held: its outcome is unknown, and it is not sent again.
    let audit = scene
        .audit_until("everything settled", |audit| {
            audit.in_flight == 0 && audit.queued == 0 && audit.delayed == 0 && audit.accepted == 200
        })
        .await;
    assert_eq!((audit.delivered + audit.held, audit.dead), (200, 0), "{audit:?}");
    assert!(audit.held <= 8, "no more than it had sessions: {audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.duplicates, stats.rejected), (0, 0), "{stats:?}");
    assert!(stats.peak <= 16 && stats.accepted >= audit.delivered, "{stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_flows_again_within_10_seconds_of_a_restart_of_redis() {
    let mut scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(100));
    scene.send(300).await;
    scene.sink_until("mail flows", |stats| stats.accepted >= 40).await;
    scene.redis.crash();
    scene.redis.resume();
    let back = Instant::now();
    let before = scene.sink.stats().accepted;
    scene.sink_until("mail flows again", |stats| stats.accepted > before + 32).await;
    assert!(back.elapsed() < Duration::from_secs(10), "{:?}", back.elapsed());
    let audit = scene
        .audit_until("everything settled", |audit| audit.in_flight == 0 && audit.queued == 0 && audit.delayed == 0)
        .await;
    assert_eq!((audit.delivered + audit.held, audit.dead), (300, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.duplicates, stats.rejected, stats.accepted), (0, 0, 300), "{stats:?} {audit:?}");
    assert!(stats.peak <= 16, "{stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_every_session_is_closed_by_the_end_of_its_lease() {
    let scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(400));
    scene.send(200).await;
    scene.sink_until("mails being sent", |stats| stats.open == 16).await;
    scene.redis.pause();
    let away = Instant::now();
    scene.sink_until("all sessions are closed", |stats| stats.open == 0).await;
    assert!(away.elapsed() < Duration::from_millis(6_500), "{:?}", away.elapsed());
    let used: Vec<_> = scene.workers.iter().map(scene::Worker::cpu).collect();
    throughout(Duration::from_secs(3), "no busy loop without Redis", async || {
        let more = scene.workers.iter().zip(&used).map(|(worker, used)| worker.cpu().saturating_sub(*used));
        let most = more.max().unwrap_or_default();
        if most < Duration::from_millis(600) { Ok(()) } else { Err(format!("{most:?} of processor time")) }
    })
    .await;
    scene.redis.unpause();
    let back = Instant::now();
    let before = scene.sink.stats().accepted;
    scene.sink_until("mail flows again", |stats| stats.accepted > before).await;
    assert!(back.elapsed() < Duration::from_secs(5), "{:?}", back.elapsed());
    scene.sink.set_behaviour(slow(0));
    let audit = scene
        .audit_until("everything settled", |audit| audit.in_flight == 0 && audit.queued == 0 && audit.delayed == 0)
        .await;
    assert_eq!((audit.delivered + audit.held, audit.dead), (200, 0), "{audit:?}");
    assert_eq!((scene.sink.stats().duplicates, scene.sink.stats().rejected), (0, 0));
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_a_server_puts_off_is_tried_again_until_it_is_delivered() {
    let scene = Scene::sixteen(2, json!({ "retry": { "initialBackoff": "100ms", "maxBackoff": "400ms" } })).await;
    let busy = Failure::reply(FailureStage::Dot, "451 4.3.0 try again later").times(40);
    let refused = Failure::reply(FailureStage::Greeting, "554 no service").and_close().times(10);
    scene.sink.set_behaviour(Behaviour::failing([busy, refused]));
    scene.send(50).await;
    scene.all_delivered(50).await;
    assert_eq!((scene.sink.stats().duplicates, scene.sink.stats().rejected), (0, 0));
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_down_costs_no_mail_its_retries() {
    let breaker = json!({ "consecutiveFailures": 3, "pause": "300ms" });
    let retry = json!({ "maxRetries": 0, "initialBackoff": "100ms", "maxBackoff": "200ms" });
    let scene = Scene::sixteen(1, json!({ "breaker": breaker, "retry": retry })).await;
    scene.sink.set_behaviour(Behaviour::failing([Failure::closing(FailureStage::Greeting)]));
    scene.send(20).await;
    scene.unavailable_for("ConnectFailed").await;
    scene.sink.set_behaviour(Behaviour::default());
    scene.all_delivered(20).await;
    scene.usable_again().await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_recipient_is_a_dead_letter_and_can_be_sent_again() {
    let scene = Scene::sixteen(1, json!({})).await;
    let refusal = Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").for_recipient("gone");
    scene.sink.set_behaviour(Behaviour::failing([refusal]));
    let mut mixed = mail("good@example.org");
    mixed["cc"] = json!(["gone@example.org"]);
    let id = scene.send_one(mixed).await;
    let alone = scene.send_one(mail("gone.too@example.org")).await;
    scene.audit_until("two dead letters", |audit| audit.dead == 2 && audit.in_flight == 0).await;
    assert_eq!(scene.sink.journal().iter().map(|entry| entry.to.clone()).collect::<Vec<_>>(), [["good@example.org"]]);
    let letter = scene.queue.dead_show(&alone).await.expect("redis").expect("a dead letter");
    assert!(letter.reply.contains("5.1.1"), "{letter:?}");
    scene.sink.set_behaviour(Behaviour::default());
    let filter = mailrelay::queue::Filter::default();
    let done = scene.queue.dead_requeue(&filter, 10, mailrelay::mail::UnixMillis::now()).await.expect("redis");
    assert_eq!(done.done, 2);
    scene.all_delivered(2).await;
    let to: BTreeSet<_> = scene.sink.journal().into_iter().skip(1).map(|entry| entry.to).collect();
    let expected = [vec!["gone@example.org".to_owned()], vec!["gone.too@example.org".to_owned()]];
    assert_eq!(to, BTreeSet::from(expected), "the good recipient got it once; {id}");
    assert_eq!(scene.sink.stats().duplicates, 0);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_makes_no_sense_stops_nobody() {
    let scene = Scene::sixteen(1, json!({})).await;
    let nonsense = ["not json", "{}", "[1,2", "{\"from\":\"a@b.example\",\"to\":\"x>\\r\\nDATA\"}", "\u{1}\u{2}"];
    let good = mail("good@example.org").to_string();
    let mut push = redis::cmd("LPUSH");
    push.arg("mail_queue");
    for text in nonsense {
        push.arg(text).arg(&good);
    }
    let _: i64 = scene.store.query(&push, Duration::from_secs(5)).await.expect("LPUSH");
    let audit =
        scene.audit_until("all settled", |audit| audit.dead == 5 && audit.delivered == 5 && audit.in_flight == 0).await;
    assert_eq!(audit.accepted, 10, "{audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_cut_while_busy_shrinks_to_it_and_kills_no_mail() {
    let mut scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(200));
    scene.send(250).await;
    scene.sink_until("16 being sent", |stats| stats.open == 16).await;
    scene.share(6, &[3, 3]).await;
    let cut = Instant::now();
    scene.sink_until("6 sessions", |stats| stats.open <= 6).await;
    assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
    let accepted = scene.sink.stats().accepted;
    // A session more than the share, for a moment even, would show here.
    scene
        .sink_until("mail flows with 6", |stats| {
            assert!(stats.open <= 6, "{stats:?}");
            stats.accepted >= accepted + 24
        })
        .await;
    scene.share(16, &[8, 8]).await;
    scene.sink_until("16 again", |stats| stats.open == 16).await;
    let audit = scene.all_delivered(250).await;
    assert_eq!((audit.held, audit.dead), (0, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.duplicates, stats.rejected, stats.peak), (0, 0, 16), "{stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_relay_accepts_and_does_not_send() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    scene.change(|record| record.spec.suspend = true).await;
    eventually("the worker has heard", async || {
        scene.workers[0].log().contains("record.revision=2").then_some(()).ok_or("not yet")
    })
    .await;
    scene.send(20).await;
    // Two heartbeats' time at least, and proof that it looked.
    eventually("the worker sees 20 mails waiting", async || {
        let (_, text) = scene.workers[0].get("/metrics").await.ok_or("no page")?;
        text.contains("mailrelay_queue_mails{kind=\"pending\"} 20\n").then_some(()).ok_or("other figures")
    })
    .await;
    assert_eq!(scene.sink.stats().accepted, 1, "a suspended relay sends nothing");
    scene.change(|record| record.spec.suspend = false).await;
    scene.all_delivered(21).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_without_work_is_kept_for_a_while_and_then_closed() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    scene.add_worker();
    scene.share(4, &[4]).await;
    // A mail may find the session still busy with what follows the mail before, but not each of them.
    for mail in 1..=5 {
        scene.send(1).await;
        scene.all_delivered(mail).await;
    }
    let sessions = scene.sink.stats().sessions;
    assert!(sessions <= 3, "mails go through a kept session: {sessions} sessions for 5 mails");
    scene.sink_until("the idle session is closed", |stats| stats.open == 0).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_says_how_it_is() {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.send(5).await;
    scene.all_delivered(5).await;
    assert_eq!(scene.workers[0].get("/livez").await.map(|page| page.0), Some(200));
    assert_eq!(scene.workers[0].get("/readyz").await.map(|page| page.0), Some(200));
    eventually("the metrics show it", async || {
        let (_, text) = scene.workers[0].get("/metrics").await.ok_or("no page".to_owned())?;
        let wanted = [
            "mailrelay_mails_total{server=\"primary\",verdict=\"delivered\"} 5\n",
            "mailrelay_slots_limit{pool=\"127.0.0.1\"} 16\n",
            "mailrelay_server_available{server=\"primary\"} 1\n",
            "mailrelay_claims_open 0\n",
            "mailrelay_queue_mails{kind=\"pending\"} 0\n",
        ];
        wanted.iter().all(|line| text.contains(line)).then_some(()).ok_or(text)
    })
    .await;
    scene.logs_are_clean();
}

/// A worker with two servers, and the second of them. Both draw on one budget, since they have one host: never more than 4
/// sessions over both.
async fn two_slow_servers() -> (Scene, mailsink::Sink) {
    let second = mailsink::Sink::start(SinkConfig::default()).await.expect("a second sink");
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    let port = second.smtp().port();
    scene
        .change(|record| {
            let mut other = record.spec.servers[0].clone();
            (other.name, other.port) = ("secondary".into(), port);
            record.spec.servers.push(other);
        })
        .await;
    scene.add_worker();
    scene.share(4, &[4]).await;
    scene.sink.set_behaviour(slow(50));
    second.set_behaviour(slow(50));
    (scene, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn work_is_spread_over_two_servers_with_a_budget_each() {
    let (scene, second) = two_slow_servers().await;
    scene.send(100).await;
    scene.all_delivered(100).await;
    let (first, second) = (scene.sink.stats(), second.stats());
    assert_eq!(first.accepted + second.accepted, 100);
    assert!(first.accepted >= 20 && second.accepted >= 20, "{first:?} {second:?}");
    assert!(first.peak + second.peak <= 4, "{first:?} {second:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_server_gets_no_mail_until_it_is_resumed_and_what_was_being_sent_is_finished() {
    let (mut scene, second) = two_slow_servers().await;
    scene.send(100).await;
    scene.sink_until("both servers are in use", |stats| stats.open > 0 && second.stats().open > 0).await;
    scene.change(|record| record.spec.servers[1].suspend = true).await;
    scene.sink_until("its sessions end", |_| second.stats().open == 0).await;
    let before = second.stats();
    scene.sink_until("the other has all slots", |stats| stats.open == 4).await;
    scene.all_delivered(100).await;
    assert_eq!(second.stats(), before, "nothing came to it");
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.held, audit.dead), (0, 0), "{audit:?}");
    // The other one is suspended now: mail waits, and flows as soon as this one is resumed.
    scene.change(|record| record.spec.servers[0].suspend = true).await;
    scene.sink_until("its sessions end", |stats| stats.open == 0).await;
    scene.send(10).await;
    scene.change(|record| record.spec.servers[1].suspend = false).await;
    scene.all_delivered(110).await;
    assert_eq!(second.stats().accepted, before.accepted + 10);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_its_quota_is_left_alone_and_the_queue_stays_where_it_is() {
    let scene = Scene::sixteen(1, json!({})).await;
    let quota = Failure::reply(FailureStage::Mail, "454 4.7.0 Daily sending quota exceeded, try again tomorrow");
    scene.sink.set_behaviour(Behaviour::failing([quota]));
    scene.send(300).await;
    scene.unavailable_for("QuotaExceeded").await;
    scene.sink_until("no session is left", |stats| stats.open == 0).await;
    let audit = scene.audit_until("nothing in flight", |audit| audit.in_flight == 0).await;
    assert!(audit.queued >= 250 && audit.dead == 0, "one mail a session at most was tried: {audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_moves_is_followed_live() {
    let other = mailsink::Sink::start(SinkConfig::default()).await.expect("another sink");
    let mut scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(50));
    scene.send(200).await;
    scene.sink_until("mail flows", |stats| stats.accepted >= 20).await;
    let port = other.smtp().port();
    scene.change(|record| record.spec.servers[0].port = port).await;
    scene.all_delivered(200).await;
    let (old, new) = (scene.sink.stats(), other.stats());
    assert_eq!((old.accepted + new.accepted, old.open), (200, 0), "{old:?} {new:?}");
    assert!(new.accepted > 50 && new.peak <= 16, "{old:?} {new:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_stops_the_server_until_the_files_change_and_costs_no_mail() {
    let login = mailsink::Login { username: "app".into(), password: "right".into() };
    let config = SinkConfig { tls: true, login: Some(login), ..SinkConfig::default() };
    let spec = json!({ "server": { "tls": "StartTLS", "auth": "Plain" }, "retry": { "maxRetries": 0 } });
    let mut scene = Scene::open(4, config, spec).await;
    let credentials = tempfile::tempdir().expect("a folder");
    let files = credentials.path().join("primary");
    std::fs::create_dir(&files).expect("a folder");
    std::fs::write(files.join("ca.crt"), scene.sink.certificate().expect("TLS")).expect("written");
    std::fs::write(files.join("username"), "app").expect("written");
    scene.add_worker_with(&["--credentials-dir", credentials.path().to_str().expect("UTF-8")]);
    scene.share(4, &[4]).await;
    scene.send(5).await;
    scene.unavailable_for("SecretMissing").await;
    std::fs::write(files.join("password"), "wrong").expect("written");
    scene.unavailable_for("AuthenticationFailed").await;
    assert_eq!(scene.sink.stats().accepted, 0);
    std::fs::write(files.join("password"), "right\n").expect("written");
    let audit = scene.all_delivered(5).await;
    assert_eq!((audit.dead, audit.held), (0, 0), "{audit:?}");
    assert!(!scene.workers[0].log().contains("wrong") && !scene.workers[0].log().contains("right"));
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_supervisor_starts_a_dead_worker_again_and_ends_cleanly() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    scene.add_worker_with(&["--supervise"]);
    scene.share(4, &[4]).await;
    scene.send(10).await;
    scene.all_delivered(10).await;
    let child = eventually("the worker is its child", async || scene.workers[0].children().pop().ok_or("none")).await;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), Signal::SIGKILL).expect("killed");
    scene.send(10).await;
    scene.all_delivered(20).await;
    assert_ne!(scene.workers[0].children(), [child]);
    scene.workers[0].signal(Signal::SIGTERM);
    assert_eq!(scene.workers[0].ended().await.code(), Some(0));
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.in_flight, audit.difference), (0, 0), "{audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_is_too_short_for_its_own_renewals_opens_nothing() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.change(|record| record.lease_ms = 1_000).await;
    eventually("it says so", async || match scene.workers[0].log() {
        log if log.contains("of no use") => Ok(()),
        log => Err(log),
    })
    .await;
    let before = scene.sink.stats().sessions;
    scene.send(5).await;
    scene.change(|record| record.lease_ms = 6_000).await;
    scene.all_delivered(5).await;
    assert_eq!(before, 0, "nothing was opened meanwhile");
}

/// A login code waits for the mails that are being sent and for no others, whatever lies before it.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_of_high_priority_passes_a_hundred_thousand_of_low_and_ten_thousand_that_are_due() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 50, ..Behaviour::default() });
    for _ in 0..100 {
        let mut push = redis::cmd("LPUSH");
        push.arg("{mail_queue}:low");
        for _ in 0..1_000 {
            push.arg(r#"{"from":"a@example.com","to":"bulk@example.org","text":"x","priority":"low"}"#);
        }
        scene.query::<u64>(&push).await;
    }
    let due = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_secs() + 2;
    let later = json!({ "from": "a@example.com", "to": "due@example.org", "text": "x", "notBefore": due }).to_string();
    let limits = EnqueueLimits { max_length: 1_000_000, max_bytes: 0 };
    for _ in 0..100 {
        let sending = (0..100).map(|_| scene.queue.enqueue(later.as_bytes(), limits, UnixMillis::now()));
        futures::future::join_all(sending).await.into_iter().for_each(|sent| drop(sent.expect("enqueued")));
    }
    scene.add_worker();
    scene.share(16, &[16]).await;
    scene.sink_until("retries and bulk flow", |stats| stats.accepted > 200).await;
    let code =
        json!({ "id": "code", "from": "a@example.com", "to": "code@example.org", "text": "4711", "priority": "high" });
    let before = scene.sink.stats().accepted;
    scene.queue.enqueue(code.to_string().as_bytes(), limits, UnixMillis::now()).await.expect("enqueued");
    let journal = eventually("the code is there", async || {
        let journal = scene.sink.journal();
        let found = journal.iter().position(|entry| entry.to == ["code@example.org"]);
        found.ok_or("not yet")
    })
    .await;
    let passed = u64::try_from(journal).expect("few") - before;
    assert!(passed <= 3 * 16, "{passed} mails were sent before it");
}
