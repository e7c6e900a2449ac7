//! The API server of `mailrelay dev` on its bad days: slow, silent, down, full of conflicts, forgetful. Each controller reaches
//! it through a `tower` service of its own, so kube's client is the real one. It waits by tokio's clock, so that it serves a
//! simulation as well as real processes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::{Method, Response, StatusCode},
};
use futures::StreamExt;
use mailrelay::controller::dev::{Objects, Query, Target, expired, failure};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::Value;
use tokio::{sync::watch, time::sleep};

/// The real client gives up after so long without a byte.
const READ_LIMIT: Duration = Duration::from_secs(30);

/// How the API server is today.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mood {
    /// Answers 503.
    pub down: bool,
    /// Answers nothing.
    pub silent: bool,
    /// How long an answer may take.
    pub slow_ms: u64,
    /// Of a thousand writes, so many are refused as conflicts.
    pub conflicts: u32,
    /// Refuses every write of a `ConfigMap`.
    pub no_config_maps: bool,
}

struct Inner {
    /// Versions below are forgotten (410).
    oldest: u64,
    chance: SmallRng,
    /// How many requests came, by method, collection and, for one object, its key.
    requests: BTreeMap<(String, String, Option<String>), u64>,
    note: Arc<dyn Fn(String) + Send + Sync>,
}

/// The API server; clones are the same.
#[derive(Clone)]
pub struct ApiServer {
    objects: Objects,
    inner: Arc<Mutex<Inner>>,
    /// How it is, and which generation of watches lives: those of earlier ones are ended.
    today: watch::Sender<(Mood, u64)>,
}

impl ApiServer {
    /// An empty one. `note` is told of each write.
    pub fn new(seed: u64, note: impl Fn(String) + Send + Sync + 'static) -> Self {
        let inner =
            Inner { oldest: 0, chance: SmallRng::seed_from_u64(seed), requests: BTreeMap::new(), note: Arc::new(note) };
        let today = watch::Sender::new((Mood::default(), 0));
        Self { objects: Objects::default(), inner: Arc::new(Mutex::new(inner)), today }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic inside")
    }

    /// A client of its own.
    pub fn client(&self) -> kube::Client {
        let api = self.clone();
        let service = Router::new().fallback(move |request: Request| {
            let api = api.clone();
            async move { api.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Changes how it is.
    pub fn set_mood(&self, mood: Mood) {
        self.today.send_modify(|(now, _)| *now = mood);
    }

    /// Ends all watches; `forget`: what happened so far cannot be watched any more (410 Gone).
    pub fn drop_watches(&self, forget: bool) {
        if forget {
            self.inner().oldest = self.objects.version() + 1;
        }
        self.today.send_modify(|(_, generation)| *generation += 1);
    }

    /// Creates or changes an object behind the clients' backs.
    pub fn put(&self, collection: &str, key: &str, object: Value) {
        self.objects.put(collection, key, object);
    }

    /// Changes a part of an object, as `kubectl patch` does.
    pub fn edit(&self, collection: &str, key: &str, change: impl FnOnce(&mut Value)) {
        self.objects.edit(collection, key, change);
    }

    /// An object as it is now.
    pub fn get(&self, collection: &str, key: &str) -> Option<Value> {
        self.objects.get(collection, key)
    }

    /// How many requests of a method came so far for a collection, or for one object of it.
    pub fn requests(&self, method: &str, collection: &str, key: Option<&str>) -> u64 {
        let inner = self.inner();
        let meant = inner.requests.iter().filter(|((by, of, about), _)| {
            by == method && of == collection && (key.is_none() || about.as_deref() == key)
        });
        meant.map(|(_, count)| count).sum()
    }

    /// Removes an object.
    pub fn delete(&self, collection: &str, key: &str) {
        self.objects.remove(collection, key);
    }

    async fn answer(&self, request: Request) -> Response<Body> {
        let (mood, generation) = *self.today.borrow();
        let wait = self.inner().chance.random_range(1..=2 + mood.slow_ms);
        sleep(Duration::from_millis(wait)).await;
        if mood.silent {
            sleep(READ_LIMIT).await;
            return failure(StatusCode::GATEWAY_TIMEOUT, "Timeout", "no answer");
        }
        if mood.down {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "not now");
        }
        let (uri, method) = (request.uri().clone(), request.method().clone());
        let Some(target) = Target::of(uri.path()) else { return self.objects.answer(request).await };
        if let Some(from) = Query(uri.query().unwrap_or_default()).watched_from() {
            if from < self.inner().oldest {
                return expired();
            }
            let watch = self.objects.answer(request).await;
            return self.through_moods(watch, generation);
        }
        if let Some(refusal) = self.refuse(&method, &target, mood) {
            return refusal;
        }
        let answer = self.objects.answer(request).await;
        if method != Method::GET && target.collection != "events" && answer.status().is_success() {
            let (note, Target { collection, key, status }) = (Arc::clone(&self.inner().note), target);
            note(format!("api: {method} {collection} {} {status}", key.unwrap_or_default()));
        }
        answer
    }

    /// Counts a request; what is said of it on a bad day.
    fn refuse(&self, method: &Method, target: &Target, mood: Mood) -> Option<Response<Body>> {
        let mut inner = self.inner();
        let about = (method.to_string(), target.collection.clone(), target.key.clone());
        *inner.requests.entry(about).or_default() += 1;
        let writes = *method != Method::GET;
        if writes && target.collection != "events" && inner.chance.random_range(0..1000) < mood.conflicts {
            return Some(failure(StatusCode::CONFLICT, "Conflict", "the object has been modified"));
        }
        (writes && target.collection == "configmaps" && mood.no_config_maps)
            .then(|| failure(StatusCode::FORBIDDEN, "Forbidden", "configmaps is forbidden: exceeded quota"))
    }

    /// A watch that says nothing while the server is silent, and ends with its generation.
    fn through_moods(&self, watch: Response<Body>, generation: u64) -> Response<Body> {
        let (parts, body) = watch.into_parts();
        let state = (Box::pin(body.into_data_stream()), self.today.subscribe());
        let lines = futures::stream::unfold(state, move |(mut lines, mut today)| async move {
            let line = {
                let next = lines.next();
                let mut next = pin!(next);
                loop {
                    let is_silent = {
                        let (mood, now) = *today.borrow_and_update();
                        if now != generation {
                            return None;
                        }
                        mood.silent
                    };
                    tokio::select! {
                        biased;
                        changed = today.changed() => if changed.is_err() { return None },
                        line = &mut next, if !is_silent => break line?,
                    }
                }
            };
            Some((Ok::<Bytes, Infallible>(line.ok()?), (lines, today)))
        });
        Response::from_parts(parts, Body::from_stream(lines))
    }
}
