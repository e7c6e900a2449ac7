//! Step 1, I/O: what the API server says of relays and pods, kept fresh by two watches.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodStatus};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        utils::{Backoff, StreamBackoff},
        watcher,
    },
};
use tokio::sync::watch;

use crate::api::MailRelay;

/// How long one watch request lives: a dead one is noticed after as long (kube's default is 295 s).
const WATCH_SECONDS: u32 = 25;

/// A relay as the API server has it; one whose spec cannot be read is kept apart, and never stops the others.
pub type GuardedRelay = DeserializeGuard<MailRelay>;

/// A worker pod, reduced to what the plan reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodFacts {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `spec.nodeName`, once the pod is scheduled.
    pub node: Option<String>,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// Containers that run now: ordinary ones and native sidecars.
    pub running: BTreeSet<String>,
    /// Containers that ended for good: the pod is over and they ran once (leases.md R5b).
    pub ended: BTreeSet<String>,
}

impl PodFacts {
    /// Reads a pod of the watch.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let over = status.and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
        let mut facts = Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            namespace: pod.namespace().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            labels: pod.labels().clone(),
            terminating: pod.meta().deletion_timestamp.is_some(),
            ..Self::default()
        };
        for container in status.into_iter().flat_map(containers) {
            let state = container.state.as_ref();
            if state.is_some_and(|s| s.running.is_some()) {
                facts.running.insert(container.name.clone());
            }
            let terminated = state.and_then(|s| s.terminated.as_ref());
            if over && terminated.is_some_and(|t| t.container_id.is_some()) {
                facts.ended.insert(container.name.clone());
            }
        }
        facts
    }
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten()
}

/// Drops from a watched pod what nobody reads, so that a large cluster fits in little memory.
fn prune(pod: &mut Pod) {
    pod.metadata.managed_fields = None;
    pod.metadata.annotations = None;
    pod.metadata.owner_references = None;
    if let Some(spec) = &mut pod.spec {
        let node_name = spec.node_name.take();
        *spec = k8s_openapi::api::core::v1::PodSpec { node_name, ..Default::default() };
    }
    if let Some(status) = pod.status.take() {
        let bare = |list: Option<Vec<ContainerStatus>>| {
            list.map(|list| {
                let bare = |c: ContainerStatus| ContainerStatus { name: c.name, state: c.state, ..Default::default() };
                list.into_iter().map(bare).collect()
            })
        };
        pod.status = Some(PodStatus {
            phase: status.phase,
            container_statuses: bare(status.container_statuses),
            init_container_statuses: bare(status.init_container_statuses),
            ..Default::default()
        });
    }
}

/// The controller's view of the API server. Clones share it.
#[derive(Clone)]
pub struct Observed {
    relays: Store<GuardedRelay>,
    pods: Store<Pod>,
    changes: watch::Receiver<u64>,
}

impl Observed {
    /// Starts both watches; they end when the returned futures are dropped.
    pub fn start(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (announce, changes) = watch::channel(0);
        let announce = Arc::new(announce);
        let config = || watcher::Config::default().timeout(WATCH_SECONDS);
        let (relays, relay_writer) = reflector::store::<GuardedRelay>();
        let (pods, pod_writer) = reflector::store::<Pod>();
        let relay_watch = watcher(Api::<GuardedRelay>::all(client.clone()), config());
        let pod_watch = watcher(Api::<Pod>::all(client.clone()), config()).modify(prune);
        let relay_watch = reflector::reflector(relay_writer, StreamBackoff::new(relay_watch, Again::default()));
        let pod_watch = reflector::reflector(pod_writer, StreamBackoff::new(pod_watch, Again::default()));
        let follow_relays = follow("mailrelays", relay_watch, Arc::clone(&announce));
        let follow_pods = follow("pods", pod_watch, announce);
        let both = async move {
            tokio::join!(follow_relays, follow_pods);
        };
        (Self { relays, pods, changes }, both)
    }

    /// Waits until both first lists have arrived: before that a missing pod means nothing.
    pub async fn ready(&self) {
        // A dropped writer means that the process is on its way out.
        let _ = tokio::join!(self.relays.wait_until_ready(), self.pods.wait_until_ready());
    }

    /// Follows changes of relays and pods.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// All relays.
    pub fn relays(&self) -> Vec<Arc<GuardedRelay>> {
        self.relays.state()
    }

    /// All pods.
    pub fn pods(&self) -> Vec<PodFacts> {
        self.pods.state().iter().map(|pod| PodFacts::of(pod)).collect()
    }
}

async fn follow<K: Resource>(
    what: &'static str,
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    announce: Arc<watch::Sender<u64>>,
) {
    let mut events = pin!(events);
    while let Some(event) = events.next().await {
        match event {
            // During a relist the store keeps the old state until InitDone: nothing has changed yet.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => {}
            Ok(_) => announce.send_modify(|count| *count = count.wrapping_add(1)),
            Err(error) => tracing::warn!(watch.resource = what, %error, "the watch broke and is started again"),
        }
    }
}

/// Waits between two tries of a watch: 0.2 s doubling to 5 s, so that the API server's return is seen within seconds.
#[derive(Default)]
struct Again {
    failures: u32,
}

impl Iterator for Again {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(Duration::from_secs(5));
        self.failures += 1;
        Some(wait.mul_f64(rand::random_range(0.8..1.2)))
    }
}

impl Backoff for Again {
    fn reset(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> PodFacts {
        let mut pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-1", "namespace": "mail", "uid": "u1",
                "labels": { "a": "b" }, "annotations": { "long": "text" },
            },
            "spec": { "nodeName": "n1", "containers": [{ "name": "app" }] },
            "status": status,
        }))
        .expect("a pod");
        prune(&mut pod);
        assert!(pod.metadata.annotations.is_none());
        PodFacts::of(&pod)
    }

    #[test]
    fn a_native_sidecar_and_an_ordinary_container_both_count_as_running() {
        let facts = pod(&json!({
            "phase": "Running",
            "containerStatuses": [{ "name": "app", "state": { "running": {} }, "ready": false, "restartCount": 0, "image": "i", "imageID": "" }],
            "initContainerStatuses": [{ "name": "mailrelay", "state": { "running": {} }, "ready": true, "restartCount": 0, "image": "i", "imageID": "" }],
        }));
        assert_eq!(facts.running, BTreeSet::from(["app".to_owned(), "mailrelay".to_owned()]));
        assert_eq!((facts.node.as_deref(), &*facts.uid, &*facts.namespace), (Some("n1"), "u1", "mail"));
        assert!(facts.ended.is_empty() && !facts.terminating);
    }

    #[test]
    fn a_terminated_container_proves_death_only_in_a_pod_that_is_over() {
        let terminated = |phase: &str, id: Option<&str>| {
            pod(&json!({
                "phase": phase,
                "initContainerStatuses": [{
                    "name": "mailrelay", "ready": false, "restartCount": 0, "image": "i", "imageID": "",
                    "state": { "terminated": { "exitCode": 137, "containerID": id } },
                }],
            }))
            .ended
        };
        assert!(terminated("Running", Some("containerd://1")).is_empty());
        assert!(terminated("Failed", None).is_empty());
        assert_eq!(terminated("Failed", Some("containerd://1")), BTreeSet::from(["mailrelay".to_owned()]));
    }
}
