//! What is long, and how much longer it may take.

use std::time::Duration;

use super::SCRIPT_LIMIT;

/// How slow a link to Redis may be, in bytes a second. What is long may take so much longer.
const SLOWEST: usize = 128 * 1024;

/// From this length on, arguments or an answer go by the connection for bodies.
pub(super) const LONG: usize = 64 * 1024;

/// How long a command may take that carries so many bytes, either way.
pub(super) fn limit(bytes: usize) -> Duration {
    SCRIPT_LIMIT + Duration::from_secs((bytes / SLOWEST) as u64)
}

/// How slow the disk of Redis may be, in bytes a second.
const SLOWEST_DISK: usize = 1024 * 1024;

/// How much longer a script may take that moves so many bytes.
pub(super) fn on_disk(bytes: usize) -> Duration {
    Duration::from_secs((bytes / SLOWEST_DISK) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_long_may_take_longer_and_what_is_short_may_not() {
        assert_eq!(limit(0), SCRIPT_LIMIT);
        assert_eq!(limit(LONG), SCRIPT_LIMIT);
        // The largest mail, over a link of 2 Mbit/s.
        assert!(limit(crate::mail::MAX_PAYLOAD) >= Duration::from_secs(200));
    }
}
