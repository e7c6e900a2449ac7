//! The envelope: a small header in front of the producer's original bytes.
//!
//! `mailrelay/1 n {json}\n` and then the payload, untouched: one letter for the priority (`h`, `n`, `l`) at a fixed
//! place for the scripts, one line of JSON written and read by Rust alone, and bytes that nobody ever re-encodes. The
//! first claim (or the enqueue script) fixes the header; it travels with the payload on every move.

use super::Header;
use crate::mail::Priority;

/// How every envelope begins; the scripts know it too.
pub const MAGIC: &[u8] = b"mailrelay/1 ";

/// The header of an envelope whose mail was counted but never looked at: it went back to the queue before that.
const BARE: &[u8] = b"{}\n";

/// An entry of a list or a claim, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry<'a> {
    /// As a producer pushed it.
    Raw(&'a [u8]),
    /// Counted, but its header was never fixed.
    Bare(&'a [u8]),
    /// With a header.
    Sealed(Box<Header>, &'a [u8]),
    /// It begins as an envelope, but its header makes no sense.
    Malformed(&'a [u8]),
}

impl<'a> Entry<'a> {
    /// Takes an entry apart; never fails.
    pub fn decode(bytes: &'a [u8]) -> Self {
        let Some(rest) = bytes.strip_prefix(MAGIC) else { return Self::Raw(bytes) };
        let Some(end) = rest.iter().position(|&byte| byte == b'\n') else { return Self::Malformed(bytes) };
        let (line, payload) = (&rest[..=end], &rest[end + 1..]);
        if line.get(2..) == Some(BARE) {
            return Self::Bare(payload);
        }
        match line.get(2..).map(serde_json::from_slice::<Header>) {
            Some(Ok(header)) if header.is_sound() => Self::Sealed(Box::new(header), payload),
            _ => Self::Malformed(bytes),
        }
    }

    /// The producer's bytes.
    pub fn payload(&self) -> &'a [u8] {
        match self {
            Self::Raw(payload) | Self::Bare(payload) | Self::Sealed(_, payload) | Self::Malformed(payload) => payload,
        }
    }
}

impl Header {
    /// The line that goes in front of the payload, its newline included.
    pub fn encode(&self, priority: Priority) -> Vec<u8> {
        let mut line = MAGIC.to_vec();
        line.extend([letter(priority), b' ']);
        // JSON escapes every newline, so the line ends where it should; and a plain struct always serialises.
        line.extend(serde_json::to_vec(self).unwrap_or_default());
        line.push(b'\n');
        line
    }
}

/// An entry that is counted, but whose header is fixed at its next claim.
pub(super) fn bare(priority: Priority, payload: &[u8]) -> Vec<u8> {
    let mut entry = MAGIC.to_vec();
    entry.extend([letter(priority), b' ']);
    entry.extend_from_slice(BARE);
    entry.extend_from_slice(payload);
    entry
}

/// The priority that an envelope is marked with.
pub(super) fn priority(entry: &[u8]) -> Priority {
    match entry.strip_prefix(MAGIC).and_then(|rest| rest.first()) {
        Some(b'h') => Priority::High,
        Some(b'l') => Priority::Low,
        _ => Priority::Normal,
    }
}

/// A priority as the scripts know it.
fn letter(priority: Priority) -> u8 {
    match priority {
        Priority::High => b'h',
        Priority::Normal => b'n',
        Priority::Low => b'l',
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        mail::{UnixMillis, sortable_id},
        queue::{Patience, header::tests::header},
    };

    proptest! {
        #[test]
        fn what_is_sealed_is_read_again_byte_by_byte(payload in any::<Vec<u8>>(), key in any::<Option<String>>(), attempts: u32, high: bool) {
            let header = Header { attempts, patience: Patience { judged: attempts, ..Patience::default() }, key, ..header() };
            let wanted = if high { Priority::High } else { Priority::Low };
            let mut entry = header.encode(wanted);
            // The scripts cut at the first newline.
            prop_assert_eq!(entry.iter().position(|byte| *byte == b'\n'), Some(entry.len() - 1));
            entry.extend_from_slice(&payload);
            prop_assert_eq!(priority(&entry), wanted);
            prop_assert_eq!(Entry::decode(&entry), Entry::Sealed(Box::new(header), &payload));
        }

        #[test]
        fn any_bytes_are_some_entry(bytes in any::<Vec<u8>>()) {
            let mut entry = MAGIC.to_vec();
            entry.extend_from_slice(&bytes);
            let _ = Entry::decode(&entry);
            prop_assert_eq!(Entry::decode(&bytes).payload().len(), bytes.len());
        }
    }

    #[test]
    fn a_header_that_would_inject_a_line_is_not_believed() {
        let forged = Header { message_id: "<a@b>\r\nBcc: x@y".into(), ..header() };
        assert!(matches!(Entry::decode(&forged.encode(Priority::Normal)), Entry::Malformed(_)));
        let forged = Header { first_seen: UnixMillis(u64::MAX), ..header() };
        assert!(matches!(Entry::decode(&forged.encode(Priority::Normal)), Entry::Malformed(_)));
        let forged = Header { id: "a}b".into(), ..header() };
        assert!(matches!(Entry::decode(&forged.encode(Priority::Normal)), Entry::Malformed(_)));
    }

    #[test]
    fn what_follows_from_the_rest_is_not_written() {
        let serial = header().serial;
        let id = sortable_id(UnixMillis(1_790_000_000_000), &serial);
        let made = Header {
            message_id: format!("<{id}@example.com>"),
            first_seen: UnixMillis(1_790_000_000_000),
            since: UnixMillis(1_790_000_000_000),
            id,
            ..header()
        };
        let line = String::from_utf8(made.encode(Priority::Normal)).expect("text");
        assert_eq!(
            line,
            format!(
                "mailrelay/1 n {{\"serial\":\"{serial}\",\"messageId\":\"@example.com\",\"firstSeen\":1790000000000}}\n"
            )
        );
        assert_eq!(Entry::decode(line.as_bytes()), Entry::Sealed(Box::new(made), b""));
        for message_id in ["<other@example.com>", "<id>@x>", "<idx@example.com>"] {
            let odd = Header { message_id: message_id.into(), ..header() };
            let line = serde_json::to_vec(&odd).expect("JSON");
            assert_eq!(serde_json::from_slice::<Header>(&line).expect("a header"), odd, "{message_id}");
        }
    }
}
