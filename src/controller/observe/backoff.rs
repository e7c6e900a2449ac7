//! How long a watch that broke waits before it is started again.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use rand::RngExt;

use crate::system;

/// Waits between two tries of a watch: 0.2 s doubling to 5 s, so that the API server's return is seen within seconds.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(Duration::from_secs(5));
        self.failures += 1;
        Some(wait.mul_f64(system::rng().random_range(0.8..1.2)))
    }
}

impl Backoff for WatchBackoff {
    fn reset(&mut self) {
        self.failures = 0;
    }
}
