//! What the ledger's scripts cost Redis with many holders, each beside SYNC with ten.

use std::collections::BTreeMap;

use mailrelay::{
    lease::{LedgerStore, SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use redis::cmd;
use testkit::{Persistence, RedisServer};

use super::{
    LIMIT, ask,
    crowd::{gather, next_process},
};

/// Calls of each kind in a row; so often in turns with the others.
const CALLS: u32 = 100;
const TURNS: u32 = 10;

/// A ledger with so many holders.
struct Crowd {
    ledger: LedgerStore,
    /// The next call of each; the first one renews, the second one registers again and again.
    holders: Vec<SyncRequest>,
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
            super::line(&format!("{what}, {} holders; SYNC, 10", crowd.holders.len()), rate(micros), reference);
        };
        line("SYNC", crowd.syncs);
        line("SYNC that counts anew", crowd.recounts);
        line("registration", crowd.registrations);
    }
}

impl Crowd {
    async fn gather(store: &Store, count: u32) -> Self {
        let (ledger, holders) = gather(store, &format!("pool{count}"), count).await;
        Self { ledger, holders, syncs: 0.0, recounts: 0.0, registrations: 0.0 }
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
            self.holders[1] = next_process(&self.holders[1]);
            sync(&self.ledger, &self.holders[1]).await;
        })
        .await;
    }

    async fn renew(&mut self) {
        sync(&self.ledger, &SyncRequest { need: 1, ..self.holders[0].clone() }).await;
        self.holders[0].seq += 1;
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
