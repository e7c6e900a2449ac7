//! `mailrelay dev`: the binary as a stranger runs it, beside a real Redis and the counting sink.

use std::{
    fs,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};

use mailrelay::{
    lease::ProcessId,
    mail::UnixMillis,
    queue::{EnqueueLimits, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Sink, SinkConfig};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{PATIENCE, Persistence, RedisServer, eventually};

/// The example that the README begins with.
const EXAMPLE: &str = include_str!("../examples/corporate.yaml");

/// `mailrelay dev` beside its Redis and a sink.
struct Dev {
    redis: RedisServer,
    sink: Sink,
    folder: tempfile::TempDir,
    child: Child,
    /// All that it printed, line by line.
    printed: Arc<Mutex<Vec<String>>>,
    said: Arc<Mutex<String>>,
}

impl Dev {
    async fn start(workers: usize) -> Self {
        let redis = RedisServer::start(Persistence::Always);
        let sink = Sink::start(SinkConfig::default()).await.expect("the sink starts");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("relay.yaml"), EXAMPLE).expect("written");
        let mut child = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
            .args(["dev", "-o", "json", "--workers", &workers.to_string(), "--to", &sink.smtp().to_string(), "-f"])
            .arg(folder.path().join("relay.yaml"))
            .env_clear()
            .env("MAILRELAY_REDIS_URL", redis.url())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary runs");
        let (printed, said) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<Mutex<String>>::default());
        let (out, lines) = (child.stdout.take().expect("piped"), Arc::clone(&printed));
        std::thread::spawn(move || {
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                lines.lock().expect("no panic").push(line);
            }
        });
        let (mut err, text) = (child.stderr.take().expect("piped"), Arc::clone(&said));
        std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(read @ 1..) = err.read(&mut piece) {
                text.lock().expect("no panic").push_str(&String::from_utf8_lossy(&piece[..read]));
            }
        });
        Self { redis, sink, folder, child, printed, said }
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("relay.yaml")
    }

    /// Writes the file anew with some words replaced.
    fn edit(&self, from: &str, to: &str) {
        assert!(EXAMPLE.contains(from), "{from}");
        fs::write(self.file(), EXAMPLE.replace(from, to)).expect("written");
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// The relay as it was shown last.
    fn relay(&self) -> Option<Value> {
        let printed = self.printed.lock().expect("no panic");
        printed
            .iter()
            .rev()
            .find_map(|line| serde_json::from_str::<Value>(line).ok().filter(|of| of["kind"] == "MailRelay"))
    }

    async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || match self.relay() {
            Some(relay) if fits(&relay) => Ok(relay),
            other => Err(format!("{:?}; {}", other.map(|relay| relay["status"].to_string()), self.said())),
        })
        .await
    }

    fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    async fn until_said(&self, words: &str) {
        eventually(words, async || if self.said().contains(words) { Ok(()) } else { Err(self.said()) }).await;
    }

    async fn send(&self, count: usize) {
        let store = Store::new(&StoreOptions::from_url(self.redis.url())).expect("options");
        let queue = Queue::new(store, QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let limits = EnqueueLimits { max_length: 100_000, max_bytes: 0 };
        for number in 0..count {
            let mail = json!({ "from": "a@example.com", "to": format!("r{number}@example.org"), "text": "hello" });
            queue.enqueue(mail.to_string().as_bytes(), limits, UnixMillis::now()).await.expect("enqueued");
        }
    }

    async fn delivered(&self, count: u64) {
        let stats = self.sink.wait_for(PATIENCE, |stats| stats.accepted >= count).await;
        stats.unwrap_or_else(|stats| panic!("the sink has {stats:?}; {}", self.said()));
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn shares(relay: &Value) -> Vec<(String, u64)> {
    let workers = relay["status"]["workers"].as_array().into_iter().flatten();
    workers
        .map(|worker| (worker["pod"].as_str().unwrap_or_default().to_owned(), worker["share"].as_u64().unwrap_or(0)))
        .collect()
}

/// The processes whose parent this is.
fn children_of(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}

fn is_gone(pid: Pid) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_example_delivers_mail_through_two_workers_and_an_edit_of_its_file_is_followed() {
    let dev = Dev::start(2).await;
    dev.send(20).await;
    dev.delivered(20).await;
    let relay = dev.until("two workers share 16", |relay| shares(relay).len() == 2).await;
    assert_eq!(relay["metadata"]["namespace"], "mail");
    dev.until("each has eight", |relay| shares(relay).iter().all(|(_, share)| *share == 8)).await;

    dev.edit("maxConnections: 16", "maxConnections: 6");
    dev.until("each has three", |relay| shares(relay).iter().all(|(_, share)| *share == 3)).await;

    // What the API server would refuse is told, and what the file said before holds.
    dev.edit("maxConnections: 16", "maxConnections: 16\n    port: 70000");
    dev.until_said("not followed: ").await;
    dev.edit("maxConnections: 16", "maxConnection: 16");
    dev.until_said("spec.servers[0].maxConnection: there is no such field").await;
    dev.send(20).await;
    dev.delivered(40).await;
    dev.edit("maxConnections: 16", "maxConnections: 4");
    dev.until("each has two", |relay| shares(relay).iter().all(|(_, share)| *share == 2)).await;
    let peak = dev.sink.stats().peak;
    assert!(peak <= 16, "{peak}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_started_by_hand_has_its_share_and_gives_it_back() {
    let dev = Dev::start(1).await;
    dev.until("one worker has all", |relay| shares(relay) == [("corporate-1".to_owned(), 16)]).await;
    let mut by_hand = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
        .args([
            "worker",
            "--relay",
            "corporate",
            "--namespace",
            "mail",
            "--pod-name",
            "by-hand",
            "--http",
            "127.0.0.1:0",
        ])
        .args(["--pod-uid", ProcessId::random().as_str()])
        .env_clear()
        .env("MAILRELAY_REDIS_URL", dev.redis.url())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary runs");
    dev.until("they share", |relay| {
        let shares = shares(relay);
        shares.len() == 2 && shares.iter().all(|(_, share)| *share == 8)
    })
    .await;
    kill(Pid::from_raw(by_hand.id().cast_signed()), Signal::SIGTERM).expect("it lives");
    assert!(by_hand.wait().expect("it ended").success());
    dev.until("one has all again", |relay| shares(relay) == [("corporate-1".to_owned(), 16)]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_ends_with_its_workers_and_they_end_with_it() {
    let mut dev = Dev::start(2).await;
    dev.until("two workers", |relay| shares(relay).len() == 2).await;
    let workers = children_of(dev.pid());
    assert_eq!(workers.len(), 2);
    kill(dev.pid(), Signal::SIGTERM).expect("it lives");
    let status = dev.child.wait().expect("it ended");
    assert!(status.success(), "{status}: {}", dev.said());
    assert!(workers.into_iter().all(is_gone));

    // However it ends.
    let mut dev = Dev::start(2).await;
    dev.until("two workers", |relay| shares(relay).len() == 2).await;
    let workers = children_of(dev.pid());
    dev.child.kill().expect("it lives");
    dev.child.wait().expect("it ended");
    eventually("the workers end too", async || {
        let left: Vec<&Pid> = workers.iter().filter(|pid| !is_gone(**pid)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
    })
    .await;
}

#[tokio::test]
async fn what_cannot_be_followed_ends_it_at_once_with_the_file_and_the_field() {
    let redis = RedisServer::start(Persistence::Off);
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("relay.yaml");
    let run = |redis: &str, text: &str| {
        fs::write(&file, text).expect("written");
        let ended = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
            .args(["dev", "-f"])
            .arg(&file)
            .env_clear()
            .env("MAILRELAY_REDIS_URL", redis)
            .output()
            .expect("the binary runs");
        (ended.status.code(), String::from_utf8_lossy(&ended.stderr).into_owned())
    };
    let (code, said) = run(&redis.url(), &EXAMPLE.replace("port: 587", "port: 70000"));
    assert_eq!(code, Some(1));
    assert!(said.contains("relay.yaml: MailRelay corporate would be refused: spec.servers[0].port"), "{said}");
    let (code, said) = run(&redis.url(), "{kind: Secret, metadata: {name: a}}");
    assert!(code == Some(1) && said.contains("no MailRelay in "), "{said}");
    let (code, said) = run("redis://127.0.0.1:1", EXAMPLE);
    assert!(code == Some(1) && said.contains("127.0.0.1:1"), "{said}");
}
