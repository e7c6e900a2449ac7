//! What the tests share.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeSet, time::Duration};

use mailrelay::{
    lease::{LedgerStore, Policy, SyncRequest, Twins},
    store::{Store, StoreOptions},
};

use super::RedisServer;

pub const LIMIT: Duration = Duration::from_secs(5);

pub fn store(redis: &RedisServer) -> Store {
    Store::new(&StoreOptions::from_url(redis.url())).expect("options")
}

pub fn shares(revision: u64, pods: &[&str]) -> Policy {
    let entitlements = pods.iter().map(|pod| ((*pod).to_owned(), 4)).collect();
    let lease = Duration::from_secs(6);
    Policy { epoch: 1, revision, budget: 4, lease, entitlements, servers: BTreeSet::new() }
}

pub fn process(pod: &str, process: &str, generation: u64, seq: u64) -> SyncRequest {
    SyncRequest {
        token: "t".into(),
        inc: format!("{process}.1"),
        pod_uid: pod.into(),
        pod: format!("mail/{pod}"),
        process: process.into(),
        boot_id: "boot".into(),
        generation,
        seq,
        need: 0,
        want: 2,
        open: 0,
        busy: 0,
        hold: Duration::from_secs(330),
        seen: 0,
        quarantine: Vec::new(),
        accounts: Vec::new(),
    }
}

pub async fn redis_is_empty(redis: &RedisServer) {
    store(redis).query::<String>(redis::cmd("FLUSHALL").arg("SYNC"), LIMIT).await.unwrap();
}

/// The version that the ledger's twin tells a leader that looks at no more than that.
pub async fn twin(ledger: &LedgerStore) -> Option<u64> {
    Twins::look(ledger.store(), &[ledger.pool()]).await.unwrap().versions[0]
}
