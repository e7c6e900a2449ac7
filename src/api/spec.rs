//! What a user asks for: `MailRelay.spec`, with the defaults and the rules that the API server enforces.

mod entry;
mod queue;
mod retry;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use entry::{ServerEntry, ServerRef};
pub use queue::Queue;
pub use retry::{Breaker, Retry};

use super::MailRelayStatus;

/// A mail relay: mail servers with a connection budget each, the worker pods that share it, and the queue they drain.
#[derive(CustomResource, KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[kube(
    group = "mailrelay.dev",
    version = "v1alpha1",
    kind = "MailRelay",
    plural = "mailrelays",
    shortname = "relay",
    category = "mail",
    namespaced,
    status = "MailRelayStatus",
    derive = "PartialEq",
    cel,
    validation = Rule::new("size(self.metadata.name) <= 63").message("metadata.name must be at most 63 characters: pods name their relay in a label"),
    doc = "A mail relay: mail servers with a connection budget each, the worker pods that share it, and the queue they drain.",
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(
        name = "Budget",
        type_ = "integer",
        json_path = ".status.budget.effective",
        description = "connections that may be open at once, over all servers"
    ),
    printcolumn(
        name = "Open",
        type_ = "integer",
        json_path = ".status.budget.open",
        description = "connections open now"
    ),
    printcolumn(
        name = "Workers",
        type_ = "integer",
        json_path = ".status.readyWorkers",
        description = "worker pods that hold a share"
    ),
    printcolumn(
        name = "Queued",
        type_ = "integer",
        json_path = ".status.queue.pending",
        description = "mails waiting to be sent"
    ),
    printcolumn(
        name = "Dead",
        type_ = "integer",
        json_path = ".status.queue.deadLetters",
        description = "mails in the dead-letter queue"
    ),
    printcolumn(
        name = "Held",
        type_ = "integer",
        json_path = ".status.queue.held",
        description = "mails whose final answer was lost"
    ),
    printcolumn(
        name = "Reason",
        type_ = "string",
        json_path = r#".status.conditions[?(@.type=="Ready")].reason"#,
        description = "why it is ready, or is not"
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    printcolumn(name = "Servers", type_ = "string", json_path = ".status.serversSummary", priority = 1),
    printcolumn(name = "Delayed", type_ = "integer", json_path = ".status.queue.delayed", priority = 1),
    printcolumn(name = "Oldest", type_ = "date", json_path = ".status.queue.oldestSince", priority = 1)
)]
#[serde(rename_all = "camelCase")]
pub struct MailRelaySpec {
    /// The mail servers that work is spread over.
    #[schemars(length(min = 1, max = 8), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub servers: Vec<ServerEntry>,

    /// Which pods are workers of this relay.
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

    /// What becomes of a mail whose final answer was lost: Hold parks it for a person, Resend sends it again with the same Message-ID.
    #[serde(default)]
    pub unknown_outcome: UnknownOutcome,

    /// Stop sending, keep accepting.
    #[serde(default)]
    pub suspend: bool,
}

/// Which pods are workers.
#[derive(KubeSchema, Serialize, Deserialize, Clone, Debug, PartialEq)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("default" = {}))]
#[x_kube(cel)]
pub struct Workers {
    /// The pods' labels. Default: `mailrelay.dev/relay` with the relay's own name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = Rule::new("(has(self.matchLabels) && size(self.matchLabels) > 0) || (has(self.matchExpressions) && size(self.matchExpressions) > 0)").message("selector must not be empty: it would select every pod of the namespace; leave it out to select by the label mailrelay.dev/relay"))]
    pub selector: Option<LabelSelector>,
    /// The name of the worker's container in those pods.
    #[serde(default = "default_container")]
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"))]
    pub container: String,
}

/// What becomes of a mail whose final answer was lost.
#[derive(JsonSchema, Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum UnknownOutcome {
    /// Park it for a person.
    #[default]
    Hold,
    /// Send it again with the same Message-ID.
    Resend,
}

impl Default for Workers {
    fn default() -> Self {
        Self { selector: None, container: default_container() }
    }
}

fn default_container() -> String {
    "mailrelay".into()
}
