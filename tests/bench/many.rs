//! What a million mails cost Redis, and whether it is slower with them, each beside the same with a thousand.

use std::time::{Duration, Instant};

use mailrelay::{
    queue::{At, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use testkit::{Persistence, RedisServer};

use super::{AT_ONCE, LIMITS, settle, together};

const FEW: u32 = 1_000;
/// Measured on top of what waits.
const SAMPLES: u32 = 1_000;

/// What was found with so many mails.
struct Found {
    /// Bytes of Redis for each mail that waits, beside the producer's.
    waiting: f64,
    /// Bytes of Redis for each that was delivered.
    delivered: f64,
    /// Of the slowest enqueue but one in a hundred.
    p99: Duration,
    /// Mails claimed in a second.
    claims: f64,
}

/// `MANY` in the environment sets how many are many.
pub async fn run() {
    let many = std::env::var("MANY").ok().and_then(|many| many.parse().ok()).unwrap_or(1_000_000);
    let (found, reference) = (measure(many).await, measure(FEW).await);
    let line = |what: &str, figure: f64, reference: f64| {
        let what = format!("{what}, {many} mails; {FEW}");
        println!("{what:<64} {figure:>12.1} {reference:>12.1} {:>6.2}", figure / reference);
    };
    line("bytes for each that waits", found.waiting, reference.waiting);
    line("bytes for each that was delivered", found.delivered, reference.delivered);
    line("enqueue p99 in microseconds", micros(found.p99), micros(reference.p99));
    line("claims a second", found.claims, reference.claims);
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn body() -> Vec<u8> {
    br#"{"from":"a@example.com","to":"b@example.org","subject":"hello","text":"What a mail says, in some words more."}"#
        .to_vec()
}

async fn measure(count: u32) -> Found {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let queue = Queue::new(store, QueueNames::new("mail_queue", "mail_dead_letter_queue"));
    let empty = memory(&redis);
    let share = count / AT_ONCE;
    together(|_| enqueue(queue.clone(), share)).await;
    let each = |bytes: f64| (bytes - empty) / f64::from(share * AT_ONCE);
    let waiting = each(memory(&redis)) - f64::from(u32::try_from(body().len()).expect("short"));
    let mut times = Vec::new();
    for _ in 0..SAMPLES {
        let start = Instant::now();
        queue.enqueue(&body(), LIMITS, At::Redis).await.expect("enqueued");
        times.push(start.elapsed());
    }
    times.sort();
    let start = Instant::now();
    let mut claimed = Vec::new();
    while claimed.len() < SAMPLES as usize {
        claimed.extend(queue.claim(&format!("{:032}", 0), "pod", 8, At::Redis).await.expect("claim").mails);
    }
    let claims = f64::from(SAMPLES) / start.elapsed().as_secs_f64();
    for claim in claimed {
        settle(&queue, &format!("{:032}", 0), &claim).await;
    }
    together(|task| super::drain(queue.clone(), format!("{:032}", task + 1))).await;
    Found { waiting, delivered: each(memory(&redis)), p99: times[times.len() * 99 / 100], claims }
}

async fn enqueue(queue: Queue, count: u32) -> u32 {
    for _ in 0..count {
        queue.enqueue(&body(), LIMITS, At::Redis).await.expect("enqueued");
    }
    count
}

/// Bytes that Redis uses.
fn memory(redis: &RedisServer) -> f64 {
    let info = redis.command(&["INFO", "memory"]).expect("INFO");
    let line = info.lines().find_map(|line| line.trim().strip_prefix("used_memory:").map(str::to_owned));
    line.and_then(|number| number.parse().ok()).expect("a figure")
}
