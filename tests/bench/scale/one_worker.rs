//! What one real worker costs Redis.

use std::time::Duration;

use mailrelay::{
    mail::UnixMillis,
    queue::{EnqueueLimits, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Behaviour, Sink, SinkConfig};
use serde_json::json;
use testkit::eventually_within;
use tokio::time::sleep;

use crate::{
    figures::{Figure, Wanted},
    gauge::{Commands, figure},
    house::House,
};

const LIMIT: Duration = Duration::from_secs(60);
const LIMITS: EnqueueLimits = EnqueueLimits { max_length: 10_000, max_bytes: 0 };
/// What a worker does once, when it starts, is over by then, and it rests.
const START: Duration = Duration::from_secs(12);
/// What a worker that rests does now and then, it does once in this time at least.
const WINDOW: Duration = Duration::from_secs(310);
/// Mails while it is busy.
const MAILS: usize = 200;

/// The figure of its commands when idle.
pub const COMMANDS: &str = "one idle worker: Redis commands";

/// Its figures.
pub async fn measure() -> Vec<Figure> {
    let sink = Sink::start(SinkConfig::default()).await.expect("the sink starts");
    let mut house = House::empty().await;
    let mut connection = house.connection.clone();
    let nobody = Commands::look(&mut connection).await.connections;
    let port = sink.smtp().port();
    house.add_relay(json!({ "name": "primary", "host": "127.0.0.1", "port": port, "tls": "None" })).await;
    let pod = house.add_pod("pod-0".into(), 0).await;
    house.pods.push(pod);
    let controller = house.controller("controller-0");
    eventually_within(LIMIT, "the share is in force", async || house.in_force(0, &mut 0).await).await;
    let worker = house.worker(&house.pods[0]);
    // It needs no controller any more, and Redis shall count the worker alone.
    sleep(START).await;
    drop(controller);
    sleep(START).await;
    let before = Commands::look(&mut connection).await;
    println!("looking at one idle worker for {} s", WINDOW.as_secs());
    sleep(WINDOW).await;
    let after = Commands::look(&mut connection).await;
    let rates = after.since(&before);
    println!("\none idle worker, a second: {}", rates.most());

    sink.set_behaviour(Behaviour { mail_delay_ms: 100, ..Behaviour::default() });
    let store = Store::new(&StoreOptions::from_url(house.redis.url())).expect("a store");
    let queue = Queue::new(store, QueueNames::new(&house.relays[0].name, &format!("{}-dead", house.relays[0].name)));
    for number in 0..MAILS {
        let mail = json!({ "from": "a@example.com", "to": format!("r{number}@example.org"), "text": "Hello" });
        queue.enqueue(mail.to_string().as_bytes(), LIMITS, UnixMillis::now()).await.expect("taken in");
    }
    // The store of this bench has one connection; another appears while bodies are read.
    let ours = nobody + 1;
    let mut most = 0;
    eventually_within(LIMIT, "all mails are delivered", async || {
        most = most.max(Commands::look(&mut connection).await.connections.saturating_sub(ours));
        let accepted = sink.stats().accepted;
        if accepted >= MAILS as u64 { Ok(()) } else { Err(format!("{accepted} accepted")) }
    })
    .await;
    drop(worker);
    let of = |name, unit, value, wanted| Figure { name, unit, pods: 1, value: Some(value), wanted };
    vec![
        of(COMMANDS, "/s", rates.total, Wanted::AtMost(0.2)),
        of("one idle worker: connections", "", figure(after.connections - nobody), Wanted::AtMost(2.0)),
        of("one busy worker: connections", "", figure(most), Wanted::AtMost(3.0)),
    ]
}
