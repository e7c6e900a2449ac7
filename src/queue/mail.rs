//! The wire form: what producers push, and the mail it stands for.

use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};

use super::UnixMillis;

/// How many recipients one mail may have: `to`, `cc` and `bcc` together. RFC 5321 section 4.5.3.1.8 lets every server
/// take 100 in one transaction.
pub const MAX_RECIPIENTS: usize = 100;
/// How large a composed message may be, in bytes. Most servers take 25 to 35 MB.
pub const MAX_MESSAGE: usize = 25 * 1024 * 1024;
/// How large the JSON of a mail may be, in bytes: a message of the largest size in base64, and some room.
pub const MAX_PAYLOAD: usize = 36 * 1024 * 1024;

/// Urgent mail overtakes bulk; no priority starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Taken first.
    High,
    /// The plain list.
    #[default]
    Normal,
    /// Bulk.
    Low,
}

impl Priority {
    /// As the scripts know it.
    pub(super) fn letter(self) -> u8 {
        match self {
            Self::High => b'h',
            Self::Normal => b'n',
            Self::Low => b'l',
        }
    }
}

/// Why a payload is not a mail. The message names the field and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MailError {
    /// The field, as `to[2]` or `headers.Subject`; `mail` for the whole.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// A mail as its producer described it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    /// The producer's id, when it gave one.
    pub id: Option<String>,
    /// Where refusals go: the address in `from`.
    pub reverse_path: String,
    /// Envelope recipients from `to`, `cc` and `bcc`, each address once, in that order.
    pub recipients: Vec<String>,
    /// Which list it belongs to.
    pub priority: Priority,
    /// Not to be sent earlier.
    pub not_before: Option<UnixMillis>,
    /// Useless afterwards.
    pub expires_at: Option<UnixMillis>,
    /// A second mail with the same key is not sent.
    pub idempotency_key: Option<String>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// What is sent.
    pub content: Content,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A complete RFC 5322 message, as the producer made it.
    Raw(Vec<u8>),
    /// Parts that [`super::compose`] makes a message of.
    Parts(Box<Parts>),
}

/// The parts of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// `From`.
    pub from: Mailbox,
    /// `To`.
    pub to: Vec<Mailbox>,
    /// `Cc`.
    pub cc: Vec<Mailbox>,
    /// `Reply-To`.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<String>,
    /// The HTML.
    pub html: Option<String>,
    /// Other headers, names checked, values free of line ends.
    pub headers: Vec<(String, String)>,
    /// Files.
    pub attachments: Vec<Attachment>,
}

/// A file that goes with a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub content: Vec<u8>,
}

/// Reads a producer's JSON. Liberal: unknown fields are ignored, `to` may be one string or a list.
pub fn parse(_payload: &[u8]) -> Result<Mail, MailError> {
    todo!()
}

pub(super) fn is_id(_id: &str) -> bool {
    todo!()
}

pub(super) fn is_message_id(_id: &str) -> bool {
    todo!()
}
