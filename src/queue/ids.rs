//! Ids that nobody else has.

use sha2::{Digest, Sha256};

use super::UnixMillis;
use crate::system;

/// Random, as 32 hexadecimal digits.
pub(super) fn fresh_id() -> String {
    uuid::Builder::from_random_bytes(system::random_bytes()).into_uuid().simple().to_string()
}

/// The id of a mail whose producer gave none: the same for the same serial and time, and ids sort by their time. It tells
/// nothing of the serial, which only we may know.
pub(super) fn sortable_id(now: UnixMillis, serial: &str) -> String {
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
