//! The records that workers follow.

use mailrelay::{
    api::{DurationText, RelayRecord, record_key},
    controller::{ApplyError, Deposed, Records, RelayKey, RelayPlan, Topology, Turn, highest_epoch},
    lease::Evidence,
    store::Store,
};

use super::support::{LIMIT, bench, relay_plan, timing};

async fn published(store: &Store) -> Option<RelayRecord> {
    let json: Option<String> =
        store.query(redis::cmd("GET").arg(record_key("mail", "corporate")), LIMIT).await.expect("an answer");
    json.map(|json| serde_json::from_str(&json).expect("a record"))
}

async fn publish(
    records: &mut Records,
    store: &Store,
    relay: (&RelayKey, &RelayPlan),
    turn: &Turn<'_>,
) -> Result<(), ApplyError> {
    records.publish(store, &[relay], turn).await.remove(0).1
}

#[tokio::test]
async fn a_record_is_published_once_and_again_only_when_it_changed_or_was_lost() {
    let bench = bench();
    let (timing, evidence, topology) = (timing(), Evidence::default(), Topology::of_a_single_node());
    let turn = Turn { epoch: 4, timing: &timing, evidence: &evidence, topology: &topology };
    let mut records = Records::default();
    let (key, first) = relay_plan(1);
    for _ in 0..2 {
        publish(&mut records, &bench.store, (&key, &first.relays[&key]), &turn).await.expect("published");
        let record = published(&bench.store).await.expect("a record");
        assert_eq!((record.epoch, record.revision, record.generation), (4, 1, 1));
    }
    assert!(records.is_current(&key, &first.relays[&key]));
    let (_, second) = relay_plan(2);
    assert!(!records.is_current(&key, &second.relays[&key]));
    publish(&mut records, &bench.store, (&key, &second.relays[&key]), &turn).await.expect("published");
    assert_eq!(published(&bench.store).await.map(|record| (record.revision, record.generation)), Some((2, 2)));
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    publish(&mut records, &bench.store, (&key, &second.relays[&key]), &turn).await.expect("published");
    assert_eq!(published(&bench.store).await.map(|record| record.revision), Some(2));
    // Another relay that shares the budget has a more patient server: the spec is the same, and the holds are not.
    let mut patient = second.relays[&key].clone();
    patient.published.servers[0].session_timeout = DurationText::from_secs(1200);
    assert!(!records.is_current(&key, &patient));
    publish(&mut records, &bench.store, (&key, &patient), &turn).await.expect("published");
    let record = published(&bench.store).await.expect("a record");
    assert_eq!((record.revision, record.spec.servers[0].session_timeout), (3, DurationText::from_secs(1200)));
}

#[tokio::test]
async fn an_older_leader_neither_replaces_nor_removes_a_record() {
    let bench = bench();
    let (timing, evidence, topology) = (timing(), Evidence::default(), Topology::of_a_single_node());
    let turn = |epoch| Turn { epoch, timing: &timing, evidence: &evidence, topology: &topology };
    let (key, plan) = relay_plan(1);
    let relay = &plan.relays[&key];
    publish(&mut Records::default(), &bench.store, (&key, relay), &turn(5)).await.expect("published");
    let mut old = Records::default();
    let is_refused = |end| matches!(end, Err(ApplyError::Deposed(Deposed { refused: Some("record"), .. })));
    assert!(is_refused(publish(&mut old, &bench.store, (&key, relay), &turn(4)).await));
    assert!(is_refused(old.withdraw(&bench.store, &key, &turn(4)).await));
    assert_eq!(published(&bench.store).await.map(|record| record.epoch), Some(5));
    Records::default().withdraw(&bench.store, &key, &turn(6)).await.expect("withdrawn");
    assert_eq!(published(&bench.store).await, None);
}

/// Simulation, seed 16048: the epoch and the ledgers were deleted, so a new leader began with the epoch of the one before,
/// and its records counted as late ones of that.
#[tokio::test]
async fn an_epoch_that_was_led_before_is_noticed_and_not_led_again() {
    let bench = bench();
    let (timing, evidence, topology) = (timing(), Evidence::default(), Topology::of_a_single_node());
    let turn = Turn { epoch: 5, timing: &timing, evidence: &evidence, topology: &topology };
    assert_eq!(highest_epoch(&bench.store).await.expect("an answer"), 0);
    let mut before = Records::default();
    for generation in [1, 2] {
        let (key, plan) = relay_plan(generation);
        publish(&mut before, &bench.store, (&key, &plan.relays[&key]), &turn).await.expect("published");
    }
    let (key, plan) = relay_plan(3);
    let mut after = Records::default();
    for _ in 0..3 {
        // Though it goes on trying.
        let end = publish(&mut after, &bench.store, (&key, &plan.relays[&key]), &turn).await;
        assert!(matches!(end, Err(ApplyError::Deposed(Deposed { theirs: 5, ours: 5, .. }))), "{end:?}");
    }
    assert_eq!(published(&bench.store).await.map(|record| record.generation), Some(2));
    assert_eq!(highest_epoch(&bench.store).await.expect("an answer"), 5);
}
