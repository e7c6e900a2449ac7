//! What strangers and large mails may take of a worker: neither its file descriptors nor its memory.

mod scene;

use std::{
    fs,
    net::TcpStream,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use mailrelay::{lease::ProcessId, queue::Audit};
use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use scene::{Pod, Scene, Worker, eventually};
use serde_json::json;
use testkit::SlowLink;

/// A worker that may open so many files.
async fn with_files(count: u32) -> Scene {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    scene.add_worker_behind(&["prlimit", &format!("--nofile={count}:{count}")], &[]);
    scene.share(16, &[16]).await;
    scene
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_hold_up_neither_mail_nor_probes() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("raised");
    let scene = with_files(1_024).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    let port = scene.workers[0].http;
    let silent = tokio::task::spawn_blocking(move || {
        let connect = |_| TcpStream::connect(("127.0.0.1", port)).expect("taken or queued");
        (0..10_000).map(connect).collect::<Vec<_>>()
    });
    // Meanwhile, and afterwards.
    for total in [201, 401] {
        scene.send(200).await;
        scene.all_delivered(total).await;
        let probe = tokio::time::timeout(Duration::from_secs(2), scene.workers[0].get("/livez")).await;
        assert_eq!(probe.ok().flatten().map(|(status, _)| status), Some(200), "a probe gets its answer");
        if total == 201 {
            eventually("all connections were made", async || silent.is_finished().then_some(()).ok_or("not yet")).await;
        }
    }
    let silent = silent.await.expect("all connected");
    let open = std::fs::read_dir(format!("/proc/{}/fd", scene.workers[0].pid())).expect("it runs").count();
    assert!(open < 200, "{open} descriptors while {} connections are silent", silent.len());
    assert!(!scene.workers[0].log().contains("Too many open files"), "{}", scene.workers[0].log());
    scene.logs_are_clean();
}

/// A control group with a limit of memory, for the processes of one worker; version 1 or 2. Needs root.
struct Cage(PathBuf);

impl Cage {
    fn of(bytes: u64) -> Self {
        let root = if Path::new("/sys/fs/cgroup/memory").exists() { "/sys/fs/cgroup/memory" } else { "/sys/fs/cgroup" };
        let folder = Path::new(root).join(format!("mailrelay-{}-{bytes}", std::process::id()));
        fs::create_dir(&folder).expect("a control group: this test needs root");
        let cage = Self(folder);
        let file = ["memory.limit_in_bytes", "memory.max"].into_iter().find(|file| cage.0.join(file).exists());
        fs::write(cage.0.join(file.expect("the memory controller")), bytes.to_string()).expect("limited");
        cage
    }

    /// What puts a worker into it.
    fn command(&self) -> [String; 4] {
        let script = format!("echo $$ > {}/cgroup.procs && exec \"$@\"", self.0.display());
        ["sh".into(), "-c".into(), script, "sh".into()]
    }

    fn read(&self, files: [&str; 2]) -> String {
        files.iter().find_map(|file| fs::read_to_string(self.0.join(file)).ok()).unwrap_or_default()
    }

    /// The most that it held, in MiB: also what the kernel kept of files.
    fn peak(&self) -> u64 {
        let peak = self.read(["memory.max_usage_in_bytes", "memory.peak"]);
        peak.trim().parse::<u64>().expect("a figure") >> 20
    }

    fn kills(&self) -> u64 {
        let events = self.read(["memory.oom_control", "memory.events"]);
        let kills = events.lines().find_map(|line| line.strip_prefix("oom_kill "));
        kills.expect("a figure").trim().parse().expect("a number")
    }
}

impl Drop for Cage {
    fn drop(&mut self) {
        // Its processes may not be gone quite yet; an empty group that stays does no harm.
        let _ = fs::remove_dir(&self.0);
    }
}

/// The most memory that any process of a worker had at once, in MiB.
fn high_water(worker: &Worker) -> u64 {
    let of = |pid: &i32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:").map(str::to_owned));
        line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or(0) >> 10
    };
    worker.children().iter().chain([&worker.pid()]).map(of).max().unwrap_or(0)
}

/// A file that is not the same twice.
fn file(bytes: usize, number: u64) -> String {
    let mut state = number + 1;
    let content: Vec<u8> = std::iter::repeat_with(|| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state.to_le_bytes()
    })
    .take(bytes / 8)
    .flatten()
    .collect();
    STANDARD.encode(content)
}

/// As a producer pushes it, with a file of so many bytes; every second one escapes slashes, as PHP does.
async fn push_with_file(scene: &Scene, number: u64, bytes: usize) {
    let content = if number.is_multiple_of(2) { file(bytes, number) } else { file(bytes, number).replace('/', "\\/") };
    let payload = format!(
        r#"{{"id":"file-{number}","from":"app@example.com","to":"r{number}@example.org","subject":"A file","text":"Here it is.","attachments":[{{"filename":"file.bin","content":"{content}"}}]}}"#
    );
    // By a connection that waits for as long as it takes; one of them lies elsewhere, and the list has only its id.
    let url = scene.redis.url();
    let pushed = tokio::task::spawn_blocking(move || {
        let mut producer = redis::Client::open(url)?.get_connection()?;
        if number == 3 {
            let () = redis::cmd("SET").arg(format!("mail:file-{number}")).arg(payload).query(&mut producer)?;
            redis::cmd("LPUSH").arg("mail_queue").arg(format!("file-{number}")).query::<i64>(&mut producer)
        } else {
            redis::cmd("LPUSH").arg("mail_queue").arg(payload).query::<i64>(&mut producer)
        }
    });
    pushed.await.expect("no panic").expect("pushed");
}

/// As [`Scene::audit_until`], with the patience that hundreds of megabytes need in a build without optimisation.
async fn settled(scene: &Scene, what: &str, fits: impl Fn(&Audit) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(500);
    loop {
        let audit = scene.queue.audit().await;
        if audit.as_ref().is_ok_and(|audit| fits(audit) && audit.in_flight == 0) {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: {audit:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

const FILE: usize = 24 * 1024 * 1024;

/// A relay whose worker has the memory of examples/deployment.yaml.
async fn small_sidecar(cage: &Cage) -> Scene {
    let mut scene = Scene::open(16, SinkConfig::default(), json!({})).await;
    // Hundreds of megabytes on the disk for each mail's steps are not what is tested.
    scene.redis.command(&["CONFIG", "SET", "appendonly", "no"]).expect("configured");
    let command = cage.command();
    scene.add_worker_behind(&command.each_ref().map(String::as_str), &[]);
    scene
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a control group"]
async fn sixteen_sessions_with_files_of_24_mib_live_in_the_memory_of_the_example() {
    let cage = Cage::of(128 << 20);
    let mut scene = small_sidecar(&cage).await;
    scene.share(16, &[16]).await;
    // The first comes to a worker that waits.
    for number in 0..16 {
        push_with_file(&scene, number, FILE).await;
    }
    scene.send(100).await;
    settled(&scene, "116 mails delivered", |audit| audit.delivered == 116).await;
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.held, audit.dead, audit.duplicates, cage.kills()), (0, 0, 0, 0), "{audit:?}");
    let stats = scene.sink.stats();
    assert_eq!((stats.accepted, stats.unique_message_ids, stats.duplicates), (116, 116, 0), "{stats:?}");
    let large = scene.sink.journal().into_iter().filter(|entry| entry.size > FILE / 3 * 4).count();
    assert_eq!(large, 16, "whole files");
    println!("VmHWM {} MiB, the group's peak {} MiB", high_water(&scene.workers[0]), cage.peak());
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, for a control group"]
async fn large_mails_that_are_refused_become_dead_letters_in_the_memory_of_the_example() {
    let cage = Cage::of(128 << 20);
    let mut scene = small_sidecar(&cage).await;
    let refusal = Failure::reply(FailureStage::Dot, "554 5.6.0 not this one");
    scene.sink.set_behaviour(Behaviour { failures: vec![refusal], ..Behaviour::default() });
    scene.share(16, &[16]).await;
    for number in 0..6 {
        push_with_file(&scene, number, FILE).await;
    }
    settled(&scene, "6 dead letters", |audit| audit.dead == 6).await;
    assert_eq!(cage.kills(), 0);
    for number in [0, 1, 3] {
        let letter = scene.queue.dead_show(&format!("file-{number}")).await.expect("shown").expect("a letter");
        let payload = serde_json::from_str::<serde_json::Value>(&letter.payload.expect("text")).expect("JSON");
        assert!(payload["attachments"][0]["content"].as_str().expect("text") == file(FILE, number), "to the byte");
    }
    println!("VmHWM {} MiB, the group's peak {} MiB", high_water(&scene.workers[0]), cage.peak());
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half a minute of a slow link, with time limits that a busy machine does not keep"]
async fn a_large_mail_comes_over_a_slow_link_to_redis_at_the_first_try() {
    let mut scene = Scene::open(4, SinkConfig::default(), json!({})).await;
    let link = SlowLink::open(scene.redis.address(), 1_000_000).await.expect("a port");
    let folder = tempfile::tempdir().expect("a folder");
    let pod = Pod { uid: ProcessId::random().to_string(), name: "pod-0".into() };
    let url = format!("redis://{}", link.address());
    scene.workers.push(Worker::start(&url, pod, folder.path().join("worker.log"), &[]));
    scene.share(4, &[4]).await;
    scene.send(1).await;
    scene.all_delivered(1).await;
    // Longer on its way than a claim may be unknown to its own worker.
    push_with_file(&scene, 0, 18_000_000).await;
    let began = Instant::now();
    scene.send(20).await;
    settled(&scene, "22 mails delivered", |audit| audit.delivered == 22).await;
    assert!(began.elapsed() > Duration::from_secs(20), "24 MB at 1 MB/s");
    let taken: u64 = scene
        .store
        .query(redis::cmd("HGET").arg("{mail_queue}:counters").arg("taken"), Duration::from_secs(5))
        .await
        .expect("a counter");
    assert_eq!(taken, 22, "each was claimed once");
    scene.logs_are_clean();
}
