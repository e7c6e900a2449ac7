//! A controller, its Redis, its API server, and those who work by what it publishes.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use mailrelay::{
    api::{MailRelayStatus, RelayRecord, record_key},
    lease::{LedgerStore, LedgerView, SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use serde_json::{Value, json};
use testkit::{ApiServer, Persistence, RedisServer, eventually};
use tokio::task::JoinHandle;

use crate::{registration::register, replica::replica};

pub const LIMIT: Duration = Duration::from_secs(5);
/// The `ConfigMap` with the epoch and the marks.
pub const MARKS: &str = "mailrelay/mailrelay-controller-epoch";

/// All of it. Every relay and pod is in the namespace `mail`.
pub struct House {
    redis: RedisServer,
    pub store: Store,
    pub api: ApiServer,
    controller: Option<JoinHandle<()>>,
}

impl House {
    /// Without a controller yet.
    pub fn empty() -> Self {
        let redis = RedisServer::start(Persistence::Off);
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("a store");
        Self { redis, store, api: ApiServer::new(1, drop), controller: None }
    }

    /// A controller takes over; one before it ends as in a crash.
    pub fn lead(&mut self) {
        if let Some(before) = self.controller.take() {
            before.abort();
        }
        let store = Store::new(&StoreOptions::from_url(self.redis.url())).expect("a store");
        let replica = replica("controller", store, self.api.client());
        self.controller = Some(tokio::spawn(async move {
            let ended = Box::pin(replica.run(std::future::pending())).await;
            panic!("the controller ended: {ended:?}");
        }));
    }

    /// A relay with a server and a queue of its own, `age` seconds after the first.
    pub fn relay(&self, name: &str, age: u32) {
        let queue = json!({ "name": name, "deadLetterName": format!("{name}_dead") });
        self.relay_of(name, age, &json!({ "servers": [{ "name": "primary", "host": name }], "queue": queue }));
    }

    pub fn relay_of(&self, name: &str, age: u32, spec: &Value) {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": {
                "name": name, "namespace": "mail", "uid": format!("uid-{name}"), "generation": 1,
                "creationTimestamp": format!("2026-11-20T00:00:{age:02}Z"),
            },
            "spec": spec,
        });
        self.api.put("mailrelays", &format!("mail/{name}"), relay);
    }

    /// `kubectl patch`.
    pub fn edit(&self, relay: &str, change: impl FnOnce(&mut Value)) {
        self.api.edit("mailrelays", &format!("mail/{relay}"), |object| change(&mut object["spec"]));
    }

    /// `kubectl delete`: finalizers hold it.
    pub fn delete(&self, relay: &str) {
        self.api.edit("mailrelays", &format!("mail/{relay}"), |object| {
            object["metadata"]["deletionTimestamp"] = json!("2026-11-21T00:00:00Z");
        });
    }

    /// A pod of a relay whose worker runs; its UID is its name.
    pub fn pod(&self, name: &str, relay: &str) {
        self.pod_with(name, &json!({ "mailrelay.dev/relay": relay }));
    }

    pub fn pod_with(&self, name: &str, labels: &Value) {
        let container = json!({
            "name": "mailrelay", "state": { "running": {} }, "ready": true, "restartCount": 0, "image": "i", "imageID": "",
        });
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": { "name": name, "namespace": "mail", "uid": name, "labels": labels },
            "spec": { "nodeName": "node", "containers": [{ "name": "mailrelay" }] },
            "status": { "phase": "Running", "containerStatuses": [container] },
        });
        self.api.put("pods", &format!("mail/{name}"), pod);
    }

    /// What a pool's ledger says; `None` when there is none that can be read.
    pub async fn ledger(&self, pool: &str) -> Option<LedgerView> {
        LedgerStore::new(self.store.clone(), pool).snapshot().await.ok()?.ledger.map(Arc::unwrap_or_clone)
    }

    /// Waits until the pods have these shares of a pool.
    pub async fn shares(&self, pool: &str, shares: &[(&str, u32)]) {
        let wanted: BTreeMap<String, u32> = shares.iter().map(|(pod, share)| ((*pod).to_owned(), *share)).collect();
        eventually(&format!("{pool} is shared as {wanted:?}"), async || {
            let found = self.ledger(pool).await.map(|ledger| ledger.entitlements);
            if found.as_ref() == Some(&wanted) { Ok(()) } else { Err(format!("{found:?}")) }
        })
        .await;
    }

    /// The record that a relay's workers follow.
    pub async fn record(&self, relay: &str) -> Option<RelayRecord> {
        let json: Option<String> =
            self.store.query(redis::cmd("GET").arg(record_key("mail", relay)), LIMIT).await.expect("an answer");
        json.map(|json| serde_json::from_str(&json).expect("a record"))
    }

    pub fn status(&self, relay: &str) -> MailRelayStatus {
        let object = self.api.get("mailrelays", &format!("mail/{relay}")).unwrap_or_default();
        serde_json::from_value(object["status"].clone()).unwrap_or_default()
    }

    /// Status, reason and message of a condition; empty when it is not there.
    pub fn says(&self, relay: &str, kind: &str) -> (String, String, String) {
        let found = self.status(relay).conditions.into_iter().find(|condition| condition.type_ == kind);
        found.map_or_else(Default::default, |c| (c.status, c.reason, c.message))
    }

    /// Waits until a condition has this status and reason; returns its message.
    pub async fn until(&self, relay: &str, kind: &str, status: &str, reason: &str) -> String {
        eventually(&format!("{kind} of {relay} is {status} for {reason}"), async || {
            let found = self.says(relay, kind);
            if (&*found.0, &*found.1) == (status, reason) { Ok(found.2) } else { Err(format!("{found:?}")) }
        })
        .await
    }

    /// Registers a worker of a pod in a pool as the protocol has it.
    pub async fn register(&self, pool: &str, pod: &str) -> Worker {
        let ledger = LedgerStore::new(self.store.clone(), pool);
        let (request, _) = register(&ledger, pod).await;
        Worker { ledger, request }
    }

    /// What Redis says of itself.
    pub async fn info(&self, section: &str) -> String {
        self.store.query(redis::cmd("INFO").arg(section), LIMIT).await.expect("an answer")
    }

    /// A text in Redis.
    pub async fn get(&self, key: &str) -> String {
        self.store.query(redis::cmd("GET").arg(key), LIMIT).await.expect("a text")
    }

    /// Sends a command to Redis.
    pub async fn redis(&self, words: &[&str]) {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        let _: redis::Value = self.store.query(&command, LIMIT).await.expect("done");
    }
}

impl Drop for House {
    fn drop(&mut self) {
        if let Some(controller) = self.controller.take() {
            controller.abort();
        }
    }
}

/// A worker as its ledger knows it.
pub struct Worker {
    ledger: LedgerStore,
    request: SyncRequest,
}

impl Worker {
    /// One SYNC; what it may claim.
    pub async fn renew(&mut self) -> u32 {
        let reply = self.ledger.sync(&self.request, LIMIT).await.expect("an answer");
        let SyncReply::Ok(granted) = reply else { panic!("{reply:?}") };
        self.request.seq += 1;
        self.request.need = 0;
        granted.claim
    }

    /// The process that holds the mail.
    pub fn process(&self) -> &str {
        &self.request.process
    }

    /// Renews for as long as `until` takes.
    pub async fn alive_while<T>(&mut self, until: impl Future<Output = T>) -> T {
        let mut until = std::pin::pin!(until);
        loop {
            tokio::select! {
                done = &mut until => return done,
                () = tokio::time::sleep(Duration::from_millis(500)) => drop(self.renew().await),
            }
        }
    }
}

/// Seconds that passed.
pub fn seconds_since(start: Instant) -> f64 {
    start.elapsed().as_secs_f64()
}
