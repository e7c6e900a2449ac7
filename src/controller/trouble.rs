//! Why something stands still, while all else goes on.

use crate::store::StoreError;

/// Why one pool, or one relay's record, is not as it should be, while all others go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// A condition reason.
    pub reason: &'static str,
    /// A sentence that says what to do.
    pub message: String,
    /// Whether nothing moves there before a person does something.
    pub needs_a_person: bool,
}

/// The reason for what a newer version wrote.
pub const NEWER_VERSION: &str = "NewerVersion";

impl Trouble {
    /// A ledger that cannot be looked at or written. Whatever it holds stays as it is.
    pub fn of_ledger(key: &str, error: &StoreError) -> Self {
        let (reason, remedy) = match error {
            StoreError::Newer { .. } => (NEWER_VERSION, ""),
            error if error.may_concern_all() => ("StoreUnreachable", ""),
            _ => (
                "LedgerUnreadable",
                "; no slot of it is granted before it can be read again: mend it, or delete the key, and workers say again \
                 what they hold",
            ),
        };
        let message = format!("the ledger {key} cannot be used: {error}{remedy}");
        Self { reason, message, needs_a_person: !error.may_concern_all() }
    }

    /// A relay's record that cannot be published.
    pub fn of_record(key: &str, error: &StoreError) -> Self {
        let message = format!("the record {key}, which the workers follow, cannot be written: {error}");
        Self { reason: "RecordNotWritten", message, needs_a_person: false }
    }
}
