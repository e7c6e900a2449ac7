//! Processes that come, are silent, and follow each other.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::time::Duration;

use mailrelay::lease::{InitRequest, Quarantine, SaturationRecord, SyncReply, SyncRequest};
use testkit::Persistence;

use super::{
    RedisServer,
    compared::{both, opened, synced},
    operations::Operation,
    support::{process, redis_is_empty, shares},
};

#[tokio::test]
async fn mails_are_counted_while_the_servers_saturation_is_on_record() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, _) = opened(&redis).await;
    store.count_good(3).await.unwrap();
    assert_eq!(store.saturation().await.unwrap(), None);
    let record = SaturationRecord { effective: 4, good: 10 };
    store.record_saturation(Some(record)).await.unwrap();
    for _ in 0..2 {
        store.count_good(3).await.unwrap();
    }
    assert_eq!(store.saturation().await.unwrap(), Some((record, 6)));
    assert!(store.snapshot().await.unwrap().in_force().is_some());
}

#[tokio::test]
async fn a_late_first_call_at_or_below_the_floor_evicts_no_one() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    synced(&store, &mut machine, &process("uid-a", "p1", 1, 1)).await;
    // The container is down: its process left, and while it has no share its last generation is forgotten.
    both(&store, &mut machine, &Operation::Leave { token: "t".into(), inc: "p1.1".into(), seq: 2 }).await;
    both(&store, &mut machine, &Operation::Policy(shares(2, &["uid-b"]))).await;
    assert_eq!(machine.view.as_ref().unwrap().floor, 1);
    both(&store, &mut machine, &Operation::Policy(shares(3, &["uid-a", "uid-b"]))).await;
    let asked = synced(&store, &mut machine, &process("uid-a", "p3", 0, 0)).await;
    assert_eq!(asked, SyncReply::Register { last: 1 });
    assert!(matches!(synced(&store, &mut machine, &process("uid-a", "p3", 2, 1)).await, SyncReply::Ok(_)));
    // What a process of long ago, or one that died while it registered, sent for the generations that it was told.
    for (late, generation) in [("p0", 1), ("p2", 2)] {
        let reply = synced(&store, &mut machine, &process("uid-a", late, generation, 1)).await;
        assert!(matches!(reply, SyncReply::Gone | SyncReply::Register { last: 2 }), "{late} {reply:?}");
    }
    let late = synced(&store, &mut machine, &process("uid-c", "p4", 1, 1)).await;
    assert_eq!(late, SyncReply::Register { last: 1 }, "of a pod that the ledger never knew too");
    assert!(machine.view.as_ref().unwrap().holder("p3.1").is_some());
    // A new ledger forgets all generations, so all are below its floor; who holds slots re-asserts nevertheless.
    let fence = machine.node_fence.clone();
    let (policy, stale) = (shares(4, &["uid-a"]), Operation::Stale);
    both(&store, &mut machine, &stale).await;
    let request = InitRequest { fence, token: "t".into(), policy, quarantine: Vec::new(), version: 0 };
    both(&store, &mut machine, &Operation::Init(request)).await;
    assert_eq!(machine.view.as_ref().unwrap().floor, 2);
    let first = synced(&store, &mut machine, &process("uid-a", "p2", 2, 1)).await;
    assert_eq!(first, SyncReply::Register { last: 2 });
    let living = SyncRequest { need: 2, ..process("uid-a", "p3", 2, 9) };
    assert!(matches!(synced(&store, &mut machine, &living).await, SyncReply::Ok(_)));
}

#[tokio::test]
async fn the_next_process_of_a_pod_frees_what_it_accounts_for_and_withholds_the_rest() {
    let redis = RedisServer::start(Persistence::Off);
    for (accounts, unproven, freed, withheld) in [
        (vec!["p1"], 0, 2, vec![]),
        (vec!["p0", "p1"], 1, 1, vec![("p1/t4.1", 1, 330)]),
        (vec!["p0"], 0, 0, vec![("p1.1.1", 2, 330)]),
        (vec![], 1, 0, vec![("p1.1.1", 2, 330), ("p1/t4.1", 1, 330)]),
    ] {
        redis_is_empty(&redis).await;
        let (store, mut machine) = opened(&redis).await;
        let SyncReply::Ok(granted) = synced(&store, &mut machine, &process("uid-a", "p1", 1, 1)).await else {
            panic!()
        };
        assert_eq!(granted.claim, 2);
        let left = Quarantine { id: "p1/t4.1".into(), slots: 1, seconds: 330, why: "died".into() };
        let next = SyncRequest {
            accounts: accounts.into_iter().map(str::to_owned).collect(),
            quarantine: vec![left; unproven],
            want: 4,
            // Another boot says nothing that death does not.
            boot_id: "another".into(),
            ..process("uid-a", "p2", 2, 1)
        };
        let SyncReply::Ok(granted) = synced(&store, &mut machine, &next).await else { panic!() };
        let expected: Vec<_> =
            withheld.iter().map(|(id, slots, seconds)| ((*id).to_owned(), *slots, *seconds)).collect();
        let quarantine = granted.quarantine.iter().map(|q| (q.id.clone(), q.slots, q.seconds)).collect::<Vec<_>>();
        assert_eq!(quarantine, expected);
        let sum: u32 = granted.quarantine.iter().map(|q| q.slots).sum();
        assert_eq!((granted.claim, sum.min(2)), (4 - sum, 2 - freed));
    }
}

#[tokio::test]
async fn what_was_withheld_for_a_silent_process_is_free_when_it_or_its_successor_accounts_for_it() {
    let redis = RedisServer::start(Persistence::Off);
    for (process_back, accounts, freed) in
        [("p1", vec![], 2), ("p2", vec!["p1"], 2), ("p2", vec!["p0"], 0), ("p2", vec![], 0)]
    {
        redis_is_empty(&redis).await;
        let (store, mut machine) = opened(&redis).await;
        synced(&store, &mut machine, &process("uid-a", "p1", 1, 1)).await;
        let reap = Operation::Reap {
            token: "t".into(),
            inc: "p1.1".into(),
            seq: Some(1),
            quarantine: Duration::from_secs(330),
        };
        both(&store, &mut machine, &reap).await;
        let back = SyncRequest {
            inc: format!("{process_back}.2"),
            accounts: accounts.into_iter().map(str::to_owned).collect(),
            ..process("uid-a", process_back, 2, 1)
        };
        let SyncReply::Ok(granted) = synced(&store, &mut machine, &back).await else { panic!() };
        let withheld: u32 = granted.quarantine.iter().map(|entry| entry.slots).sum();
        assert_eq!((granted.claim, withheld), (2.min(4 - withheld), 2 - freed));
    }
}

#[tokio::test]
async fn a_pool_whose_quarantine_is_carried_elsewhere_can_be_removed() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let leaving = SyncRequest {
        quarantine: vec![Quarantine { id: "p/7".into(), slots: 1, seconds: 330, why: "no-eof".into() }],
        ..process("uid-a", "p", 1, 1)
    };
    synced(&store, &mut machine, &leaving).await;
    both(&store, &mut machine, &Operation::Policy(shares(2, &[]))).await;
    assert!(!store.remove_unused(machine.view.as_ref().unwrap(), true).await.unwrap(), "it has a holder");
    both(&store, &mut machine, &Operation::Leave { token: "t".into(), inc: "p.1".into(), seq: 2 }).await;
    assert!(!store.remove_unused(machine.view.as_ref().unwrap(), false).await.unwrap());
    assert!(store.remove_unused(machine.view.as_ref().unwrap(), true).await.unwrap());
    assert!(store.snapshot().await.unwrap().ledger.is_none());
}
