//! The controller's writes, against a real Redis; no Kubernetes is needed.

mod registration;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mailrelay::{
    api::{DurationText, MailRelay, RelayRecord, Retention, record_key},
    controller::{
        ApplyError, Candidate, Deposed, Driven, Expired, Happening, Incident, Ownership, Plan, Pool, PoolPlan, Records,
        RelayKey, Safety, Standing, StoreFacts, Topology, Turn, ask, discard_expired, highest_epoch, judge,
        keep_records, mirror, plan,
    },
    lease::{BootTime, CondemnReply, Evidence, LedgerState, LedgerStore, LedgerView, OldPrimary, Timing, Wait},
    mail::UnixMillis,
    queue::{Queue, QueueNames},
    store::{Store, StoreOptions},
};
use serde_json::json;
use testkit::{Persistence, RedisServer};

const POOL: &str = "mx.example.com";
const LIMIT: Duration = Duration::from_secs(5);

/// A Redis of the test's own, and how to talk to it.
struct Bench {
    redis: RedisServer,
    store: Store,
}

impl Bench {
    /// Another connection.
    fn connect(&self) -> Store {
        Store::new(&StoreOptions::from_url(self.redis.url())).expect("a store")
    }
}

fn bench() -> Bench {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("a store");
    Bench { redis, store }
}

fn servers() -> BTreeSet<String> {
    ["mx.example.com:587".to_owned(), "relay:mail/corporate/primary".to_owned()].into()
}

fn pool_plan(members: &[&str]) -> PoolPlan {
    PoolPlan {
        budget: 16,
        members: members.iter().map(ToString::to_string).collect(),
        session_timeout: DurationText::from_secs(300),
        close_grace: DurationText::new(Duration::from_millis(500)),
        rate_limits: Vec::new(),
        servers: servers(),
    }
}

/// Times that a test can wait for. Nothing here holds a socket, so their relations do not matter.
fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(300),
        reclaim: Duration::from_millis(600),
        drain_margin: Duration::from_secs(1),
        ..Timing::default()
    }
}

struct Leader {
    pool: Pool,
    epoch: u64,
    timing: Timing,
    evidence: Evidence,
    topology: Topology,
    incidents: Vec<Incident>,
}

impl Leader {
    fn new(bench: &Bench, epoch: u64) -> Self {
        Self::at(bench.store.clone(), epoch)
    }

    fn at(store: Store, epoch: u64) -> Self {
        Self::of(store, POOL, epoch)
    }

    fn of(store: Store, pool: &str, epoch: u64) -> Self {
        let (pool, topology) = (Pool::new(store, pool), Topology::of_a_single_node());
        Self { pool, epoch, timing: timing(), evidence: Evidence::default(), topology, incidents: Vec::new() }
    }

    async fn drive(&mut self, plan: Option<&PoolPlan>, marked: bool) -> Result<Driven, ApplyError> {
        let Self { pool, epoch, timing, evidence, topology, incidents } = self;
        let turn = Turn { epoch: *epoch, timing, evidence, topology };
        pool.drive(plan, marked, &turn, incidents).await
    }

    /// Drives as the loop does until the ledger is as wanted.
    async fn drive_until(&mut self, plan: Option<&PoolPlan>, wanted: impl Fn(&LedgerView) -> bool) -> LedgerView {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let driven = self.drive(plan, true).await.expect("a turn");
            if let Some(ledger) = driven.snapshot.in_force().filter(|ledger| wanted(ledger)) {
                return ledger.clone();
            }
            assert!(tokio::time::Instant::now() < deadline, "still not as wanted: {:?}", driven.snapshot);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Opens a pool that never was open.
    async fn open(&mut self, plan: &PoolPlan) -> LedgerView {
        assert!(self.drive(Some(plan), false).await.expect("a turn").wants_mark);
        let driven = self.drive(Some(plan), true).await.expect("a turn");
        driven.snapshot.in_force().expect("a ledger").clone()
    }
}

fn shares(of: &[(&str, u32)]) -> BTreeMap<String, u32> {
    of.iter().map(|(uid, share)| ((*uid).to_owned(), *share)).collect()
}

/// Registers a worker as the protocol has it, and has it claim its share. Returns its incarnation.
async fn register(store: &Store, pod_uid: &str) -> String {
    let (inc, claim) = register_any(store, pod_uid).await;
    assert!(claim > 0);
    inc
}

/// The same for one that may have no share: its incarnation, and what it could claim.
async fn register_any(store: &Store, pod_uid: &str) -> (String, u32) {
    let (request, claim) = registration::register(&LedgerStore::new(store.clone(), POOL), pod_uid).await;
    (request.inc, claim)
}

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

#[tokio::test]
async fn a_leader_that_was_replaced_changes_nothing_and_hears_of_it() {
    let bench = bench();
    let plan = pool_plan(&["a"]);
    let mut old = Leader::new(&bench, 1);
    old.open(&plan).await;
    let mut new = Leader::new(&bench, 2);
    new.drive(Some(&plan), true).await.expect("a turn of the new leader");
    let more = pool_plan(&["a", "b"]);
    assert!(matches!(old.drive(Some(&more), true).await, Err(ApplyError::Deposed(_))));
    let look = LedgerStore::new(bench.store.clone(), POOL).snapshot().await.expect("a look");
    let ledger = look.in_force().expect("the ledger").clone();
    assert_eq!((ledger.epoch, ledger.entitlements), (2, shares(&[("a", 16)])));
}

/// The entries of the ledger's log, each as its fields in order.
async fn log(store: &Store) -> Vec<Vec<String>> {
    let mut command = redis::cmd("XRANGE");
    command.arg(format!("mailrelay:{{{POOL}}}:log")).arg("-").arg("+");
    let entries: Vec<(String, Vec<String>)> = store.query(&command, LIMIT).await.expect("the log");
    entries.into_iter().map(|(_, fields)| fields).collect()
}

/// Two controllers believe that they lead. The older one has looked at the ledger and is about to write, as if it had been
/// stopped just then, when what the newer one writes arrives. Returns how the older one's turn ends.
async fn overtaken(bench: &Bench, old: &mut Leader, plan: &PoolPlan) -> Result<Driven, ApplyError> {
    // Redis keeps writes back, and does them afterwards in the order in which they came; looks are answered. What follows
    // on the same connection waits, too, so that each needs its own.
    let admin = bench.connect();
    let client =
        async |words: &[&str]| admin.query::<String>(redis::cmd("CLIENT").arg(words), LIMIT).await.expect("an answer");
    let kept_back = async |count: usize| {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            let clients = client(&["LIST"]).await;
            if clients.lines().filter(|client| client.contains(" flags=b")).count() == count {
                return;
            }
            assert!(tokio::time::Instant::now() < deadline, "not {count} writes are kept back: {clients}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    // A script that Redis does not know yet would come again, and later.
    let mut warm = Leader { pool: Pool::new(bench.connect(), "warm"), ..Leader::at(bench.connect(), 1) };
    warm.open(&pool_plan(&["a"])).await;
    warm.drive_until(Some(&pool_plan(&["b"])), |ledger| ledger.entitlements.contains_key("b")).await;
    client(&["PAUSE", "20000", "WRITE"]).await;
    let mut newer = Leader::at(bench.connect(), 2);
    let (newer, older, ()) = tokio::join!(
        newer.drive(Some(plan), true),
        async {
            kept_back(1).await;
            old.drive(Some(plan), true).await
        },
        async {
            kept_back(2).await;
            client(&["UNPAUSE"]).await;
        }
    );
    newer.expect("the newer leader's writes are taken");
    older
}

#[tokio::test]
async fn writes_of_a_leader_that_was_replaced_after_its_look_are_refused_and_recorded() {
    for what in ["policy", "init", "open"] {
        let bench = bench();
        let (mut old, plan) = (Leader::new(&bench, 1), pool_plan(&["a"]));
        let mut next = plan.clone();
        match what {
            "policy" => {
                old.open(&plan).await;
                next = pool_plan(&["a", "b"]);
            }
            // In recovery; it opens as soon as the mark is there.
            "open" => drop(old.drive(Some(&plan), false).await.expect("a turn")),
            _ => {}
        }
        let error = overtaken(&bench, &mut old, &next).await.expect_err("refused");
        let ApplyError::Deposed(deposed) = &error else { panic!("{what}: {error}") };
        assert_eq!((deposed.refused, deposed.ours, deposed.theirs), (Some(what), 1, 2), "{error}");
        assert!(error.to_string().contains(&format!("our {what} was refused")), "{error}");
        let refused = ["op", "refused", "what", what, "epoch", "1", "later", "2"].map(str::to_owned);
        assert_eq!(log(&bench.store).await.iter().filter(|entry| **entry == refused).count(), 1, "{what}");
    }
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

fn relay_plan(generation: i64) -> (RelayKey, Plan) {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": { "name": "corporate", "namespace": "mail", "uid": "u", "generation": generation },
        "spec": { "servers": [{ "name": "primary", "host": POOL }] },
    });
    let relay = Candidate { relay: Arc::new(serde_json::from_value(relay).expect("a relay")), objection: None };
    (RelayKey { namespace: "mail".into(), name: "corporate".into() }, plan(&[relay], &[], false, &Ownership::default()))
}

async fn published(store: &Store) -> Option<RelayRecord> {
    let json: Option<String> =
        store.query(redis::cmd("GET").arg(record_key("mail", "corporate")), LIMIT).await.expect("an answer");
    json.map(|json| serde_json::from_str(&json).expect("a record"))
}

#[tokio::test]
async fn a_record_is_published_once_and_again_only_when_it_changed_or_was_lost() {
    let bench = bench();
    let (timing, evidence, topology) = (timing(), Evidence::default(), Topology::of_a_single_node());
    let turn = Turn { epoch: 4, timing: &timing, evidence: &evidence, topology: &topology };
    let mut records = Records::default();
    let (key, first) = relay_plan(1);
    for _ in 0..2 {
        records.publish(&bench.store, &key, &first.relays[&key], &turn).await.expect("published");
        let record = published(&bench.store).await.expect("a record");
        assert_eq!((record.epoch, record.revision, record.generation), (4, 1, 1));
    }
    assert!(records.is_current(&key, &first.relays[&key]));
    let (_, second) = relay_plan(2);
    assert!(!records.is_current(&key, &second.relays[&key]));
    records.publish(&bench.store, &key, &second.relays[&key], &turn).await.expect("published");
    assert_eq!(published(&bench.store).await.map(|record| (record.revision, record.generation)), Some((2, 2)));
    bench.store.query::<()>(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
    records.publish(&bench.store, &key, &second.relays[&key], &turn).await.expect("published");
    assert_eq!(published(&bench.store).await.map(|record| record.revision), Some(2));
    // Another relay that shares the budget has a more patient server: the spec is the same, and the holds are not.
    let mut patient = second.relays[&key].clone();
    patient.published.servers[0].session_timeout = DurationText::from_secs(1200);
    assert!(!records.is_current(&key, &patient));
    records.publish(&bench.store, &key, &patient, &turn).await.expect("published");
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
    Records::default().publish(&bench.store, &key, relay, &turn(5)).await.expect("published");
    let mut old = Records::default();
    let is_refused = |end| matches!(end, Err(ApplyError::Deposed(Deposed { refused: Some("record"), .. })));
    assert!(is_refused(old.publish(&bench.store, &key, relay, &turn(4)).await));
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
        before.publish(&bench.store, &key, &plan.relays[&key], &turn).await.expect("published");
    }
    let (key, plan) = relay_plan(3);
    let mut after = Records::default();
    for _ in 0..3 {
        // Though it goes on trying.
        let end = after.publish(&bench.store, &key, &plan.relays[&key], &turn).await;
        assert!(matches!(end, Err(ApplyError::Deposed(Deposed { theirs: 5, ours: 5, .. }))), "{end:?}");
    }
    assert_eq!(published(&bench.store).await.map(|record| record.generation), Some(2));
    assert_eq!(highest_epoch(&bench.store).await.expect("an answer"), 5);
}

fn keeps_letters_for(relay: &MailRelay, retention: Duration) -> Arc<MailRelay> {
    let mut wanted = relay.clone();
    wanted.spec.queue.dead_letter_retention = Retention::For(DurationText::new(retention));
    Arc::new(wanted)
}

#[tokio::test]
async fn dead_letters_go_when_their_retention_is_over_and_not_before() {
    let bench = bench();
    let (key, mut plan) = relay_plan(1);
    let relay = plan.relays.get_mut(&key).expect("planned");
    let queue = Queue::new(bench.store.clone(), QueueNames::from_spec(&relay.relay.spec.queue));
    let _: i64 = bench.store.query(redis::cmd("LPUSH").arg("mail_queue").arg("{"), LIMIT).await.expect("pushed");
    let parked = UnixMillis::now();
    assert_eq!(
        queue.claim("0123456789abcdef0123456789abcdef", "web-0", 1, parked).await.expect("claimed").mails.len(),
        0
    );
    let retention = Duration::from_secs(720 * 3_600);
    let over = parked.after(retention + Duration::from_millis(1));
    let none = Expired::default();
    assert_eq!(discard_expired(&bench.store, relay, over).await.expect("looked"), none, "by default they are kept");
    relay.relay = keeps_letters_for(&relay.relay, retention);
    assert_eq!(discard_expired(&bench.store, relay, parked.after(retention)).await.expect("looked"), none);
    let oldest = retention + Duration::from_millis(1);
    assert_eq!(discard_expired(&bench.store, relay, over).await.expect("looked"), Expired { letters: 1, oldest });
    let audit = queue.audit().await.expect("an audit");
    assert_eq!((audit.dead, audit.discarded, audit.difference), (0, 1, 0));
}

#[tokio::test]
async fn all_who_use_a_queue_are_told_how_long_its_records_are_kept() {
    let bench = bench();
    let (key, plan) = relay_plan(1);
    keep_records(&bench.store, &plan.relays[&key]).await.expect("told");
    let mut ask = redis::cmd("HGET");
    ask.arg("{mail_queue}:counters").arg("retention");
    let told: Option<u64> = bench.store.query(&ask, LIMIT).await.expect("asked");
    assert_eq!(told, Some(86_400_000));
}

#[tokio::test]
async fn an_entry_of_unknown_age_outlives_every_retention() {
    let bench = bench();
    let (key, mut plan) = relay_plan(1);
    let relay = plan.relays.get_mut(&key).expect("planned");
    relay.relay = keeps_letters_for(&relay.relay, Duration::from_secs(60));
    let mut push = redis::cmd("LPUSH");
    let _: i64 = bench.store.query(push.arg("mail_dead_letter_queue").arg("not ours"), LIMIT).await.expect("pushed");
    let discarded = discard_expired(&bench.store, relay, UnixMillis::now()).await.expect("looked");
    let mut count = redis::cmd("LLEN");
    let left: i64 = bench.store.query(count.arg("mail_dead_letter_queue"), LIMIT).await.expect("counted");
    assert_eq!((discarded.letters, left), (0, 1));
}

#[tokio::test]
async fn what_redis_says_of_itself_is_judged() {
    let bench = bench();
    let facts = ask(&bench.store).await.expect("facts");
    assert!(matches!(judge(&facts), Safety::Unsafe { reason: "AofOff", .. }), "{:?}", judge(&facts));
    let durable = RedisServer::start(Persistence::Always);
    let store = Store::new(&StoreOptions::from_url(durable.url())).expect("a store");
    assert_eq!(judge(&ask(&store).await.expect("facts")), Safety::Safe);
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

#[tokio::test]
async fn a_real_promotion_is_seen_and_bounded_only_by_what_the_old_primary_asks_of_its_replicas() {
    let facts = async |server: &RedisServer| {
        let store = Store::new(&StoreOptions::from_url(server.url())).expect("a store");
        let fence = LedgerStore::new(store.clone(), POOL).snapshot().await.expect("a look").node_fence;
        (fence, ask(&store).await.expect("facts"))
    };
    for (least, expected) in [("0", OldPrimary::Unbounded), ("1", OldPrimary::StopsWithin(Duration::from_secs(11)))] {
        let primary = RedisServer::start(Persistence::Off);
        primary.command(&["CONFIG", "SET", "min-replicas-to-write", least]).expect("set");
        let mut topology = Topology::default();
        let (fence, said) = facts(&primary).await;
        topology.learn(&fence, &said);
        assert_eq!(topology.old_primary(&fence), Some(OldPrimary::StopsWithin(Duration::ZERO)), "nothing was before");
        let mut replica = primary.replica(primary.address());
        let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
        while topology_replicas(&facts(&primary).await.1) != "1" {
            assert!(tokio::time::Instant::now() < deadline, "no replica follows");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let (fence, said) = facts(&primary).await;
        topology.learn(&fence, &said);
        replica.promote();
        let (promoted, said) = facts(&replica).await;
        topology.learn(&promoted, &said);
        assert_eq!(topology.old_primary(&promoted), Some(expected), "min-replicas-to-write {least}");
        let mut new_leader = Topology::default();
        new_leader.learn(&promoted, &said);
        assert_eq!(
            new_leader.old_primary(&promoted),
            Some(OldPrimary::Unbounded),
            "it was a replica of who knows whom"
        );
    }
}

fn topology_replicas(facts: &StoreFacts) -> &str {
    facts.info.get("connected_slaves").map_or("", String::as_str)
}
