//! The objects of an installation without Kubernetes, in memory, and an API server for them: as much of one as the controller
//! uses, spoken to by the very client that speaks to a real one.

use std::{
    collections::{BTreeMap, VecDeque},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::Request,
    http::{Method, Response, StatusCode},
};
use serde_json::{Value, json};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use super::http::{Query, Target, expired, failure, ok};

/// How long one watch lives at most.
const WATCH_LIMIT: Duration = Duration::from_secs(30);
/// The longest object.
const LONGEST: usize = 1 << 20;
/// How many changes are kept for those who watch, and how many Events for people.
const KEPT: usize = 1_000;

/// The objects; clones are the same.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Inner {
    version: u64,
    /// By collection (`pods`, `leases`, ...), then `namespace/name`.
    objects: BTreeMap<String, BTreeMap<String, Value>>,
    /// Version, collection, and the line that a watch gets.
    changes: VecDeque<(u64, String, Bytes)>,
    /// Events in the order in which they came or were repeated.
    events: VecDeque<Value>,
}

impl Default for Objects {
    fn default() -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { version: 1, ..Inner::default() })), changed: watch::Sender::new(0) }
    }
}

impl Objects {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A client for them.
    pub fn client(&self) -> kube::Client {
        let objects = self.clone();
        let service = Router::new().fallback(move |request: Request| {
            let objects = objects.clone();
            async move { objects.answer(request).await }
        });
        kube::Client::new(service, "default")
    }

    /// Hears of each change.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// The version of the last change.
    pub fn version(&self) -> u64 {
        self.inner().version
    }

    /// Creates an object or puts another in its place.
    pub fn put(&self, collection: &str, key: &str, object: Value) {
        self.inner().store(collection, key, object);
        self.tell();
    }

    /// Changes an object that is there, as `kubectl patch` does.
    pub fn edit(&self, collection: &str, key: &str, change: impl FnOnce(&mut Value)) {
        let mut inner = self.inner();
        let Some(mut object) = inner.get(collection, key).cloned() else { return };
        change(&mut object);
        let generation = object["metadata"]["generation"].as_u64().unwrap_or(1);
        object["metadata"]["generation"] = json!(generation + 1);
        inner.store(collection, key, object);
        drop(inner);
        self.tell();
    }

    /// An object as it is now.
    pub fn get(&self, collection: &str, key: &str) -> Option<Value> {
        self.inner().get(collection, key).cloned()
    }

    /// All objects of a collection as they are now, by `namespace/name`.
    pub fn all(&self, collection: &str) -> BTreeMap<String, Value> {
        self.inner().objects.get(collection).cloned().unwrap_or_default()
    }

    /// Removes an object, whatever finalizers it has.
    pub fn remove(&self, collection: &str, key: &str) {
        self.inner().remove(collection, key);
        self.tell();
    }

    /// Takes the Events that came since, oldest first.
    pub fn take_events(&self) -> Vec<Value> {
        self.inner().events.drain(..).collect()
    }

    fn tell(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Answers a request as an API server would.
    pub async fn answer(&self, request: Request) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, LONGEST).await else {
            return failure(StatusCode::PAYLOAD_TOO_LARGE, "RequestEntityTooLarge", "it is too large");
        };
        let Some(target) = Target::of(parts.uri.path()) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", parts.uri.path());
        };
        let query = Query(parts.uri.query().unwrap_or_default());
        let selector = query.label();
        if let Some(from) = query.watched_from() {
            return self.watch(target.collection, from, &query, selector);
        }
        let answered = self.inner().act(&parts.method, &target, &body, selector.as_deref());
        if parts.method != Method::GET {
            self.tell();
        }
        answered
    }

    fn watch(&self, collection: String, from: u64, query: &Query<'_>, selector: Option<String>) -> Response<Body> {
        if self.inner().is_forgotten(from) {
            return expired();
        }
        let limit = query.number("timeoutSeconds").map_or(WATCH_LIMIT, Duration::from_secs);
        let until = Instant::now() + limit.min(WATCH_LIMIT);
        let state = (self.clone(), self.changes(), from);
        let lines = futures::stream::unfold(state, move |(objects, mut changes, from)| {
            let (collection, selector) = (collection.clone(), selector.clone());
            async move {
                loop {
                    changes.borrow_and_update();
                    let next = {
                        let inner = objects.inner();
                        // Who is that far behind lists anew.
                        if inner.is_forgotten(from) {
                            return None;
                        }
                        let mut later = inner.changes.iter().skip_while(|(version, ..)| *version <= from);
                        later.find(|(_, of, _)| *of == collection).map(|(version, _, line)| (*version, line.clone()))
                    };
                    if let Some((version, line)) = next {
                        let line = selected(line, selector.as_deref());
                        return Some((Ok::<_, Infallible>(line), (objects, changes, version)));
                    }
                    let Ok(Ok(())) = timeout_at(until, changes.changed()).await else { return None };
                }
            }
        });
        Response::new(Body::from_stream(lines))
    }
}

impl Inner {
    fn get(&self, collection: &str, key: &str) -> Option<&Value> {
        self.objects.get(collection)?.get(key)
    }

    /// Whether changes after this version are not known any more.
    fn is_forgotten(&self, version: u64) -> bool {
        self.changes.len() >= KEPT && self.changes.front().is_some_and(|(oldest, ..)| version < *oldest)
    }

    fn act(&mut self, method: &Method, target: &Target, body: &[u8], selector: Option<&str>) -> Response<Body> {
        let Target { collection, key, status } = target;
        let sent = || serde_json::from_slice::<Value>(body).unwrap_or_default();
        match (method.as_str(), key) {
            ("GET", None) => {
                let items = self.objects.get(collection).into_iter().flat_map(BTreeMap::values);
                let items: Vec<&Value> = items.filter(|item| selector.is_none_or(|label| has(item, label))).collect();
                ok(&json!({
                    "kind": "List", "apiVersion": "v1", "items": items,
                    "metadata": { "resourceVersion": self.version.to_string() },
                }))
            }
            ("GET", Some(key)) => match self.get(collection, key) {
                Some(object) => ok(object),
                None => failure(StatusCode::NOT_FOUND, "NotFound", key),
            },
            ("POST" | "PATCH", _) if collection == "events" => {
                let event = sent();
                if self.events.len() >= KEPT {
                    self.events.pop_front();
                }
                self.events.push_back(event.clone());
                ok(&event)
            }
            ("POST", _) => self.create(collection, key.as_deref(), sent()),
            ("PUT", Some(key)) => self.replace(collection, key, sent()),
            ("PATCH", Some(key)) => self.patch(collection, key, &sent(), *status),
            _ => failure(StatusCode::METHOD_NOT_ALLOWED, "MethodNotAllowed", method.as_str()),
        }
    }

    fn create(&mut self, collection: &str, key: Option<&str>, object: Value) -> Response<Body> {
        let namespace = key.and_then(|key| key.split('/').next()).unwrap_or_default();
        let key = format!("{namespace}/{}", object["metadata"]["name"].as_str().unwrap_or_default());
        if self.get(collection, &key).is_some() {
            return failure(StatusCode::CONFLICT, "AlreadyExists", &key);
        }
        let mut response = ok(&self.store(collection, &key, object));
        *response.status_mut() = StatusCode::CREATED;
        response
    }

    fn replace(&mut self, collection: &str, key: &str, object: Value) -> Response<Body> {
        let Some(old) = self.get(collection, key) else {
            return failure(StatusCode::NOT_FOUND, "NotFound", key);
        };
        let (was, is) = (&old["metadata"]["resourceVersion"], &object["metadata"]["resourceVersion"]);
        if !is.is_null() && was != is {
            return failure(StatusCode::CONFLICT, "Conflict", "the object has been modified");
        }
        // As Kubernetes has it: what is written over it must be the same, and annotations are not part of that.
        if old["immutable"] == json!(true) && (old["data"] != object["data"] || object["immutable"] != json!(true)) {
            let message =
                format!("ConfigMap {key} is invalid: data: Forbidden: field is immutable when `immutable` is set");
            return failure(StatusCode::UNPROCESSABLE_ENTITY, "Invalid", &message);
        }
        ok(&self.store(collection, key, object))
    }

    fn patch(&mut self, collection: &str, key: &str, patch: &Value, status: bool) -> Response<Body> {
        let Some(mut object) = self.get(collection, key).cloned() else {
            return failure(StatusCode::NOT_FOUND, "NotFound", key);
        };
        for unchangeable in ["resourceVersion", "uid"] {
            let asked = &patch["metadata"][unchangeable];
            if !asked.is_null() && *asked != object["metadata"][unchangeable] {
                return failure(StatusCode::CONFLICT, "Conflict", "it is another object, or another version");
            }
        }
        if status {
            object["status"] = patch["status"].clone();
        } else {
            merge(&mut object, patch);
        }
        ok(&self.store(collection, key, object))
    }

    fn store(&mut self, collection: &str, key: &str, mut object: Value) -> Value {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let is_deleted = !object["metadata"]["deletionTimestamp"].is_null();
        let is_kept = object["metadata"]["finalizers"].as_array().is_some_and(|all| !all.is_empty());
        // A pod stays until its node has ended it.
        if is_deleted && !is_kept && collection != "pods" {
            self.remove(collection, key);
            return object;
        }
        let old = self.objects.entry(collection.to_owned()).or_default().insert(key.to_owned(), object.clone());
        self.note(if old.is_some() { "MODIFIED" } else { "ADDED" }, collection, &object);
        object
    }

    fn remove(&mut self, collection: &str, key: &str) {
        if let Some(mut object) = self.objects.get_mut(collection).and_then(|all| all.remove(key)) {
            self.version += 1;
            object["metadata"]["resourceVersion"] = json!(self.version.to_string());
            self.note("DELETED", collection, &object);
        }
    }

    /// For those who watch; nobody watches leases and the like.
    fn note(&mut self, what: &str, collection: &str, object: &Value) {
        if matches!(collection, "pods" | "mailrelays" | "mailservers" | "namespaces") {
            if self.changes.len() >= KEPT {
                self.changes.pop_front();
            }
            let line = json!({ "type": what, "object": object });
            self.changes.push_back((self.version, collection.to_owned(), Bytes::from(format!("{line}\n"))));
        }
    }
}

fn has(object: &Value, label: &str) -> bool {
    !object["metadata"]["labels"][label].is_null()
}

/// A change as those who ask for a label see it: an object that does not have it is gone for them.
fn selected(line: Bytes, label: Option<&str>) -> Bytes {
    let Some(label) = label else { return line };
    let mut change = serde_json::from_slice::<Value>(&line).unwrap_or_default();
    if has(&change["object"], label) {
        return line;
    }
    change["type"] = json!("DELETED");
    Bytes::from(format!("{change}\n"))
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
