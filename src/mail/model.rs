//! A mail as its producer described it, checked.

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use lettre::message::Mailbox;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::api::UnknownOutcome;

use super::{
    encoded::Encoded,
    ids::{digest, is_dot_atom},
    json::Text,
    raw::Raw,
    time::UnixMillis,
};

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

/// A mail as its producer described it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    /// The producer's id, when it gave one.
    pub id: Option<String>,
    /// Where refusals go: `returnPath`, or the address in `from`. Empty: nowhere.
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
    /// What becomes of it when its final answer is lost, unless that is the relay's to say.
    pub unknown_outcome: Option<UnknownOutcome>,
    /// What is sent.
    pub content: Content,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A complete RFC 5322 message, as the producer made it.
    Raw(Raw),
    /// Parts that [`compose()`](super::compose()) makes a message of.
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
    pub text: Option<Text>,
    /// The HTML.
    pub html: Option<Text>,
    /// An invitation or the like in iCalendar (RFC 5545), as one more way to read the mail.
    pub calendar: Option<String>,
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
    pub content: Encoded,
    /// What the HTML names it by (`cid:`); it is shown there then, and not beside it.
    pub cid: Option<String>,
}

impl Mail {
    /// The Message-ID for a mail of this id: the raw message's own, or one derived from the id and the sender's domain.
    pub fn message_id(&self, id: &str) -> String {
        if let Content::Raw(message) = &self.content
            && let Some(own) = message.message_id()
        {
            return own;
        }
        let domain = match &self.content {
            Content::Parts(parts) => parts.from.email.domain(),
            Content::Raw(_) => self.reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain),
        };
        let domain = if is_dot_atom(domain) { domain } else { "mailrelay.invalid" };
        // An id with other characters gives a digest instead: still the same for the same id.
        let left = if is_dot_atom(id) { id.to_owned() } else { digest(id) };
        format!("<{left}@{domain}>")
    }

    /// Whether a header names an address that only SMTPUTF8 knows (RFC 6531).
    pub fn has_utf8_addresses(&self) -> bool {
        let Content::Parts(parts) = &self.content else { return false };
        let Parts { from, to, cc, reply_to, .. } = &**parts;
        let mut others = [to, cc, reply_to].into_iter().flatten();
        !from.email.user().is_ascii() || others.any(|mailbox| !mailbox.email.user().is_ascii())
    }

    /// Tells this mail from another of the same id or key: 18 bits of SHA-256 over what is sent to whom, as three letters of
    /// base64. Two that differ and look alike only miss a warning.
    pub(crate) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let add = |digest: &mut Sha256, bytes: &str| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        let add_file = |digest: &mut Sha256, file: &Encoded| {
            digest.update((file.len() as u64).to_le_bytes());
            file.decoded().for_each(|block| digest.update(block));
        };
        add(&mut digest, &self.reverse_path);
        self.recipients.iter().for_each(|recipient| add(&mut digest, recipient));
        match &self.content {
            Content::Raw(message) => add_file(&mut digest, message.encoded()),
            Content::Parts(parts) => {
                add(&mut digest, parts.subject.as_deref().unwrap_or_default());
                for text in [&parts.text, &parts.html] {
                    let length = text.as_ref().map_or(0, Text::len);
                    digest.update((length as u64).to_le_bytes());
                    text.iter().flat_map(Text::pieces).for_each(|piece| digest.update(piece));
                }
                for (name, value) in &parts.headers {
                    add(&mut digest, name);
                    add(&mut digest, value);
                }
                add(&mut digest, parts.calendar.as_deref().unwrap_or_default());
                for file in &parts.attachments {
                    add(&mut digest, &file.filename);
                    add_file(&mut digest, &file.content);
                }
            }
        }
        STANDARD_NO_PAD.encode(&digest.finalize()[..3])[..3].to_owned()
    }
}
