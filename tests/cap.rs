//! The cap under attack: real processes, a real Redis, and the sink that counts.

mod scene;

use std::time::{Duration, Instant};

use mailsink::{Behaviour, SinkConfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::{PATIENCE, Scene, eventually};
use serde_json::json;

/// Two supervised workers with 8 busy sessions each; the second one's worker process.
async fn sixteen_busy(mails: usize) -> (Scene, i32) {
    let spec = json!({ "server": { "closeGrace": "2s" } });
    let mut scene = Scene::open(16, SinkConfig::default(), spec).await;
    scene.add_worker_with(&["--supervise"]);
    scene.add_worker_with(&["--supervise"]);
    scene.share(16, &[8, 8]).await;
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 250, ..Behaviour::default() });
    scene.send(mails).await;
    scene.sink_until("16 busy sessions", |stats| stats.open == 16).await;
    let process = eventually("its worker process", async || scene.workers[1].children().pop().ok_or("none")).await;
    (scene, process)
}

fn signal(process: i32, signal: Signal) {
    kill(Pid::from_raw(process), signal).expect("the signal is delivered");
}

async fn another_process(scene: &Scene, old: i32) {
    eventually("a new worker process", async || match scene.workers[1].children().pop() {
        Some(child) if child != old => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
}

/// Nothing was lost, sent twice or refused, and 16 was the most.
async fn all_accounted_for(scene: &Scene, mails: u64) {
    scene.sink.set_behaviour(Behaviour::default());
    let audit = scene
        .audit_until("everything settled", |audit| audit.in_flight == 0 && audit.queued == 0 && audit.delayed == 0)
        .await;
    assert_eq!((audit.delivered + audit.held, audit.dead), (mails, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.peak, stats.peak_attempted, stats.rejected, stats.duplicates), (16, 16, 0, 0), "{stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_loses_its_sessions_by_the_end_of_its_lease_and_comes_back() {
    let (scene, process) = sixteen_busy(1_100).await;
    signal(process, Signal::SIGSTOP);
    let stopped = Instant::now();
    scene.sink_until("its sessions are closed", |stats| stats.open <= 8).await;
    let closed = stopped.elapsed();
    scene.sink_until("its slots are used again", |stats| stats.open == 16).await;
    let used = stopped.elapsed();
    println!("SIGSTOP: sessions closed after {closed:?}, slots used again after {used:?}");
    assert!(closed >= Duration::from_secs(3), "it was stopped, so only the end of the lease can have closed them");
    assert!(closed <= Duration::from_millis(6_500), "{closed:?}");
    assert!(used <= Duration::from_secs(10), "{used:?}");
    another_process(&scene, process).await;
    all_accounted_for(&scene, 1_100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_slots_of_a_killed_worker_are_usable_after_the_close_grace_and_a_second() {
    let (scene, process) = sixteen_busy(600).await;
    signal(process, Signal::SIGKILL);
    let killed = Instant::now();
    scene.sink_until("its sessions are closed", |stats| stats.open <= 8).await;
    scene.sink_until("its slots are used again", |stats| stats.open == 16).await;
    let used = killed.elapsed();
    println!("SIGKILL: slots used again after {used:?}");
    assert!(used >= Duration::from_secs(2), "not before the close grace: {used:?}");
    assert!(used <= Duration::from_millis(3_500), "{used:?}");
    another_process(&scene, process).await;
    all_accounted_for(&scene, 600).await;
}

/// A PID namespace of its own, as a container has.
const CONTAINER: [&str; 4] = ["unshare", "--pid", "--fork", "--kill-child"];

#[tokio::test(flavor = "multi_thread")]
async fn process_1_without_a_supervisor_opens_no_session_and_says_why() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.add_worker_behind(&CONTAINER, &["--unsupervised"]);
    scene.share(16, &[16]).await;
    scene.send(5).await;
    let unavailable = eventually("it says so", async || {
        let report = scene.report(0).await.ok_or("no report")?;
        report.servers[0].unavailable.clone().ok_or("available")
    })
    .await;
    assert_eq!(unavailable.reason, "NoDeadManSwitch");
    assert!(unavailable.message.contains("number 1"), "{}", unavailable.message);
    assert!(scene.workers[0].log().contains("opens no session"), "{}", scene.workers[0].log());
    let holder = eventually("it is in the ledger", async || {
        let ledger = scene.ledger().snapshot().await.expect("snapshot").ledger.ok_or("no ledger")?;
        ledger.holders.into_iter().find(|holder| holder.seq >= 3).ok_or("not yet")
    })
    .await;
    assert_eq!((holder.claim, holder.limit, holder.want), (0, 0, 0), "{holder:?}");
    assert_eq!(scene.workers[0].get("/readyz").await.map(|page| page.0), Some(200));
    assert_eq!(scene.sink.stats().sessions, 0);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn process_1_is_a_supervisor_whose_worker_is_protected_and_sends() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.add_worker_behind(&CONTAINER, &[]);
    scene.share(16, &[16]).await;
    scene.send(20).await;
    scene.all_delivered(20).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_of_the_switch_ends_by_it() {
    use std::os::unix::process::ExitStatusExt;
    let trial = tokio::process::Command::new(env!("CARGO_BIN_EXE_mailrelay")).arg("try-switch").status();
    let status = tokio::time::timeout(PATIENCE, trial).await.expect("it ends").expect("it starts");
    assert_eq!(status.signal(), Some(Signal::SIGKILL as i32), "{status}");
}
