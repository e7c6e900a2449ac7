//! Relays and pods, kept fresh by two watches.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        utils::StreamBackoff,
        watcher,
    },
};
use tokio::sync::watch;

use super::{
    backoff::WatchBackoff,
    pod_watch::{PodStore, follow_pods},
    pods::PodFacts,
};
use crate::api::MailRelay;

/// How long one watch request lives: a dead one is noticed after as long (kube's default is 295 s).
const WATCH_SECONDS: u32 = 25;

/// A relay as the API server has it; one whose spec cannot be read is kept apart, and never stops the others.
pub type GuardedRelay = DeserializeGuard<MailRelay>;

/// The controller's view of the API server. Clones share it.
#[derive(Clone)]
pub struct Observed {
    relays: Store<GuardedRelay>,
    pods: PodStore,
    changes: watch::Receiver<u64>,
}

impl Observed {
    /// Starts both watches; they end when the returned futures are dropped.
    pub fn start(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (announce, changes) = watch::channel(0_u64);
        let announce = Arc::new(announce);
        let config = || watcher::Config::default().timeout(WATCH_SECONDS);
        let (relays, writer) = reflector::store::<GuardedRelay>();
        let pods = PodStore::new();
        let relay_watch = watcher(Api::<GuardedRelay>::all(client.clone()), config());
        let relay_watch = relay_watch.modify(|relay| relay.meta_mut().managed_fields = None);
        let relay_watch = reflector::reflector(writer, StreamBackoff::new(relay_watch, WatchBackoff::default()));
        let (select, selective) = watch::channel(false);
        let tell = move || announce.send_modify(|count| *count = count.wrapping_add(1));
        let follow_relays = follow_relays(relay_watch, relays.clone(), select, tell.clone());
        let (listed, client, store) = (relays.clone(), client.clone(), pods.clone());
        let follow_pods = async move {
            // Which pods are watched is the relays' to say.
            if listed.wait_until_ready().await.is_ok() {
                follow_pods(client, config, selective, store, tell).await;
            }
        };
        let both = async move {
            tokio::join!(follow_relays, follow_pods);
        };
        (Self { relays, pods, changes }, both)
    }

    /// Waits until both first lists have arrived: before that a missing pod means nothing.
    pub async fn ready(&self) {
        // A dropped writer means that the process is on its way out.
        let _ = tokio::join!(self.relays.wait_until_ready(), self.pods.listed());
    }

    /// Follows changes of relays and pods that the plan may depend on: a status that is written is none.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.clone()
    }

    /// All relays.
    pub fn relays(&self) -> Vec<Arc<GuardedRelay>> {
        self.relays.state()
    }

    /// One relay.
    pub fn relay(&self, namespace: &str, name: &str) -> Option<Arc<GuardedRelay>> {
        self.relays.get(&ObjectRef::new(name).within(namespace))
    }

    /// All pods that may be workers.
    pub fn pods(&self) -> Vec<Arc<PodFacts>> {
        self.pods.all()
    }
}

/// Tells of each relay that changed, and whether any selects pods by labels of their own. `events` have been applied to the
/// store.
async fn follow_relays(
    events: impl Stream<Item = Result<watcher::Event<GuardedRelay>, watcher::Error>>,
    store: Store<GuardedRelay>,
    select: watch::Sender<bool>,
    tell: impl Fn(),
) {
    let mut events = pin!(events);
    let mut known = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            // During a relist the store keeps the old state until InitDone: nothing has changed yet.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(watch.resource = "mailrelays", %error, "the watch broke and is started again");
                continue;
            }
        }
        let now = store.state();
        let is_new = now.len() != known.len() || now.iter().any(|relay| is_news(known.get(&*uid(relay)), relay));
        known = now.into_iter().map(|relay| (uid(&relay), relay)).collect();
        let selects =
            |relay: &Arc<GuardedRelay>| relay.0.as_ref().is_ok_and(|relay| relay.spec.workers.selector.is_some());
        select.send_if_modified(|all| !std::mem::replace(all, *all || known.values().any(selects)) && *all);
        if is_new {
            tell();
        }
    }
}

fn uid(relay: &GuardedRelay) -> String {
    relay.uid().unwrap_or_default()
}

/// Whether anything but the status differs.
fn is_news(old: Option<&Arc<GuardedRelay>>, new: &Arc<GuardedRelay>) -> bool {
    let is_same = |old: &Arc<GuardedRelay>| {
        let (before, now) = (old.meta(), new.meta());
        let is_same_object = before.generation == now.generation
            && before.name == now.name
            && before.namespace == now.namespace
            && before.deletion_timestamp == now.deletion_timestamp
            && before.finalizers == now.finalizers;
        let is_same_spec = match (&old.0, &new.0) {
            (Ok(old), Ok(new)) => old.spec == new.spec,
            (Err(old), Err(new)) => old.error == new.error,
            _ => false,
        };
        is_same_object && is_same_spec
    };
    !old.is_some_and(|old| Arc::ptr_eq(old, new) || is_same(old))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_status_is_no_news_and_whatever_else_changes_is() {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": "r", "namespace": "mail", "uid": "u", "generation": 1, "resourceVersion": "1" },
            "spec": { "servers": [{ "name": "primary", "host": "mx" }] },
        });
        let read = |json: &serde_json::Value| {
            Arc::new(serde_json::from_value::<GuardedRelay>(json.clone()).expect("an object"))
        };
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = relay.clone();
            change(&mut changed);
            is_news(Some(&read(&relay)), &read(&changed))
        };
        assert!(is_news(None, &read(&relay)) && !is_news(Some(&read(&relay)), &read(&relay)));
        assert!(!with(&|relay| {
            relay["status"] = json!({ "readyWorkers": 3 });
            relay["metadata"]["resourceVersion"] = json!("2");
        }));
        assert!(with(&|relay| relay["spec"]["servers"][0]["host"] = json!("other")));
        assert!(with(&|relay| relay["spec"]["servers"] = json!("nonsense")));
        assert!(with(&|relay| relay["metadata"]["generation"] = json!(2)));
        assert!(with(&|relay| relay["metadata"]["finalizers"] = json!(["one"])));
        assert!(with(&|relay| relay["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z")));
    }
}
