//! Waiting for conditions, longer than tests do: ten thousand pods take their time.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

const LOOK: Duration = Duration::from_millis(50);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none within `limit`; the message says what was wanted and what was last said instead.
pub async fn until<T, E: Display>(what: &str, limit: Duration, ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    match within(limit, ask).await {
        Ok(answer) => answer,
        Err(last) => panic!("{what}: not within {limit:?}; last: {last}"),
    }
}

/// The same for what need not come: what was last said instead.
pub async fn within<T, E>(limit: Duration, mut ask: impl AsyncFnMut() -> Result<T, E>) -> Result<T, E> {
    let deadline = Instant::now() + limit;
    loop {
        let answer = ask().await;
        if answer.is_ok() || Instant::now() >= deadline {
            return answer;
        }
        tokio::time::sleep(LOOK).await;
    }
}
