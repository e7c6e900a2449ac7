//! Why leadership was not won, kept or written down.

use tokio::time::timeout;

use crate::controller::api_server::API_LIMIT;

/// Why leadership could not be won, kept or recorded.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The API server did not do it.
    #[error("could not {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("could not {what}: no answer within {API_LIMIT:?}")]
    TimedOut {
        /// What was tried.
        what: String,
    },
    /// The Lease names another holder.
    #[error("{holder} leads now")]
    Lost {
        /// Who.
        holder: String,
    },
    /// The `ConfigMap` carries another epoch.
    #[error("epoch {theirs} leads now, ours was {ours}")]
    Replaced {
        /// The other epoch.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
}

impl LeaderError {
    /// Whether another controller leads, so that this one must stop.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Replaced { .. })
    }

    /// Whether another wrote in between.
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the API server will say the same again until a person changes something.
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && !matches!(code, 408 | 409 | 429))
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// With what the API server said.
    pub fn with_source(&self) -> String {
        match self {
            Self::Api { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

/// Waits for one answer of the API server no longer than its limit.
pub async fn bounded<T>(what: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaderError> {
    match timeout(API_LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(LeaderError::Api { what: what.to_owned(), source: Box::new(source) }),
        Err(_) => Err(LeaderError::TimedOut { what: what.to_owned() }),
    }
}
