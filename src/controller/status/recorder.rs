//! Publishes Events.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::{
    Client,
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use tokio::time::timeout;

use super::note::Note;
use crate::controller::api_server::API_LIMIT;

/// The API's limits for the texts of an Event.
const NOTE_BYTES: usize = 1_000;
const ACTION_BYTES: usize = 120;

/// Publishes Events; clones share the cache that folds repetitions.
#[derive(Clone)]
pub struct EventRecorder {
    recorder: Recorder,
}

impl EventRecorder {
    /// Records as this controller's pod.
    pub fn new(client: Client, instance: String) -> Self {
        let reporter = Reporter { controller: "mailrelay.dev/controller".into(), instance: Some(instance) };
        Self { recorder: Recorder::new(client, reporter) }
    }

    /// Publishes without keeping the caller waiting. An Event that cannot be written is logged and lost.
    pub fn record(&self, about: ObjectReference, notes: Vec<Note>) {
        if notes.is_empty() {
            return;
        }
        let recorder = self.recorder.clone();
        tokio::spawn(async move {
            for note in notes {
                let event = Event {
                    type_: if note.warning { EventType::Warning } else { EventType::Normal },
                    reason: note.reason,
                    note: Some(cut(&note.text, NOTE_BYTES).to_owned()),
                    // The recorder takes events of one reason and action for repetitions and keeps the first text.
                    action: cut(&note.text, ACTION_BYTES).to_owned(),
                    secondary: None,
                };
                match timeout(API_LIMIT, recorder.publish(&event, &about)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) if is_about_to_go(&error) => {
                        tracing::debug!(event.reason, "an Event was not written, since its namespace is being deleted");
                    }
                    Ok(Err(error)) => tracing::warn!(event.reason, %error, "cannot write an Event"),
                    Err(_) => tracing::warn!(event.reason, "cannot write an Event: no answer in time"),
                }
            }
        });
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
