//! `mailrelay dev` beside a Redis and the counting sink of its own.

use std::{
    ffi::OsStr,
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
pub const EXAMPLE: &str = include_str!("../../examples/corporate.yaml");

/// `mailrelay dev` beside its Redis and a sink.
pub struct Dev {
    pub redis: RedisServer,
    pub sink: Sink,
    folder: tempfile::TempDir,
    pub child: Child,
    /// All that it printed, line by line.
    printed: Arc<Mutex<Vec<String>>>,
    said: Arc<Mutex<String>>,
}

impl Dev {
    pub async fn start(workers: usize) -> Self {
        Self::start_of(env!("CARGO_BIN_EXE_mailrelay"), workers).await
    }

    /// The same with this binary.
    pub async fn start_of(binary: impl AsRef<OsStr>, workers: usize) -> Self {
        let redis = RedisServer::start(Persistence::Always);
        let sink = Sink::start(SinkConfig::default()).await.expect("the sink starts");
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join("relay.yaml"), EXAMPLE).expect("written");
        let mut child = Command::new(binary)
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
    pub fn edit(&self, from: &str, to: &str) {
        assert!(EXAMPLE.contains(from), "{from}");
        fs::write(self.file(), EXAMPLE.replace(from, to)).expect("written");
    }

    pub fn pid(&self) -> Pid {
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

    pub async fn until(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(what, async || match self.relay() {
            Some(relay) if fits(&relay) => Ok(relay),
            other => Err(format!("{:?}; {}", other.map(|relay| relay["status"].to_string()), self.said())),
        })
        .await
    }

    pub fn said(&self) -> String {
        self.said.lock().expect("no panic").clone()
    }

    pub async fn until_said(&self, words: &str) {
        eventually(words, async || if self.said().contains(words) { Ok(()) } else { Err(self.said()) }).await;
    }

    pub async fn send(&self, count: usize) {
        let store = Store::new(&StoreOptions::from_url(self.redis.url())).expect("options");
        let queue = Queue::new(store, QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let limits = EnqueueLimits { max_length: 100_000, max_bytes: 0 };
        for number in 0..count {
            let mail = json!({ "from": "a@example.com", "to": format!("r{number}@example.org"), "text": "hello" });
            queue.enqueue(mail.to_string().as_bytes(), limits, UnixMillis::now()).await.expect("enqueued");
        }
    }

    pub async fn delivered(&self, count: u64) {
        let stats = self.sink.wait_for(PATIENCE, |stats| stats.accepted >= count).await;
        stats.unwrap_or_else(|stats| panic!("the sink has {stats:?}; {}", self.said()));
    }
}

/// A worker that somebody starts by hand; it ends with this.
pub struct ByHand(pub Child);

impl ByHand {
    /// Of the binary that is given.
    pub fn start(binary: impl AsRef<OsStr>, dev: &Dev, name: &str) -> Self {
        let child = Command::new(binary)
            .args(["worker", "--relay", "corporate", "--namespace", "mail", "--pod-name", name])
            .args(["--http", "127.0.0.1:0", "--pod-uid", ProcessId::random().as_str()])
            .env_clear()
            .env("MAILRELAY_REDIS_URL", dev.redis.url())
            .env("MAILRELAY_LOG", "warn")
            .stdout(Stdio::null())
            .spawn()
            .expect("the binary runs");
        Self(child)
    }

    /// Asks it to end, and waits for that.
    pub fn stop(mut self) {
        kill(Pid::from_raw(self.0.id().cast_signed()), Signal::SIGTERM).expect("it lives");
        let status = self.0.wait().expect("it ended");
        assert!(status.success(), "{status}");
    }
}

impl Drop for ByHand {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub fn shares(relay: &Value) -> Vec<(String, u64)> {
    let workers = relay["status"]["workers"].as_array().into_iter().flatten();
    workers
        .map(|worker| (worker["pod"].as_str().unwrap_or_default().to_owned(), worker["share"].as_u64().unwrap_or(0)))
        .collect()
}

/// The processes whose parent this is.
pub fn children_of(pid: Pid) -> Vec<Pid> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("it lives").flatten();
    let lists = tasks.filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>())
        .map(Pid::from_raw)
        .collect()
}

pub fn is_gone(pid: Pid) -> bool {
    !Path::new(&format!("/proc/{pid}")).exists()
}
