//! Something to tell people, which becomes an Event.

use crate::controller::plan::RelayKey;

/// Something to tell people about a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Whether someone should look.
    pub warning: bool,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub text: String,
}

impl Note {
    /// What is as it should be.
    pub fn normal(reason: &str, text: impl Into<String>) -> Self {
        Self { warning: false, reason: reason.to_owned(), text: text.into() }
    }
    /// What someone should look at.
    pub fn warning(reason: &str, text: impl Into<String>) -> Self {
        Self { warning: true, reason: reason.to_owned(), text: text.into() }
    }
}

/// Something to tell people about this relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct News {
    /// The relay.
    pub relay: RelayKey,
    /// What.
    pub note: Note,
}
