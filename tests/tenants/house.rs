//! A Redis with logins, the whole controller before a stand-in for the API server, and tenants with real workers.

use std::{
    collections::BTreeSet,
    fs::File,
    path::PathBuf,
    process::{Child, Command, Output, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use mailrelay::{
    lease::{HolderView, LedgerStore, ProcessId},
    queue::{Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Sink, SinkConfig};
use serde_json::{Value, json};
use testkit::{ApiServer, Persistence, RedisServer, eventually, free_port, output_of};
use tokio::task::JoinHandle;

use crate::replica::replica;

pub const LIMIT: Duration = Duration::from_secs(10);
const ADMIN: &str = "of-the-default-user";

/// All of it.
pub struct House {
    pub redis: RedisServer,
    pub api: ApiServer,
    folder: tempfile::TempDir,
    /// Every key that was seen at any time.
    pub seen: Arc<Mutex<BTreeSet<String>>>,
    tasks: Vec<JoinHandle<()>>,
}

impl House {
    /// A Redis whose default user has a password. Whatever keys come into it are noted.
    pub fn empty() -> Self {
        let redis = RedisServer::start_on("127.0.0.1", Some(ADMIN), Persistence::Always);
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::write(folder.path().join("default.password"), ADMIN).expect("written");
        let seen = Arc::<Mutex<BTreeSet<String>>>::default();
        let mut house =
            Self { redis, api: ApiServer::new(1, drop), folder, seen: Arc::clone(&seen), tasks: Vec::new() };
        let admin = house.store("default");
        house.tasks.push(tokio::spawn(async move {
            loop {
                if let Ok(keys) = admin.query::<Vec<String>>(redis::cmd("KEYS").arg("*"), LIMIT).await {
                    seen.lock().expect("no panic").extend(keys);
                }
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
        }));
        house
    }

    fn password_file(&self, user: &str) -> PathBuf {
        self.folder.path().join(format!("{}.password", user.replace('/', "_")))
    }

    pub fn options(&self, user: &str) -> StoreOptions {
        StoreOptions {
            username: Some(user.to_owned()),
            password_file: Some(self.password_file(user)),
            ..StoreOptions::from_url(self.redis.url())
        }
    }

    /// Redis as this user.
    pub fn store(&self, user: &str) -> Store {
        Store::new(&self.options(user)).expect("options")
    }

    /// The same, connected: on a busy machine that may take more than one try.
    pub async fn connected(&self, user: &str) -> Store {
        let store = self.store(user);
        eventually("a connection", async || store.query::<String>(&redis::cmd("PING"), LIMIT).await).await;
        store
    }

    /// The command line as this user.
    pub fn cli(&self, user: &str, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrelay"));
        command.args(arguments).env_clear().env("MAILRELAY_REDIS_URL", self.redis.url());
        command.env("MAILRELAY_REDIS_USERNAME", user).env("MAILRELAY_REDIS_PASSWORD_FILE", self.password_file(user));
        output_of(&mut command, input)
    }

    /// The same, which must succeed; what it printed. A busy machine may keep it from connecting, which it says.
    pub fn done(&self, user: &str, arguments: &[&str], input: &str) -> String {
        let mut output = self.cli(user, arguments, input);
        for _ in 0..5 {
            if String::from_utf8_lossy(&output.stderr).contains("nothing was reported as done") {
                output = self.cli(user, arguments, input);
            }
        }
        let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        assert!(output.status.success(), "{user}: {arguments:?}: {out}{err}");
        out
    }

    /// Makes a login by `redis-acl --apply`; its user.
    pub fn login(&self, arguments: &[&str]) -> String {
        let file = self.folder.path().join("new.password");
        std::fs::write(&file, "secret of one login\n").expect("written");
        let file = file.to_str().expect("UTF-8");
        let all = [&["redis-acl"], arguments, &["--password-file", file, "--apply", "-o", "json"]].concat();
        let made: Value = serde_json::from_str(&self.done("default", &all, "")).expect("JSON");
        let user = made["user"].as_str().expect("a user").to_owned();
        std::fs::copy(file, self.password_file(&user)).expect("copied");
        user
    }

    /// The whole controller, by its login.
    pub fn lead(&mut self) {
        let user = self.login(&["controller"]);
        let replica = replica("controller", self.store(&user), self.api.client());
        self.tasks.push(tokio::spawn(async move {
            let ended = Box::pin(replica.run(std::future::pending())).await;
            panic!("the controller ended: {ended:?}");
        }));
    }

    /// A relay `corporate` in this namespace, with this entry of `spec.servers`.
    pub fn add_relay(&self, namespace: &str, server: &Value) {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": {
                "name": "corporate", "namespace": namespace, "uid": format!("uid-{namespace}"), "generation": 1,
                "creationTimestamp": "2026-11-20T00:00:00Z",
            },
            "spec": {
                "servers": [server],
                "queue": {
                    "name": format!("{namespace}-mail"), "deadLetterName": format!("{namespace}-dead"),
                    "payloadPrefix": format!("{namespace}-body:"),
                },
                "retry": { "initialBackoff": "100ms", "maxBackoff": "200ms" },
            },
        });
        self.api.put("mailrelays", &format!("{namespace}/corporate"), relay);
    }

    /// Waits until the controller has published the record of this namespace's relay, and it fits.
    pub async fn record_until(&self, namespace: &str, fits: impl Fn(&Value) -> bool) {
        let key = format!("mailrelay:config:{namespace}/corporate");
        eventually("the record is published", async || {
            let text = self.redis(&["GET", &key]);
            let json = text.find('{').map(|start| text[start..].trim_end());
            let record: Option<Value> = json.and_then(|json| serde_json::from_str(json).ok());
            if record.as_ref().is_some_and(&fits) { Ok(()) } else { Err(text) }
        })
        .await;
    }

    /// What the controller shows of an object.
    pub fn status(&self, collection: &str, key: &str) -> Value {
        self.api.get(collection, key).map(|object| object["status"].clone()).unwrap_or_default()
    }

    /// One command as the default user.
    pub fn redis(&self, words: &[&str]) -> String {
        self.redis.command(words).unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Redis refused nothing to anybody.
    pub fn nothing_was_refused(&self) {
        let log = self.redis(&["ACL", "LOG"]);
        assert!(log.trim().is_empty(), "{log}");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// A namespace with one relay, `corporate`, its mail server, its logins and its workers.
pub struct Tenant {
    pub name: &'static str,
    pub sink: Arc<Sink>,
    pub worker: String,
    pub producer: String,
    pub operator: String,
    pub workers: Vec<Worker>,
    /// The queue as people see it.
    pub queue: Queue,
    pub ledger: LedgerStore,
    folder: tempfile::TempDir,
}

impl Tenant {
    pub fn relay(&self) -> String {
        format!("{}/corporate", self.name)
    }

    /// Makes the relay with a mail server of its own, and when the controller has published it the logins.
    pub async fn settle(house: &House, name: &'static str) -> Self {
        let sink = Arc::new(Sink::start(SinkConfig::default()).await.expect("the sink starts"));
        let budget = format!("mx-{name}");
        let server = json!({
            "name": "primary", "host": "127.0.0.1", "port": sink.smtp().port(), "tls": "None", "maxConnections": 8,
            "budgetName": budget, "closeGrace": "1s", "sessionTimeout": "1s",
            "rateLimits": [{ "count": 10_000, "interval": "1s", "burst": 100 }],
        });
        Self::settle_at(house, name, sink, &server, &budget).await
    }

    /// The same with this entry of `spec.servers`, which draws on this budget.
    pub async fn settle_at(house: &House, name: &'static str, sink: Arc<Sink>, server: &Value, budget: &str) -> Self {
        house.add_relay(name, server);
        house.record_until(name, |record| record["spec"]["servers"][0]["name"] == "primary").await;
        let of = format!("{name}/corporate");
        let [worker, producer, operator] =
            ["worker", "producer", "operator"].map(|role| house.login(&[role, "--relay", &of]));
        let names = QueueNames::new(&format!("{name}-mail"), &format!("{name}-dead"))
            .with_payload_prefix(&format!("{name}-body:"));
        let store = house.store(&operator);
        let (queue, ledger) = (Queue::new(store.clone(), names), LedgerStore::new(store, budget));
        let folder = tempfile::tempdir().expect("a folder");
        Self { name, sink, worker, producer, operator, workers: Vec::new(), queue, ledger, folder }
    }

    /// One more pod, whose worker runs with the tenant's Secret.
    pub fn add_worker(&mut self, house: &House) {
        let number = self.workers.len();
        let secret = self.folder.path().join("secret");
        std::fs::create_dir_all(&secret).expect("a folder");
        let password = std::fs::read(house.password_file(&self.worker)).expect("read");
        let files =
            [("url", house.redis.url().into_bytes()), ("username", self.worker.clone().into()), ("password", password)];
        for (name, content) in files {
            std::fs::write(secret.join(name), content).expect("written");
        }
        let (pod, uid) = (format!("{}-{number}", self.name), ProcessId::random().to_string());
        let container = json!({
            "name": "mailrelay", "state": { "running": {} }, "ready": true, "restartCount": 0, "image": "i", "imageID": "",
        });
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": pod, "namespace": self.name, "uid": uid, "labels": { "mailrelay.dev/relay": "corporate" } },
            "spec": { "nodeName": "node", "containers": [{ "name": "mailrelay" }] },
            "status": { "phase": "Running", "containerStatuses": [container] },
        });
        house.api.put("pods", &format!("{}/{pod}", self.name), object);
        let log = self.folder.path().join(format!("{pod}.log"));
        self.workers.push(Worker::start(Setting { namespace: self.name, pod, uid, secret, log }));
    }

    /// Waits until every worker is in the ledger and holds nothing.
    pub async fn all_rest(&self) {
        self.all_rest_of(self.workers.len()).await;
    }

    /// The same where the ledger has so many workers, those of others included.
    pub async fn all_rest_of(&self, workers: usize) {
        eventually("all rest", async || {
            let snapshot = self.ledger.snapshot().await.map_err(|error| error.to_string())?;
            let view = snapshot.in_force().ok_or("no ledger")?;
            let rest = view.holders.len() == workers && view.holders.iter().all(HolderView::is_resting);
            if rest { Ok(()) } else { Err(format!("{view:?}")) }
        })
        .await;
    }

    /// No worker was refused anything.
    pub fn logs_are_clean(&self) {
        for worker in &self.workers {
            let log = std::fs::read_to_string(&worker.setting.log).expect("a log");
            for word in ["NOPERM", "refuses", "executing the script", "panicked", "WRONGPASS"] {
                assert!(!log.contains(word), "{word} in the log of {}:\n{log}", worker.setting.pod);
            }
            assert!(log.contains("mailrelay"), "it says something");
        }
    }
}

struct Setting {
    namespace: &'static str,
    pod: String,
    uid: String,
    secret: PathBuf,
    log: PathBuf,
}

/// A worker process.
pub struct Worker {
    setting: Setting,
    child: Child,
}

impl Worker {
    fn start(setting: Setting) -> Self {
        let child = spawn(&setting);
        Self { setting, child }
    }

    /// SIGKILL, and the next process in the same pod.
    pub fn crash_and_restart(&mut self) {
        self.crash();
        self.child = spawn(&self.setting);
    }

    pub fn crash(&mut self) {
        self.child.kill().expect("killed");
        self.child.wait().expect("waited");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(&self.setting.log).unwrap_or_default();
            eprintln!("---- log of {} ----\n{log}", self.setting.pod);
        }
    }
}

fn spawn(setting: &Setting) -> Child {
    let log = File::options().create(true).append(true).open(&setting.log).expect("a log file");
    Command::new(env!("CARGO_BIN_EXE_mailrelay"))
        .args(["worker", "--relay", "corporate", "--namespace", setting.namespace])
        .args(["--pod-name", &setting.pod, "--pod-uid", &setting.uid, "--redis-dir"])
        .arg(&setting.secret)
        // As in a pod: on a machine so busy that Redis does not answer for a lease, the dead-man switch ends the worker.
        .args(["--supervise", "--idle-timeout", "200ms", "--http", &format!("127.0.0.1:{}", free_port())])
        .env_clear()
        .env("MAILRELAY_LOG", "warn,mailrelay=debug")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the worker starts")
}

/// A mail to one recipient.
pub fn mail(to: &str) -> Value {
    json!({ "from": "app@example.com", "to": to, "subject": "Hello", "text": "Hello, world\n" })
}
