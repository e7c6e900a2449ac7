//! How fast the parts are, each beside a reference that is measured in the same run: on a busy machine both slow down,
//! and what counts is the ratio. `make bench` runs it.

#[path = "../registration/crowd.rs"]
mod crowd;
mod ledger;
mod many;
#[path = "../registration/mod.rs"]
mod registration;
#[path = "../scene/mod.rs"]
mod scene;
#[expect(dead_code, reason = "the tests use the rest")]
#[path = "../smtp/support.rs"]
mod smtp;

use std::{
    future::Future,
    time::{Duration, Instant},
};

use mailrelay::{
    queue::{At, Claimed, EnqueueLimits, OperationId, PerRecipient, Queue, QueueNames, Settlement, Stage},
    smtp::{Chunking, Features},
    store::{Store, StoreOptions},
};
use mailsink::Behaviour;
use redis::{Cmd, FromRedisValue, cmd};
use scene::Scene;
use serde_json::json;
use testkit::{Persistence, RedisServer};
use tokio::task::JoinSet;

const LIMIT: Duration = Duration::from_secs(10);
const LIMITS: EnqueueLimits = EnqueueLimits { max_length: 10_000_000, max_bytes: 0 };
/// Mails of each measurement.
const MAILS: u32 = 1_000;
/// Tasks or sessions at once, as many as the usual budget.
const AT_ONCE: u32 = 16;

#[tokio::main]
async fn main() {
    println!("{:<64} {:>12} {:>12} {:>6}", "", "mailrelay", "reference", "ratio");
    enqueue().await;
    whole_life().await;
    commands().await;
    delivery().await;
    ledger::run().await;
    many::run().await;
}

/// One line: two rates and what they are of each other.
fn line(what: &str, rate: f64, reference: f64) {
    println!("{what:<64} {rate:>10.0}/s {reference:>10.0}/s {:>6.2}", rate / reference);
}

fn rate(count: u32, since: Instant) -> f64 {
    f64::from(count) / since.elapsed().as_secs_f64()
}

fn body(number: u32) -> String {
    json!({ "id": format!("m{number}"), "from": "a@example.com", "to": "b@example.org", "text": "x".repeat(4_000) })
        .to_string()
}

/// A Redis that keeps every write, as the product asks for one.
fn redis() -> (RedisServer, Store, Queue) {
    let redis = RedisServer::start(Persistence::Always);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
    (redis, store, queue)
}

async fn ask<T: FromRedisValue>(store: &Store, command: &Cmd) -> T {
    store.query(command, LIMIT).await.expect("Redis answers")
}

/// Taking a mail in, one by one, against LPUSH of the same bytes in turns with it.
async fn enqueue() {
    let (_redis, store, queue) = redis();
    let (mut ours, mut plain) = (Duration::ZERO, Duration::ZERO);
    for number in 0..MAILS {
        let mail = body(number);
        let start = Instant::now();
        queue.enqueue(mail.as_bytes(), LIMITS, At::Redis).await.expect("enqueued");
        ours += start.elapsed();
        let start = Instant::now();
        let _: u64 = ask(&store, cmd("LPUSH").arg("reference").arg(&mail)).await;
        plain += start.elapsed();
    }
    let rate = |time: Duration| f64::from(MAILS) / time.as_secs_f64();
    line("enqueue of 4 KB; LPUSH of the same", rate(ours), rate(plain));
}

/// Claim, committing, settle by 16 tasks, against the plain reliable queue: LMOVE to a list of one's own, LREM.
async fn whole_life() {
    let (_redis, store, queue) = redis();
    for number in 0..MAILS {
        let mail = body(number);
        queue.enqueue(mail.as_bytes(), LIMITS, At::Redis).await.expect("enqueued");
        let _: u64 = ask(&store, cmd("LPUSH").arg("reference").arg(&mail)).await;
    }
    let start = Instant::now();
    let done = together(|task| drain(queue.clone(), format!("{task:032}"))).await;
    let ours = rate(done, start);
    let start = Instant::now();
    let moved = together(|task| move_and_remove(store.clone(), format!("reference:{task}"))).await;
    line("claim, committing, settle; LMOVE and LREM", ours, rate(moved, start));
    assert_eq!((done, moved), (MAILS, MAILS), "all are done, each once");
}

/// Runs as many tasks as there are sessions; the sum of what they did.
async fn together<F: Future<Output = u32> + Send + 'static>(task: impl Fn(u32) -> F) -> u32 {
    (0..AT_ONCE).map(task).collect::<JoinSet<u32>>().join_all().await.into_iter().sum()
}

async fn drain(queue: Queue, process: String) -> u32 {
    let mut done = 0;
    loop {
        let claims = queue.claim(&process, "pod", 4, At::Redis).await.expect("claim").mails;
        if claims.is_empty() {
            return done;
        }
        for claim in claims {
            settle(&queue, &process, &claim).await;
            done += 1;
        }
    }
}

async fn settle(queue: &Queue, process: &str, claim: &Claimed) {
    let now = At::Redis;
    queue.advance(process, &claim.claim_id, Stage::Committing, now).await.expect("advance");
    let (outcome, progress) = (Settlement::Delivered { reply: "250 2.0.0 queued".into() }, PerRecipient::default());
    queue.settle(process, claim, &OperationId::random(), &outcome, &progress, now).await.expect("settled");
}

async fn move_and_remove(store: Store, list: String) -> u32 {
    let mut done = 0;
    loop {
        let mut take = cmd("LMOVE");
        take.arg("reference").arg(&list).arg("RIGHT").arg("LEFT");
        let Some(entry): Option<Vec<u8>> = ask(&store, &take).await else { return done };
        let _: u64 = ask(&store, cmd("LREM").arg(&list).arg(1).arg(entry)).await;
        done += 1;
    }
}

/// Mails over one kept session to a server that is 20 ms away, against the same command by command.
async fn commands() {
    let sink = smtp::sink_with(Behaviour { reply_delay_ms: 20, ..Behaviour::default() }).await;
    let mut slowest = None;
    for (name, pipelining, chunking) in [
        ("command by command", false, Chunking::Off),
        ("PIPELINING", true, Chunking::Off),
        ("PIPELINING and CHUNKING", true, Chunking::Proven),
    ] {
        let mut session = smtp::open(&sink).await;
        session.restrict(Features { pipelining, chunking });
        let start = Instant::now();
        for number in 0..50 {
            assert!(smtp::send(&mut session, number).await.is_delivered());
        }
        let rate = rate(50, start);
        line(&format!("20 ms away: {name}; command by command"), rate, *slowest.get_or_insert(rate));
    }
}

/// Mails through queue, ledger and two workers with 8 sessions each, against 16 bare sessions to the same server.
async fn delivery() {
    let scene = Scene::sixteen(2, json!({})).await;
    let start = Instant::now();
    for _ in 0..MAILS / 100 {
        scene.send(100).await;
    }
    scene.all_delivered(usize::try_from(MAILS).expect("few")).await;
    let ours = rate(MAILS, start);
    drop(scene);
    let sink = smtp::sink().await;
    let start = Instant::now();
    let endpoint = smtp::endpoint(sink.smtp(), mailrelay::api::Tls::None, None);
    let sent = together(|_| {
        let endpoint = endpoint.clone();
        async move {
            let mut session = mailrelay::smtp::Session::open(&endpoint, None).await.expect("a session");
            let share = MAILS / AT_ONCE;
            for number in 0..share {
                assert!(smtp::send(&mut session, number as usize).await.is_delivered());
            }
            share
        }
    })
    .await;
    line("mails delivered by 2 workers; by 16 bare sessions", ours, rate(sent, start));
}
