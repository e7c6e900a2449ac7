//! A relay without Kubernetes: a real Redis, the counting sink, real worker processes, and a stand-in for the
//! controller that writes the record and the shares and reopens the ledger after Redis was restarted.
#![allow(dead_code, reason = "each test program uses its part, so that no `expect` would be right in all of them")]

use std::{
    collections::BTreeMap,
    fs::File,
    net::Ipv4Addr,
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mailrelay::{
    api::{RelayRecord, ResolvedSpec, SCHEMA, WorkerReport, record_key, reports_key},
    lease::{InitRequest, LedgerState, LedgerStore, OpenRequest, Policy, ProcessId, Timing},
    mail::UnixMillis,
    queue::{Audit, EnqueueLimits, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Sink, SinkConfig, Stats};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{Door, Persistence, RedisServer, free_port};
pub use testkit::{PATIENCE, eventually};

const POOL: &str = "127.0.0.1";
const LIMIT: Duration = Duration::from_secs(5);

/// Everything that one test needs; it all ends with it.
pub struct Scene {
    pub redis: RedisServer,
    pub sink: Sink,
    pub store: Store,
    pub queue: Queue,
    pub workers: Vec<Worker>,
    folder: tempfile::TempDir,
    leader: Leader,
    record: RelayRecord,
}

impl Scene {
    /// One server with this budget; what else the spec says comes from `spec` (an object that is merged in).
    pub async fn open(budget: u32, config: SinkConfig, spec: Value) -> Self {
        let redis = RedisServer::start(Persistence::Always);
        let sink = Sink::start(config).await.expect("the sink starts");
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
        let mut server = json!({
            "name": "primary", "host": "127.0.0.1", "port": sink.smtp().port(), "tls": "None",
            "maxConnections": budget, "closeGrace": "1s", "sessionTimeout": "10s",
        });
        let mut spec = spec;
        merge(&mut server, spec["server"].take());
        let mut whole = json!({ "servers": [server] });
        merge(&mut whole, spec);
        let spec: ResolvedSpec = serde_json::from_value(whole).expect("a spec");
        let queue = Queue::new(store.clone(), QueueNames::from_spec(&spec.queue));
        let record = RelayRecord {
            schema: SCHEMA,
            epoch: 1,
            revision: 1,
            uid: "relay".into(),
            generation: 1,
            stalled: None,
            lease_ms: 6_000,
            spec,
        };
        let leader = Leader::start(store.clone(), budget);
        let folder = tempfile::tempdir().expect("a folder");
        let mut scene = Self { redis, sink, store, queue, workers: Vec::new(), folder, leader, record };
        scene.publish().await;
        scene
    }

    /// A budget of 16, a sink that takes 16, and so many workers with equal shares.
    pub async fn sixteen(workers: usize, spec: Value) -> Self {
        let mut scene = Self::open(16, SinkConfig::default(), spec).await;
        for _ in 0..workers {
            scene.add_worker();
        }
        let share = 16 / u32::try_from(workers).expect("few");
        scene.share(16, &vec![share; workers]).await;
        scene
    }

    /// Changes the record as the controller would after a change of the spec.
    pub async fn change(&mut self, change: impl FnOnce(&mut RelayRecord)) {
        change(&mut self.record);
        self.record.revision += 1;
        self.publish().await;
    }

    async fn publish(&mut self) {
        let key = record_key("mail", "relay");
        let text = serde_json::to_string(&self.record).expect("JSON");
        let () = self.store.query(redis::cmd("SET").arg(&key).arg(text), LIMIT).await.expect("SET");
        let _: i64 = self.store.query(redis::cmd("PUBLISH").arg(&key).arg("changed"), LIMIT).await.expect("PUBLISH");
    }

    /// Starts one more worker, in a pod of its own, without a share yet.
    pub fn add_worker(&mut self) {
        self.add_worker_with(&[]);
    }

    /// The same with more arguments.
    pub fn add_worker_with(&mut self, extra: &[&str]) {
        self.add_worker_behind(&[], extra);
    }

    /// One more worker, and the door that is its only way to Redis.
    pub async fn add_worker_behind_door(&mut self, extra: &[&str]) -> Door {
        let door = Door::open(Ipv4Addr::LOCALHOST.into(), self.redis.address()).await.expect("a door");
        self.start_worker(&[], &format!("redis://{}", door.address()), extra);
        door
    }

    /// One more worker behind a command that starts it in surroundings of its own; `extra` are arguments of the worker.
    pub fn add_worker_behind(&mut self, command: &[&str], extra: &[&str]) {
        let redis = self.redis.url();
        self.start_worker(command, &redis, extra);
    }

    fn start_worker(&mut self, behind: &[&str], redis: &str, extra: &[&str]) {
        let number = self.workers.len();
        let pod = Pod { uid: ProcessId::random().to_string(), name: format!("pod-{number}") };
        let log = self.folder.path().join(format!("worker-{number}.log"));
        self.workers.push(Worker::start_behind(behind, redis, pod, log, extra));
    }

    /// Writes the shares of the workers, in their order.
    pub async fn share(&mut self, budget: u32, shares: &[u32]) {
        let shares = self.workers.iter().zip(shares).map(|(worker, share)| (worker.pod.uid.clone(), *share)).collect();
        self.leader.set(budget, shares).await;
    }

    /// Takes mails in, each to a recipient of its own; their ids.
    pub async fn send(&self, count: usize) -> Vec<String> {
        let mails = (0..count).map(|number| mail(&format!("r{number}@example.org")));
        let sending = mails.map(|mail| self.send_one(mail));
        futures::future::join_all(sending).await
    }

    /// Takes one mail in; its id.
    pub async fn send_one(&self, mail: Value) -> String {
        let limits = EnqueueLimits { max_length: 100_000, max_bytes: 0 };
        self.queue.enqueue(mail.to_string().as_bytes(), limits, UnixMillis::now()).await.expect("enqueued").id
    }

    /// Asks Redis, as a producer would.
    pub async fn query<T: redis::FromRedisValue>(&self, command: &redis::Cmd) -> T {
        self.store.query(command, LIMIT).await.expect("an answer")
    }

    /// Waits until the sink's figures fit.
    pub async fn sink_until(&self, what: &str, fits: impl Fn(&Stats) -> bool) -> Stats {
        match self.sink.wait_for(PATIENCE, fits).await {
            Ok(stats) => stats,
            Err(stats) => panic!("{what}: not within {PATIENCE:?}, the sink has {stats:?}"),
        }
    }

    /// Waits until the audit fits; it must always balance once it does.
    pub async fn audit_until(&self, what: &str, fits: impl Fn(&Audit) -> bool) -> Audit {
        let audit = eventually(what, async || {
            let audit = self.queue.audit().await.ok();
            match audit {
                Some(audit) if fits(&audit) => Ok(audit),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        assert_eq!(audit.difference, 0, "{what}: {audit:?}");
        audit
    }

    /// Waits until `count` mails are delivered and nothing is left in any hand.
    pub async fn all_delivered(&self, count: usize) -> Audit {
        let count = u64::try_from(count).expect("few");
        self.audit_until("all delivered and settled", |audit| {
            audit.delivered == count && audit.in_flight == 0 && audit.queued == 0 && audit.delayed == 0
        })
        .await
    }

    /// Ends the stand-in for the controller: somebody else leads from now on.
    pub fn stop_leading(&self) {
        self.leader.task.abort();
    }

    /// What a worker last said of itself.
    pub async fn report(&self, worker: usize) -> Option<WorkerReport> {
        let mut command = redis::cmd("HGET");
        command.arg(reports_key("mail", "relay")).arg(&self.workers[worker].pod.uid);
        let text: Option<String> = self.store.query(&command, LIMIT).await.ok()?;
        serde_json::from_str(&text?).ok()
    }

    /// Waits until the worker gives this reason for not using its server.
    pub async fn unavailable_for(&self, reason: &str) {
        eventually(reason, async || {
            let report = self.report(0).await.ok_or_else(|| "no report".to_owned())?;
            match &report.servers[0].unavailable {
                Some(why) if why.reason.as_str() == reason => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
    }

    /// Waits until the worker says no more that the server can't be used.
    pub async fn usable_again(&self) {
        eventually("the worker says that it is over", async || {
            let report = self.report(0).await.ok_or_else(|| "no report".to_owned())?;
            report.servers[0].unavailable.as_ref().map_or(Ok(()), |why| Err(format!("{why:?}")))
        })
        .await;
    }

    /// The ledger of the server's budget.
    pub fn ledger(&self) -> LedgerStore {
        LedgerStore::new(self.store.clone(), POOL)
    }

    /// No worker ever panicked, and no mail address is in any log.
    pub fn logs_are_clean(&self) {
        for worker in &self.workers {
            let log = worker.log();
            assert!(!log.contains("panicked"), "{}:\n{log}", worker.pod.name);
            assert!(
                !log.contains("@example.org") && !log.contains("app@"),
                "an address in the log of {}:\n{log}",
                worker.pod.name
            );
        }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for worker in &mut self.workers {
                let end = worker.child.try_wait();
                eprintln!("---- log of {}, {end:?} ----\n{}", worker.pod.name, worker.log());
            }
        }
    }
}

/// A mail to one recipient.
pub fn mail(to: &str) -> Value {
    json!({ "from": "app@example.com", "to": to, "subject": "Hello", "text": "Hello, world\n" })
}

/// Objects are merged, everything else is replaced.
fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                if !value.is_null() {
                    merge(into.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (_, Value::Null) => {}
        (into, from) => *into = from,
    }
}

/// The pod of a worker.
#[derive(Clone)]
pub struct Pod {
    pub uid: String,
    pub name: String,
}

/// A worker process.
pub struct Worker {
    pub pod: Pod,
    pub http: u16,
    redis: String,
    log: PathBuf,
    behind: Vec<String>,
    extra: Vec<String>,
    child: Child,
}

impl Worker {
    /// Starts the real binary; its log is appended to a file.
    pub fn start(redis: &str, pod: Pod, log: PathBuf, extra: &[&str]) -> Self {
        Self::start_behind(&[], redis, pod, log, extra)
    }

    /// The same, started by another command.
    pub fn start_behind(behind: &[&str], redis: &str, pod: Pod, log: PathBuf, extra: &[&str]) -> Self {
        let extra: Vec<String> = extra.iter().map(ToString::to_string).collect();
        let behind: Vec<String> = behind.iter().map(ToString::to_string).collect();
        let http = free_port();
        let child = spawn(&behind, redis, &pod, &log, &extra, http);
        Self { pod, http, redis: redis.to_owned(), log, behind, extra, child }
    }

    /// Starts it again in the same pod.
    pub fn restart(&mut self) {
        self.child = spawn(&self.behind, &self.redis, &self.pod, &self.log, &self.extra, self.http);
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id")
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("the signal is delivered");
    }

    /// SIGKILL, and its end.
    pub fn crash(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }

    /// Its end, after a signal.
    pub async fn ended(&mut self) -> ExitStatus {
        eventually("the process ends", async || match self.child.try_wait() {
            Ok(Some(status)) => Ok(status),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// The processes that it started.
    pub fn children(&self) -> Vec<i32> {
        let pid = self.pid();
        let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|child| child.parse().ok()).collect()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Processor time used so far, of the process and its threads.
    pub fn cpu(&self) -> Duration {
        testkit::processor_time(self.child.id())
    }

    /// One page of its HTTP port: status and body.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(("127.0.0.1", self.http)).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        let status = answer.split_whitespace().nth(1)?.parse().ok()?;
        Some((status, answer.split_once("\r\n\r\n")?.1.to_owned()))
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(behind: &[String], redis: &str, pod: &Pod, log: &PathBuf, extra: &[String], http: u16) -> Child {
    let log = File::options().create(true).append(true).open(log).expect("a log file");
    let binary = env!("CARGO_BIN_EXE_mailrelay").to_owned();
    let mut words = behind.iter().chain([&binary]);
    Command::new(words.next().expect("the binary at least"))
        .args(words)
        .args(["worker", "--relay", "relay", "--namespace", "mail"])
        .args(["--pod-name", &pod.name, "--pod-uid", &pod.uid, "--redis-url", redis])
        .args(["--http", &format!("127.0.0.1:{http}")])
        .args(extra)
        .env_clear()
        .env("MAILRELAY_LOG", std::env::var("MAILRELAY_TEST_LOG").unwrap_or_else(|_| "warn,mailrelay=info".into()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the worker starts")
}

/// The controller's part in the ledger: writes shares, and brings the ledger back after Redis was restarted.
struct Leader {
    ledger: LedgerStore,
    policy: Arc<Mutex<Policy>>,
    task: tokio::task::JoinHandle<()>,
}

impl Leader {
    fn start(store: Store, budget: u32) -> Self {
        let ledger = LedgerStore::new(store, POOL);
        let lease = Timing::default().lease;
        let policy = Policy {
            epoch: 1,
            revision: 1,
            budget,
            lease,
            entitlements: BTreeMap::new(),
            servers: std::collections::BTreeSet::new(),
        };
        let policy = Arc::new(Mutex::new(policy));
        let task = tokio::spawn(lead(ledger.clone(), policy.clone()));
        Self { ledger, policy, task }
    }

    async fn set(&self, budget: u32, entitlements: BTreeMap<String, u32>) {
        let policy = {
            let mut policy = self.policy.lock().expect("no panic");
            policy.revision += 1;
            policy.budget = budget;
            policy.entitlements = entitlements;
            policy.clone()
        };
        eventually("the shares are written", async || match self.ledger.policy(&policy).await {
            Ok(reply) if format!("{reply:?}") == "Ok" => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .await;
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// As rule R8 of `mailrelay::lease` for a single node: INIT when the fence is another, OPEN after the reclaim time; at once at the start.
async fn lead(ledger: LedgerStore, policy: Arc<Mutex<Policy>>) {
    let mut recovering: Option<Instant> = None;
    let mut fresh = true;
    let mut version = 0;
    loop {
        if let Ok(snapshot) = ledger.snapshot().await {
            version = snapshot.ledger.as_ref().map_or(version, |ledger| ledger.version.max(version));
            match snapshot.in_force() {
                None => {
                    let policy = policy.lock().expect("no panic").clone();
                    let token = ProcessId::random().to_string();
                    let request =
                        InitRequest { fence: snapshot.node_fence, token, policy, quarantine: Vec::new(), version };
                    let _ = ledger.init(&request).await;
                    recovering = Some(Instant::now());
                }
                Some(view) if view.state == LedgerState::Rec => {
                    let since = *recovering.get_or_insert_with(Instant::now);
                    if fresh || since.elapsed() >= Timing::default().reclaim {
                        let request = OpenRequest { epoch: 1, token: view.token.clone(), missing: Vec::new() };
                        let _ = ledger.open(&request).await;
                        fresh = false;
                    }
                }
                Some(_) => recovering = None,
            }
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
