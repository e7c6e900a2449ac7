//! Redis killed again and again while mail is pushed and sent. It writes everything down before it answers, so what it
//! acknowledged is delivered, or held where a worker could not say what became of it; and nothing is sent twice.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use mailrelay::store::{Store, StoreOptions};
use serde_json::json;

use crate::{
    cluster::{Cluster, mail},
    figures, number,
};

/// How many push at once, and how often each.
const PRODUCERS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);
/// With so many mails waiting nobody pushes more: what is proven is not how fast a machine is.
const WAITING: i64 = 200;
/// How many mails more the server has taken before Redis is killed once more.
const BETWEEN: u64 = 50;
const LIMIT: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn redis_killed_again_and_again_under_load_loses_nothing_and_doubles_nothing() {
    let cluster = Cluster::start(3, &json!({})).await;
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<BTreeSet<String>>>::default());
    let url = cluster.redis.lock().expect("no panic").url();
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|number| tokio::spawn(produce(number, url.clone(), stop.clone(), acknowledged.clone())))
        .collect();
    let kills = number("REDIS_KILLS", 3);
    let mut times = Vec::new();
    for _ in 0..kills {
        let before = cluster.sink.stats().accepted;
        cluster.sink_until("mail flows", |stats| stats.accepted >= before + BETWEEN).await;
        let killed = Instant::now();
        let seen = {
            let mut redis = cluster.redis.lock().expect("no panic");
            redis.crash();
            let seen = cluster.sink.stats().accepted;
            redis.resume();
            seen
        };
        cluster.sink_until("mail flows again", |stats| stats.accepted > seen + 16).await;
        times.push(u64::try_from(killed.elapsed().as_millis()).expect("short"));
    }
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.expect("no panic");
    }
    let audit = cluster
        .audit_until("everything is settled", |audit| {
            audit.queued + audit.raw_waiting + audit.delayed + audit.in_flight == 0
        })
        .await;
    assert_eq!((audit.difference, audit.dead), (0, 0), "{audit:?}");
    let mut copies: BTreeMap<String, usize> = BTreeMap::new();
    for entry in cluster.sink.journal() {
        let id = entry.message_id.split('@').next().unwrap_or_default().to_owned();
        *copies.entry(id).or_default() += 1;
    }
    let twice: Vec<_> = copies.iter().filter(|(_, copies)| **copies > 1).collect();
    assert!(twice.is_empty(), "sent twice: {twice:?}\n{}", cluster.logs());
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("no panic"));
    for id in acknowledged.iter().filter(|id| !copies.contains_key(*id)) {
        let state = cluster.queue.state(id).await.expect("an answer");
        assert!(state.is_some_and(|state| state.state == "held"), "{id} is lost\n{}", cluster.logs());
    }
    println!(
        "Redis killed {kills} times: {} mails acknowledged, {} delivered, {} held, 0 lost, 0 twice; flowing again: {}",
        acknowledged.len(),
        audit.delivered,
        audit.held,
        figures(times)
    );
}

/// Pushes until it is stopped. What was not acknowledged may be there or not: it counts for nobody.
async fn produce(number: usize, url: String, stop: Arc<AtomicBool>, acknowledged: Arc<Mutex<BTreeSet<String>>>) {
    let store = Store::new(&StoreOptions::from_url(url)).expect("options");
    let mut pace = tokio::time::interval(EVERY);
    let mut serial = 0;
    while !stop.load(Ordering::Relaxed) {
        pace.tick().await;
        let waiting = store.query::<i64>(redis::cmd("LLEN").arg("mail_queue"), LIMIT).await;
        if waiting.is_ok_and(|waiting| waiting > WAITING) {
            continue;
        }
        serial += 1;
        let id = format!("p{number}-{serial}");
        let mut command = redis::cmd("LPUSH");
        command.arg("mail_queue").arg(mail(&id, 1).to_string());
        if store.query::<i64>(&command, LIMIT).await.is_ok() {
            acknowledged.lock().expect("no panic").insert(id);
        }
    }
}
