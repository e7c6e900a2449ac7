//! What logs may say of a message, and what is read alike in all of them.

/// What the logs say of one message.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Finding {
    /// Its Message-ID was seen, and nothing says that the server took it.
    Seen,
    /// The server refused it for good; its words.
    Refused(String),
    /// Something was done with it of which this reader can't tell what it means.
    Unclear(String),
    /// The server took it: whatever became of it later, the server's own bounces tell.
    Taken,
}

/// A Message-ID as it is compared: without blanks and angle brackets.
pub(super) fn bare(id: &str) -> &str {
    let id = id.trim();
    id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).unwrap_or(id)
}

/// Whether a server's words begin with a code that refuses for good, such as `5.7.1` or `554`.
pub(super) fn is_permanent(words: &str) -> bool {
    words.trim_start().starts_with('5')
}
