//! The controller without Kubernetes: its objects come from files, its pods are processes, and the API server is in memory. All
//! else is what runs in a cluster, so that what is seen here is true there.
//!
//! For trying out and for tests: what only this process knows (which ledgers were ever opened) ends with it.

mod check;
mod children;
mod files;
mod http;
mod objects;
mod options;
mod pods;

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    time::Duration,
};

use prometheus_client::registry::Registry;
use serde_json::{Value, json};
use tokio::{sync::watch, time::sleep};

use super::run::{ControllerError, ControllerOptions, Replica};
use crate::{
    mail::digest,
    store::{Store, StoreError},
    system,
};
use children::Children;
use pods::{Crew, Strangers};

pub use check::check;
pub use files::{FileError, Said};
pub use http::{Query, Target, expired, failure};
pub use objects::Objects;
pub use options::DevOptions;

/// How often files, processes and Redis are looked at.
const TICK: Duration = Duration::from_millis(200);
/// How often is looked who was started by hand.
const LOOK: Duration = Duration::from_secs(1);

/// Why it ended.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// The options for Redis make no sense, or it is not there.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The files say nothing that can be followed.
    #[error(transparent)]
    File(#[from] FileError),
    /// They cannot all be sent to one server.
    #[error("{0}")]
    To(String),
    /// A worker cannot be started.
    #[error("cannot start a worker")]
    Worker(#[source] io::Error),
    /// The controller ended.
    #[error(transparent)]
    Controller(#[from] ControllerError),
    /// What is told was not taken.
    #[error("{0}")]
    Told(String),
}

/// What people are told of.
#[derive(Clone, Debug)]
pub enum News {
    /// This is what the files say from now on.
    Following(Said),
    /// The files changed, and this is why they are not followed; what they said before holds.
    NotFollowed(String),
    /// An Event of Kubernetes.
    Event(Value),
}

/// Who looks on. An error of either ends all.
pub trait Audience {
    /// Hears of what happens.
    fn tell(&mut self, news: &News) -> Result<(), String>;
    /// Sees the objects whenever they may have changed.
    fn show(&mut self, objects: &Objects) -> Result<(), String>;
}

/// Leads until `stop` resolves, and then has its workers finish what they are sending.
///
/// To be called on the thread whose end is to be that of the workers. Cancelling kills them.
pub async fn run(
    options: DevOptions,
    stop: impl Future<Output = ()>,
    audience: &mut impl Audience,
) -> Result<(), DevError> {
    let store = Store::new(&options.store)?;
    // Nothing works without it, and who tries things out wants to hear that at once.
    store.query::<String>(&redis::cmd("PING"), store.patience()).await?;
    let mut source = Source::new(&options);
    let said = source.read()?;
    let mut house = House::new(&options, &said, store);
    audience.tell(&News::Following(said)).map_err(DevError::Told)?;

    let (end, ended) = watch::channel(false);
    let mut leading = tokio::spawn(lead(&options, &house, ended));
    let mut stop = std::pin::pin!(stop);
    let mut look = tokio::time::interval(LOOK);
    let outcome = loop {
        if let Err(error) = house.keep_workers() {
            break Err(DevError::Worker(error));
        }
        tokio::select! {
            () = &mut stop => break Ok(()),
            led = &mut leading => break led.unwrap_or(Err(ControllerError::TaskEnded("controller"))).map_err(DevError::from),
            _ = look.tick() => house.look().await,
            () = sleep(TICK) => {}
        }
        let mut news: Vec<News> = house.follow(source.read_if_changed()).into_iter().collect();
        news.extend(house.objects.take_events().into_iter().map(News::Event));
        let told = news.iter().try_for_each(|news| audience.tell(news));
        if let Err(error) = told.and_then(|()| audience.show(&house.objects)) {
            break Err(DevError::Told(error));
        }
    };
    house.children.stop(&house.objects).await;
    end.send_replace(true);
    if !leading.is_finished() {
        let _ = leading.await;
    }
    outcome
}

/// The controller over these objects, until it is told to end.
fn lead(
    options: &DevOptions,
    house: &House,
    mut ended: watch::Receiver<bool>,
) -> impl Future<Output = Result<(), ControllerError>> + Send + use<> {
    let controller = ControllerOptions {
        store: options.store.clone(),
        namespace: "mailrelay".into(),
        identity: "dev".into(),
        lease_name: "mailrelay-controller".into(),
        // It has no port.
        http: ([127, 0, 0, 1], 0).into(),
    };
    let (ready, _) = watch::channel(false);
    let client = house.objects.client();
    let replica = Replica::new(controller, house.store.clone(), client, &mut Registry::default(), ready);
    replica.run(async move {
        let _ = ended.wait_for(|ended| *ended).await;
        Ok(())
    })
}

/// What there is.
struct House {
    store: Store,
    objects: Objects,
    relays: Vec<Crew>,
    children: Children,
    strangers: Strangers,
}

impl House {
    fn new(options: &DevOptions, said: &Said, store: Store) -> Self {
        let objects = Objects::default();
        apply(said, &objects);
        let children = Children::new(options.clone());
        Self { store, objects, relays: crews(said), children, strangers: Strangers::default() }
    }

    /// Runs the workers, once somebody leads: to one who begins to lead, workers that run already may be those of an older
    /// installation, so that new ledgers would wait for a lease to end.
    fn keep_workers(&mut self) -> io::Result<()> {
        let is_led = |relay: &Value| !relay["status"]["conditions"].is_null();
        if self.objects.all("mailrelays").values().any(is_led) {
            return self.children.keep(&self.objects, &self.relays);
        }
        Ok(())
    }

    /// Looks who was started by hand.
    async fn look(&mut self) {
        let own: BTreeSet<String> = self.children.uids().map(ToOwned::to_owned).collect();
        if let Err(error) = self.strangers.look(&self.store, &self.objects, &own, &self.relays).await {
            tracing::debug!(%error, "cannot look for workers");
        }
    }

    /// Follows what the files say by now.
    fn follow(&mut self, read: Option<Result<Said, DevError>>) -> Option<News> {
        Some(match read? {
            Ok(said) => {
                apply(&said, &self.objects);
                self.relays = crews(&said);
                News::Following(said)
            }
            Err(error) => News::NotFollowed(error.to_string()),
        })
    }
}

/// The files, and what they said when they were last read.
struct Source<'a> {
    options: &'a DevOptions,
    seen: Vec<Option<Vec<u8>>>,
}

impl<'a> Source<'a> {
    fn new(options: &'a DevOptions) -> Self {
        Self { options, seen: Vec::new() }
    }

    fn read(&mut self) -> Result<Said, DevError> {
        self.seen = self.content();
        let mut said = files::read(&self.options.files)?;
        if let Some((host, port)) = &self.options.to {
            said.send_all_to(host, *port).map_err(DevError::To)?;
        }
        Ok(said)
    }

    fn read_if_changed(&mut self) -> Option<Result<Said, DevError>> {
        (self.content() != self.seen).then(|| self.read())
    }

    /// Small files are compared as they are: an editor may write one twice in a second.
    fn content(&self) -> Vec<Option<Vec<u8>>> {
        self.options.files.iter().map(|file| std::fs::read(file).ok()).collect()
    }
}

/// Makes the objects what the files say. What is said no more is deleted, as `kubectl delete` does.
fn apply(said: &Said, objects: &Objects) {
    let mut wanted: BTreeMap<(String, String), Value> = said.objects.clone();
    for (_, key) in said.objects.keys().filter(|(collection, _)| collection == "mailrelays") {
        let namespace = key.split('/').next().unwrap_or_default();
        let object = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": namespace } });
        wanted.entry(("namespaces".to_owned(), format!("/{namespace}"))).or_insert(object);
    }
    for collection in ["namespaces", "mailservers", "mailrelays"] {
        for (key, old) in objects.all(collection) {
            let is_said = wanted.contains_key(&(collection.to_owned(), key.clone()));
            if !is_said && old["metadata"]["deletionTimestamp"].is_null() {
                objects.edit(collection, &key, |object| {
                    object["metadata"]["deletionTimestamp"] = json!(system::timestamp().to_string());
                });
            }
        }
    }
    for ((collection, key), mut object) in wanted {
        let Some(old) = objects.get(&collection, &key) else {
            // The same relay after another start.
            let meta = &mut object["metadata"];
            meta["uid"] = json!(digest(&format!("{collection} {key}"))[..32]);
            meta["generation"] = json!(1);
            meta["creationTimestamp"] = json!(system::timestamp().to_string());
            objects.put(&collection, &key, object);
            continue;
        };
        if old["spec"] != object["spec"] || old["metadata"]["labels"] != object["metadata"]["labels"] {
            objects.edit(&collection, &key, |now| {
                now["spec"] = object["spec"].take();
                now["metadata"]["labels"] = object["metadata"]["labels"].take();
            });
        }
    }
}

/// The crew of each relay.
fn crews(said: &Said) -> Vec<Crew> {
    let relays = said.objects.iter().filter(|((collection, _), _)| collection == "mailrelays");
    relays
        .filter_map(|((_, key), object)| {
            let (namespace, relay) = key.split_once('/')?;
            let labels = object["spec"]["workers"]["selector"]["matchLabels"].clone();
            let labels = serde_json::from_value(labels).unwrap_or_default();
            Some(Crew { namespace: namespace.to_owned(), relay: relay.to_owned(), labels })
        })
        .collect()
}
