//! Nodes, kubelets and pods: what Kubernetes does around the workers, and what it writes down of that.

use std::{
    net::Ipv4Addr,
    path::PathBuf,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use mailrelay::{
    lease::{ConnectionTable, DeadManSwitch, SwitchError},
    smtp::Network,
    store::{Store, StoreOptions},
    telemetry::metrics::WorkerMetrics,
    worker::{Guard, Host, Worker, WorkerOptions},
};
use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    net::{Interface, Net, Place},
    process::{Process, Running, Switch, Time},
    supervisor::Supervisor,
};

pub const NAMESPACE: &str = "mail";
pub const RELAY: &str = "relay";
/// The server's address, and so the name of its budget.
pub const SERVER: &str = "10.0.0.25";
/// Another address of it.
pub const ALIAS: &str = "10.0.0.26";
pub const REDIS: Place = 1;
pub const MAIL: Place = 2;
pub const OBSERVER: Place = 3;

/// A node: it boots, its kubelet renews its Lease.
pub struct Node {
    pub name: String,
    pub boots: u32,
    pub is_up: bool,
    pub skew_ms: Arc<AtomicI64>,
}

impl Node {
    pub fn boot_id(&self) -> String {
        format!("{}-boot-{}", self.name, self.boots)
    }

    pub fn object(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Node", "metadata": { "name": self.name, "uid": self.name },
            "status": { "nodeInfo": {
                "bootID": self.boot_id(), "architecture": "", "containerRuntimeVersion": "", "kernelVersion": "",
                "kubeProxyVersion": "", "kubeletVersion": "", "machineID": "", "operatingSystem": "", "osImage": "",
                "systemUUID": "",
            } },
        })
    }

    /// Renewed so long after the world began.
    pub fn lease(&self, since: Duration) -> Value {
        let seconds = since.as_secs();
        let time = format!("2026-11-21T00:{:02}:{:02}.{:06}Z", seconds / 60, seconds % 60, since.subsec_micros());
        json!({
            "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
            "metadata": { "name": self.name, "namespace": "kube-node-lease" },
            "spec": { "holderIdentity": self.name, "renewTime": time },
        })
    }
}

/// What the API server says of the worker's container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    Waiting,
    Running,
    Terminated,
}

/// A pod with a worker in it.
pub struct Pod {
    pub name: String,
    pub uid: String,
    pub node: usize,
    pub place: Place,
    pub restarts: u32,
    pub shown: Shown,
    /// Failed or Succeeded.
    pub over: bool,
    /// It is to end, or has ended: its supervisor starts nothing any more.
    pub leaving: bool,
    /// The API server does not know it any more.
    pub gone: bool,
    /// Its worker process, if it runs.
    pub running: Option<Running>,
    /// The supervisor of its container.
    pub supervisor: Supervisor,
    /// Until when its cgroup is frozen.
    pub frozen: Option<Time>,
    /// SIGTERM.
    pub stop: CancellationToken,
    /// Counts the starts, so that what was planned for an earlier process is not done to a later one.
    pub starts: u32,
}

impl Pod {
    pub fn key(&self) -> String {
        format!("{NAMESPACE}/{}", self.name)
    }

    pub fn object(&self, node: &str, deleting: bool) -> Value {
        let id = format!("containerd://{}-{}", self.uid, self.restarts);
        let state = match self.shown {
            Shown::Waiting => json!({ "waiting": { "reason": "ContainerCreating" } }),
            Shown::Running => json!({ "running": {} }),
            Shown::Terminated => json!({ "terminated": { "exitCode": 137, "containerID": id } }),
        };
        let phase = match (self.over, self.shown) {
            (true, _) => "Failed",
            (false, Shown::Waiting) => "Pending",
            (false, _) => "Running",
        };
        let mut object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": self.name, "namespace": NAMESPACE, "uid": self.uid,
                "labels": { "mailrelay.dev/relay": RELAY },
            },
            "spec": { "nodeName": node, "containers": [{ "name": "mailrelay" }] },
            "status": { "phase": phase, "containerStatuses": [{
                "name": "mailrelay", "state": state, "ready": self.shown == Shown::Running,
                "restartCount": self.restarts, "image": "", "imageID": "",
            }] },
        });
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
        }
        object
    }
}

/// The machine under a simulated worker.
struct SimulatedHost {
    net: Net,
    process: Arc<Process>,
    supervisor: Supervisor,
}

impl Host for SimulatedHost {
    fn network(&self) -> Arc<dyn Network> {
        Arc::new(Interface { net: self.net.clone(), process: Arc::clone(&self.process), server: MAIL })
    }

    fn claim_pod(&self, _: &str) -> std::io::Result<Guard> {
        // The supervisor starts one process after the other.
        Ok(Box::new(()))
    }

    fn check_switch(&self) -> BoxFuture<'_, Result<(), SwitchError>> {
        // A trial process takes its time.
        async {
            tokio::time::sleep(Duration::from_millis(50)).await;
            Ok(())
        }
        .boxed()
    }

    fn switch(&self) -> Box<dyn DeadManSwitch> {
        Box::new(Switch(Arc::clone(&self.process)))
    }

    fn connections(&self) -> Option<Arc<dyn ConnectionTable>> {
        Some(Arc::new(self.supervisor.clone()))
    }
}

/// A store that is reached over the simulated network.
pub fn store(net: &Net, process: &Arc<Process>) -> Store {
    let way = Interface { net: net.clone(), process: Arc::clone(process), server: REDIS };
    Store::dialed(Arc::new(way), "redis:6379")
}

/// Starts a worker process in a pod.
pub fn start_worker(pod: &Pod, node: &Node, net: &Net, seed: u64) -> Running {
    let options = WorkerOptions {
        store: StoreOptions::from_url("redis://simulated"),
        namespace: NAMESPACE.into(),
        relay: RELAY.into(),
        pod: pod.name.clone(),
        pod_uid: pod.uid.clone(),
        credentials: PathBuf::from("/nonexistent"),
        http: (Ipv4Addr::LOCALHOST, 0).into(),
        drain: Duration::from_secs(5),
        idle: Duration::from_secs(2),
        transaction: Duration::from_secs(1_200),
        helo: Some("worker.test".into()),
    };
    let (net, boot_id, stop) = (net.clone(), node.boot_id(), pod.stop.clone());
    let supervisor = pod.supervisor.clone();
    let name = format!("{}#{}", pod.name, pod.starts);
    Running::start(&name, pod.place, &node.skew_ms, seed, move |process| async move {
        let metrics = WorkerMetrics::register(&mut Registry::default());
        let host = SimulatedHost { net: net.clone(), process: Arc::clone(&process), supervisor };
        let worker = Worker::new(&options, store(&net, &process), boot_id, Arc::new(host), metrics);
        let draining = worker.work(stop.cancelled_owned()).await;
        // How it ended is for its supervisor's log.
        let _ = draining.finish().await;
    })
}
