//! Ledgers that come back: after a restart, as an older copy, or lost while somebody knows more of them.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use mailrelay::lease::{
    CondemnReply, InitReply, InitRequest, Ledger, LedgerStore, OpenRequest, SyncReply, SyncRequest, Twins, Wait,
};
use testkit::Persistence;

use super::{
    RedisServer,
    compared::{both, duplicate, opened, restore, synced},
    operations::{Back, Generator, Operation},
    support::{LIMIT, process, redis_is_empty, shares, store, twin},
};

#[tokio::test]
async fn a_ledger_that_a_restart_brought_back_is_not_in_force_until_a_leader_says_so() {
    let mut redis = RedisServer::start(Persistence::Always);
    let ledger = LedgerStore::new(store(&redis), "smtp.example.com");
    let mut generator = Generator::new(1);
    let mut init = |fence: &str| {
        let Operation::Init(mut request) = generator.init(&Ledger::new(fence)) else { unreachable!() };
        request.fence = fence.to_owned();
        request.policy.epoch = 7;
        request
    };
    let before = ledger.snapshot().await.unwrap();
    assert_eq!(ledger.init(&init(&before.node_fence)).await.unwrap(), InitReply::Ok);
    assert!(ledger.snapshot().await.unwrap().in_force().is_some());
    redis.crash();
    redis.resume();
    let after = loop {
        // The first call after a crash finds the broken connection.
        if let Ok(snapshot) = ledger.snapshot().await {
            break snapshot;
        }
    };
    assert_ne!(after.node_fence, before.node_fence, "another run has another id");
    assert!(after.ledger.is_some() && after.in_force().is_none());
    let policy = init(&before.node_fence).policy;
    assert_eq!(format!("{:?}", ledger.policy(&policy).await.unwrap()), "Wait(Fence)");
    assert_eq!(format!("{:?}", ledger.init(&init(&before.node_fence)).await.unwrap()), "Wait(Fence)", "a late INIT");
    assert_eq!(ledger.init(&init(&after.node_fence)).await.unwrap(), InitReply::Ok);
    assert!(ledger.snapshot().await.unwrap().in_force().is_some());
}

#[tokio::test]
async fn an_older_copy_of_the_ledger_is_noticed_by_whoever_was_granted_later() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let SyncReply::Ok(first) = synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await else { panic!() };
    let old = machine.view.clone();
    duplicate(&store, store.key(), "copy").await;
    let other = SyncRequest { seen: first.version, ..process("uid-b", "q", 1, 1) };
    let SyncReply::Ok(later) = synced(&store, &mut machine, &other).await else { panic!() };
    assert!(later.version > first.version);

    restore(&store, "copy", Back::Machine).await;
    machine.twin = old.as_ref().map(|old| old.version);
    machine.view = old;
    let known = SyncRequest { seen: first.version, ..process("uid-a", "p", 1, 2) };
    assert!(matches!(machine.clone().sync(&known), SyncReply::Ok(_)), "who heard no more than the copy can't know");
    // With an old token too: a copy from before the last recovery.
    let next = SyncRequest { seen: later.version, token: "older".into(), ..process("uid-b", "q", 1, 2) };
    assert_eq!(synced(&store, &mut machine, &next).await, SyncReply::Wait(Wait::Fence));
    assert_eq!(synced(&store, &mut machine, &known).await, SyncReply::Wait(Wait::Fence), "it is lost for all");
    let lost = machine.view.clone().unwrap();
    assert_eq!((&*lost.fence, lost.version), ("lost", later.version));

    // The leader makes a new one, which no one takes for an older copy.
    let fence = machine.node_fence.clone();
    let request =
        InitRequest { fence, token: "t2".into(), policy: shares(2, &["uid-a"]), quarantine: Vec::new(), version: 0 };
    both(&store, &mut machine, &Operation::Init(request)).await;
    assert!(machine.view.as_ref().unwrap().version > later.version);
    let again = SyncRequest { token: "t2".into(), ..next };
    assert!(matches!(synced(&store, &mut machine, &again).await, SyncReply::Ok(_)));
}

#[tokio::test]
async fn an_older_copy_of_the_ledger_is_known_by_its_twin_whoever_asks() {
    let redis = RedisServer::start(Persistence::Off);
    let token = || "t".to_owned();
    let operations = [
        Operation::Sync(process("uid-b", "q", 1, 1)),
        Operation::Sync(process("uid-a", "p", 1, 2)),
        Operation::Policy(shares(2, &["uid-b"])),
        Operation::Reap { token: token(), inc: "p.1".into(), seq: None, quarantine: LIMIT },
        Operation::Leave { token: token(), inc: "p.1".into(), seq: 9 },
        Operation::Clear { token: token(), ids: vec!["x".into()] },
        Operation::Open(OpenRequest { epoch: 1, token: token(), missing: Vec::new() }),
        Operation::Condemn(0),
    ];
    for operation in operations {
        // The copy alone, and together with its twin; a moment old, so that a version may have been heard or not.
        for back in [Back::Alone, Back::Together] {
            redis_is_empty(&redis).await;
            let (store, mut machine) = opened(&redis).await;
            synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await;
            let old = machine.view.clone();
            duplicate(&store, store.key(), "copy").await;
            synced(&store, &mut machine, &SyncRequest { want: 4, ..process("uid-a", "p", 1, 2) }).await;
            restore(&store, "copy", back).await;
            machine.view = old;
            machine.twin = machine.twin.filter(|_| back == Back::Alone);
            assert_eq!(both(&store, &mut machine, &operation).await, "Wait(Fence)", "{operation:?}, {back:?}");
        }
    }
}

#[tokio::test]
async fn a_leader_that_saw_more_than_the_ledger_has_condemns_it() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let version = machine.view.as_ref().unwrap().version;
    assert_eq!(store.condemn(version).await.unwrap(), CondemnReply::Current);
    assert!(store.snapshot().await.unwrap().in_force().is_some());
    both(&store, &mut machine, &Operation::Condemn(version + 1)).await;
    assert!(store.snapshot().await.unwrap().in_force().is_none());
}

#[tokio::test]
async fn workers_that_saw_more_of_a_lost_ledger_than_the_leader_take_the_new_one_for_newer() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let looked = machine.view.as_ref().unwrap().version;
    let mut seen = 0;
    for seq in 1..20 {
        let request = SyncRequest { seen, ..process("uid-a", "p", 1, seq) };
        let SyncReply::Ok(granted) = synced(&store, &mut machine, &request).await else { panic!() };
        seen = granted.version;
    }
    store.store().query::<u64>(redis::cmd("DEL").arg(store.key()), LIMIT).await.unwrap();
    machine.view = None;
    let fence = machine.node_fence.clone();
    let policy = shares(2, &["uid-a"]);
    let request = InitRequest { fence, token: "t".into(), policy, quarantine: Vec::new(), version: looked };
    both(&store, &mut machine, &Operation::Init(request)).await;
    let request = SyncRequest { seen, need: 2, ..process("uid-a", "p", 1, 20) };
    assert!(matches!(synced(&store, &mut machine, &request).await, SyncReply::Ok(_)));
}

#[tokio::test]
async fn a_ledger_found_lost_says_so_in_its_twin_and_its_copy_is_lost_as_often_as_it_comes_back() {
    let redis = RedisServer::start(Persistence::Off);
    for first in [Back::Alone, Back::Together] {
        redis_is_empty(&redis).await;
        let (store, mut machine) = opened(&redis).await;
        synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await;
        let old = machine.view.clone();
        duplicate(&store, store.key(), "copy").await;
        synced(&store, &mut machine, &process("uid-a", "p", 1, 2)).await;
        assert_eq!(twin(&store).await, machine.view.as_ref().map(|view| view.version));
        restore(&store, "copy", first).await;
        machine.view.clone_from(&old);
        machine.twin = machine.twin.filter(|_| first == Back::Alone);
        for _ in 0..2 {
            assert_eq!(both(&store, &mut machine, &Operation::Condemn(0)).await, "Wait(Fence)", "{first:?}");
            assert_eq!(twin(&store).await, None);
            restore(&store, "copy", Back::Alone).await;
            machine.view.clone_from(&old);
        }
        // As an older release made it, it was of force without a twin, and has one again from its next change on.
        store.store().query::<u64>(redis::cmd("HDEL").arg(store.key()).arg("twinned"), LIMIT).await.unwrap();
        machine.view.as_mut().unwrap().twinned = false;
        let reply = synced(&store, &mut machine, &process("uid-a", "p", 1, 3)).await;
        assert!(matches!(reply, SyncReply::Ok(_)), "{reply:?}");
        assert_eq!(twin(&store).await, machine.view.as_ref().map(|view| view.version));
    }
}

#[tokio::test]
async fn a_ledger_that_is_gone_is_told_though_its_twin_is_there() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, _) = opened(&redis).await;
    let looked = async || Twins::look(store.store(), &[store.pool()]).await.unwrap();
    assert_eq!(looked().await.node_fence, store.snapshot().await.unwrap().node_fence);
    assert!(looked().await.versions[0].is_some());
    store.store().query::<u64>(redis::cmd("DEL").arg(store.key()), LIMIT).await.unwrap();
    assert_eq!(looked().await.versions[0], None);
}
