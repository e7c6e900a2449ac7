//! Relays, mail servers, namespaces and pods, kept fresh by a watch each.

use std::{collections::BTreeMap, fmt::Debug, pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use k8s_openapi::{api::core::v1::Namespace, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use kube::{
    Api, Client, Resource, ResourceExt,
    core::{DeserializeGuard, PartialObjectMeta, object::HasSpec},
    runtime::{
        WatchStreamExt,
        reflector::{self, ObjectRef, Store},
        utils::StreamBackoff,
        watcher,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::{
    backoff::WatchBackoff,
    pod_watch::{PodStore, follow_pods},
    pods::PodFacts,
};
use crate::api::{MailRelay, MailServer};

/// How long one watch request lives: a dead one is noticed after as long (kube's default is 295 s).
const WATCH_SECONDS: u32 = 25;

/// A relay as the API server has it; one whose spec cannot be read is kept apart, and never stops the others.
pub type GuardedRelay = DeserializeGuard<MailRelay>;

/// A `MailServer` as the API server has it.
pub type GuardedServer = DeserializeGuard<MailServer>;

/// The controller's view of the API server. Clones share it.
#[derive(Clone)]
pub struct Observed {
    relays: Store<GuardedRelay>,
    servers: Store<GuardedServer>,
    namespaces: Store<PartialObjectMeta<Namespace>>,
    pods: PodStore,
    listings: watch::Receiver<Listings>,
    changes: watch::Receiver<u64>,
}

/// How far the first lists are of what an installation can do without: one that was brought here by an older one's manifests
/// may have neither the definition of `MailServer` nor leave to see namespaces.
#[derive(Clone, Debug, Default)]
struct Listings {
    servers: Listing,
    namespaces: Listing,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Listing {
    #[default]
    NotYet,
    Listed,
    /// The API server does not let us, and why.
    Refused(String),
}

impl Listing {
    fn take_in<K>(&mut self, event: &Result<watcher::Event<K>, watcher::Error>) -> bool {
        let now = match event {
            Ok(watcher::Event::InitDone) => Self::Listed,
            Err(watcher::Error::InitialListFailed(kube::Error::Api(status))) if matches!(status.code, 403 | 404) => {
                Self::Refused(status.message.clone())
            }
            _ => return false,
        };
        let is_new = *self != now;
        *self = now;
        is_new
    }

    fn problem(&self) -> Option<&str> {
        match self {
            Self::Refused(problem) => Some(problem),
            Self::NotYet | Self::Listed => None,
        }
    }
}

impl Observed {
    /// Starts the watches; they end when the returned future is dropped.
    pub fn start(client: &Client) -> (Self, impl Future<Output = ()> + use<>) {
        let (announce, changes) = watch::channel(0_u64);
        let announce = Arc::new(announce);
        let tell = move || announce.send_modify(|count| *count = count.wrapping_add(1));
        let (list, listings) = watch::channel(Listings::default());
        let list = Arc::new(list);

        let (relays, events) = reflect::<GuardedRelay>(client);
        let (select, selective) = watch::channel(false);
        let selects = |relay: &GuardedRelay| relay.0.as_ref().is_ok_and(|relay| relay.spec.workers.selector.is_some());
        let note = move |relays: &[Arc<GuardedRelay>]| {
            let any = || relays.iter().any(|relay| selects(relay));
            select.send_if_modified(|all| !std::mem::replace(all, *all || any()) && *all);
        };
        let follow_relays = follow("mailrelays", events, relays.clone(), is_same_guarded, note, tell.clone());

        let (servers, events) = reflect::<GuardedServer>(client);
        let events = noting(events, Arc::clone(&list), tell.clone(), |listings| &mut listings.servers);
        let follow_servers = follow("mailservers", events, servers.clone(), is_same_guarded, |_| {}, tell.clone());

        let (namespaces, events) = reflect::<PartialObjectMeta<Namespace>>(client);
        let events = noting(events, list, tell.clone(), |listings| &mut listings.namespaces);
        let follow_namespaces =
            follow("namespaces", events, namespaces.clone(), is_same_namespace, |_| {}, tell.clone());

        let pods = PodStore::new();
        let (listed, client, store) = (relays.clone(), client.clone(), pods.clone());
        let follow_pods = async move {
            // Which pods are watched is the relays' to say.
            if listed.wait_until_ready().await.is_ok() {
                follow_pods(client, config, selective, store, tell).await;
            }
        };
        let all = async move {
            tokio::join!(follow_relays, follow_servers, follow_namespaces, follow_pods);
        };
        (Self { relays, servers, namespaces, pods, listings, changes }, all)
    }

    /// Waits until the first lists have arrived: before that a missing pod means nothing.
    pub async fn ready(&self) {
        let mut listings = self.listings.clone();
        let is_listed =
            |listings: &Listings| listings.servers != Listing::NotYet && listings.namespaces != Listing::NotYet;
        let listed = async { listings.wait_for(is_listed).await.is_ok() };
        // A dropped writer means that the process is on its way out.
        let _ = tokio::join!(self.relays.wait_until_ready(), self.pods.listed(), listed);
    }

    /// Follows changes of what the plan may depend on: a status that is written is none.
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

    /// All `MailServer`s.
    pub fn servers(&self) -> Vec<Arc<GuardedServer>> {
        self.servers.state()
    }

    /// One `MailServer`.
    pub fn server(&self, name: &str) -> Option<Arc<GuardedServer>> {
        self.servers.get(&ObjectRef::new(name))
    }

    /// The labels of the namespaces, by name.
    pub fn namespaces(&self) -> BTreeMap<String, BTreeMap<String, String>> {
        let namespaces = self.namespaces.state();
        namespaces.iter().map(|namespace| (namespace.name_any(), namespace.labels().clone())).collect()
    }

    /// Why nobody knows which `MailServer`s or namespaces there are, and what to do about it.
    pub fn listing_problem(&self) -> Option<String> {
        let listings = self.listings.borrow();
        let problem = listings.servers.problem().or(listings.namespaces.problem())?;
        Some(format!(
            "{problem}; install the definition crds/mailservers.yaml and the ClusterRole of this version (helm upgrade does both)"
        ))
    }

    /// All pods that may be workers.
    pub fn pods(&self) -> Vec<Arc<PodFacts>> {
        self.pods.all()
    }
}

fn config() -> watcher::Config {
    watcher::Config::default().timeout(WATCH_SECONDS)
}

/// All objects of a kind, and the events that keep them fresh while somebody takes them.
fn reflect<K>(client: &Client) -> (Store<K>, impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> + use<K>)
where
    K: Resource<DynamicType = ()> + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (store, writer) = reflector::store::<K>();
    let events = watcher(Api::<K>::all(client.clone()), config());
    let events = events.modify(|object| object.meta_mut().managed_fields = None);
    (store, reflector::reflector(writer, StreamBackoff::new(events, WatchBackoff::default())))
}

/// The same events; whether there is a list, or none can be had, is noted and told.
fn noting<K>(
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    listings: Arc<watch::Sender<Listings>>,
    tell: impl Fn(),
    which: impl Fn(&mut Listings) -> &mut Listing,
) -> impl Stream<Item = Result<watcher::Event<K>, watcher::Error>> {
    events.inspect(move |event| {
        if listings.send_if_modified(|listings| which(listings).take_in(event)) {
            tell();
        }
    })
}

/// Tells of each object that changed; `note` hears of all of them then. `events` have been applied to the store.
async fn follow<K>(
    resource: &str,
    events: impl Stream<Item = Result<watcher::Event<K>, watcher::Error>>,
    store: Store<K>,
    is_same: impl Fn(&K, &K) -> bool,
    note: impl Fn(&[Arc<K>]),
    tell: impl Fn(),
) where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let mut events = pin!(events);
    let mut known: BTreeMap<String, Arc<K>> = BTreeMap::new();
    while let Some(event) = events.next().await {
        match event {
            // During a relist the store keeps the old state until InitDone: nothing has changed yet.
            Ok(watcher::Event::Init | watcher::Event::InitApply(_)) => continue,
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(watch.resource = resource, %error, "the watch broke and is started again");
                continue;
            }
        }
        let now = store.state();
        let is_news =
            |new: &Arc<K>| !known.get(&uid(new)).is_some_and(|old| Arc::ptr_eq(old, new) || is_same(old, new));
        let is_new = now.len() != known.len() || now.iter().any(is_news);
        note(&now);
        known = now.into_iter().map(|object| (uid(&object), object)).collect();
        if is_new {
            tell();
        }
    }
}

fn uid<K: Resource>(object: &Arc<K>) -> String {
    object.meta().uid.clone().unwrap_or_default()
}

/// Whether nothing differs but the status.
pub fn is_same_guarded<K: Resource<DynamicType = ()> + HasSpec<Spec: PartialEq>>(
    old: &DeserializeGuard<K>,
    new: &DeserializeGuard<K>,
) -> bool {
    let is_same_spec = match (&old.0, &new.0) {
        (Ok(old), Ok(new)) => old.spec() == new.spec(),
        (Err(old), Err(new)) => old.error == new.error,
        _ => false,
    };
    is_same_object(old.meta(), new.meta()) && is_same_spec
}

fn is_same_namespace(old: &PartialObjectMeta<Namespace>, new: &PartialObjectMeta<Namespace>) -> bool {
    old.labels() == new.labels()
}

fn is_same_object(before: &ObjectMeta, now: &ObjectMeta) -> bool {
    before.uid == now.uid
        && before.generation == now.generation
        && before.name == now.name
        && before.namespace == now.namespace
        && before.deletion_timestamp == now.deletion_timestamp
        && before.finalizers == now.finalizers
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
        let read = |json: &serde_json::Value| serde_json::from_value::<GuardedRelay>(json.clone()).expect("an object");
        let with = |change: &dyn Fn(&mut serde_json::Value)| {
            let mut changed = relay.clone();
            change(&mut changed);
            !is_same_guarded(&read(&relay), &read(&changed))
        };
        assert!(is_same_guarded(&read(&relay), &read(&relay)));
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
