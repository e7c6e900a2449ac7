//! What the controller observed: `MailRelay.status`.

pub use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a relay as the leading controller last saw it.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq)]
#[serde(rename_all = "camelCase", default)]
pub struct MailRelayStatus {
    /// The generation of the spec that this status tells of.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The label selector in use, as text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,
    /// Ready, `QueueDepthHigh`, `SlotsQuarantined` and the others.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// Connections over all servers of the relay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetStatus>,
    /// Mails by stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub queue: Option<QueueStatus>,
    /// One entry for each server.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub servers: Vec<ServerStatus>,
    /// The servers in one line.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub servers_summary: Option<String>,
    /// Worker pods that hold a share.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready_workers: Option<i32>,
    /// The first 64 worker pods.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["pod"]))]
    pub workers: Vec<WorkerStatus>,
    /// Worker pods beyond those listed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workers_omitted: Option<i32>,
    /// Who holds, or may hold, connections of each budget. A new leader starts from it when Redis has lost its ledger.
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["budgetName"]))]
    pub leases: Vec<LeaseStatus>,
}

/// Connections.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct BudgetStatus {
    /// As the spec says.
    pub total: i32,
    /// As in force now.
    pub effective: i32,
    /// Leased to workers.
    pub leased: i32,
    /// Open now, as the workers last reported.
    pub open: i32,
}

/// Mails by stage.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QueueStatus {
    /// Waiting for a session.
    pub pending: i64,
    /// Waiting for a later time.
    pub delayed: i64,
    /// In the hands of a worker.
    pub in_flight: i64,
    /// Parked, since the server's final answer was lost.
    pub held: i64,
    /// Parked for a person.
    pub dead_letters: i64,
    /// Since when the oldest mail has waited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest_since: Option<Time>,
}

/// One mail server.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct ServerStatus {
    /// As in the spec.
    pub name: String,
    /// `Available`, `Unavailable`, `Recovering` or `Unknown`.
    pub state: String,
    /// The budget of its pool.
    pub budget: i32,
    /// Slots leased to workers.
    pub leased: i32,
    /// Connections open now.
    pub open: i32,
    /// Slots withheld since a connection may still be counted at the server.
    pub quarantined: i32,
}

/// One worker pod.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct WorkerStatus {
    /// The pod's name.
    pub pod: String,
    /// Connections it may open, over all servers.
    pub share: i32,
    /// Connections it has open.
    pub open: i32,
}

/// Who holds, or may hold, connections of one budget, as the ledger in Redis said last.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct LeaseStatus {
    /// As `spec.servers[].budgetName`, or the host.
    pub budget_name: String,
    /// The 64 largest holders.
    #[serde(default)]
    pub holders: Vec<HolderStatus>,
    /// Slots of the holders that are not listed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slots_omitted: Option<i32>,
    /// Slots withheld for a while, since the server may still count their connections: 63 entries, and the rest in one.
    #[serde(default)]
    pub quarantine: Vec<QuarantineStatus>,
    /// The servers that it counts the connections of: addresses, and the entries of relays that name or named it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<String>,
}

/// A worker pod that holds connections of a budget, or may open some. Without an incarnation it has not registered yet.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, Default, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct HolderStatus {
    /// `namespace/name` of the pod; empty while its name is not known.
    pub pod: String,
    /// `metadata.uid` of the pod.
    #[serde(rename = "podUID")]
    pub pod_uid: String,
    /// Slots leased to it.
    pub share: i32,
    /// Slots counted against it.
    pub claim: i32,
    /// Its registration in the ledger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub incarnation: Option<String>,
    /// Its process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<String>,
    /// The boot of its node, as `Node.status.nodeInfo.bootID`.
    #[serde(default, rename = "bootID", skip_serializing_if = "Option::is_none")]
    pub boot_id: Option<String>,
}

/// Slots withheld.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
#[serde(rename_all = "camelCase")]
pub struct QuarantineStatus {
    /// Its id in the ledger.
    pub id: String,
    /// `namespace/name` of the pod that held the slots, if it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// How many.
    pub slots: i32,
    /// Why, in one word.
    pub why: String,
    /// For how long, in seconds from when a leader first sees it.
    pub seconds: i64,
    /// When that is over, as the leader expects.
    pub until: Time,
}
