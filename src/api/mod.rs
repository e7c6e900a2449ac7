//! The `MailRelay` resource: its spec, its status, and the record that the controller hands to the workers.
//!
//! Everything here is data: serde types, their schema and the rules that the API server enforces.

mod address;
mod crd;
mod duration;
mod names;
mod reason;
mod record;
mod retention;
mod spec;
mod status;

pub use crd::crd_yaml;
pub use duration::{DurationText, ParseDurationError};
pub use names::{BudgetName, Host, KeyPrefix, NameError, QueueName};
pub use reason::Reason;
pub use record::{
    ReadError, RelayRecord, SCHEMA, ServerReport, Unavailable, WorkerReport, record_key, relay_of, reports_key,
};
pub use retention::Retention;
pub use spec::{
    Auth, Breaker, MailRelay, MailRelaySpec, Queue, RateLimit, Retry, Server, Tls, Unit, UnknownOutcome, Workers,
};
pub use status::{
    BudgetStatus, Condition, HolderStatus, LeaseStatus, MailRelayStatus, QuarantineStatus, QueueStatus, ServerStatus,
    WorkerStatus,
};

/// The label that ties a pod to its relay when `spec.workers.selector` is absent; its value is the relay's name.
pub const RELAY_LABEL: &str = "mailrelay.dev/relay";

/// The finalizer that lets the controller take a relay's shares back before the object goes.
pub const FINALIZER: &str = "mailrelay.dev/ledger";
