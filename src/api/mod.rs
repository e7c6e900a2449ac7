//! The resources `MailRelay` and `MailServer`: their specs, their statuses, and the record that the controller hands to the workers.
//!
//! Everything here is data: serde types, their schema and the rules that the API server enforces.

mod address;
mod conditions;
mod crd;
mod duration;
mod mail_server;
mod names;
mod reason;
mod record;
mod retention;
mod rules;
mod server;
mod spec;
mod status;
mod terms;

pub use conditions::{CONDITIONS, ConditionDoc, EVENTS, ReasonDoc, SETUP, STORE, WORKER, is_documented};
pub use crd::{Definition, definitions};
pub use duration::{DurationText, ParseDurationError};
pub use mail_server::{
    BorrowerStatus, CountedBy, Endpoint, MailServer, MailServerSpec, MailServerStatus, ServerBudgetStatus, Sharing,
    SharingPolicy, is_by_account, server_of,
};
pub use names::{BudgetName, Host, KeyPrefix, NameError, QueueName};
pub use reason::Reason;
pub use record::{
    ReadError, RelayRecord, ResolvedSpec, SCHEMA, ServerReport, Unavailable, WorkerReport, first_schema, record_key,
    relay_of, reports_key,
};
pub use retention::Retention;
pub use server::{Server, entry_of};
pub use spec::{Breaker, MailRelay, MailRelaySpec, Queue, Retry, ServerEntry, ServerRef, UnknownOutcome, Workers};
pub use status::{
    BudgetStatus, Condition, HolderStatus, LeaseStatus, MailRelayStatus, QuarantineStatus, QueueStatus, ServerStatus,
    WorkerStatus,
};
pub use terms::{Auth, RateLimit, Tls, Unit};

/// The label that ties a pod to its relay when `spec.workers.selector` is absent; its value is the relay's name.
pub const RELAY_LABEL: &str = "mailrelay.dev/relay";

/// The finalizer that lets the controller take a relay's shares back before the object goes.
pub const FINALIZER: &str = "mailrelay.dev/ledger";
