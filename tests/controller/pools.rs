//! A pool is opened, follows its plan, and goes when nobody names it.

use std::time::Duration;

use mailrelay::{
    api::DurationText,
    controller::{Happening, Incident, Standing},
    lease::{BootTime, LedgerState, LedgerStore},
};

use super::support::{LIMIT, Leader, POOL, bench, pool_plan, register, register_any, shares};

#[tokio::test]
async fn a_pool_that_never_was_opens_at_once_but_only_after_its_mark() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a", "b", "c"]);
    let driven = leader.drive(Some(&plan), false).await.expect("a turn");
    assert!(driven.wants_mark);
    assert_eq!(driven.snapshot.in_force().expect("a ledger").state, LedgerState::Rec);
    let driven = leader.drive(Some(&plan), true).await.expect("a turn");
    let ledger = driven.snapshot.in_force().expect("a ledger");
    assert_eq!((ledger.state, ledger.budget, ledger.epoch), (LedgerState::Open, 16, 1));
    assert_eq!(ledger.entitlements, shares(&[("a", 6), ("b", 5), ("c", 5)]));
    assert!(!driven.wants_mark);
    assert_eq!(leader.incidents, [Incident { pool: POOL.into(), what: Happening::Opened }]);
}

#[tokio::test]
async fn a_mark_without_a_ledger_means_that_someone_may_hold_slots() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a"]);
    let begun = BootTime::now();
    leader.drive(Some(&plan), true).await.expect("a turn");
    leader.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert!(BootTime::now().saturating_since(begun) >= leader.timing.reclaim);
}

#[tokio::test]
async fn shares_follow_the_plan_and_nothing_is_written_twice() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let two = pool_plan(&["a", "b"]);
    assert_eq!(leader.open(&two).await.entitlements, shares(&[("a", 8), ("b", 8)]));
    let four = pool_plan(&["a", "b", "c", "d"]);
    let moved = leader.drive_until(Some(&four), |ledger| ledger.entitlements.len() == 4).await;
    assert!(moved.entitlements.values().all(|share| *share == 4));
    let again = leader.drive(Some(&four), true).await.expect("a turn");
    assert_eq!(again.snapshot.in_force().map(|ledger| ledger.revision), Some(moved.revision));
}

#[tokio::test]
async fn a_silent_worker_loses_its_slots_to_quarantine_and_they_come_back() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let mut plan = pool_plan(&["a", "b"]);
    plan.session_timeout = DurationText::from_secs(1);
    leader.open(&plan).await;
    let inc = register(&bench.store, "a").await;
    let seen = leader.drive_until(Some(&plan), |ledger| ledger.holder(&inc).is_some()).await;
    assert_eq!(seen.claimed(), 8);
    let reaped = leader.drive_until(Some(&plan), |ledger| ledger.holders.is_empty()).await;
    assert_eq!(reaped.quarantined(), 8);
    assert!(leader.incidents.iter().any(|incident| matches!(
        &incident.what,
        Happening::WorkerLost { pod, slots: 8, hold } if pod == "mail/a" && *hold == Duration::from_secs(2)
    )));
    let free = leader.drive_until(Some(&plan), |ledger| ledger.quarantine.is_empty()).await;
    assert_eq!(free.entitlements.get("a"), Some(&0), "its share is for those that live");
    assert_eq!(register_any(&bench.store, "a").await.1, 0, "nothing before its share is back");
    leader.drive_until(Some(&plan), |ledger| ledger.entitlements.get("a") == Some(&8)).await;
}

#[tokio::test]
async fn a_pool_that_nobody_names_goes_when_nothing_is_left_on_it() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    leader.open(&pool_plan(&["a"])).await;
    let inc = register(&bench.store, "a").await;
    let driven = leader.drive(None, true).await.expect("a turn");
    let ledger = driven.snapshot.in_force().expect("the ledger stays while a worker claims slots");
    assert!(ledger.entitlements.is_empty() && ledger.claimed() > 0 && !driven.removed);
    let store = LedgerStore::new(bench.store.clone(), POOL);
    store.leave(&ledger.token, &inc, 2).await.expect("a clean end");
    assert!(leader.drive(None, true).await.expect("a turn").removed);
    let keys: Vec<String> = bench.store.query(redis::cmd("KEYS").arg("mailrelay:*"), LIMIT).await.expect("keys");
    assert_eq!(keys, Vec::<String>::new());
}

#[tokio::test]
async fn a_pool_of_which_nothing_is_known_waits_when_its_workers_ran_before() {
    let bench = bench();
    let mut leader = Leader::new(&bench, 1);
    let plan = pool_plan(&["a"]);
    leader.pool.stand(Standing::default(), true);
    let begun = BootTime::now();
    leader.drive(Some(&plan), false).await.expect("a turn");
    leader.drive_until(Some(&plan), |ledger| ledger.state == LedgerState::Open).await;
    assert!(BootTime::now().saturating_since(begun) >= leader.timing.reclaim);
}
