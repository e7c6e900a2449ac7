//! Waiting for conditions. Nothing else in the tests sleeps.

use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

/// How long a condition may take to be met on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(40);
/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(10);

/// Asks again and again until there is an answer.
///
/// # Panics
/// When there is none after [`PATIENCE`]; the message says what was wanted and what was last said instead.
pub async fn eventually<T, E: Display>(what: &str, ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    eventually_within(PATIENCE, what, ask).await
}

/// The same with another patience.
///
/// # Panics
/// When there is none within `limit`.
pub async fn eventually_within<T, E: Display>(
    limit: Duration,
    what: &str,
    ask: impl AsyncFnMut() -> Result<T, E>,
) -> T {
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

/// Looks again and again whether something holds for all of this time.
///
/// # Panics
/// When it does not; the message says what should hold and what was said instead.
pub async fn throughout<E: Display>(time: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<(), E>) {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(problem) = look().await {
            panic!("{what}: not after {:?} of {time:?}; {problem}", start.elapsed());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits, with the thread, until a condition holds; tells whether it did within `limit`.
pub(crate) fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !holds() {
        if Instant::now() > deadline {
            return false;
        }
        thread::sleep(LOOK);
    }
    true
}
