//! Publishes Events. kube's recorder takes events of one reason and action for repetitions, whatever they say, and keeps the first
//! text: here a repetition is what says the same.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{core::v1::ObjectReference, events::v1::Event},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::time::timeout;

use super::note::Note;
use crate::{controller::api_server::API_LIMIT, system};

/// The API's limit for the text of an Event.
const NOTE_BYTES: usize = 1_000;
/// The name of what reports.
const CONTROLLER: &str = "mailrelay.dev/controller";
/// Where the Events of objects without a namespace are, as everywhere in Kubernetes.
const CLUSTER_WIDE: &str = "default";
/// What says the same within this time is the same Event again, as in kube's and client-go's recorders.
const FOLD: SignedDuration = SignedDuration::from_mins(6);

/// Publishes Events; clones share what they know of repetitions.
#[derive(Clone)]
pub struct EventRecorder {
    client: Client,
    /// Who reports: this controller's pod.
    instance: String,
    told: Arc<Mutex<Told>>,
}

/// What was told lately.
#[derive(Default)]
struct Told {
    events: HashMap<Key, Series>,
}

/// What makes two Events the same: the object's UID, and all that is said of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Key {
    uid: Option<String>,
    note: Note,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Series {
    /// Of the Event.
    name: String,
    /// How often it was told.
    count: i32,
    last: Timestamp,
}

impl Told {
    /// Takes in that something is told now: of which Event, and how often by then. One that is new is called `name`.
    fn tell(&mut self, key: Key, name: String, now: Timestamp) -> Series {
        self.events.retain(|_, series| now.duration_since(series.last) < FOLD);
        let series = self.events.entry(key).or_insert(Series { name, count: 0, last: now });
        series.count = series.count.saturating_add(1);
        series.last = now;
        series.clone()
    }
}

impl EventRecorder {
    /// Records as this controller's pod.
    pub fn new(client: Client, instance: String) -> Self {
        Self { client, instance, told: Arc::default() }
    }

    /// Publishes without keeping the caller waiting. An Event that cannot be written is logged and lost.
    pub fn record(&self, about: ObjectReference, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let recorder = self.clone();
        tokio::spawn(async move {
            for note in notes {
                match timeout(API_LIMIT, recorder.publish(&about, &note)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if is_about_to_go(&error) => {
                        tracing::debug!(
                            event.reason = note.reason,
                            "an Event was not written, since its namespace is being deleted"
                        );
                    }
                    Ok(Err(error)) => tracing::warn!(event.reason = note.reason, %error, "cannot write an Event"),
                    Err(_) => tracing::warn!(event.reason = note.reason, "cannot write an Event: no answer in time"),
                }
            }
        });
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn publish(&self, about: &ObjectReference, note: &Note) -> Result<(), kube::Error> {
        let now = system::timestamp();
        let key = Key { uid: about.uid.clone(), note: note.clone() };
        let name = format!("{}.{:x}", about.name.as_deref().unwrap_or_default(), now.as_nanosecond());
        let series = self.told().tell(key.clone(), name, now);
        let events: Api<Event> =
            Api::namespaced(self.client.clone(), about.namespace.as_deref().unwrap_or(CLUSTER_WIDE));
        let written = if series.count == 1 {
            events.create(&PostParams::default(), &self.event(about, note, &series)).await
        } else {
            let again = json!({ "series": { "count": series.count, "lastObservedTime": MicroTime(now) } });
            events.patch(&series.name, &PatchParams::default(), &Patch::Merge(again)).await
        };
        if written.is_err() {
            // The next one that says the same is a new Event: this one may not be there, or no more.
            self.told().events.remove(&key);
        }
        written.map(drop)
    }

    fn event(&self, about: &ObjectReference, note: &Note, series: &Series) -> Event {
        Event {
            metadata: ObjectMeta {
                name: Some(series.name.clone()),
                namespace: about.namespace.clone(),
                ..ObjectMeta::default()
            },
            type_: Some(if note.warning { "Warning" } else { "Normal" }.to_owned()),
            reason: Some(note.reason.clone()),
            action: Some(note.action.as_str().to_owned()),
            note: Some(cut(&note.text, NOTE_BYTES).to_owned()),
            regarding: Some(about.clone()),
            event_time: Some(MicroTime(series.last)),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(self.instance.clone()),
            ..Event::default()
        }
    }
}

/// Whether the object's namespace is going or gone, so that nobody would read of it.
fn is_about_to_go(error: &kube::Error) -> bool {
    let kube::Error::Api(status) = error else { return false };
    let causes = status.details.iter().flat_map(|details| &details.causes);
    status.code == 404 || causes.into_iter().any(|cause| cause.reason == "NamespaceTerminating")
}

/// At most so many bytes, at a character's boundary.
fn cut(text: &str, bytes: usize) -> &str {
    let end = (0..=bytes.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::status::note::Action;

    #[test]
    fn what_says_the_same_is_one_event_and_what_differs_is_another() {
        let at = |seconds: i64| Timestamp::from_second(1_000 + seconds).expect("a time");
        let key = |uid: &str, text: &str| Key {
            uid: Some(uid.to_owned()),
            note: Note::normal(Action::Sharing, "SharesRebalanced", text),
        };
        let mut told = Told::default();
        let mut tell = |uid, text, seconds: i64| {
            let series = told.tell(key(uid, text), format!("e{seconds}"), at(seconds));
            (series.name, series.count)
        };
        assert_eq!(tell("u", "a 8, b 8", 0), ("e0".into(), 1));
        assert_eq!(tell("u", "a 16", 1), ("e1".into(), 1), "its text would be lost");
        assert_eq!(tell("u", "a 8, b 8", 2), ("e0".into(), 2));
        assert_eq!(tell("other", "a 8, b 8", 3), ("e3".into(), 1));
        assert_eq!(tell("u", "a 8, b 8", 361), ("e0".into(), 3), "six minutes after the last");
        assert_eq!(tell("u", "a 8, b 8", 721), ("e721".into(), 1));
    }

    #[test]
    fn a_namespace_that_is_being_deleted_takes_no_event_and_that_is_no_problem() {
        // What kube-apiserver 1.36 answers.
        let refused = |reason: &str| {
            let status = serde_json::json!({
                "kind": "Status", "status": "Failure", "reason": "Forbidden", "code": 403,
                "message": "events \"a.1\" is forbidden: unable to create new content in namespace a because it is being terminated",
                "details": { "name": "a.1", "kind": "events", "causes": [{ "reason": reason, "message": "namespace a is being terminated", "field": "metadata.namespace" }] },
            });
            kube::Error::Api(serde_json::from_value(status).expect("a status"))
        };
        assert!(is_about_to_go(&refused("NamespaceTerminating")));
        assert!(!is_about_to_go(&refused("")), "a role that lacks a right is");
    }

    #[test]
    fn texts_are_cut_at_a_characters_boundary() {
        assert_eq!(cut("grüße", 3), "gr");
        assert_eq!(cut("abc", 9), "abc");
    }
}
