//! A cluster as the controller sees it: relays and pods in a real API server, and a real Redis. Nothing runs in the pods.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{DeleteParams, Patch, PatchParams, PostParams},
};
use mailrelay::api::{MailRelay, RELAY_LABEL};
use redis::{AsyncConnectionConfig, aio::MultiplexedConnection};
use serde_json::{Value, json};
use testkit::{Persistence, RedisServer, within};

use crate::{control_plane::ControlPlane, process::Process};

/// Requests to the API server at once.
const AT_ONCE: usize = 16;
/// Pods of a node, as in a cluster of that size.
const PODS_OF_A_NODE: usize = 100;
/// For an answer of Redis: a machine that has too much to do is slow, and that is what is measured.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks for the share of one pod.
const LOOK: Duration = Duration::from_millis(1);

/// A relay with a server and a queue of its own.
pub struct Relay {
    pub name: String,
    /// The budget of its server.
    pub pool: String,
}

/// A pod whose worker's container runs, as its status says.
pub struct WorkerPod {
    pub name: String,
    pub uid: String,
    /// Which of the relays.
    pub relay: usize,
}

/// All of it; every process ends with it.
pub struct House {
    pub redis: RedisServer,
    pub client: Client,
    /// To Redis, for looks alone.
    pub connection: MultiplexedConnection,
    pub relays: Vec<Relay>,
    pub pods: Vec<WorkerPod>,
    plane: ControlPlane,
}

impl House {
    /// With neither relays nor pods.
    pub async fn empty() -> Self {
        let redis = RedisServer::start(Persistence::Always);
        let (plane, client) = ControlPlane::start(&["mail", "mailrelay"]).await;
        let client_of_redis = redis::Client::open(redis.url()).expect("a client");
        let patient = AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let connection = client_of_redis.get_multiplexed_async_connection_with_config(&patient).await;
        let connection = connection.expect("a connection");
        Self { redis, client, connection, relays: Vec::new(), pods: Vec::new(), plane }
    }

    /// So many relays, each with so many pods.
    pub async fn settle(&mut self, relays: usize, pods: usize) {
        for number in 0..relays {
            let server = json!({ "name": "primary", "host": format!("mx-{number}.example.net") });
            self.add_relay(server).await;
        }
        let all: Vec<usize> = (0..relays * pods).collect();
        let adding = all.iter().map(|number| self.add_pod(format!("pod-{number}"), number / pods));
        self.pods = stream::iter(adding).buffer_unordered(AT_ONCE).collect().await;
    }

    /// One more relay with this server.
    pub async fn add_relay(&mut self, server: Value) {
        let name = format!("relay-{}", self.relays.len());
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": name },
            "spec": { "servers": [server], "queue": { "name": name, "deadLetterName": format!("{name}-dead") } },
        });
        let relay: MailRelay = serde_json::from_value(object).expect("a relay");
        let pool = relay.spec.servers[0].inline().expect("a server of its own").pool();
        let api = Api::<MailRelay>::namespaced(self.client.clone(), "mail");
        api.create(&PostParams::default(), &relay).await.expect("the relay is taken");
        self.relays.push(Relay { name, pool });
    }

    /// One more pod of a relay, in which everything runs.
    pub async fn add_pod(&self, name: String, relay: usize) -> WorkerPod {
        let pod = self.create_pod(name, relay).await;
        self.run_pod(&pod).await;
        pod
    }

    /// One more pod of a relay, in which nothing runs yet.
    pub async fn create_pod(&self, name: String, relay: usize) -> WorkerPod {
        let env: Vec<Value> =
            (0..10).map(|n| json!({ "name": format!("SETTING_{n}"), "value": "some value" })).collect();
        let object = json!({
            "metadata": { "name": name, "labels": { RELAY_LABEL: self.relays[relay].name } },
            "spec": {
                "nodeName": format!("node-{}", self.pods.len() / PODS_OF_A_NODE),
                "automountServiceAccountToken": false,
                "initContainers": [{ "name": "mailrelay", "image": "mailrelay", "restartPolicy": "Always", "env": env }],
                "containers": [{ "name": "app", "image": "app", "env": env }],
            },
        });
        let object = serde_json::from_value(object).expect("a pod");
        let created = self.api().create(&PostParams::default(), &object).await.expect("the pod is taken");
        WorkerPod { name, uid: created.uid().expect("a UID"), relay }
    }

    /// Its node says that its containers run.
    pub async fn run_pod(&self, pod: &WorkerPod) {
        let container = |name: &str| {
            json!([{
                "name": name, "state": { "running": { "startedAt": "2026-11-29T00:00:00Z" } }, "ready": true,
                "started": true, "restartCount": 0, "image": name, "imageID": "",
            }])
        };
        let status = json!({ "status": {
            "phase": "Running", "initContainerStatuses": container("mailrelay"), "containerStatuses": container("app"),
        } });
        let patched = self.api().patch_status(&pod.name, &PatchParams::default(), &Patch::Merge(&status)).await;
        patched.expect("the status is taken");
    }

    /// The pod is gone at once.
    pub async fn delete_pod(&self, pod: &WorkerPod) {
        let gone = self.api().delete(&pod.name, &DeleteParams::default().grace_period(0)).await;
        gone.expect("the pod is deleted");
    }

    fn api(&self) -> Api<Pod> {
        Api::namespaced(self.client.clone(), "mail")
    }

    /// A controller of this name.
    pub fn controller(&self, name: &str) -> Process {
        Process::controller(name, &self.redis.url(), &self.plane.kubeconfig(), self.plane.folder())
    }

    /// The real worker of a pod.
    pub fn worker(&self, pod: &WorkerPod) -> Process {
        let relay = &self.relays[pod.relay].name;
        Process::worker(relay, &pod.name, &pod.uid, &self.redis.url(), self.plane.folder())
    }

    /// Looks on from the relay at `from`, as far as each ledger is open, by a leader later than `epoch`, and has a share for
    /// each pod. The latest epoch once all have.
    pub async fn in_force(&self, epoch: u64, from: &mut usize) -> Result<u64, String> {
        let mut pods = vec![Vec::new(); self.relays.len()];
        for pod in &self.pods {
            pods[pod.relay].push(format!("e:{}", pod.uid));
        }
        let mut latest = epoch;
        while let Some(relay) = self.relays.get(*from) {
            let mut fields = redis::cmd("HMGET");
            fields.arg(ledger(relay)).arg("epoch").arg("state").arg(&pods[*from]);
            let mut connection = self.connection.clone();
            let found: Vec<Option<String>> =
                fields.query_async(&mut connection).await.map_err(|error| error.to_string())?;
            let of = found[0].as_ref().and_then(|epoch| epoch.parse().ok()).unwrap_or(0);
            if of <= epoch || found[1].as_deref() != Some("OPEN") || found.iter().any(Option::is_none) {
                return Err(format!("the ledger of {} is {found:?}", relay.name));
            }
            latest = latest.max(of);
            *from += 1;
        }
        Ok(latest)
    }

    /// How long a pod's share is not in force, or still is.
    pub async fn time_until_share(
        &self,
        pod: &WorkerPod,
        is_there: bool,
        start: Instant,
        limit: Duration,
    ) -> Option<f64> {
        let mut exists = redis::cmd("HEXISTS");
        exists.arg(ledger(&self.relays[pod.relay])).arg(format!("e:{}", pod.uid));
        let mut connection = self.connection.clone();
        while start.elapsed() < limit {
            let found: bool = exists.query_async(&mut connection).await.expect("an answer of Redis");
            if found == is_there {
                return Some(start.elapsed().as_secs_f64());
            }
            tokio::time::sleep(LOOK).await;
        }
        None
    }

    /// Waits until the API server took no write but those of Leases for `quiet`; whether it came to that within `limit`.
    pub async fn quiet(&self, quiet: Duration, limit: Duration) -> bool {
        within(limit, async || {
            let before = crate::gauge::Writes::look(&self.client).await;
            tokio::time::sleep(quiet).await;
            match crate::gauge::Writes::look(&self.client).await.since(&before) {
                (_, kinds) if kinds.is_empty() => Ok(()),
                (_, kinds) => Err(kinds),
            }
        })
        .await
        .is_ok()
    }
}

fn ledger(relay: &Relay) -> String {
    format!("mailrelay:{{{}}}:ledger", relay.pool)
}
