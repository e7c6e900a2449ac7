//! Workers that are idle: toward the ledger each does what a worker's process does, by the product's own state machine. What
//! else a process does (reports, the queue, the record) is measured of a real one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use mailrelay::{
    lease::{BootTime, Holder, Identity, LedgerStore, Numbers, ProcessId, Timing},
    store::{Store, StoreOptions},
};
use tokio::{
    sync::broadcast::{self, error::RecvError},
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::house::House;

/// `sessionTimeout` and the rest of what a slot is withheld for; nobody holds a session here.
const HOLD: Duration = Duration::from_secs(300);
/// Holders that share a connection.
const SHARED_BY: usize = 2_500;
/// Between one that begins and the next: pods of a cluster do not start all at once.
const APART: Duration = Duration::from_millis(1);
/// After how long without work a worker rests.
const IDLE: Duration = Duration::from_secs(10);
/// Events of a pool that its holders may be behind with.
const BEHIND: usize = 64;

/// All of them; they end, without a word, when this is dropped.
pub struct Fleet {
    _tasks: JoinSet<()>,
    registered: Arc<AtomicUsize>,
    count: usize,
}

impl Fleet {
    /// One for each pod of the house.
    pub async fn start(house: &House) -> Self {
        let (mut tasks, registered) = (JoinSet::new(), Arc::new(AtomicUsize::new(0)));
        let mut channels = BTreeMap::new();
        let spread = APART * u32::try_from(house.pods.len()).expect("few");
        let mut store = None;
        for (number, pod) in house.pods.iter().enumerate() {
            if number % SHARED_BY == 0 {
                store = Some(Store::new(&StoreOptions::from_url(house.redis.url())).expect("a store"));
            }
            let ledger = LedgerStore::new(store.clone().expect("made before"), &house.relays[pod.relay].pool);
            let events = channels.entry(ledger.channel().to_owned()).or_insert_with(|| broadcast::channel(BEHIND).0);
            let identity = Identity {
                pod_uid: pod.uid.clone(),
                pod: pod.name.clone(),
                namespace: "mail".into(),
                process: ProcessId::random(),
                boot_id: "boot".into(),
                numbers: Numbers::default(),
            };
            tasks.spawn(work(ledger, identity, events.subscribe(), spread, Arc::clone(&registered)));
        }
        let client = redis::Client::open(house.redis.url()).expect("a client");
        let mut subscriber = client.get_async_pubsub().await.expect("a subscriber");
        for channel in channels.keys() {
            subscriber.subscribe(channel).await.expect("subscribed");
        }
        tasks.spawn(async move {
            let mut messages = subscriber.into_on_message();
            while let Some(message) = messages.next().await {
                if let Some(events) = channels.get(message.get_channel_name()) {
                    let _ = events.send(message.get_payload::<String>().unwrap_or_default());
                }
            }
        });
        Self { _tasks: tasks, registered, count: house.pods.len() }
    }

    /// How many never got an answer that registers them.
    pub fn missing(&self) -> usize {
        self.count - self.registered.load(Ordering::Relaxed)
    }
}

/// As the task behind a `SlotPool`, but on shared connections.
async fn work(
    ledger: LedgerStore,
    identity: Identity,
    mut events: broadcast::Receiver<String>,
    spread: Duration,
    registered: Arc<AtomicUsize>,
) {
    sleep(spread.mul_f64(rand::random_range(0.0..1.0))).await;
    let timing = Timing::default();
    let mut holder = Holder::new(identity, timing, HOLD);
    let mut idle = None;
    loop {
        if let Some(request) = holder.request(BootTime::now()) {
            let reply = ledger.sync(&request, timing.sync_limit()).await.ok();
            holder.answer(&request, reply, BootTime::now());
        }
        if idle.is_none() && holder.status(BootTime::now()).registered {
            idle = Some(Instant::now());
            registered.fetch_add(1, Ordering::Relaxed);
        }
        if idle.is_some_and(|since| since.elapsed() >= IDLE) {
            holder.rest();
        }
        let end = Instant::now() + holder.pause(rand::random_range(-1.0..=1.0));
        while !holder.is_due() {
            tokio::select! {
                () = sleep_until(end) => break,
                heard = events.recv() => match heard {
                    Ok(event) => holder.hear(&event),
                    Err(RecvError::Lagged(_)) => holder.hear("listening -"),
                    Err(RecvError::Closed) => return,
                }
            }
        }
    }
}
