//! How long a watch that broke waits before it is started again.

use std::time::Duration;

use kube::runtime::utils::Backoff;
use rand::RngExt;
use tokio::time::Instant;

use crate::system;

const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Whoever went on for so long after a try has recovered: the next failure is another one.
const RECOVERED_AFTER: Duration = Duration::from_secs(15);

/// Waits between two tries of a watch: 0.2 s doubling to 5 s, so that the API server's return is seen within seconds.
#[derive(Default)]
pub struct WatchBackoff {
    failures: u32,
    failed_at: Option<Instant>,
}

impl Iterator for WatchBackoff {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let now = Instant::now();
        if self.failed_at.is_some_and(|at| now - at > LONGEST_WAIT + RECOVERED_AFTER) {
            self.failures = 0;
        }
        self.failed_at = Some(now);
        let wait = Duration::from_millis(200 << self.failures.min(5)).min(LONGEST_WAIT);
        self.failures += 1;
        Some(wait.mul_f64(system::rng().random_range(0.8..1.2)))
    }
}

impl Backoff for WatchBackoff {
    /// Does nothing: it is called for each event, and that a list begins is one, also of a list that is refused for ever.
    fn reset(&mut self) {}
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::{StreamExt, stream};
    use kube::runtime::utils::StreamBackoff;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_list_that_is_refused_for_ever_is_asked_for_ever_more_seldom() {
        let events = stream::iter([Ok("it begins"), Err("it is refused")]).cycle().take(40);
        let start = Instant::now();
        let mut events = pin!(StreamBackoff::new(events, WatchBackoff::default()));
        let mut times = Vec::new();
        while let Some(event) = events.next().await {
            if event.is_err() {
                times.push(start.elapsed().as_secs());
            }
        }
        assert!(times[4] < 5 && times[19] > 55, "{times:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_watch_that_went_on_for_a_while_is_started_again_at_once() {
        let mut backoff = WatchBackoff::default();
        let waits: Vec<Duration> = backoff.by_ref().take(8).collect();
        assert!(waits[0] < Duration::from_millis(250) && waits[7] >= Duration::from_secs(4), "{waits:?}");
        tokio::time::advance(Duration::from_secs(21)).await;
        assert!(backoff.next().is_some_and(|wait| wait < Duration::from_millis(250)));
    }
}
