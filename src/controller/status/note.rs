//! Something to tell people, which becomes an Event.

use crate::controller::plan::RelayKey;

/// Something to tell people about a relay.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Note {
    /// Whether someone should look.
    pub warning: bool,
    /// What the controller did when it came to that.
    pub action: Action,
    /// One word.
    pub reason: String,
    /// A sentence.
    pub text: String,
}

/// What the controller does that there is something to tell of: the `action` of an Event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// It watches how a relay or a mail server stands.
    Observing,
    /// It divides a budget.
    Sharing,
    /// It opens a ledger, or brings back what one held.
    Recovering,
    /// It takes back what a worker left.
    Reclaiming,
    /// It deletes what is kept no longer.
    Discarding,
    /// It lets an object go that is being deleted.
    Finalizing,
}

impl Action {
    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Observing => "Observing",
            Self::Sharing => "Sharing",
            Self::Recovering => "Recovering",
            Self::Reclaiming => "Reclaiming",
            Self::Discarding => "Discarding",
            Self::Finalizing => "Finalizing",
        }
    }
}

impl Note {
    /// What is as it should be.
    pub fn normal(action: Action, reason: &str, text: impl Into<String>) -> Self {
        Self { warning: false, action, reason: reason.to_owned(), text: text.into() }
    }

    /// What someone should look at.
    pub fn warning(action: Action, reason: &str, text: impl Into<String>) -> Self {
        Self { warning: true, ..Self::normal(action, reason, text) }
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
