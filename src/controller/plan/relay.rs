//! A relay as the plan has it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use kube::ResourceExt;

use crate::api::{MailRelay, ResolvedSpec};

/// Namespace and name of a relay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelayKey {
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.name`.
    pub name: String,
}

impl RelayKey {
    /// The key of a relay.
    pub fn of(relay: &MailRelay) -> Self {
        Self::of_object(relay)
    }

    /// The key of an object whose spec may not be readable.
    pub fn of_object(relay: &impl ResourceExt) -> Self {
        Self { namespace: relay.namespace().unwrap_or_default(), name: relay.name_any() }
    }
}

impl std::fmt::Display for RelayKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The condition reason of a relay that must not work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallReason {
    /// The spec breaks a rule.
    InvalidSpec,
    /// A queue or payloads that it names are another relay's.
    QueueConflict,
    /// A budget that it names is another tenant's.
    BudgetConflict,
    /// A server that it names has a budget under another name.
    DuplicateBudget,
    /// A `MailServer` that it names is not there.
    ServerNotFound,
    /// A `MailServer` that it names cannot be used as it is.
    InvalidServer,
    /// A `MailServer` that it names does not allow its namespace.
    NamespaceNotAllowed,
}

impl StallReason {
    /// As conditions and records have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InvalidSpec => "InvalidSpec",
            Self::QueueConflict => "QueueConflict",
            Self::BudgetConflict => "BudgetConflict",
            Self::DuplicateBudget => "DuplicateBudget",
            Self::ServerNotFound => "ServerNotFound",
            Self::InvalidServer => "InvalidServer",
            Self::NamespaceNotAllowed => "NamespaceNotAllowed",
        }
    }

    /// Whether a budget that the relay names may be another tenant's, whose pods it must not show.
    pub fn is_about_a_budget(self) -> bool {
        matches!(self, Self::BudgetConflict | Self::DuplicateBudget)
    }
}

/// Why a relay must not work until a person changes something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stall {
    /// In one word.
    pub reason: StallReason,
    /// A sentence that says what to change.
    pub message: String,
}

/// What is decided for one relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayPlan {
    /// `metadata.uid`.
    pub uid: String,
    /// `metadata.generation`.
    pub generation: i64,
    /// The selector in use, as text.
    pub selector: String,
    /// Why it must not work.
    pub stalled: Option<Stall>,
    /// Its running worker pods: UID to name.
    pub workers: BTreeMap<String, String>,
    /// Whether any pod is selected, whatever runs in it.
    pub selects_any: bool,
    /// The pools that its servers draw on.
    pub pools: BTreeSet<String>,
    /// Who else draws on its budgets, as a sentence.
    pub shared: Option<String>,
    /// The entries of its `spec.servers` that nobody can use now, and why.
    pub lacking: BTreeMap<String, Stall>,
    /// The object.
    pub relay: Arc<MailRelay>,
    /// The spec as its workers are to use it: the servers as whoever owns them says, and how long slots are withheld as the
    /// pool says, not one relay, since all who share a pool count on it.
    pub published: ResolvedSpec,
}

impl RelayPlan {
    /// The full names of its worker pods, by UID.
    pub fn pod_names(&self, namespace: &str) -> impl Iterator<Item = (String, String)> {
        self.workers.iter().map(move |(uid, name)| (uid.clone(), format!("{namespace}/{name}")))
    }
}
