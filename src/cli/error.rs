//! Why a command failed.

use crate::{queue::EnqueueError, store::StoreError};

/// Why a command failed. The message says what to do next.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    /// Redis did not do what was asked.
    #[error("{source}\n{}", hint(source))]
    Store {
        /// What went wrong.
        #[from]
        source: StoreError,
    },
    /// A mail was not accepted.
    #[error("{0}")]
    Enqueue(EnqueueError),
    /// The arguments fit together in no way; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl From<EnqueueError> for CliError {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Store { source, id } if source.is_definite() || id.is_empty() => Self::Store { source },
            EnqueueError::Store { source, id } => Self::Failed(format!(
                "{source}\nwhether the mail was queued is not known; send it again with --id {id}, or \"id\": \"{id}\" in its JSON: with this id it is queued once\n{WHERE}"
            )),
            refused => Self::Enqueue(refused),
        }
    }
}

/// What to look at when Redis did not answer.
pub const WHERE: &str = "check that Redis runs, and name it with --redis-url or MAILRELAY_REDIS_URL";

fn hint(error: &StoreError) -> &'static str {
    match error {
        StoreError::Unreachable { .. } | StoreError::TimedOut { .. } => {
            "nothing was reported as done; check that Redis runs, and name it with --redis-url or MAILRELAY_REDIS_URL"
        }
        error if error.is_forbidden() => {
            "the Redis user may not do that: give it the rules that `mailrelay redis-acl` prints for what it is to do"
        }
        StoreError::Refused { .. } => "check the Redis user's password and rights, and how much memory Redis may use",
        StoreError::Newer { .. } => "nothing was changed",
        StoreError::Options { .. } | StoreError::Garbled { .. } => {
            "check --redis-url, --redis-dir and the files they name"
        }
    }
}

/// An error and what caused it, each said once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let detail = error.to_string();
        if !text.contains(&detail) {
            text.push_str(": ");
            text.push_str(&detail);
        }
        cause = error.source();
    }
    text
}
