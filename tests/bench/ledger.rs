//! What the ledger's scripts cost Redis with many holders, each beside SYNC with ten.

use std::{collections::BTreeMap, time::Duration};

use mailrelay::{
    lease::{InitReply, InitRequest, LedgerStore, OpenReply, OpenRequest, Policy, SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use redis::cmd;
use testkit::{Persistence, RedisServer};

use super::{LIMIT, ask};

/// Calls of each kind in a row; so often in turns with the others.
const CALLS: u32 = 100;
const TURNS: u32 = 10;

/// A ledger with so many holders.
struct Crowd {
    holders: u32,
    ledger: LedgerStore,
    /// The last seq of the one that calls, and the last generation of the pod that registers.
    seq: u64,
    generation: u64,
    /// Microseconds in Redis.
    syncs: f64,
    recounts: f64,
    registrations: f64,
}

/// The time is what Redis itself measured, without the way there and back.
pub async fn run() {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
    let mut crowds = Vec::new();
    for holders in [10, 100, 1_000] {
        crowds.push(Crowd::gather(&store, holders).await);
    }
    for _ in 0..TURNS {
        for crowd in &mut crowds {
            crowd.measure(&redis).await;
        }
    }
    let rate = |micros: f64| f64::from(CALLS * TURNS) * 1e6 / micros;
    let reference = rate(crowds[0].syncs);
    for crowd in &crowds {
        let line = |what: &str, micros: f64| {
            super::line(&format!("{what}, {} holders; SYNC, 10", crowd.holders), rate(micros), reference);
        };
        line("SYNC", crowd.syncs);
        line("SYNC that counts anew", crowd.recounts);
        line("registration", crowd.registrations);
    }
}

fn process(number: u32) -> SyncRequest {
    SyncRequest {
        token: "t".into(),
        inc: format!("{number:032x}.1"),
        pod_uid: format!("00000000-0000-4000-8000-{number:012x}"),
        pod: format!("mail/app-{number}"),
        process: format!("{number:032x}"),
        boot_id: "00000000-0000-4000-8000-000000000000".into(),
        generation: 1,
        seq: 1,
        need: 0,
        want: 1,
        open: 1,
        busy: 0,
        hold: Duration::from_secs(330),
        seen: 0,
        quarantine: Vec::new(),
        accounts: Vec::new(),
    }
}

impl Crowd {
    async fn gather(store: &Store, holders: u32) -> Self {
        let ledger = LedgerStore::new(store.clone(), &format!("pool{holders}"));
        let policy = Policy {
            epoch: 1,
            revision: 1,
            budget: holders,
            lease: Duration::from_secs(6),
            entitlements: (0..holders).map(|number| (process(number).pod_uid, 1)).collect(),
            servers: ["mx.example.com:25".to_owned()].into(),
        };
        let fence = ledger.snapshot().await.expect("a look").node_fence;
        let request = InitRequest { fence, token: "t".into(), policy, quarantine: Vec::new(), version: 0 };
        assert_eq!(ledger.init(&request).await.expect("made"), InitReply::Ok);
        let request = OpenRequest { epoch: 1, token: "t".into(), missing: Vec::new() };
        assert_eq!(ledger.open(&request).await.expect("opened"), OpenReply::Ok);
        for number in 0..holders {
            sync(&ledger, &process(number)).await;
        }
        Self { holders, ledger, seq: 1, generation: 1, syncs: 0.0, recounts: 0.0, registrations: 0.0 }
    }

    async fn measure(&mut self, redis: &RedisServer) {
        self.syncs += micros(redis, async || self.renew().await).await;
        self.recounts += micros(redis, async || {
            let mut command = cmd("HSET");
            let _: u64 = ask(self.ledger.store(), command.arg(self.ledger.key()).arg("counted").arg("0")).await;
            self.renew().await;
        })
        .await;
        self.registrations += micros(redis, async || {
            self.generation += 1;
            let inc = format!("{:032x}.{}", 1, self.generation);
            sync(&self.ledger, &SyncRequest { inc, generation: self.generation, ..process(1) }).await;
        })
        .await;
    }

    async fn renew(&mut self) {
        self.seq += 1;
        sync(&self.ledger, &SyncRequest { seq: self.seq, need: 1, ..process(0) }).await;
    }
}

async fn sync(ledger: &LedgerStore, request: &SyncRequest) {
    let reply = ledger.sync(request, LIMIT).await.expect("an answer");
    assert!(matches!(reply, SyncReply::Ok(granted) if granted.claim == 1), "one slot for each");
}

/// How long Redis was in scripts during these calls.
async fn micros(redis: &RedisServer, mut call: impl AsyncFnMut()) -> f64 {
    redis.command(&["CONFIG", "RESETSTAT"]).expect("forgotten");
    for _ in 0..CALLS {
        call().await;
    }
    let info = redis.command(&["INFO", "commandstats"]).expect("INFO");
    let spent: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.trim().split_once(":calls=")).collect();
    let of_scripts = spent["cmdstat_evalsha"].split(',').find_map(|word| word.strip_prefix("usec="));
    of_scripts.and_then(|micros| micros.parse().ok()).expect("a figure")
}
