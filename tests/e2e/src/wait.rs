//! Waiting for conditions: never for a time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// Waits until `look` returns a value, and returns it with the time it took.
///
/// # Errors
/// When `limit` passes first; the message says what was waited for and what was last seen.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut look: impl AsyncFnMut() -> Result<Look<T>>,
) -> Result<(T, Duration)> {
    let start = Instant::now();
    loop {
        let seen = match look().await {
            Ok(Look::Yes(value)) => return Ok((value, start.elapsed())),
            Ok(Look::NotYet(seen)) => seen,
            Err(error) => format!("{error:#}"),
        };
        if start.elapsed() > limit {
            bail!("waited {limit:?} for {what}; last seen: {seen}");
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What a look at a condition showed.
#[derive(Debug)]
pub enum Look<T> {
    /// It holds.
    Yes(T),
    /// It does not hold yet; what was seen instead.
    NotYet(String),
}

impl<T> Look<T> {
    /// `Yes(value)` when `holds`, else what was seen.
    pub fn when(holds: bool, value: T, seen: impl FnOnce() -> String) -> Self {
        if holds { Self::Yes(value) } else { Self::NotYet(seen()) }
    }
}
