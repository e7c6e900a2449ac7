//! Objects whose spec cannot be read: that is said on them, once for each generation.

use std::collections::BTreeMap;

use kube::ResourceExt;
use serde_json::json;

use super::writer::StatusWriter;
use crate::{
    controller::{observe::GuardedRelay, plan::RelayKey},
    system,
};

/// What was said already: by UID, the generation and the error.
#[derive(Default)]
pub struct Unreadable {
    said: BTreeMap<String, (Option<i64>, String)>,
}

impl Unreadable {
    /// Says on an object whose spec cannot be read that this is so.
    pub async fn say(&mut self, relay: &GuardedRelay, writer: &StatusWriter) {
        let uid = relay.uid().unwrap_or_default();
        let Err(invalid) = &relay.0 else {
            self.said.remove(&uid);
            return;
        };
        let said = (invalid.metadata.generation, invalid.error.clone());
        if self.said.get(&uid) == Some(&said) {
            return;
        }
        let key = RelayKey::of_object(relay);
        let now = jiff::Timestamp::from_second(system::timestamp().as_second()).unwrap_or_default();
        let condition = |kind: &str, status: &str| {
            json!({
                "type": kind, "status": status, "reason": "InvalidSpec", "message": invalid.error,
                "observedGeneration": invalid.metadata.generation, "lastTransitionTime": now,
            })
        };
        let status = json!({
            "observedGeneration": invalid.metadata.generation,
            "conditions": [condition("Ready", "False"), condition("Stalled", "True")],
        });
        match writer.write_status(&key, &uid, status).await {
            Ok(()) => {
                self.said.insert(uid, said);
            }
            Err(error) => tracing::warn!(relay = %key, %error, "cannot write the status"),
        }
    }
}
