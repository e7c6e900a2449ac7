//! What strangers and large mails may take of a worker: neither its file descriptors nor its memory.

mod scene;

use std::{net::TcpStream, time::Duration};

use mailsink::SinkConfig;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use scene::{Scene, eventually};
use serde_json::json;

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
