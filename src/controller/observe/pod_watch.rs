//! Worker pods as the API server has them, reduced to facts as they come.
//!
//! A worker's pod carries the label `mailrelay.dev/relay`, unless a relay names a selector of its own: only then are all pods
//! watched, from then on for as long as the process lives, since a pod that is watched no more would look like one that is
//! gone.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client,
    runtime::{utils::StreamBackoff, watcher},
};
use tokio::sync::watch;

use super::{backoff::WatchBackoff, pods::PodFacts};
use crate::api::RELAY_LABEL;

/// Namespace and name.
type Key = (String, String);

/// The pods that are watched. Clones share them.
#[derive(Clone)]
pub struct PodStore {
    pods: Arc<Mutex<BTreeMap<Key, Arc<PodFacts>>>>,
    listed: watch::Sender<bool>,
}

impl PodStore {
    /// Nothing was listed yet.
    pub fn new() -> Self {
        Self { pods: Arc::default(), listed: watch::channel(false).0 }
    }

    /// All pods.
    pub fn all(&self) -> Vec<Arc<PodFacts>> {
        self.pods().values().cloned().collect()
    }

    /// Waits for the first list.
    pub async fn listed(&self) {
        let _ = self.listed.subscribe().wait_for(|listed| *listed).await;
    }

    fn pods(&self) -> MutexGuard<'_, BTreeMap<Key, Arc<PodFacts>>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in all pods there are; whether any fact changed.
    fn replace(&self, listed: BTreeMap<Key, Arc<PodFacts>>) -> bool {
        let is_first = !self.listed.send_replace(true);
        let mut pods = self.pods();
        let is_new = *pods != listed;
        *pods = listed;
        is_new || is_first
    }

    /// Takes in one pod; whether any fact changed.
    fn put(&self, facts: PodFacts) -> bool {
        let mut pods = self.pods();
        let key = key(&facts);
        let is_new = pods.get(&key).is_none_or(|known| **known != facts);
        if is_new {
            insert(&mut pods, facts);
        }
        is_new
    }

    /// A pod is gone; whether it was there.
    fn remove(&self, facts: &PodFacts) -> bool {
        self.pods().remove(&key(facts)).is_some()
    }
}

/// Pods of one set have names that begin alike, so that they are neighbours.
fn insert(pods: &mut BTreeMap<Key, Arc<PodFacts>>, mut facts: PodFacts) {
    let key = key(&facts);
    let (before, after) = (pods.range(..&key).next_back(), pods.range(&key..).next());
    for (_, neighbour) in before.into_iter().chain(after) {
        facts.share(neighbour);
    }
    pods.insert(key, Arc::new(facts));
}

fn key(facts: &PodFacts) -> Key {
    (facts.namespace.clone(), facts.name.clone())
}

/// Keeps the store fresh, and tells of each fact that changed. Never returns.
pub async fn follow_pods(
    client: Client,
    config: impl Fn() -> watcher::Config,
    mut all: watch::Receiver<bool>,
    store: PodStore,
    tell: impl Fn(),
) {
    loop {
        let is_wide = *all.borrow_and_update();
        let config = if is_wide { config() } else { config().labels(RELAY_LABEL) };
        let events = watcher(Api::<Pod>::all(client.clone()), config);
        let follow = follow(StreamBackoff::new(events, WatchBackoff::default()), &store, &tell);
        tokio::select! {
            () = follow => {}
            Ok(_) = all.wait_for(|all| *all), if !is_wide => {
                tracing::info!("a relay selects its workers by labels of their own: all pods are watched from now on");
            }
        }
    }
}

async fn follow(
    events: impl Stream<Item = Result<watcher::Event<Pod>, watcher::Error>>,
    store: &PodStore,
    tell: &impl Fn(),
) {
    let mut events = pin!(events);
    let mut listed = BTreeMap::new();
    while let Some(event) = events.next().await {
        let is_new = match event {
            Ok(watcher::Event::Init) => {
                listed.clear();
                false
            }
            // Nothing has changed before all were listed.
            Ok(watcher::Event::InitApply(pod)) => {
                insert(&mut listed, PodFacts::of(&pod));
                false
            }
            Ok(watcher::Event::InitDone) => store.replace(std::mem::take(&mut listed)),
            Ok(watcher::Event::Apply(pod)) => store.put(PodFacts::of(&pod)),
            Ok(watcher::Event::Delete(pod)) => store.remove(&PodFacts::of(&pod)),
            Err(error) => {
                tracing::warn!(watch.resource = "pods", %error, "the watch broke and is started again");
                false
            }
        };
        if is_new {
            tell();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, running: bool) -> PodFacts {
        let running = Arc::new(running.then(|| "mailrelay".to_owned()).into_iter().collect());
        PodFacts { name: name.into(), namespace: "mail".into(), uid: name.into(), running, ..PodFacts::default() }
    }

    #[test]
    fn only_facts_that_change_are_news() {
        let store = PodStore::new();
        let list = |pods: &[PodFacts]| pods.iter().map(|pod| (key(pod), Arc::new(pod.clone()))).collect();
        assert!(store.replace(list(&[])), "that there is none is news once");
        assert!(!store.replace(list(&[])));
        assert!(store.put(pod("a", false)));
        assert!(!store.put(pod("a", false)), "its annotations, say");
        assert!(store.put(pod("a", true)));
        assert!(!store.replace(list(&[pod("a", true)])), "listed anew");
        assert!(store.replace(list(&[pod("a", true), pod("b", true)])));
        assert!(store.remove(&pod("a", false)) && !store.remove(&pod("a", false)));
        assert_eq!(store.all().len(), 1);
    }

    #[test]
    fn pods_of_one_set_have_their_labels_in_common() {
        let labelled = |name: &str, app: &str| {
            let labels = Arc::new(BTreeMap::from([("app".to_owned(), app.to_owned())]));
            PodFacts { labels, ..pod(name, true) }
        };
        let store = PodStore::new();
        for (name, app) in [("web-a", "web"), ("web-c", "web"), ("web-b", "web"), ("other", "other")] {
            assert!(store.put(labelled(name, app)));
        }
        let all = store.all();
        let [other, a, b, c] = &all[..] else { panic!("{all:?}") };
        assert!(Arc::ptr_eq(&a.labels, &b.labels) && Arc::ptr_eq(&b.labels, &c.labels));
        assert_eq!(&*other.labels["app"], "other");
    }
}
