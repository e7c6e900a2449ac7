//! Worker processes as the pods that the controller watches: those that run here as children, and those that others started by
//! hand, wherever they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use redis::cmd;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::objects::Objects;
use crate::{
    api::{RELAY_LABEL, WorkerReport, reports_key},
    lease::{LedgerStore, pools},
    store::{Store, StoreError},
};

/// How long Redis may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

/// After how long out of all ledgers one that was started by hand is taken for gone.
const GONE_AFTER: Duration = Duration::from_secs(12);

/// A pod, by the relay that it works for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Pod {
    /// Namespace of relay and pod.
    pub namespace: String,
    /// Name of the relay.
    pub relay: String,
    /// Its own name.
    pub name: String,
    /// Its UID.
    pub uid: String,
}

impl Pod {
    fn key(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Shows it to the controller; `labels` are those by which its relay selects its workers.
    pub fn begin(&self, objects: &Objects, labels: &BTreeMap<String, String>) {
        let mut all = labels.clone();
        all.insert(RELAY_LABEL.to_owned(), self.relay.clone());
        objects.put("pods", &self.key(), self.object(&all, &json!({ "running": {} }), "Running"));
    }

    /// Its process is dead, and somebody saw that: what proves it to the controller.
    pub fn end(&self, objects: &Objects) {
        let ended = json!({ "terminated": { "exitCode": 1, "containerID": format!("process://{}", self.uid) } });
        let is_ours = |object: &Value| object["metadata"]["uid"] == *self.uid;
        if let Some(object) = objects.get("pods", &self.key()).filter(is_ours) {
            let labels: BTreeMap<String, String> =
                serde_json::from_value(object["metadata"]["labels"].clone()).unwrap_or_default();
            objects.put("pods", &self.key(), self.object(&labels, &ended, "Failed"));
        }
    }

    /// There is no such pod any more.
    pub fn remove(&self, objects: &Objects) {
        let is_ours = |object: &Value| object["metadata"]["uid"] == *self.uid;
        if objects.get("pods", &self.key()).is_some_and(|object| is_ours(&object)) {
            objects.remove("pods", &self.key());
        }
    }

    fn object(&self, labels: &BTreeMap<String, String>, state: &Value, phase: &str) -> Value {
        json!({
            "metadata": { "name": self.name, "namespace": self.namespace, "uid": self.uid, "labels": labels },
            "spec": { "nodeName": "dev", "containers": [{ "name": "mailrelay" }] },
            "status": {
                "phase": phase,
                "containerStatuses": [{
                    "name": "mailrelay", "state": state, "ready": phase == "Running", "restartCount": 0, "image": "",
                    "imageID": "",
                }],
            },
        })
    }
}

/// The workers of one relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Crew {
    /// Namespace of the relay.
    pub namespace: String,
    /// Name of the relay.
    pub relay: String,
    /// The labels by which it selects them, beside the usual one.
    pub labels: BTreeMap<String, String>,
}

/// Workers that others started by hand: they are known by what they report, and live while a ledger knows them.
#[derive(Default)]
pub struct Strangers {
    /// Reports that lay there at the start: they may be of workers that are long dead.
    old: Option<BTreeSet<String>>,
    known: BTreeMap<Pod, Instant>,
}

impl Strangers {
    /// Looks who came and who went. `own` are the UIDs of our own.
    pub async fn look(
        &mut self,
        store: &Store,
        objects: &Objects,
        own: &BTreeSet<String>,
        crews: &[Crew],
    ) -> Result<(), StoreError> {
        let held = held(store).await?;
        let mut reported = BTreeMap::new();
        for Crew { namespace, relay, labels } in crews {
            let reports: BTreeMap<String, Vec<u8>> =
                store.query(cmd("HGETALL").arg(reports_key(namespace, relay)), LIMIT).await?;
            for (uid, report) in reports.into_iter().filter(|(uid, _)| !own.contains(uid)) {
                let Ok(report) = WorkerReport::read(&report) else { continue };
                let pod = Pod { namespace: namespace.clone(), relay: relay.clone(), name: report.pod, uid };
                reported.insert(pod, labels);
            }
        }
        let old = self.old.get_or_insert_with(|| reported.keys().map(|pod| pod.uid.clone()).collect());
        old.retain(|uid| !held.contains(uid));
        let now = Instant::now();
        for (pod, labels) in reported {
            if self.known.contains_key(&pod) || old.contains(&pod.uid) {
                continue;
            }
            tracing::info!(pod.name, relay.namespace = pod.namespace, relay.name = pod.relay, "a worker has come");
            pod.begin(objects, labels);
            self.known.insert(pod, now);
        }
        self.known.retain(|pod, heard| {
            if held.contains(&pod.uid) {
                *heard = now;
            }
            let is_here = now.duration_since(*heard) < GONE_AFTER;
            if !is_here {
                tracing::info!(pod.name, relay.namespace = pod.namespace, relay.name = pod.relay, "a worker has gone");
                pod.remove(objects);
                // Its report goes with it; one that comes back writes another.
                old.insert(pod.uid.clone());
            }
            is_here
        });
        Ok(())
    }
}

/// The UIDs that any ledger names.
async fn held(store: &Store) -> Result<BTreeSet<String>, StoreError> {
    let mut held = BTreeSet::new();
    for pool in pools(store).await? {
        let snapshot = LedgerStore::new(store.clone(), &pool).snapshot().await?;
        let holders = snapshot.ledger.iter().flat_map(|ledger| &ledger.holders);
        held.extend(holders.map(|holder| holder.pod_uid.clone()));
    }
    Ok(held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::observe::PodFacts;

    fn facts(objects: &Objects) -> Option<PodFacts> {
        let pod = serde_json::from_value(objects.get("pods", "mail/worker-1")?).expect("a pod");
        Some(PodFacts::of(&pod))
    }

    #[test]
    fn a_process_that_somebody_saw_end_is_a_proof_of_death_and_one_that_is_only_gone_is_none() {
        let pod = Pod { namespace: "mail".into(), relay: "r".into(), name: "worker-1".into(), uid: "u".into() };
        let objects = Objects::default();
        pod.begin(&objects, &BTreeMap::from([("app".into(), "web".into())]));
        let living = facts(&objects).expect("it is there");
        assert!(!living.over && !living.never_ran && living.running.len() == 1);
        assert_eq!((&*living.labels["app"], &*living.labels[RELAY_LABEL]), ("web", "r"));
        let other = Pod { uid: "other".into(), ..pod.clone() };
        other.end(&objects);
        other.remove(&objects);
        assert!(!facts(&objects).expect("another's end is not its own").over);
        pod.end(&objects);
        assert!(facts(&objects).expect("it is there").over);
        pod.remove(&objects);
        assert_eq!(facts(&objects), None);
    }
}
