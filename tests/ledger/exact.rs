//! The scripts answer and store exactly what the pure machine does.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, mem};

use mailrelay::{
    lease::{InitReply, Ledger, LedgerStore, pools},
    store::Heard,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redis::Cmd;
use testkit::Persistence;

use super::{
    RedisServer,
    compared::{apply, audited, send, send_as_older},
    operations::{Generator, Operation},
    support::{LIMIT, store, twin},
};

#[tokio::test]
async fn the_ledger_serves_when_memory_is_full() {
    let redis = RedisServer::start(Persistence::Off);
    let ledger = LedgerStore::new(store(&redis), "pool");
    let mut full = Cmd::new();
    full.arg("CONFIG").arg("SET").arg("maxmemory").arg("100kb");
    ledger.store().query::<String>(&full, LIMIT).await.unwrap();
    let mut plain = Cmd::new();
    plain.arg("HSET").arg("other").arg("a").arg("b");
    assert!(ledger.store().query::<u64>(&plain, LIMIT).await.is_err(), "memory is full");
    let fence = ledger.snapshot().await.unwrap().node_fence;
    let Operation::Init(mut request) = Generator::new(1).init(&Ledger::new(&*fence)) else { unreachable!() };
    request.fence = fence;
    assert_eq!(ledger.init(&request).await.unwrap(), InitReply::Ok);
    assert!(ledger.snapshot().await.unwrap().ledger.is_some());
}

#[tokio::test]
async fn the_scripts_answer_and_store_exactly_what_the_pure_machine_does() {
    let redis = RedisServer::start(Persistence::Off);
    let store = store(&redis);
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    let (mut kept, mut recounts) = (0, 0);
    for seed in 0..16 {
        let ledger = LedgerStore::new(store.clone(), &format!("pool{seed}"));
        let mut events = store.subscribe(ledger.channel());
        assert_eq!(events.next().await, Heard::Listening);
        let mut machine = Ledger::new(ledger.snapshot().await.unwrap().node_fence);
        let (mut generator, mut copy) = (Generator::new(seed), None);
        // A release that knows no totals and one that does change the ledger by turns.
        let mut releases = StdRng::seed_from_u64(seed);
        let mut is_current = true;
        for step in 0..500 {
            let operation = generator.next(&machine);
            let (before, twin_before) = (machine.view.clone(), twin(&ledger).await);
            let expected = apply(&mut machine, &mut copy, &operation);
            let is_older = operation.is_script() && releases.random_range(0..10) < 3;
            let answer =
                if is_older { send_as_older(&ledger, &operation).await } else { send(&ledger, &operation).await };
            assert_eq!(answer, expected, "seed {seed} step {step}: {operation:?}");
            assert_eq!(ledger.snapshot().await.unwrap(), machine.snapshot(), "seed {seed} step {step}: {operation:?}");
            // Who looks at the twin alone sees that there is something to look at.
            if operation.is_script() && machine.view != before {
                let twin = twin(&ledger).await;
                assert!(twin.is_none() || twin != twin_before, "seed {seed} step {step}: {operation:?}");
            }
            let was_current = mem::replace(&mut is_current, audited(&ledger).await);
            if operation.is_script() && machine.view != before && machine.snapshot().in_force().is_some() {
                assert_eq!(is_current, !is_older, "seed {seed} step {step}: {operation:?}");
                recounts += u32::from(is_current && !was_current);
            }
            let kind = format!("{operation:?} ").split([' ', '(']).next().unwrap().to_owned();
            let word = expected.split([' ', '(', '{']).next().unwrap().to_owned();
            *answers.entry(format!("{kind} {word}")).or_default() += 1;
        }
        kept += usize::from(machine.view.is_some());
        for told in &machine.told {
            let heard = tokio::time::timeout(LIMIT, events.next()).await.expect("an event");
            assert_eq!(heard, Heard::Message(told.clone()));
        }
    }
    // The generator reached every answer; a comparison that never happened proves nothing.
    let all = [
        "Sync Ok",
        "Sync Wait",
        "Sync Token",
        "Sync Gone",
        "Sync Stale",
        "Sync Register",
        "Leave Ok",
        "Leave Wait",
        "Leave Token",
        "Leave Gone",
        "Leave Stale",
        "Policy Ok",
        "Policy Old",
        "Policy Wait",
        "Reap Ok",
        "Reap Wait",
        "Reap Token",
        "Reap Gone",
        "Reap Stale",
        "Init Ok",
        "Init Old",
        "Init Exists",
        "Init Wait",
        "Open Ok",
        "Open Already",
        "Open Old",
        "Open Wait",
        "Open Token",
        "Clear Ok",
        "Clear Gone",
        "Clear Wait",
        "Clear Token",
        "Condemn Current",
        "Condemn Wait",
        "Restore ",
    ];
    for answer in all {
        assert!(answers.contains_key(answer), "never seen: {answer} in {answers:?}");
    }
    assert!(recounts > 100, "{recounts}");
    assert_eq!(pools(&store).await.unwrap().len(), kept);
}
