//! A relay with the real controller, real workers, a real Redis and the counting sink; only Kubernetes is simulated.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::Duration,
};

use mailrelay::{
    lease::{LedgerStore, ProcessId},
    queue::{Audit, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Sink, SinkConfig, Stats};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::{Value, json};
use testkit::{ApiServer, Door, PATIENCE, Persistence, RedisServer, eventually};
use tokio::task::JoinHandle;

use crate::{
    replica::replica,
    scene::{Pod, Worker},
};

/// What the API server knows the relay by, and the workers.
const RELAY: &str = "mail/relay";
const NODE: &str = "node";

/// Everything ends with it.
pub struct Cluster {
    pub redis: Arc<Mutex<RedisServer>>,
    pub sink: Sink,
    pub queue: Queue,
    pub store: Store,
    pub pods: Vec<Seat>,
    folder: tempfile::TempDir,
    api: ApiServer,
    controller: JoinHandle<()>,
}

/// A pod, its way to Redis, and the worker in it.
pub struct Seat {
    pub pod: Pod,
    pub door: Door,
    pub worker: Worker,
}

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Death {
    /// The worker; its supervisor starts another, which finds what it left.
    Process,
    /// All of the pod: the controller finds out.
    Pod,
}

impl Seat {
    /// Whether there was a worker to kill: the supervisor may be about to start one.
    pub fn kill(&mut self, death: Death) -> bool {
        if death == Death::Pod {
            // Nobody is left to start another.
            self.worker.signal(Signal::SIGSTOP);
        }
        let child = self.worker.children().first().copied();
        let killed = child.is_some_and(|child| kill(Pid::from_raw(child), Signal::SIGKILL).is_ok());
        if death == Death::Pod {
            self.worker.crash();
        }
        killed
    }
}

impl Cluster {
    /// So many workers with equal shares of 16 sessions, each with its supervisor; more of the spec comes from `spec`.
    pub async fn start(workers: usize, spec: &Value) -> Self {
        let redis = RedisServer::start(Persistence::Always);
        let sink = Sink::start(SinkConfig { limit: 64, ..SinkConfig::default() }).await.expect("the sink starts");
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
        let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let api = ApiServer::new(0, drop);
        api.put("nodes", &format!("/{NODE}"), node());
        api.put("mailrelays", RELAY, relay(sink.smtp().port(), spec));
        let controller = lead(&store, &api);
        let folder = tempfile::tempdir().expect("a folder");
        let redis = Arc::new(Mutex::new(redis));
        let mut cluster = Self { redis, sink, queue, store, pods: Vec::new(), folder, api, controller };
        for _ in 0..workers {
            cluster.add_worker().await;
        }
        cluster.ready().await;
        cluster
    }

    async fn add_worker(&mut self) {
        let number = self.pods.len();
        let pod = Pod { uid: ProcessId::random().to_string(), name: format!("pod-{number}") };
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": pod.name, "namespace": "mail", "uid": pod.uid, "labels": { "mailrelay.dev/relay": "relay" },
            },
            "spec": { "nodeName": NODE, "containers": [{ "name": "mailrelay" }] },
            "status": { "phase": "Running", "containerStatuses": [{
                "name": "mailrelay", "state": { "running": {} }, "ready": true, "restartCount": 0, "image": "", "imageID": "",
            }] },
        });
        self.api.put("pods", &format!("mail/{}", pod.name), object);
        let target = self.redis.lock().expect("no panic").address();
        let door = Door::open(Ipv4Addr::LOCALHOST.into(), target).await.expect("a door");
        let log = self.folder.path().join(format!("worker-{number}.log"));
        let worker = Worker::start(
            &format!("redis://{}", door.address()),
            pod.clone(),
            log,
            &["--supervise", "--idle-timeout", "200ms"],
        );
        self.pods.push(Seat { pod, door, worker });
    }

    /// The registration of a pod's worker, as the ledger has it.
    pub async fn registration(&self, place: usize) -> Option<String> {
        let snapshot = LedgerStore::new(self.store.clone(), "127.0.0.1").snapshot().await.ok()?;
        let holder = snapshot.in_force()?.holders_of(&self.pods[place].pod.uid).next()?;
        Some(holder.inc.clone())
    }

    /// Waits until the worker of a pod has registered anew.
    pub async fn registered_after(&self, place: usize, before: Option<String>) {
        eventually("the pod's next worker registers", async || {
            let now = self.registration(place).await;
            if now.is_some() && now != before { Ok(()) } else { Err(format!("{now:?}")) }
        })
        .await;
    }

    /// Waits until every worker has a session at least to use, and nothing is withheld of what dead ones had.
    pub async fn ready(&self) {
        for seat in &self.pods {
            eventually("the worker is ready", async || match seat.worker.get("/readyz").await {
                Some((200, _)) => Ok(()),
                other => Err(format!("{other:?}")),
            })
            .await;
        }
        let ledger = LedgerStore::new(self.store.clone(), "127.0.0.1");
        eventually("every worker may open a session", async || {
            let snapshot = ledger.snapshot().await.map_err(|error| error.to_string())?;
            let Some(ledger) = snapshot.in_force() else { return Err("the ledger is not in force".to_owned()) };
            let (holders, withheld) = (&ledger.holders, ledger.quarantined());
            let has_share = |pod: &Pod| ledger.entitlements.get(&pod.uid).is_some_and(|share| *share >= 1);
            let all =
                self.pods.iter().all(|seat| ledger.holders_of(&seat.pod.uid).next().is_some() && has_share(&seat.pod));
            let is_ready = all && holders.len() == self.pods.len() && withheld == 0;
            if is_ready { Ok(()) } else { Err(format!("{withheld} withheld, {holders:?}")) }
        })
        .await;
    }

    /// Ends the connections of a pod to Redis: what is under way, or was held back by its door, is lost.
    pub fn cut(&self, place: usize) {
        let redis = self.redis.lock().expect("no panic").address();
        let door = &self.pods[place].door;
        door.lead_to(redis);
        door.thaw();
    }

    pub async fn push(&self, mail: &Value) {
        let mut command = redis::cmd("LPUSH");
        command.arg("mail_queue").arg(mail.to_string());
        let _: i64 = self.store.query(&command, Duration::from_secs(20)).await.expect("LPUSH");
    }

    /// Waits until the audit fits, and returns it.
    pub async fn audit_until(&self, what: &str, fits: impl Fn(&Audit) -> bool) -> Audit {
        eventually(what, async || match self.queue.audit().await {
            Ok(audit) if fits(&audit) => Ok(audit),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    /// Waits until the sink's figures fit.
    pub async fn sink_until(&self, what: &str, fits: impl Fn(&Stats) -> bool) -> Stats {
        match self.sink.wait_for(PATIENCE, fits).await {
            Ok(stats) => stats,
            Err(stats) => panic!("{what}: not within {PATIENCE:?}, the sink has {stats:?}"),
        }
    }

    /// What the workers said.
    pub fn logs(&self) -> String {
        let logs = self.pods.iter().map(|seat| format!("---- {}\n{}\n", seat.pod.name, seat.worker.log()));
        logs.collect::<Vec<_>>().concat()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.controller.abort();
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        }
    }
}

/// A mail to somebody of that name, with so many lines.
pub fn mail(id: &str, lines: usize) -> Value {
    json!({
        "id": id, "from": "app@example.com", "to": format!("{id}@example.org"), "subject": "Hello",
        "text": "Hello, world\n".repeat(lines),
    })
}

fn node() -> Value {
    // The workers name it too: another would be proof that their node went down.
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the id of this boot");
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": { "name": NODE, "uid": NODE },
        "status": { "nodeInfo": {
            "bootID": boot.trim(), "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
            "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
            "systemUUID": "",
        } },
    })
}

fn relay(port: u16, spec: &Value) -> Value {
    let mut relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": {
            "name": "relay", "namespace": "mail", "uid": "relay-uid", "generation": 1,
            "creationTimestamp": "2026-11-20T00:00:00Z",
        },
        "spec": { "servers": [{
            "name": "primary", "host": "127.0.0.1", "port": port, "tls": "None", "maxConnections": 16,
            "closeGrace": "1s", "sessionTimeout": "1s", "maxMessagesPerConnection": 1,
        }] },
    });
    for (name, value) in spec.as_object().into_iter().flatten() {
        relay["spec"][name] = value.clone();
    }
    relay
}

/// The real controller; it starts again when it is deposed, as its Deployment does.
fn lead(store: &Store, api: &ApiServer) -> JoinHandle<()> {
    let (store, api) = (store.clone(), api.clone());
    tokio::spawn(async move {
        loop {
            let replica = replica("controller", store.clone(), api.client());
            let _ = Box::pin(replica.run(std::future::pending())).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
}
