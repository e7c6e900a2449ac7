//! Workers that die at each point of a transaction, a Redis that dies under load, and everything at once. The controller,
//! the workers and Redis are real; the figures are printed.
//!
//! - `make deaths`: each point 20 times (`KILLS=n`), Redis 50 times (`REDIS_KILLS=n`).
//! - `make storm`: everything at once, in 103 rounds (`STORM=n`, `SEED=n`).

mod cluster;
mod points;
#[path = "../replica/mod.rs"]
mod replica;
#[path = "../scene/mod.rs"]
mod scene;
mod store;
mod storm;

/// Runs a world that has a thread of its own.
fn in_a_runtime<T>(world: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(world)
}

/// What an environment variable says, or so many.
fn number(name: &str, otherwise: usize) -> usize {
    let given = std::env::var(name).ok().filter(|text| !text.is_empty());
    given.map_or(otherwise, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// The median, the 99th percentile and the largest of some times in milliseconds.
fn figures(mut times: Vec<u64>) -> String {
    times.sort_unstable();
    let at = |percent: usize| times.get((times.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or(0);
    format!("{} times, p50 {} ms, p99 {} ms, most {} ms", times.len(), at(50), at(99), at(100))
}
