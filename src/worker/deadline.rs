//! How long a mail may stay at one stage in a worker's hands.
//!
//! Each step of a session has a limit of its own, but a server that says a little now and then stays within all of them, and
//! the slot with it. So a mail transaction has one as a whole, and so have the waits around it. What is over is ended as its
//! stage allows: before `committing` the mail goes back, after it its outcome is unknown.

use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

/// The slowest server that is not stuck, in bytes a second.
const SLOWEST: u64 = 16 * 1024;

/// By when each stage must be over.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines(Duration);

impl Deadlines {
    /// Each stage may take so long.
    pub const fn new(each: Duration) -> Self {
        Self(each)
    }

    /// For the wait until a mail may be sent alone, or beside others.
    pub fn admission(self) -> Duration {
        self.0
    }

    /// From the first command of a transaction until the message of so many bytes is complete.
    pub fn sending(self, bytes: usize) -> Duration {
        self.0 + Duration::from_secs(bytes as u64 / SLOWEST)
    }

    /// From there until the server has answered.
    pub fn committing(self) -> Duration {
        self.0
    }

    /// How long Redis may refuse to record an outcome before it is asked to record that it is unknown.
    pub fn settling(self) -> Duration {
        self.0
    }

    /// Resolves when the transaction of a mail, which begins now, is stuck; to the stage at which it is. `committed_at` says
    /// since when the server may have the whole message.
    pub async fn overdue(self, committed_at: impl Fn() -> Option<Instant>, bytes: usize) -> &'static str {
        sleep(self.sending(bytes)).await;
        match committed_at() {
            None => "sending",
            Some(committed) => {
                sleep_until(committed + self.committing()).await;
                "committing"
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_mail_over_a_slow_link_is_not_stuck() {
        let deadlines = Deadlines::new(Duration::from_secs(1_200));
        assert_eq!(deadlines.sending(1_000), Duration::from_secs(1_200));
        assert!(deadlines.sending(25 << 20) >= Duration::from_secs(2_800));
    }
}
