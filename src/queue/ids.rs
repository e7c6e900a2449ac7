//! Ids that nobody else has.

use super::UnixMillis;
use crate::system;

/// Random, as 32 hexadecimal digits.
pub(super) fn fresh_id() -> String {
    uuid::Builder::from_random_bytes(system::random_bytes()).into_uuid().simple().to_string()
}

/// Random but for its beginning: ids sort by the time they were made.
pub(super) fn sortable_id(now: UnixMillis) -> String {
    uuid::Builder::from_unix_timestamp_millis(now.0, &system::random_bytes()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_and_those_that_sort_do_so_by_time() {
        assert_ne!(fresh_id(), fresh_id());
        assert_eq!(fresh_id().len(), 32);
        let (early, late) = (sortable_id(UnixMillis(1_000)), sortable_id(UnixMillis(1_001)));
        assert!(early < late, "{early} {late}");
        assert_eq!(uuid::Uuid::parse_str(&late).map(|id| id.get_version_num()), Ok(7));
        assert_ne!(sortable_id(UnixMillis(1)), sortable_id(UnixMillis(1)));
    }
}
