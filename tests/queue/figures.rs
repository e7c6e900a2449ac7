//! Measurements; run with `cargo test --test queue -- --ignored --nocapture figures`.

use std::time::{Duration, Instant};

use mailrelay::queue::{OperationId, Progress, Stage, UnixMillis};
use testkit::Persistence;

use crate::support::*;

#[tokio::test]
#[ignore = "a measurement, meaningful on a quiet machine only"]
async fn figures_of_enqueue_and_of_a_whole_life() {
    let fixture = fixture_with(Persistence::Always);
    let body = "x".repeat(4_000);
    let mut times = Vec::new();
    for _ in 0..2_000 {
        let json = format!(r#"{{"from":"a@example.com","to":"b@example.org","text":"{body}"}}"#);
        let before = Instant::now();
        fixture.queue.enqueue(json.as_bytes(), NO_LIMITS, UnixMillis::now()).await.expect("enqueued");
        times.push(before.elapsed());
    }
    times.sort();
    println!("enqueue of 4 KB, appendfsync always: p50 {:?}, p99 {:?}", times[1_000], times[1_980]);

    let before = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for worker in 0..16 {
        let (queue, process) = (fixture.queue.clone(), format!("{worker:032}"));
        tasks.spawn(async move {
            let mut done = 0;
            loop {
                let claims = queue.claim(&process, "pod", 4, UnixMillis::now()).await.expect("claim");
                if claims.is_empty() {
                    return done;
                }
                for claim in claims {
                    let now = UnixMillis::now();
                    queue.advance(&process, &claim.claim_id, Stage::Committing, now).await.expect("advance");
                    let operation = OperationId::random();
                    let (outcome, progress) = (delivered(), Progress::default());
                    queue.settle(&process, &claim, &operation, &outcome, &progress, now).await.expect("settled");
                    done += 1;
                }
            }
        });
    }
    let done: u32 = tasks.join_all().await.into_iter().sum();
    let rate = f64::from(done) / before.elapsed().as_secs_f64();
    println!("claim, committing, settle by 16 tasks, appendfsync always: {rate:.0} mails/s");
    assert_eq!(done, 2_000);

    let before = Instant::now();
    let rounds: u32 = 500;
    for _ in 0..rounds {
        fixture.queue.depths(UnixMillis::now()).await.expect("depths");
    }
    println!("depths: {:?} each", before.elapsed() / rounds);
    assert!(before.elapsed() < Duration::from_secs(60));
}
