//! Why a write to Redis did not take effect.

use crate::store::StoreError;

/// Why this process must not go on writing.
#[derive(Debug, thiserror::Error, Clone, PartialEq, Eq)]
#[error(
    "{of} was written by epoch {theirs}, ours is {ours}: another controller leads{}",
    refused.map_or_else(String::new, |what| format!("; our {what} was refused"))
)]
pub struct Deposed {
    /// What the other leader wrote.
    pub of: String,
    /// The other leader's epoch.
    pub theirs: u64,
    /// Our epoch.
    pub ours: u64,
    /// Which write of ours was refused for that; `None` when a look was enough to see it.
    pub refused: Option<&'static str>,
}

/// Why a turn did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Another controller leads.
    #[error(transparent)]
    Deposed(#[from] Deposed),
    /// Redis did not do it.
    #[error(transparent)]
    Store(#[from] StoreError),
}
