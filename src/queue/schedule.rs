//! By which rule a mail is tried again, and what a try costs.

use serde::{Deserialize, Serialize};

/// After what rule a mail is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Schedule {
    /// A server judged a recipient: `maxRetries` times.
    Judged,
    /// A server put the mail off without a reason that lasts: for 60 times `maxBackoff`.
    Patient,
    /// A server delays mail on principle: for four hours at least.
    Greylisted,
    /// Nobody judged the mail: for as long as it may get old.
    Free,
    /// The refusal may have judged us: as `Free`, with waits of its own.
    Suspected,
}

impl Schedule {
    /// What a try costs.
    pub fn counted(self) -> Counted {
        match self {
            Self::Judged | Self::Patient | Self::Greylisted => Counted::Attempt,
            Self::Free | Self::Suspected => Counted::Deferral,
        }
    }
}

/// What a failed try costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Counted {
    /// An attempt: the server judged this mail.
    Attempt,
    /// A deferral: the relay could not be used; free.
    Deferral,
}
