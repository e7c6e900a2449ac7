//! The clock of all lease times: `CLOCK_BOOTTIME`, which goes on while the machine is suspended (R2).

use std::{ops::Add, time::Duration};

use crate::system;

/// A moment since the machine's boot, suspend included. `std::time::Instant` stops in suspend and must not time a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BootTime(Duration);

impl BootTime {
    /// Now.
    pub fn now() -> Self {
        Self(system::boot_clock())
    }

    /// The moment so long after boot; for tests and simulations.
    pub const fn after_boot(since: Duration) -> Self {
        Self(since)
    }

    /// How long after boot this is.
    pub const fn since_boot(self) -> Duration {
        self.0
    }

    /// How long after `earlier` this is; zero when it is not after it.
    pub fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }

    /// So much earlier, boot at the earliest.
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(span))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_forward_and_differences_never_wrap() {
        let first = BootTime::now();
        let later = first + Duration::from_secs(1);
        assert!(BootTime::now() >= first);
        assert_eq!(later.saturating_since(first), Duration::from_secs(1));
        assert_eq!(first.saturating_since(later), Duration::ZERO);
        assert_eq!(first.saturating_sub(Duration::MAX), BootTime::after_boot(Duration::ZERO));
    }
}
