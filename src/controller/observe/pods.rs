//! What is read of a worker pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{ContainerState, ContainerStatus, Pod, PodStatus};
use kube::{Resource, ResourceExt};

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
    pub labels: Arc<BTreeMap<String, String>>,
    /// Whether the pod is being deleted.
    pub terminating: bool,
    /// Containers that run now: ordinary ones and native sidecars.
    pub running: Arc<BTreeSet<String>>,
    /// Whether the pod is over and every container of it terminated with a container id, the worker's among them
    /// (lease R5b).
    pub over: bool,
    /// Whether nothing in it has ever run.
    pub never_ran: bool,
}

impl PodFacts {
    /// Reads a pod of the watch.
    pub fn of(pod: &Pod) -> Self {
        let status = pod.status.as_ref();
        let ended = status.and_then(|s| s.phase.as_deref()).is_some_and(|p| p == "Succeeded" || p == "Failed");
        // The garbage collector writes "Failed" for pods whose node is out of reach; nobody there said so.
        let guessed = status.and_then(|s| s.conditions.as_ref()).into_iter().flatten().any(|condition| {
            condition.type_ == "DisruptionTarget" && condition.reason.as_deref() == Some("DeletionByPodGC")
        });
        let ids: Vec<bool> = status
            .into_iter()
            .flat_map(containers)
            .map(|container| {
                let terminated = container.state.as_ref().and_then(|state| state.terminated.as_ref());
                terminated.is_some_and(|terminated| terminated.container_id.is_some())
            })
            .collect();
        let mut facts = Self {
            uid: pod.uid().unwrap_or_default(),
            name: pod.name_any(),
            namespace: pod.namespace().unwrap_or_default(),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            labels: Arc::new(pod.labels().clone()),
            terminating: pod.meta().deletion_timestamp.is_some(),
            over: ended && !guessed && !ids.is_empty() && ids.iter().all(|id| *id),
            never_ran: !ended && status.into_iter().flat_map(containers).all(never_ran),
            ..Self::default()
        };
        let runs = |container: &&ContainerStatus| container.state.as_ref().is_some_and(|state| state.running.is_some());
        let running = status.into_iter().flat_map(containers).filter(runs).map(|container| container.name.clone());
        facts.running = Arc::new(running.collect());
        facts
    }

    /// Has in common with another pod what is the same: there are thousands, and those of one set differ in little.
    pub fn share(&mut self, other: &Self) {
        if self.labels == other.labels {
            self.labels = Arc::clone(&other.labels);
        }
        if self.running == other.running {
            self.running = Arc::clone(&other.running);
        }
    }
}

fn never_ran(container: &ContainerStatus) -> bool {
    let ran = |state: &ContainerState| state.running.is_some() || state.terminated.is_some();
    let states = [&container.state, &container.last_state];
    container.restart_count == 0 && !states.into_iter().flatten().any(ran)
}

fn containers(status: &PodStatus) -> impl Iterator<Item = &ContainerStatus> {
    let lists = [&status.container_statuses, &status.init_container_statuses];
    lists.into_iter().flatten().flatten()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(status: &serde_json::Value) -> PodFacts {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {
                "name": "web-1", "namespace": "mail", "uid": "u1",
                "labels": { "a": "b" }, "annotations": { "long": "text" },
            },
            "spec": { "nodeName": "n1", "containers": [{ "name": "app" }] },
            "status": status,
        }))
        .expect("a pod");
        PodFacts::of(&pod)
    }

    #[test]
    fn a_native_sidecar_and_an_ordinary_container_both_count_as_running() {
        let facts = pod(&json!({
            "phase": "Running",
            "containerStatuses": [{ "name": "app", "state": { "running": {} }, "ready": false, "restartCount": 0, "image": "i", "imageID": "" }],
            "initContainerStatuses": [{ "name": "mailrelay", "state": { "running": {} }, "ready": true, "restartCount": 0, "image": "i", "imageID": "" }],
        }));
        assert_eq!(*facts.running, BTreeSet::from(["app".to_owned(), "mailrelay".to_owned()]));
        assert_eq!((facts.node.as_deref(), &*facts.uid, &*facts.namespace), (Some("n1"), "u1", "mail"));
        assert!(!facts.over && !facts.terminating && !facts.never_ran);
    }

    #[test]
    fn death_is_proven_only_by_a_pod_that_is_over_with_every_container_terminated_by_id() {
        let terminated = |id: &str| json!({ "terminated": { "exitCode": 137, "containerID": id } });
        let no_id = json!({ "terminated": { "exitCode": 137 } });
        let (running, waiting) = (json!({ "running": {} }), json!({ "waiting": {} }));
        let collected = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC" }]);
        let evicted = json!([{ "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet" }]);
        let id = terminated("containerd://1");
        let none = json!(null);
        let rows = [
            (true, "Failed", &id, &id, &none, "killed"),
            (true, "Succeeded", &id, &id, &none, "done"),
            (true, "Failed", &id, &id, &evicted, "the kubelet itself ended it"),
            (false, "Running", &id, &id, &none, "it may restart, and the status lags behind the next process"),
            (false, "Pending", &id, &id, &none, "starting"),
            (false, "Unknown", &id, &id, &none, "the node is lost"),
            (false, "Failed", &no_id, &id, &none, "terminated without a container id"),
            (false, "Failed", &running, &id, &none, "the worker runs"),
            (false, "Succeeded", &waiting, &id, &none, "the worker is about to restart"),
            (false, "Failed", &id, &running, &none, "something runs"),
            (false, "Failed", &id, &id, &collected, "written by the garbage collector for a node that is lost"),
        ];
        for (proven, phase, worker, app, conditions, what) in rows {
            let facts = pod(&json!({
                "phase": phase,
                "conditions": conditions,
                "containerStatuses": [{ "name": "app", "state": app, "ready": false, "restartCount": 0, "image": "i", "imageID": "" }],
                "initContainerStatuses": [{ "name": "mailrelay", "state": worker, "ready": false, "restartCount": 0, "image": "i", "imageID": "" }],
            }));
            assert_eq!(facts.over, proven, "{what}");
        }
        assert!(!pod(&json!({ "phase": "Failed" })).over, "a pod without containers says nothing");
    }

    #[test]
    fn only_a_pod_in_which_nothing_ran_has_never_started() {
        let status = |restarts: u32, state: serde_json::Value, last: serde_json::Value| {
            let container = json!({ "name": "mailrelay", "state": state, "lastState": last, "restartCount": restarts,
                "ready": false, "image": "i", "imageID": "" });
            pod(&json!({ "phase": "Pending", "containerStatuses": [container] })).never_ran
        };
        let (waiting, ended) = (json!({ "waiting": {} }), json!({ "terminated": { "exitCode": 1 } }));
        assert!(pod(&json!({ "phase": "Pending" })).never_ran);
        assert!(status(0, waiting.clone(), json!({})));
        assert!(!status(0, json!({ "running": {} }), json!({})));
        assert!(!status(0, waiting.clone(), ended.clone()));
        assert!(!status(1, waiting, json!({})));
        assert!(!status(0, ended, json!({})));
    }
}
