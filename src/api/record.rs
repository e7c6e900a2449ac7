//! What the controller tells the workers of a relay, through Redis: they have no Kubernetes token.

use serde::{Deserialize, Serialize};

use super::MailRelaySpec;

/// The relay as its workers see it. Published by the leading controller, followed live by the workers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RelayRecord {
    /// Epoch of the leader that wrote this; an older leader's record never replaces it.
    pub epoch: u64,
    /// Order within an epoch.
    pub revision: u64,
    /// UID of the `MailRelay` object.
    pub uid: String,
    /// `metadata.generation` of the spec.
    pub generation: i64,
    /// Whether the controller found something that forbids work (for example a queue another relay drains); the reason to show.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stalled: Option<String>,
    /// Lease length in milliseconds.
    pub lease_ms: u64,
    /// The spec, defaults filled in.
    pub spec: MailRelaySpec,
}

/// The Redis key of a relay's record; it is also the name of the channel that announces a change.
pub fn record_key(namespace: &str, name: &str) -> String {
    format!("mailrelay:config:{namespace}/{name}")
}
