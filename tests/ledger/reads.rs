//! What SYNC reads, counted by Redis.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, time::Duration};

use mailrelay::{
    lease::{InitReply, InitRequest, LedgerStore, OpenReply, OpenRequest, Policy, SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use testkit::{Persistence, RedisServer};

const LIMIT: Duration = Duration::from_secs(5);

/// The next call of this process, in its generation.
fn process(number: u32, generation: u64, seq: u64) -> SyncRequest {
    SyncRequest {
        token: "t".into(),
        inc: format!("p{number}.{generation}"),
        pod_uid: format!("uid-{number}"),
        pod: format!("mail/app-{number}"),
        process: format!("p{number}"),
        boot_id: "boot".into(),
        generation,
        seq,
        need: 0,
        want: 1,
        open: 0,
        busy: 0,
        hold: Duration::from_secs(330),
        seen: 0,
        quarantine: Vec::new(),
        accounts: Vec::new(),
    }
}

/// How often Redis did each command, in one call of a process among so many that goes on, and in one that registers again.
async fn commands(holders: u32) -> [BTreeMap<String, u64>; 2] {
    let redis = RedisServer::start(Persistence::Off);
    let ledger = LedgerStore::new(Store::new(&StoreOptions::from_url(redis.url())).unwrap(), "pool");
    let sync = async |request: &SyncRequest| {
        let reply = ledger.sync(request, LIMIT).await.unwrap();
        assert!(matches!(reply, SyncReply::Ok(granted) if granted.claim == 1));
    };
    let policy = Policy {
        epoch: 1,
        revision: 1,
        budget: holders,
        lease: Duration::from_secs(6),
        entitlements: (0..holders).map(|number| (process(number, 1, 1).pod_uid, 1)).collect(),
        servers: ["mx:25".to_owned()].into(),
    };
    let fence = ledger.snapshot().await.unwrap().node_fence;
    let init = InitRequest { fence, token: "t".into(), policy, quarantine: Vec::new(), version: 0 };
    assert_eq!(ledger.init(&init).await.unwrap(), InitReply::Ok);
    let open = OpenRequest { epoch: 1, token: "t".into(), missing: Vec::new() };
    assert_eq!(ledger.open(&open).await.unwrap(), OpenReply::Ok);
    for number in 0..holders {
        sync(&process(number, 1, 1)).await;
    }
    let counted = async |request: &SyncRequest| {
        redis.command(&["CONFIG", "RESETSTAT"]).unwrap();
        sync(request).await;
        let info = redis.command(&["INFO", "commandstats"]).unwrap();
        let calls = |line: &str| {
            let (command, figures) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((command.to_owned(), figures.split(',').next()?.parse().ok()?))
        };
        info.lines().filter_map(calls).collect()
    };
    [counted(&process(0, 1, 2)).await, counted(&process(0, 2, 1)).await]
}

#[tokio::test]
async fn sync_reads_as_much_among_many_as_among_few() {
    let few = commands(2).await;
    assert_eq!(commands(50).await, few);
    for commands in few {
        assert!(commands["hmget"] > 0, "{commands:?}");
        // The number of calls says nothing of one that reads all.
        assert!(["hgetall", "hkeys", "hvals", "hscan"].iter().all(|all| !commands.contains_key(*all)), "{commands:?}");
    }
}
