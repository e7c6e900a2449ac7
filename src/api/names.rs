//! Names that become keys in Redis: types that hold nothing else, and hosts. What is one of them cannot name a key of ours, so
//! that no spec, however it is written, makes a worker push dead letters into a ledger or take a payload from another list.

use std::{borrow::Cow, fmt, ops::Deref, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What every key that belongs to no queue begins with: ledgers, records, reports.
const OURS: &str = "mailrelay:";
/// The word that follows `{QUEUE}:` in the keys that belong to a queue (see `queue::QueueNames`).
const OF_A_QUEUE: [&str; 15] = [
    "high",
    "low",
    "arrived",
    "processes",
    "delayed",
    "held",
    "counters",
    "events",
    "samples",
    "corrections",
    "claims",
    "stages",
    "batch",
    "letters",
    "records",
];

/// Why a text is not such a name.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no {what}: {why}")]
pub struct NameError {
    text: String,
    what: &'static str,
    why: &'static str,
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                match $check(text) {
                    Ok(()) => Ok(Self(text.to_owned())),
                    Err(why) => Err(NameError { text: text.to_owned(), what: $what, why }),
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0
            }
        }

        impl Deref for $name {
            type Target = str;

            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn inline_schema() -> bool {
                true
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string" })
            }
        }
    };
}

name! {
    /// The name of a budget: the tag in the key of its ledger.
    BudgetName, "name of a budget", budget
}
name! {
    /// The key of a Redis list for mail: plain, or with a hash tag in front, as in `{mail_queue}:dead`.
    QueueName, "name of a queue", list
}
name! {
    /// What the keys of payloads begin with: plain, or with a hash tag in front, as in `{mail_queue}:body:`.
    KeyPrefix, "prefix of keys", prefix
}
name! {
    /// A host name or an IP address.
    Host, "host name or IP address", host
}

impl BudgetName {
    /// One that is made of what is one already.
    pub(super) fn unchecked(name: String) -> Self {
        Self(name)
    }
}

impl QueueName {
    /// `mail_queue`.
    pub(super) fn default_queue() -> Self {
        Self("mail_queue".to_owned())
    }

    /// `mail_dead_letter_queue`.
    pub(super) fn default_dead_letters() -> Self {
        Self("mail_dead_letter_queue".to_owned())
    }
}

impl Default for KeyPrefix {
    fn default() -> Self {
        Self("mail:".to_owned())
    }
}

fn is_plain(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b':' | b'-'))
}

fn budget(text: &str) -> Result<(), &'static str> {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b':');
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    if edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(|b| inner(*b)) {
        return Ok(());
    }
    Err("lower-case letters, digits, - . : and at both ends a letter or a digit")
}

/// What follows the hash tag of a key, or `None` for a plain one.
fn after_tag(text: &str) -> Result<Option<&str>, &'static str> {
    const SHAPE: &str = "letters, digits, _ . : - and, if it begins with a hash tag, {NAME}: and something after it";
    let Some(rest) = text.strip_prefix('{') else {
        if !is_plain(text) {
            return Err(SHAPE);
        }
        return Ok(None);
    };
    let (tag, rest) = rest.split_once("}:").ok_or(SHAPE)?;
    if !is_plain(tag) || !is_plain(rest) {
        return Err(SHAPE);
    }
    Ok(Some(rest))
}

/// Whether the word after the hash tag is one that the keys of a queue have there.
fn is_of_a_queue(rest: &str) -> bool {
    rest.split(':').next().is_some_and(|word| OF_A_QUEUE.contains(&word))
}

fn list(text: &str) -> Result<(), &'static str> {
    match after_tag(text)? {
        None if text.starts_with(OURS) => Err("keys that begin with mailrelay: are mailrelay's own"),
        Some(rest) if is_of_a_queue(rest) => {
            Err("that is a key of the queue in the braces; choose another word after them, such as dead")
        }
        _ => Ok(()),
    }
}

fn prefix(text: &str) -> Result<(), &'static str> {
    match after_tag(text)? {
        None if text.starts_with(OURS) || OURS.starts_with(text) => {
            Err("keys of mailrelay's own begin with it, or it with theirs (mailrelay:)")
        }
        Some(rest) if is_of_a_queue(rest) || !rest.contains(':') => Err(
            "after the braces must come a word and a colon, such as body:, and none of the words of the queue's own keys",
        ),
        _ => Ok(()),
    }
}

fn host(text: &str) -> Result<(), &'static str> {
    let label = |label: &str| {
        let edges = !label.starts_with('-') && !label.ends_with('-');
        !label.is_empty() && edges && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let is_name = text.split('.').all(label);
    let is_ipv6 = text.contains(':') && text.bytes().all(|b| b.is_ascii_hexdigit() || matches!(b, b':' | b'.'));
    if is_name || is_ipv6 { Ok(()) } else { Err("without scheme, port or trailing dot") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused<T: FromStr>(texts: &[&str]) {
        for text in texts {
            assert!(text.parse::<T>().is_err(), "{text}");
        }
    }

    fn accepted<T: FromStr<Err = NameError>>(texts: &[&str]) {
        for text in texts {
            if let Err(error) = text.parse::<T>() {
                panic!("{error}");
            }
        }
    }

    #[test]
    fn no_list_has_the_name_of_a_key_of_ours() {
        accepted::<QueueName>(&[
            "mail_queue",
            "mail:orders",
            "{mail_queue}:dead",
            "{q}:highest",
            "{q}:claim",
            "mailrelay",
        ]);
        refused::<QueueName>(&[
            "",
            "a b",
            "a/b",
            "{q}",
            "{q}:",
            "{}:dead",
            "q{a}:dead",
            "{q}:{r}:dead",
            "{q}dead",
            "mailrelay:{mx}:ledger",
            "mailrelay:config:mail",
            "{q}:high",
            "{q}:delayed:mails",
            "{q}:records:7",
            "{q}:claims:0123",
        ]);
    }

    #[test]
    fn no_id_behind_a_prefix_makes_a_key_of_ours() {
        accepted::<KeyPrefix>(&["mail:", "m:", "payload-", "{mail_queue}:body:", "{q}:a:b"]);
        refused::<KeyPrefix>(&[
            "",
            "m",
            "mailrelay",
            "mailrelay:",
            "mailrelay:config:",
            "{q}:h",
            "{q}:high",
            "{q}:delayed:",
            "{q}:delayed:ma",
            "{q}:records:",
            "{q}:records:7",
            "{q}:b",
            "{q}:delayed:more:",
            "{q",
            "a{q}:b",
            "a\u{20}b",
        ]);
    }

    #[test]
    fn budgets_and_hosts_are_what_the_schema_says() {
        accepted::<BudgetName>(&["mx", "mx.example.com", "2001:db8::25", "7"]);
        refused::<BudgetName>(&["", "MX", "-a", "a-", "a}:ledger", "a b", "{a}"]);
        accepted::<Host>(&["mx", "MX.Example.com", "10.0.0.1", "2001:DB8::25", "::ffff:10.0.0.1"]);
        refused::<Host>(&["", "mx.", "mx:25", "smtp://mx", "-mx", "a..b", "m x", "[::1]"]);
    }

    #[test]
    fn the_defaults_are_such_names() {
        for name in [QueueName::default_queue(), QueueName::default_dead_letters()] {
            assert_eq!(name.parse(), Ok(name.clone()));
        }
        assert_eq!(KeyPrefix::default().parse(), Ok(KeyPrefix::default()));
    }
}
