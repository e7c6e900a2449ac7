//! What is wrong with a payload, field by field.

/// Why a payload is not a mail. The message names the field and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MailError {
    /// The field, as `to[2]` or `headers.Subject`; `mail` for the whole.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

impl MailError {
    pub(crate) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}
