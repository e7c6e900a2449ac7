//! A server's rate limits, as one worker keeps to them: tokens are taken just before mail is claimed, for as many mails as
//! are wanted, and given back when there are fewer.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{runtime::Handle, time::Instant};

use crate::{
    api::{RateLimit, Unit},
    rate::{Buckets, Cost, ONE, Taken, ask_again},
    system,
};

/// How soon Redis is asked again that gave no answer.
const AGAIN: Duration = Duration::from_millis(250);
/// How long it is told that mail waits for the limits.
const A_MOMENT: Duration = Duration::from_secs(30);
/// What a session carries in a second, about: more sessions than can be used make a limited server no faster.
const MAILS_A_SESSION: f64 = 0.5;

/// The rate limits of one server.
pub struct Pace {
    buckets: Buckets,
    state: Mutex<State>,
}

struct State {
    limits: Arc<[RateLimit]>,
    /// No mail may be sent before then.
    until: Option<Instant>,
    /// When there last was none.
    refused: Option<Instant>,
}

/// Leave for mails of one recipient each. What is not used is given back when it is dropped.
pub struct Permits {
    pace: Arc<Pace>,
    /// Those that they were taken by.
    limits: Arc<[RateLimit]>,
    cost: Cost,
    count: usize,
}

impl Pace {
    /// Nothing was taken yet.
    pub fn new(buckets: Buckets, limits: &[RateLimit]) -> Self {
        Self { buckets, state: Mutex::new(State { limits: limits.into(), until: None, refused: None }) }
    }

    /// Takes over the limits as the spec has them now.
    pub fn adjust(&self, limits: &[RateLimit]) {
        let mut state = self.state();
        if *state.limits != *limits {
            *state = State { limits: limits.into(), until: None, refused: None };
        }
    }

    /// Until when no mail may be sent, when that is not now.
    pub fn rests_until(&self, now: Instant) -> Option<Instant> {
        self.state().until.filter(|until| *until > now)
    }

    /// Whether mail waited for the limits a moment ago.
    pub fn holds_mail_up(&self, now: Instant) -> bool {
        self.state().refused.is_some_and(|refused| now.saturating_duration_since(refused) < A_MOMENT)
    }

    /// How many sessions can be of use.
    pub fn worth(&self) -> usize {
        worth(&self.state().limits)
    }

    /// Leave for up to `most` mails, one at least; without any, [`Pace::rests_until`] says when to ask again.
    pub async fn permits(self: &Arc<Self>, most: usize) -> Option<Permits> {
        self.take(ONE, most).await
    }

    /// Leave for one mail of so many recipients.
    pub async fn permit_for(self: &Arc<Self>, recipients: usize) -> Option<Permits> {
        let recipients = u32::try_from(recipients).unwrap_or(u32::MAX);
        self.take(Cost { messages: 1, recipients }, 1).await
    }

    async fn take(self: &Arc<Self>, cost: Cost, most: usize) -> Option<Permits> {
        let limits = Arc::clone(&self.state().limits);
        let wait = match self.buckets.take(&limits, cost, most).await {
            Ok(Taken::Granted(count)) => return Some(Permits { pace: Arc::clone(self), limits, cost, count }),
            Ok(Taken::Wait { wait, askers }) => ask_again(wait, askers, system::fraction()),
            Err(error) => {
                tracing::debug!(%error, "cannot take from the buckets of a rate limit");
                AGAIN
            }
        };
        let mut state = self.state();
        if Arc::ptr_eq(&state.limits, &limits) {
            let now = Instant::now();
            (state.until, state.refused) = (Some(now + wait), Some(now));
        }
        None
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Permits {
    /// For how many mails.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Leave for one of them.
    pub fn split_one(&mut self) -> Option<Self> {
        self.count = self.count.checked_sub(1)?;
        Some(Self { pace: Arc::clone(&self.pace), limits: Arc::clone(&self.limits), cost: self.cost, count: 1 })
    }

    /// Whether they are for servers of this pace.
    pub fn is_of(&self, pace: &Arc<Pace>) -> bool {
        Arc::ptr_eq(&self.pace, pace)
    }

    /// Takes back what [`Permits::split_one`] gave.
    pub fn join(&mut self, one: Option<Self>) {
        if let Some(mut one) = one {
            self.count += std::mem::take(&mut one.count);
        }
    }

    /// Whether it does for a mail of so many recipients at a server of this pace.
    pub fn covers(&self, pace: &Arc<Pace>, recipients: usize) -> bool {
        let counted = self.limits.iter().any(|limit| limit.unit == Unit::Recipient);
        self.is_of(pace) && self.count == 1 && (!counted || self.cost.recipients as usize >= recipients)
    }

    /// The mail is on its way.
    pub fn used(mut self) {
        self.count = 0;
    }
}

impl Drop for Permits {
    fn drop(&mut self) {
        if self.count == 0 || self.limits.is_empty() {
            return;
        }
        let (pace, limits, cost, count) = (Arc::clone(&self.pace), Arc::clone(&self.limits), self.cost, self.count);
        // Where nothing runs any more, they are lost: that makes nobody send too much.
        let Ok(runtime) = Handle::try_current() else { return };
        runtime.spawn(async move {
            if let Err(error) = pace.buckets.give_back(&limits, cost, count).await {
                tracing::debug!(%error, "what was not used of a rate limit is lost");
            }
        });
    }
}

/// Those that carry what the strictest limit lets through, and one more that is being opened meanwhile.
fn worth(limits: &[RateLimit]) -> usize {
    let sessions = limits.iter().map(|limit| {
        let seconds = limit.interval.get().as_secs_f64().max(0.001);
        let rate = f64::from(limit.count) / seconds / MAILS_A_SESSION;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a million in a millisecond at most"
        )]
        let sessions = (rate + f64::from(limit.burst)).ceil() as usize;
        sessions.saturating_add(1)
    });
    sessions.min().unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sessions_do_for_a_slow_server() {
        let limit = |count, interval: &str| RateLimit {
            unit: Unit::Message,
            count,
            interval: interval.parse().expect("a time"),
            burst: 1,
        };
        assert_eq!(worth(&[]), usize::MAX);
        assert_eq!(worth(&[limit(30, "1m")]), 3);
        assert_eq!(worth(&[limit(1, "24h")]), 3);
        assert!(worth(&[limit(10_000, "1s")]) > 10_000);
        assert_eq!(worth(&[limit(10_000, "1s"), limit(30, "1m")]), 3);
    }
}
