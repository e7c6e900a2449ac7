//! What SYNC reads, counted by Redis.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, time::Duration};

use mailrelay::{
    lease::{SyncReply, SyncRequest},
    store::{Store, StoreOptions},
};
use testkit::{Persistence, RedisServer};

use crate::crowd::{gather, next_process};

const LIMIT: Duration = Duration::from_secs(5);

/// How often Redis did each command, in one call of a process among so many that goes on, and in one that registers again.
async fn commands(holders: u32) -> [BTreeMap<String, u64>; 2] {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).unwrap();
    let (ledger, mut processes) = gather(&store, "pool", holders).await;
    let counted = async |request: &SyncRequest| {
        redis.command(&["CONFIG", "RESETSTAT"]).unwrap();
        let reply = ledger.sync(request, LIMIT).await.unwrap();
        assert!(matches!(reply, SyncReply::Ok(granted) if granted.claim == 1));
        let info = redis.command(&["INFO", "commandstats"]).unwrap();
        let calls = |line: &str| {
            let (command, figures) = line.trim().strip_prefix("cmdstat_")?.split_once(":calls=")?;
            Some((command.to_owned(), figures.split(',').next()?.parse().ok()?))
        };
        info.lines().filter_map(calls).collect()
    };
    let renewing = processes.swap_remove(0);
    [counted(&renewing).await, counted(&next_process(&renewing)).await]
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
