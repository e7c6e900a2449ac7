//! Relays and pods, kept fresh by two watches.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, Resource,
    core::DeserializeGuard,
    runtime::{
        WatchStreamExt,
        reflector::{self, Store},
        utils::{Backoff, StreamBackoff},
        watcher,
    },
};
use rand::RngExt;
use tokio::sync::watch;

use super::pods::{PodFacts, prune};
use crate::{api::MailRelay, system};

/// How long one watch request lives: a dead one is noticed after as long (kube's default is 295 s).
const WATCH_SECONDS: u32 = 25;

/// A relay as the API server has it; one whose spec cannot be read is kept apart, and never stops the others.
pub type GuardedRelay = DeserializeGuard<MailRelay>;

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
        let relay_watch = reflector::reflector(relay_writer, StreamBackoff::new(relay_watch, WatchBackoff::default()));
        let pod_watch = reflector::reflector(pod_writer, StreamBackoff::new(pod_watch, WatchBackoff::default()));
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
struct WatchBackoff {
    failures: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(Duration::from_secs(5));
        self.failures += 1;
        Some(wait.mul_f64(system::rng().random_range(0.8..1.2)))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
