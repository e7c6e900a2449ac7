//! An API server: objects with resource versions, lists, watches, compare-and-swap, and its bad days. Each controller
//! reaches it through a `tower` service of its own, so kube's client is the real one. It waits by tokio's clock, so that it
//! serves a simulation as well as real processes.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{Method, Response, StatusCode},
};
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout_at},
};

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
    version: u64,
    /// By collection (`pods`, `leases`, ...), then `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Version, collection, event.
    events: Vec<(u64, String, Bytes)>,
    /// Versions below are forgotten (410).
    oldest: u64,
    /// Watches of an earlier generation are ended.
    generation: u64,
    mood: Mood,
    chance: SmallRng,
    /// How many requests came, by method, collection and, for one object, its key.
    requests: BTreeMap<(String, String, Option<String>), u64>,
    note: Arc<dyn Fn(String) + Send + Sync>,
}

/// The API server; clones are the same.
#[derive(Clone)]
pub struct ApiServer {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

/// What a request is about.
struct Target {
    collection: String,
    /// `namespace/name`; none for a list.
    key: Option<String>,
    status: bool,
}

impl ApiServer {
    /// An empty one. `note` is told of each write.
    pub fn new(seed: u64, note: impl Fn(String) + Send + Sync + 'static) -> Self {
        let inner = Inner {
            version: 1,
            objects: BTreeMap::new(),
            events: Vec::new(),
            oldest: 0,
            generation: 0,
            mood: Mood::default(),
            chance: SmallRng::seed_from_u64(seed),
            requests: BTreeMap::new(),
            note: Arc::new(note),
        };
        Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(0) }
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
        self.inner().mood = mood;
    }

    /// Ends all watches; `forget`: what happened so far cannot be watched any more (410 Gone).
    pub fn drop_watches(&self, forget: bool) {
        let mut inner = self.inner();
        inner.generation += 1;
        if forget {
            inner.version += 1;
            inner.oldest = inner.version;
        }
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Creates or changes an object behind the clients' backs.
    pub fn put(&self, collection: &str, key: &str, object: Value) {
        self.inner().store(collection, key, object);
        self.changed.send_modify(|count| *count += 1);
    }

    /// Changes a part of an object, as `kubectl patch` does.
    pub fn edit(&self, collection: &str, key: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.inner();
        let Some(mut object) = inner.objects.get(collection).and_then(|all| all.get(key)).cloned() else { return };
        change(&mut object);
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(1);
        object["metadata"]["generation"] = json!(generation + 1);
        inner.store(collection, key, object);
        drop(inner);
        self.changed.send_modify(|count| *count += 1);
    }

    /// An object as it is now.
    pub fn get(&self, collection: &str, key: &str) -> Option<Value> {
        self.inner().objects.get(collection)?.get(key).cloned()
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
        self.inner().remove(collection, key);
        self.changed.send_modify(|count| *count += 1);
    }

    async fn answer(&self, request: Request) -> Response<Body> {
        let (mood, wait) = {
            let mut inner = self.inner();
            let slow = inner.mood.slow_ms;
            (inner.mood, inner.chance.random_range(1..=2 + slow))
        };
        sleep(Duration::from_millis(wait)).await;
        if mood.silent {
            sleep(READ_LIMIT).await;
            return failure(StatusCode::GATEWAY_TIMEOUT, "Timeout", "no answer");
        }
        if mood.down {
            return failure(StatusCode::SERVICE_UNAVAILABLE, "ServiceUnavailable", "not now");
        }
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, 1 << 20).await else {
            return failure(StatusCode::BAD_REQUEST, "BadRequest", "no body");
        };
        let Some(target) = target(parts.uri.path()) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", parts.uri.path());
        };
        let query = parts.uri.query().unwrap_or_default();
        let parameter = |name: &str| {
            query
                .split('&')
                .find_map(|pair| pair.split_once('=').filter(|(key, _)| *key == name).map(|(_, value)| value))
        };
        if parameter("watch").is_some_and(|watch| watch != "false") {
            let from = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            let seconds = parameter("timeoutSeconds").and_then(|seconds| seconds.parse().ok()).unwrap_or(290);
            let selector = parameter("labelSelector").map(label);
            return self.watch(target.collection, from, Duration::from_secs(seconds), selector);
        }
        let answered = {
            let mut inner = self.inner();
            let about = (parts.method.to_string(), target.collection.clone(), target.key.clone());
            *inner.requests.entry(about).or_default() += 1;
            inner.act(&parts.method, &target, &body, parameter("labelSelector").map(label).as_deref())
        };
        if parts.method != Method::GET {
            self.changed.send_modify(|count| *count += 1);
        }
        answered
    }

    fn watch(&self, collection: String, from: u64, limit: Duration, selector: Option<String>) -> Response<Body> {
        let (generation, oldest) = {
            let inner = self.inner();
            (inner.generation, inner.oldest)
        };
        if from < oldest {
            let gone = json!({ "type": "ERROR", "object": status(StatusCode::GONE, "Expired", "too old") });
            return Response::new(Body::from(format!("{gone}\n")));
        }
        let until = Instant::now() + limit.min(READ_LIMIT);
        let state = (self.clone(), self.changed.subscribe(), from);
        let events = futures::stream::unfold(state, move |(api, mut changed, from)| {
            let (collection, selector) = (collection.clone(), selector.clone());
            async move {
                loop {
                    changed.borrow_and_update();
                    let silent = {
                        let inner = api.inner();
                        if inner.generation != generation {
                            return None;
                        }
                        let start = inner.events.partition_point(|(version, ..)| *version <= from);
                        let next = inner.events[start..].iter().find(|(_, of, _)| *of == collection);
                        if let (Some((version, _, event)), false) = (next, inner.mood.silent) {
                            let (version, event) = (*version, selected(event, selector.as_deref()));
                            drop(inner);
                            return Some((Ok::<_, Infallible>(event), (api, changed, version)));
                        }
                        inner.mood.silent
                    };
                    let _ = silent;
                    match timeout_at(until, changed.changed()).await {
                        Ok(Ok(())) => {}
                        _ => return None,
                    }
                }
            }
        });
        Response::new(Body::from_stream(events))
    }
}

impl Inner {
    fn act(&mut self, method: &Method, target: &Target, body: &[u8], selector: Option<&str>) -> Response<Body> {
        let Target { collection, key, status } = target;
        let sent = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        let conflicts = self.mood.conflicts;
        if *method != Method::GET && collection != "events" && self.chance.random_range(0..1000) < conflicts {
            return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        if *method != Method::GET && collection == "configmaps" && self.mood.no_config_maps {
            return failure(StatusCode::FORBIDDEN, "Forbidden", "configmaps is forbidden: exceeded quota");
        }
        match (method.as_str(), key) {
            ("GET", None) => {
                let items = self.objects.get(collection).into_iter().flat_map(BTreeMap::values);
                let items: Vec<Value> =
                    items.filter(|item| selector.is_none_or(|label| has(item, label))).cloned().collect();
                let list = json!({
                    "kind": "List", "apiVersion": "v1", "items": items,
                    "metadata": { "resourceVersion": self.version.to_string() },
                });
                ok(&list)
            }
            ("GET", Some(key)) => match self.objects.get(collection).and_then(|all| all.get(key)) {
                Some(object) => ok(object),
                None => failure(StatusCode::NOT_FOUND, "NotFound", key),
            },
            ("POST", _) => {
                let object = sent();
                let meta = |name: &str| object["metadata"][name].as_str().unwrap_or_default().to_owned();
                let namespace = key.as_deref().and_then(|key| key.split('/').next()).unwrap_or_default().to_owned();
                let key = format!("{namespace}/{}", meta("name"));
                if collection == "events" {
                    // Nobody reads them here.
                    return created(&object);
                }
                if self.objects.get(collection).is_some_and(|all| all.contains_key(&key)) {
                    return failure(StatusCode::CONFLICT, "AlreadyExists", &key);
                }
                (self.note)(format!("api: create {collection} {key}"));
                created(&self.store(collection, &key, object))
            }
            ("PUT", Some(key)) => {
                let object = sent();
                let Some(old) = self.objects.get(collection).and_then(|all| all.get(key)) else {
                    return failure(StatusCode::NOT_FOUND, "NotFound", key);
                };
                let (was, is) = (&old["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
                if !is.is_null() && was != is {
                    return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
                }
                // As Kubernetes has it: what is written over it must be the same, and annotations are not part of that.
                if old["immutable"] == json!(true)
                    && (old["data"] != object["data"] || object["immutable"] != json!(true))
                {
                    let message = format!(
                        "ConfigMap {key} is invalid: data: Forbidden: field is immutable when `immutable` is set"
                    );
                    return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &message);
                }
                (self.note)(format!("api: replace {collection} {key}"));
                ok(&self.store(collection, key, object))
            }
            ("PATCH", Some(key)) => {
                let patch = sent();
                if collection == "events" {
                    return ok(&patch);
                }
                let Some(mut object) = self.objects.get(collection).and_then(|all| all.get(key)).cloned() else {
                    return failure(StatusCode::NOT_FOUND, "NotFound", key);
                };
                for unchangeable in ["resourceVersion", "uid"] {
                    let asked = &patch["metadata"][unchangeable];
                    if !asked.is_null() && *asked != object["metadata"][unchangeable] {
                        return failure(StatusCode::CONFLICT, "Conflict", "it is another object, or another version");
                    }
                }
                if *status {
                    object["status"] = patch["status"].clone();
                } else {
                    merge(&mut object, &patch);
                }
                (self.note)(format!("api: patch {collection} {key} {status}"));
                ok(&self.store(collection, key, object))
            }
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", method.as_str()),
        }
    }

    fn store(&mut self, collection: &str, key: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let deleted = !object["metadata"]["deletionTimestamp"].is_null();
        let held = object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        let of_pods = collection == "pods";
        if deleted && !held && !of_pods {
            self.remove(collection, key);
            return object;
        }
        let old = self.objects.entry(collection.to_owned()).or_default().insert(key.to_owned(), object.clone());
        self.tell(if old.is_some() { "MODIFIED" } else { "ADDED" }, collection, &object);
        object
    }

    fn remove(&mut self, collection: &str, key: &str) {
        if let Some(mut object) = self.objects.get_mut(collection).and_then(|all| all.remove(key)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.tell("DELETED", collection, &object);
        }
    }

    fn tell(&mut self, what: &str, collection: &str, object: &Value) {
        // Only these are watched.
        if matches!(collection, "pods" | "mailrelays" | "mailservers" | "namespaces") {
            let event = json!({ "type": what, "object": object });
            self.events.push((self.version, collection.to_owned(), Bytes::from(format!("{event}\n"))));
        }
    }
}

/// The label that a selector asks for, which is all that anybody asks for here.
fn label(selector: &str) -> String {
    selector.replace("%2F", "/").replace("%2f", "/")
}

fn has(object: &Value, label: &str) -> bool {
    !object["metadata"]["labels"][label].is_null()
}

/// An event as those who ask for a label see it: an object that does not have it is gone for them.
fn selected(event: &Bytes, label: Option<&str>) -> Bytes {
    let read = || serde_json::from_slice::<Value>(event).unwrap_or_default();
    match label.map(|label| (label, read())) {
        Some((label, mut event)) if !has(&event["object"], label) => {
            event["type"] = json!("DELETED");
            Bytes::from(format!("{event}\n"))
        }
        _ => event.clone(),
    }
}

fn target(path: &str) -> Option<Target> {
    let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
    let rest = match *parts.first()? {
        "api" => parts.get(2..)?,
        "apis" => parts.get(3..)?,
        _ => return None,
    };
    let (namespace, rest) = match rest {
        ["namespaces", namespace, rest @ ..] => (*namespace, rest),
        rest => ("", rest),
    };
    let (collection, name, status) = match rest {
        [collection] => (*collection, None, false),
        [collection, name] => (*collection, Some(*name), false),
        [collection, name, "status"] => (*collection, Some(*name), true),
        _ => return None,
    };
    let key = name.map(|name| format!("{namespace}/{name}"));
    // A namespace without a name is where something is created.
    let key = key.or_else(|| (!namespace.is_empty()).then(|| format!("{namespace}/")));
    Some(Target { collection: collection.to_owned(), key, status })
}

fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (name, value) in patch {
                if value.is_null() {
                    into.remove(name);
                } else {
                    merge(into.entry(name.clone()).or_insert(Value::Null), value);
                }
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}

fn ok(object: &Value) -> Response<Body> {
    Response::new(Body::from(object.to_string()))
}

fn created(object: &Value) -> Response<Body> {
    let mut response = ok(object);
    *response.status_mut() = StatusCode::CREATED;
    response
}

fn status(code: StatusCode, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code.as_u16(),
    })
}

fn failure(code: StatusCode, reason: &str, message: &str) -> Response<Body> {
    let mut response = ok(&status(code, reason, message));
    *response.status_mut() = code;
    response
}
