//! What the leader does when Redis lost the ledger, or brings back an older one.

use std::{collections::BTreeMap, time::Duration};

use mailrelay::{
    api::DurationText,
    controller::{ApplyError, Happening, mirror},
    lease::{BootTime, CondemnReply, LedgerState, LedgerStore, LedgerView, Wait},
};
use serde_json::json;

use super::support::{LIMIT, Leader, POOL, bench, pool_plan, register, shares, timing};

#[tokio::test]
async fn a_lost_ledger_comes_back_with_the_same_shares_after_the_reclaim_time() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a", "b", "c"]);
    // The remainder went to `c` once; a new division from nothing would give it to `a`.
    let _ = leader.open(&pool_plan(&["c"])).await;
    let before = leader.drive_until(Some(&plan), |ledger| ledger.entitlements.len() == 3).await;
    assert_eq!(before.entitlements["c"], 6);
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    let driven = leader.drive(Some(&plan), true).await.expect("a turn");
    let new = driven.snapshot.in_force().expect("a new ledger");
    assert_eq!((new.state, &new.entitlements), (LedgerState::Rec, &before.entitlements));
    assert_ne!(new.token, before.token);
    let begun = BootTime::now();
    leader.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert!(BootTime::now().saturating_since(begun) >= leader.timing.reclaim.mul_f64(0.8));
    assert!(leader.incidents.iter().any(|incident| incident.what == Happening::RecoveryStarted));
}

/// Two workers die without a word, the first one long before; then Redis loses the ledger, and the leader dies with it. The
/// next leader has only the status. Returns its ledger once it is open.
async fn after_losing_ledger_and_leader(status_survives: bool) -> LedgerView {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a", "b"]);
    leader.open(&plan).await;
    register(&bench.store, "a").await;
    let silent = leader.drive_until(Some(&plan), |ledger| ledger.quarantined() == 8).await;
    assert_eq!(silent.quarantine[0].seconds, 301);
    let inc = register(&bench.store, "b").await;
    leader.drive_until(Some(&plan), |ledger| ledger.holder(&inc).is_some()).await;
    let shown = mirror::show(POOL, &leader.pool.mirror(&timing()), &BTreeMap::new(), None, jiff::Timestamp::now());
    let relay = json!({ "spec": {}, "status": { "leases": [shown] } });
    drop(leader);
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");

    let mut next = Leader::new(&bench, 2);
    if status_survives {
        next.pool.restore(&mirror::read(mirror::leases(&relay))[POOL]);
    }
    let plan = pool_plan(&["c"]);
    let begun = BootTime::now();
    let opened = next.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert!(BootTime::now().saturating_since(begun) >= next.timing.reclaim, "never by roll call");
    opened
}

#[tokio::test]
async fn a_new_leader_that_finds_the_ledger_lost_withholds_what_the_status_tells() {
    let ledger = after_losing_ledger_and_leader(true).await;
    // The server may still count all sixteen sessions.
    let withheld: Vec<_> = ledger.quarantine.iter().map(|entry| (entry.slots, entry.seconds, &*entry.why)).collect();
    assert!(ledger.quarantined() >= ledger.budget, "{withheld:?}");
    // The second had the share of the first, too, so it may have used what became free after this was written down.
    assert!(withheld.contains(&(8, 301, "silent")) && withheld.contains(&(16, 301, "missing")), "{withheld:?}");
    // Without the status all of them would be granted again: that is what the mirror is for.
    assert_eq!(after_losing_ledger_and_leader(false).await.quarantine, []);
}

#[tokio::test]
async fn a_pool_that_the_status_knows_was_open_whatever_became_of_its_mark() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a"]);
    leader.open(&plan).await;
    let mirror = leader.pool.mirror(&timing());
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    let mut next = Leader::new(&bench, 2);
    next.pool.restore(&mirror);
    let begun = BootTime::now();
    assert!(next.drive(Some(&plan), false).await.expect("a turn").wants_mark);
    next.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert!(BootTime::now().saturating_since(begun) >= next.timing.reclaim);
}

#[tokio::test]
async fn a_lost_pool_that_nobody_names_is_kept_until_nobody_can_hold_its_slots() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let mut plan = pool_plan(&["a"]);
    plan.session_timeout = DurationText::new(Duration::from_secs(1));
    leader.open(&plan).await;
    let inc = register(&bench.store, "a").await;
    leader.drive_until(Some(&plan), |ledger| ledger.holder(&inc).is_some()).await;
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    // The relay is deleted in the same moment. Its worker may still be connected.
    let ledger = leader.drive_until(None, |ledger| ledger.quarantined() == 16).await;
    assert_eq!((ledger.state, ledger.quarantine[0].seconds), (LedgerState::Open, 2));
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while !leader.drive(None, true).await.expect("a turn").removed {
        assert!(tokio::time::Instant::now() < deadline, "still kept");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_redis_that_is_down_is_an_error_and_no_reason_to_forget() {
    let mut bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a"]);
    leader.open(&plan).await;
    bench.redis.crash();
    assert!(matches!(leader.drive(Some(&plan), true).await, Err(ApplyError::Store(_))));
    bench.redis.resume();
    let back = leader.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert_eq!(back.entitlements, shares(&[("a", 16)]));
}

#[tokio::test]
async fn a_ledger_that_was_restored_in_place_is_lost_for_the_leader() {
    restore_in_place(&["ledger"]).await;
}

#[tokio::test]
async fn a_ledger_that_was_restored_in_place_with_its_twin_is_lost_for_the_leader() {
    restore_in_place(&["ledger", "twin"]).await;
}

/// Brings these keys of the pool back as they were before a worker came, by DUMP and RESTORE.
async fn restore_in_place(keys: &[&str]) {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a", "b"]);
    leader.open(&plan).await;
    let mut dumps: Vec<(String, Vec<u8>)> = Vec::new();
    for key in keys.iter().map(|key| format!("mailrelay:{{{POOL}}}:{key}")) {
        let dump = bench.store.query(redis::cmd("DUMP").arg(&key), LIMIT).await.expect("a dump");
        dumps.push((key, dump));
    }
    let inc = register(&bench.store, "a").await;
    let before = leader.drive_until(Some(&plan), |ledger| ledger.holder(&inc).is_some()).await;
    for (key, dump) in dumps {
        let mut restore = redis::cmd("RESTORE");
        restore.arg(key).arg(0).arg(dump).arg("REPLACE");
        let _: String = bench.store.query(&restore, LIMIT).await.expect("restored");
    }
    // Whoever asks, even without having heard of anything newer.
    let asked = LedgerStore::new(bench.store.clone(), POOL).condemn(0).await.expect("an answer");
    assert_eq!(asked, CondemnReply::Wait(Wait::Fence));
    let driven = leader.drive(Some(&plan), true).await.expect("a turn");
    let new = driven.snapshot.in_force().expect("a new ledger");
    assert_eq!((new.state, new.holders.len()), (LedgerState::Rec, 0));
    assert!(new.token != before.token && new.version > before.version);
    // Who held slots and does not come back is withheld, though the copy did not know it.
    leader.evidence.never_started.insert("b".into());
    let opened = leader.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert_eq!(opened.quarantined(), 8);
}

#[tokio::test]
async fn a_pool_that_was_open_and_is_named_no_more_is_made_anew_when_its_ledger_is_lost() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let driven = leader.drive(None, true).await.expect("a turn");
    assert_eq!(driven.snapshot.in_force().map(|ledger| ledger.state), Some(LedgerState::Rec), "anyone may hold slots");
    let begun = BootTime::now();
    while !leader.drive(None, true).await.expect("a turn").removed {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(BootTime::now().saturating_since(begun) >= leader.timing.reclaim.mul_f64(0.8));
    assert!(leader.drive(None, false).await.expect("a turn").removed, "never open: nobody can");
}
