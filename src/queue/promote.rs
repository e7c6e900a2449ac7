//! Delayed mail whose time has come.

use std::time::Duration;

use redis::cmd;

use super::{At, Queue, scripts};
use crate::{
    mail::UnixMillis,
    store::{Heard, StoreError, Subscription},
};

/// Announcements of delayed mail. They are hints: what is missed is found by looking.
#[derive(Debug)]
pub struct Dues(Subscription);

impl Dues {
    /// How long from now the first of all delayed mails is due; `None` when that may have been missed. Cancel-safe.
    pub async fn next(&mut self) -> Option<Duration> {
        match self.0.next().await {
            Heard::Message(wait) => wait.parse().ok().map(Duration::from_millis),
            Heard::Listening => None,
        }
    }
}

impl Queue {
    /// Moves mails whose time has come from delayed to their lists; returns how many. At most `cap`, and while other mail
    /// waits at most half as many as were taken since the last ones: old retries never starve new mail, whatever the
    /// number of workers that call this.
    pub async fn promote_due(&self, at: impl Into<At>, cap: usize) -> Result<usize, StoreError> {
        let (now, cap) = (at.into().word(), cap.min(1_000).to_string());
        self.run(&scripts::PROMOTE, &[], &[now.as_bytes(), cap.as_bytes()]).await
    }

    /// How long until the first of the delayed mails is due, by Redis' clock.
    pub async fn next_due(&self) -> Result<Option<Duration>, StoreError> {
        let mut first = cmd("ZRANGEBYSCORE");
        first.arg(&self.names.delayed).arg("-inf").arg("+inf").arg("LIMIT").arg(0).arg(1);
        let first: Vec<String> = self.store.query(&first, super::SCRIPT_LIMIT).await?;
        let Some(token) = first.first() else { return Ok(None) };
        let mut score = cmd("ZSCORE");
        score.arg(&self.names.delayed).arg(token);
        let due: Option<f64> = self.store.query(&score, super::SCRIPT_LIMIT).await?;
        let now = self.ask_time().await?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a time in milliseconds")]
        Ok(due.map(|due| UnixMillis(due as u64).since(now)))
    }

    /// Follows what is announced of delayed mail. To be called inside a tokio runtime.
    pub fn dues(&self) -> Dues {
        Dues(self.store.subscribe(&self.names.delayed))
    }
}
