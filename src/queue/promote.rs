//! Delayed mail whose time has come.

use super::{At, Queue, scripts};
use crate::store::StoreError;

impl Queue {
    /// Moves mails whose time has come from delayed to their lists; returns how many. At most `cap`, and while other mail
    /// waits at most half as many as were taken since the last ones: old retries never starve new mail, whatever the
    /// number of workers that call this.
    pub async fn promote_due(&self, at: impl Into<At>, cap: usize) -> Result<usize, StoreError> {
        let (now, cap) = (at.into().word(), cap.min(1_000).to_string());
        self.run(&scripts::PROMOTE, &[], &[now.as_bytes(), cap.as_bytes()]).await
    }
}
