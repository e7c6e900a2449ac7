//! What a failure of Redis means.

use std::time::Duration;

/// Why Redis did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The options make no sense; nothing was tried.
    #[error("invalid Redis options: {what}")]
    Options {
        /// What is wrong, and what to do.
        what: String,
    },
    /// No connection, or it broke: whether the command took effect is not known.
    #[error("redis at {address} is not reachable: {detail}")]
    Unreachable {
        /// Host and port.
        address: String,
        /// What the system said.
        detail: String,
    },
    /// No answer in time: whether the command took effect is not known.
    #[error("redis at {address} gave no answer within {limit:?}")]
    TimedOut {
        /// Host and port.
        address: String,
        /// How long we waited.
        limit: Duration,
    },
    /// Redis answered with an error: the command took no effect.
    #[error("redis at {address} refused: {detail}")]
    Refused {
        /// Host and port.
        address: String,
        /// The error code, such as `OOM`, `NOAUTH`, `READONLY`.
        code: String,
        /// What Redis said.
        detail: String,
    },
    /// The answer was not of the shape that was expected.
    #[error("redis at {address} gave an answer that makes no sense: {detail}")]
    Garbled {
        /// Host and port.
        address: String,
        /// What was wrong.
        detail: String,
    },
    /// A newer version of mailrelay wrote it, in a schema that this one does not know.
    #[error(
        "{what} has schema {found} and this version knows {known}: a newer version of mailrelay wrote it; update this one"
    )]
    Newer {
        /// What was read.
        what: String,
        /// Its schema.
        found: u64,
        /// The newest one that is known.
        known: u64,
    },
}

impl StoreError {
    /// Whether Redis said nothing at all. Everything else is an answer, and belongs to what was asked for.
    pub fn is_silence(&self) -> bool {
        matches!(self, Self::Options { .. } | Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether the reason may lie with the node or the login, so that nobody may get a better answer.
    pub fn may_concern_all(&self) -> bool {
        match self {
            // The type of one key, and an error in a script that met what it did not expect.
            Self::Refused { code, .. } => !matches!(code.as_str(), "WRONGTYPE" | "ERR"),
            Self::Garbled { .. } | Self::Newer { .. } => false,
            _ => true,
        }
    }

    /// Whether this login may not do it: the ACL of Redis forbids the command, its key or its channel, or one in a script.
    pub fn is_forbidden(&self) -> bool {
        // A script of Redis 7.0 says it in words of its own, without a code.
        const IN_SCRIPTS: [&str; 2] = ["The user executing the script", "ACL failure in script"];
        let Self::Refused { code, detail, .. } = self else { return false };
        code == "NOPERM" || IN_SCRIPTS.iter().any(|words| detail.contains(words))
    }

    /// Whether the command surely took no effect.
    pub fn is_definite(&self) -> bool {
        matches!(self, Self::Options { .. } | Self::Refused { .. })
    }
}
