//! What the controller tells the workers of a relay, through Redis: they have no Kubernetes token.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Auth, Breaker, Queue, Reason, Retry, Server, UnknownOutcome, Workers};

/// The newest schema of a record and of a report that is known here. It grows when an older version could misread a newer one.
pub const SCHEMA: u64 = 2;

/// All that is asked of a record or a report before it is known to be of a schema that can be read.
#[derive(Deserialize)]
struct Header {
    #[serde(default = "first_schema")]
    schema: u64,
}

/// Why a record or a report cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A newer version of mailrelay wrote it.
    #[error(
        "it has schema {0} and this version knows {SCHEMA}: a newer version of mailrelay wrote it; update this one"
    )]
    Newer(u64),
    /// It is no such thing.
    #[error("it makes no sense: {0}")]
    Malformed(#[from] serde_json::Error),
}

/// Reads a record or a report, unless a newer version wrote it.
fn read<T: DeserializeOwned>(json: &[u8]) -> Result<T, ReadError> {
    match serde_json::from_slice(json)? {
        Header { schema } if schema > SCHEMA => Err(ReadError::Newer(schema)),
        Header { .. } => Ok(serde_json::from_slice(json)?),
    }
}

/// The schema of a report, and of a record in which nothing is new.
pub const fn first_schema() -> u64 {
    1
}

/// The relay as its workers see it. Published by the leading controller, followed live by the workers.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct RelayRecord {
    /// How it is to be read: [`ResolvedSpec::schema`]. Records of the first version do not say it.
    #[serde(default = "first_schema")]
    pub schema: u64,
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
    /// What the relay is to do.
    pub spec: ResolvedSpec,
}

/// The relay's spec with defaults filled in, and with its servers as whoever owns them says.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct ResolvedSpec {
    /// The servers that work is spread over.
    pub servers: Vec<Server>,
    /// Which pods are workers.
    #[serde(default)]
    pub workers: Workers,
    /// The Redis lists that mail waits in.
    #[serde(default)]
    pub queue: Queue,
    /// When a mail that a server put off is tried again.
    #[serde(default)]
    pub retry: Retry,
    /// When a server that keeps failing is left alone for a while.
    #[serde(default)]
    pub breaker: Breaker,
    /// What becomes of a mail whose final answer was lost.
    #[serde(default)]
    pub unknown_outcome: UnknownOutcome,
    /// Accept, and do not send.
    #[serde(default)]
    pub suspend: bool,
}

/// The Redis key of a relay's record; it is also the name of the channel that announces a change.
pub fn record_key(namespace: &str, name: &str) -> String {
    format!("mailrelay:config:{namespace}/{name}")
}

/// The relay whose record has this key, as `NAMESPACE/NAME`.
pub fn relay_of(record_key: &str) -> Option<&str> {
    record_key.strip_prefix("mailrelay:config:")
}

/// What a worker tells the controller of itself, in the HASH [`reports_key`], one field for each pod UID.
/// Written when it changes and every ten seconds; the controller removes those of pods that are gone.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerReport {
    /// How it is to be read: [`first_schema`]. Reports of the first version do not say it.
    #[serde(default = "first_schema")]
    pub schema: u64,
    /// Name of the pod.
    pub pod: String,
    /// Id of the worker process, 32 hexadecimal digits.
    pub process: String,
    /// Version of the worker.
    pub version: String,
    /// Why it cannot follow the relay's record as it is; the last one that it could follow, if any, stays in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<Unavailable>,
    /// One entry for each server of the spec.
    pub servers: Vec<ServerReport>,
}

impl ResolvedSpec {
    /// The schema of a record with this spec: as old as can be, so that workers of before follow whatever they know.
    pub fn schema(&self) -> u64 {
        let is_new = self.servers.iter().any(|server| server.auth == Some(Auth::Auto));
        if is_new { SCHEMA } else { first_schema() }
    }
}

impl RelayRecord {
    /// Reads a record.
    pub fn read(json: &[u8]) -> Result<Self, ReadError> {
        read(json)
    }
}

impl WorkerReport {
    /// Reads a report.
    pub fn read(json: &[u8]) -> Result<Self, ReadError> {
        read(json)
    }
}

/// How one server looks from one worker.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerReport {
    /// Name of the server in the spec.
    pub name: String,
    /// Why it can't be used now; absent while it can.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unavailable: Option<Unavailable>,
    /// Whether mail waits for its rate limits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rate_limited: bool,
}

/// Why a server can't be used, or a record not be followed.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct Unavailable {
    /// In one word.
    pub reason: Reason,
    /// A sentence for people, without secrets.
    pub message: String,
}

/// The Redis key of a relay's worker reports.
pub fn reports_key(namespace: &str, name: &str) -> String {
    format!("mailrelay:reports:{namespace}/{name}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_record_is_as_old_as_what_it_says() {
        let schema = |auth: Option<&str>| {
            let mut spec = json!({ "servers": [{ "name": "primary", "host": "mx" }] });
            if let Some(auth) = auth {
                spec["servers"][0]["auth"] = json!(auth);
            }
            serde_json::from_value::<ResolvedSpec>(spec).expect("a spec").schema()
        };
        assert_eq!((schema(None), schema(Some("Plain")), schema(Some("Auto"))), (1, 1, 2));
    }
}
