//! Ids: which may name a mail or a message, and new ones that nobody else has.

use sha2::{Digest, Sha256};

use super::time::UnixMillis;
use crate::system;

/// Whether a text may name a mail: what is printable and needs no quoting in keys, logs or shells.
pub(crate) fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:@+=/-".contains(&byte))
}

/// How long an id may be, in bytes.
const MAX_ID: usize = 200;

/// Whether a text may stand in a `Message-ID` header: printable, in angle brackets, one `@`, no folding needed.
pub(crate) fn is_message_id(id: &str) -> bool {
    id.len() <= 500
        && id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).is_some_and(|inner| {
            inner.contains('@') && inner.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
        })
}

pub(super) fn is_dot_atom(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 250
        && text.split('.').all(|atom| {
            !atom.is_empty() && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+=".contains(&byte))
        })
}

/// 128 bits of SHA-256, in hexadecimal digits.
pub(crate) fn digest(text: &str) -> String {
    use std::fmt::Write as _;
    let mut digits = String::with_capacity(32);
    for byte in &Sha256::digest(text.as_bytes())[..16] {
        let _ = write!(digits, "{byte:02x}");
    }
    digits
}

/// Random, as 32 hexadecimal digits.
pub(crate) fn fresh_id() -> String {
    uuid::Builder::from_random_bytes(system::random_bytes()).into_uuid().simple().to_string()
}

/// The id of a mail whose producer gave none: the same for the same serial and time, and ids sort by their time. It tells
/// nothing of the serial, which only we may know.
pub(crate) fn sortable_id(now: UnixMillis, serial: &str) -> String {
    let digest = Sha256::digest(serial.as_bytes());
    let mut chance = [0; 10];
    chance.copy_from_slice(&digest[..10]);
    uuid::Builder::from_unix_timestamp_millis(now.0, &chance).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_those_that_sort_do_so_by_time() {
        assert_ne!(fresh_id(), fresh_id());
        assert_eq!(fresh_id().len(), 32);
        let (early, late) = (sortable_id(UnixMillis(1_000), "a"), sortable_id(UnixMillis(1_001), "a"));
        assert!(early < late, "{early} {late}");
        assert_eq!(uuid::Uuid::parse_str(&late).map(|id| id.get_version_num()), Ok(7));
        assert_ne!(sortable_id(UnixMillis(1), "a"), sortable_id(UnixMillis(1), "b"));
        assert_eq!(sortable_id(UnixMillis(1), "a"), sortable_id(UnixMillis(1), "a"));
    }
}
