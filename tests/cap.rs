//! The cap under attack: real processes, a real Redis, and the sink that counts.

mod scene;

use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

use mailrelay::{
    api::{DurationText, Reason},
    controller::{Driven, Pool, PoolPlan, Topology, Turn},
    lease::{BootTime, Evidence, LedgerState, LedgerView, Timing},
};
use mailsink::{Behaviour, Failure, FailureStage, SinkConfig, Stats};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use scene::{PATIENCE, Scene, eventually};
use serde_json::json;
use tokio::sync::watch;

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

/// The slots that the ledger withholds, once `fits`.
async fn withheld_until(scene: &Scene, what: &str, fits: impl Fn(&LedgerView) -> bool) -> LedgerView {
    eventually(what, async || {
        let view = scene.ledger().snapshot().await.expect("snapshot").ledger.ok_or("no ledger".to_owned())?;
        if fits(&view) { Ok(Arc::unwrap_or_clone(view)) } else { Err(format!("{view:?}")) }
    })
    .await
}

/// The processes of a worker's pod that the ledger knows, each with its claim.
fn claims(view: &LedgerView, scene: &Scene, worker: usize) -> Vec<(String, u32)> {
    let holders = view.holders_of(&scene.workers[worker].pod.uid);
    holders.map(|holder| (holder.process.clone(), holder.claim)).collect()
}

/// The process of a worker's pod that the ledger knows.
async fn registered(scene: &Scene, worker: usize) -> String {
    let view = withheld_until(scene, "registered", |view| claims(view, scene, worker).len() == 1).await;
    claims(&view, scene, worker).remove(0).0
}

/// Whether another process than `old` has registered, in its place, and holds this many slots.
fn replaced(view: &LedgerView, scene: &Scene, worker: usize, old: &str, claim: u32) -> bool {
    matches!(&claims(view, scene, worker)[..], [(process, held)] if process != old && *held == claim)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_worker_loses_its_sessions_by_the_end_of_its_lease_and_its_slots_stay_withheld() {
    let (scene, process) = sixteen_busy(16).await;
    all_accounted_for(&scene, 16).await;
    let works = Failure::reply(FailureStage::Dot, "250 2.0.0 taken").accepting().after(Duration::from_secs(1));
    scene.sink.set_behaviour(Behaviour::failing([works]));
    scene.send(100).await;
    scene.sink_until("the server works on 16 messages", |stats| stats.silent == 16).await;
    signal(process, Signal::SIGSTOP);
    let stopped = Instant::now();
    scene.sink_until("its sessions are closed", |stats| stats.open <= 8).await;
    let closed = stopped.elapsed();
    println!("SIGSTOP: sessions closed after {closed:?}");
    assert!(closed >= Duration::from_secs(3), "it was stopped, so only the end of the lease can have closed them");
    assert!(closed <= Duration::from_millis(6_500), "{closed:?}");
    another_process(&scene, process).await;
    // Answers came while it was stopped, so its kernel reset the connections: nobody here can know that the server heard it.
    let view = withheld_until(&scene, "withheld", |view| view.quarantined() == 8).await;
    assert!(view.quarantine.iter().all(|withheld| withheld.seconds == 40), "sessionTimeout and margin: {view:?}");
    all_accounted_for(&scene, 116).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_workers_slots_at_a_server_at_rest_are_free_as_soon_as_the_kernel_shows_the_servers_end() {
    let (scene, process) = sixteen_busy(100).await;
    all_accounted_for(&scene, 100).await;
    assert_eq!(scene.sink.stats().open, 16, "idle sessions are kept");
    let old = registered(&scene, 1).await;
    signal(process, Signal::SIGKILL);
    let killed = Instant::now();
    let freed = withheld_until(&scene, "its share is back", |view| {
        replaced(view, &scene, 1, &old, 8) && view.quarantine.is_empty()
    });
    freed.await;
    println!("SIGKILL at rest: the next process has all slots after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(10), "without proof they would be withheld for 40 s");
    another_process(&scene, process).await;
    all_accounted_for(&scene, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_while_the_server_works_costs_the_slots_whose_end_nobody_saw() {
    let (scene, process) = sixteen_busy(16).await;
    all_accounted_for(&scene, 16).await;
    // All wait for the answer to a whole message, which will come to a socket without an owner: the kernel resets that.
    let works = Failure::reply(FailureStage::Dot, "250 2.0.0 taken").accepting().after(Duration::from_secs(5));
    scene.sink.set_behaviour(Behaviour::failing([works]));
    scene.send(16).await;
    scene.sink_until("the server works on 16 messages", |stats| stats.silent == 16).await;
    let old = registered(&scene, 1).await;
    signal(process, Signal::SIGKILL);
    another_process(&scene, process).await;
    let view = withheld_until(&scene, "registered", |view| replaced(view, &scene, 1, &old, 0)).await;
    assert_eq!(view.quarantined(), 8, "{view:?}");
    all_accounted_for(&scene, 32).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_a_supervisor_leaves_nothing_that_could_be_proven() {
    let mut scene = Scene::open(8, SinkConfig::default(), json!({})).await;
    scene.add_worker();
    scene.share(8, &[8]).await;
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 250, ..Behaviour::default() });
    scene.send(16).await;
    scene.sink_until("8 busy sessions", |stats| stats.open == 8).await;
    scene.all_delivered(16).await;
    let old = registered(&scene, 0).await;
    scene.workers[0].crash();
    scene.workers[0].restart();
    let view = withheld_until(&scene, "registered", |view| replaced(view, &scene, 0, &old, 0)).await;
    assert_eq!((view.quarantined(), view.quarantine[0].seconds), (8, 40), "{view:?}");
    assert_eq!(scene.sink.stats().peak, 8);
}

/// A PID namespace of its own, as a container has; only root may have one without a user namespace.
fn container() -> Vec<&'static str> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let user: &[&str] = if is_root { &[] } else { &["--user", "--map-root-user"] };
    ["unshare", "--pid", "--fork", "--kill-child"].iter().chain(user).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn process_1_without_a_supervisor_opens_no_session_and_says_why() {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.add_worker_behind(&container(), &["--unsupervised"]);
    scene.share(16, &[16]).await;
    scene.send(5).await;
    let unavailable = eventually("it says so", async || {
        let report = scene.report(0).await.ok_or("no report")?;
        report.servers[0].unavailable.clone().ok_or("available")
    })
    .await;
    assert_eq!(unavailable.reason, Reason::NoDeadManSwitch);
    assert!(unavailable.message.contains("number 1"), "{}", unavailable.message);
    assert!(scene.workers[0].log().contains("opens no session"), "{}", scene.workers[0].log());
    let holder = eventually("it is in the ledger", async || {
        let ledger = scene.ledger().snapshot().await.expect("snapshot").ledger.ok_or("no ledger")?;
        ledger.holders.iter().find(|holder| holder.seq >= 3).cloned().ok_or("not yet")
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
    scene.add_worker_behind(&container(), &[]);
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

/// The controller's own loop over the pool, without an API server: all workers of the scene share the budget.
struct Lead {
    driven: watch::Receiver<Option<Driven>>,
    task: tokio::task::JoinHandle<()>,
}

impl Lead {
    async fn start(scene: &Scene, budget: u32) -> Self {
        scene.stop_leading();
        let plan = Arc::new(PoolPlan {
            budget,
            members: scene.workers.iter().map(|worker| worker.pod.uid.clone()).collect(),
            relays: std::collections::BTreeMap::new(),
            weights: None,
            session_timeout: DurationText::from_secs(10),
            close_grace: DurationText::from_secs(2),
            rate_limits: Vec::new(),
            servers: BTreeSet::new(),
        });
        let mut pool = Pool::new(scene.store.clone(), scene.ledger().pool());
        let (tell, driven) = watch::channel(None);
        let task = tokio::spawn(async move {
            let (timing, evidence, topology) = (Timing::default(), Evidence::default(), Topology::of_a_single_node());
            let turn = Turn { epoch: 2, timing: &timing, evidence: &evidence, topology: &topology };
            loop {
                if let Ok(driven) = pool.drive(Some(&plan), true, &turn, &mut Vec::new()).await {
                    tell.send_replace(Some(driven));
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        });
        let mut lead = Self { driven, task };
        lead.until("its policy is in force", |driven| ledger(driven).is_some_and(|view| view.epoch == 2)).await;
        lead
    }

    async fn until(&mut self, what: &str, fits: impl Fn(&Driven) -> bool) -> Driven {
        let waiting = self.driven.wait_for(|driven| driven.as_ref().is_some_and(&fits));
        if let Ok(driven) = tokio::time::timeout(PATIENCE, waiting).await {
            return driven.expect("it leads").clone().expect("a turn");
        }
        panic!("{what}: not within {PATIENCE:?}; last {:?}", self.driven.borrow())
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn ledger(driven: &Driven) -> Option<&LedgerView> {
    driven.snapshot.in_force()
}

async fn command(scene: &Scene, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    for word in &words[1..] {
        command.arg(*word);
    }
    let _: redis::Value = scene.store.query(&command, Duration::from_secs(5)).await.expect("Redis does it");
}

/// Loses the ledger under load; the sink's figures before and after, and how long it took to grant again.
async fn recovery(scene: &Scene, lead: &mut Lead, fault: &[&str]) -> (Stats, Stats, Duration) {
    let token = lead.until("open", |driven| ledger(driven).is_some_and(|view| view.state == LedgerState::Open)).await;
    let token = ledger(&token).expect("in force").token.clone();
    let before = scene.sink.stats();
    command(scene, fault).await;
    let lost = BootTime::now();
    let opened = lead
        .until("open again", |driven| {
            ledger(driven).is_some_and(|view| view.state == LedgerState::Open && view.token != token)
        })
        .await;
    let took = BootTime::now().saturating_since(lost);
    let view = ledger(&opened).expect("in force");
    assert_eq!((view.holders.len(), view.quarantined()), (2, 0), "{view:?}");
    (before, scene.sink.stats(), took)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_ledger_is_open_again_at_once_when_all_pods_live_and_no_session_is_closed() {
    let (scene, _) = sixteen_busy(500).await;
    let mut lead = Lead::start(&scene, 16).await;
    for _ in 0..3 {
        let (before, after, took) = recovery(&scene, &mut lead, &["DEL", scene.ledger().key()]).await;
        println!("DEL of the ledger: open again after {took:?}");
        assert!(took <= Duration::from_secs(3), "{took:?}");
        assert_eq!((after.sessions, after.open), (before.sessions, 16), "{before:?} {after:?}");
    }
    all_accounted_for(&scene, 500).await;
    drop(scene);
    // FLUSHALL takes the mail with it, so only the sessions can be judged.
    let (scene, _) = sixteen_busy(500).await;
    let mut lead = Lead::start(&scene, 16).await;
    let (before, after, took) = recovery(&scene, &mut lead, &["FLUSHALL"]).await;
    println!("FLUSHALL: open again after {took:?}");
    assert!(took <= Duration::from_secs(3), "{took:?}");
    assert_eq!((after.sessions, after.open), (before.sessions, 16), "{before:?} {after:?}");
    assert_eq!((after.peak, after.rejected), (16, 0), "{after:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_restart_of_redis_slots_are_granted_at_once_when_all_pods_live() {
    let (mut scene, _) = sixteen_busy(700).await;
    let mut lead = Lead::start(&scene, 16).await;
    let is_open = |driven: &Driven| ledger(driven).is_some_and(|view| view.state == LedgerState::Open);
    let before = lead.until("open", is_open).await.snapshot.node_fence;
    scene.redis.crash();
    scene.redis.resume();
    let back = Instant::now();
    lead.until("open again", |driven| is_open(driven) && driven.snapshot.node_fence != before).await;
    let opened = back.elapsed();
    scene.sink_until("16 busy sessions again", |stats| stats.open == 16).await;
    println!("restart of Redis: open again after {opened:?}, 16 sessions after {:?}", back.elapsed());
    assert!(opened <= Duration::from_secs(3) && back.elapsed() <= Duration::from_secs(5), "{opened:?}");
    all_accounted_for(&scene, 700).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_does_not_answer_holds_up_the_roll_call_and_its_slots_stay_withheld() {
    let (scene, process) = sixteen_busy(1_500).await;
    let mut lead = Lead::start(&scene, 16).await;
    // Nothing may come back in its place: the supervisor is stopped, and then the worker.
    signal(scene.workers[1].pid(), Signal::SIGSTOP);
    signal(process, Signal::SIGSTOP);
    command(&scene, &["DEL", scene.ledger().key()]).await;
    let lost = BootTime::now();
    let recovering = |driven: &Driven| ledger(driven).is_some_and(|view| view.state == LedgerState::Rec);
    lead.until("in recovery", recovering).await;
    let opened = lead.until("open again", |driven| !recovering(driven)).await;
    let took = BootTime::now().saturating_since(lost);
    assert!(took >= Timing::default().reclaim, "it opened early: {took:?}");
    let view = ledger(&opened).expect("in force");
    assert_eq!((view.quarantined(), view.quarantine[0].seconds), (8, 40), "{view:?}");
    assert!(scene.sink.stats().open <= 8);
    signal(scene.workers[1].pid(), Signal::SIGCONT);
    another_process(&scene, process).await;
    scene.sink.set_behaviour(Behaviour::default());
    // The mails in the stopped process's hands are the business of a controller that looks after claims.
    let audit = scene.audit_until("all others delivered", |audit| audit.queued == 0 && audit.in_flight <= 8).await;
    assert_eq!((audit.delivered + audit.in_flight + audit.held, audit.dead), (1_500, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.peak, stats.rejected, stats.duplicates), (16, 0, 0), "{stats:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_takes_ten_gets_fewer_sessions_and_all_of_them_back_when_it_takes_more() {
    let config = SinkConfig { limit: 10, ..SinkConfig::default() };
    let mut scene = Scene::open(16, config, json!({})).await;
    scene.add_worker();
    scene.add_worker();
    scene.share(16, &[8, 8]).await;
    let mut lead = Lead::start(&scene, 16).await;
    let slow = |limit| Behaviour { mail_delay_ms: 100, limit: Some(limit), ..Behaviour::default() };
    scene.sink.set_behaviour(slow(10));
    scene.send(400).await;
    let lowered = lead.until("lowered", |driven| driven.effective.is_some()).await;
    let effective = lowered.effective.expect("just seen");
    assert!((5..=9).contains(&effective), "{lowered:?}");
    let fewer = lead.until("shared out", |driven| {
        let shares = ledger(driven).map(|view| view.entitlements.values().sum::<u32>());
        driven.effective.is_some() && shares == driven.effective
    });
    let fewer = fewer.await;
    let view = ledger(&fewer).expect("in force");
    assert!(view.budget >= fewer.effective.expect("lowered") && view.budget <= 16, "{view:?}");
    let refused = scene.sink.stats().rejected;
    assert!((1..=16).contains(&refused), "one burst and no more: {:?}", scene.sink.stats());
    scene.sink.set_behaviour(slow(16));
    let grown = Instant::now();
    lead.until("no slot is withheld", |driven| ledger(driven).is_some_and(|view| view.quarantine.is_empty())).await;
    scene.send(200).await;
    lead.until("the whole budget is back", |driven| {
        driven.effective.is_none() && ledger(driven).is_some_and(|view| view.budget == 16)
    })
    .await;
    println!("lowered to {effective}, {refused} refused, all back {:?} after the server took more", grown.elapsed());
    let audit = scene.all_delivered(600).await;
    assert_eq!((audit.dead, audit.held), (0, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert!(stats.peak <= 16 && stats.rejected < refused + 8 && stats.duplicates == 0, "{stats:?}");
    assert!(scene.ledger().saturation().await.expect("Redis").is_none());
    scene.logs_are_clean();
}
