//! How long to wait before Redis is asked again: soon, so that mail flows at once when it is back, but never in a loop
//! that eats a core, and not all workers at the same moment.

use std::time::Duration;

use rand::RngExt;

use crate::system;

/// Waits between tries: 50 ms doubling up to one second, each shortened at random by up to half.
#[derive(Debug, Default)]
pub struct Backoff {
    tries: u32,
}

impl Backoff {
    const FIRST: Duration = Duration::from_millis(50);
    const LONGEST: Duration = Duration::from_secs(1);

    /// Nothing failed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts a failure; how long to wait now.
    pub fn next(&mut self) -> Duration {
        let delay = Self::delay(self.tries, system::rng().random());
        self.tries = self.tries.saturating_add(1);
        delay
    }

    /// It worked: the next failure starts with the shortest wait.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    fn delay(tries: u32, random: f64) -> Duration {
        let full = (Self::FIRST * 2_u32.saturating_pow(tries.min(16))).min(Self::LONGEST);
        full.mul_f64(1.0 - random / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_second_and_never_vanish() {
        assert_eq!(Backoff::delay(0, 0.0), Duration::from_millis(50));
        assert_eq!(Backoff::delay(3, 0.0), Duration::from_millis(400));
        assert_eq!(Backoff::delay(u32::MAX, 0.0), Duration::from_secs(1));
        assert_eq!(Backoff::delay(u32::MAX, 1.0), Duration::from_millis(500));
    }

    #[test]
    fn success_starts_over() {
        let mut backoff = Backoff::new();
        for _ in 0..10 {
            backoff.next();
        }
        backoff.reset();
        assert!(backoff.next() <= Backoff::FIRST);
    }
}
