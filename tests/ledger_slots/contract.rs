//! Workers share a budget through whichever Redis the module around it names.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use mailrelay::{
    lease::{
        ConnectionTable, Entry, Identity, Inheritance, InitReply, InitRequest, LedgerStore, LedgerView, Left, Note,
        Numbers, OpenReply, OpenRequest, Policy, PolicyReply, Predecessor, ProcessId, Slot, SlotOptions, SlotPool,
        Timing,
    },
    store::{Store, StoreOptions},
};
use testkit::{Persistence, throughout};

use super::RedisServer;

const POOL: &str = "smtp.example.com";
const PATIENCE: Duration = Duration::from_secs(20);

/// A Redis, and the hand of a leader on one pool.
struct Scene {
    redis: RedisServer,
    ledger: LedgerStore,
    revision: u64,
    token: u32,
}

impl Scene {
    async fn open(budget: u32, shares: &[(&str, u32)]) -> Self {
        let redis = RedisServer::start(Persistence::Off);
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
        let mut scene = Self { redis, ledger: LedgerStore::new(store, POOL), revision: 0, token: 0 };
        scene.init(budget, shares).await;
        scene.grant().await;
        scene
    }

    fn policy_of(&mut self, budget: u32, shares: &[(&str, u32)]) -> Policy {
        self.revision += 1;
        let entitlements: BTreeMap<String, u32> = shares.iter().map(|(uid, share)| ((*uid).into(), *share)).collect();
        Policy {
            epoch: 1,
            revision: self.revision,
            budget,
            lease: Timing::default().lease,
            entitlements,
            servers: BTreeSet::new(),
        }
    }

    async fn init(&mut self, budget: u32, shares: &[(&str, u32)]) {
        self.token += 1;
        let policy = self.policy_of(budget, shares);
        let fence = eventually("a snapshot", async || self.ledger.snapshot().await.ok()).await.node_fence;
        // A leader knows about what workers saw.
        let version = u64::from(self.token) << 32;
        let request = InitRequest { fence, token: format!("t{}", self.token), policy, quarantine: Vec::new(), version };
        assert_eq!(self.ledger.init(&request).await.unwrap(), InitReply::Ok);
    }

    async fn grant(&self) {
        let request = OpenRequest { epoch: 1, token: format!("t{}", self.token), missing: Vec::new() };
        assert_eq!(self.ledger.open(&request).await.unwrap(), OpenReply::Ok);
    }

    async fn policy(&mut self, budget: u32, shares: &[(&str, u32)]) {
        let policy = self.policy_of(budget, shares);
        assert_eq!(self.ledger.policy(&policy).await.unwrap(), PolicyReply::Ok);
    }

    fn join(&self, uid: &str) -> SlotPool {
        self.join_with(uid, Timing::default(), SlotOptions::default())
    }

    fn join_with(&self, uid: &str, timing: Timing, options: SlotOptions) -> SlotPool {
        self.join_as(identity(uid), timing, options)
    }

    fn join_as(&self, identity: Identity, timing: Timing, options: SlotOptions) -> SlotPool {
        // A store of its own: workers share no connection.
        let store = Store::new(&StoreOptions::from_url(self.redis.url())).expect("options");
        SlotPool::spawn_with(store, POOL, identity, timing, options)
    }

    async fn view(&self) -> LedgerView {
        Arc::unwrap_or_clone(self.ledger.snapshot().await.unwrap().ledger.expect("a ledger"))
    }

    async fn claim(&self, uid: &str) -> u32 {
        self.view().await.holders.iter().filter(|h| h.pod_uid == uid).map(|h| h.claim).sum()
    }
}

/// A new process of a pod.
fn identity(uid: &str) -> Identity {
    Identity {
        pod_uid: uid.into(),
        pod: format!("pod-{uid}"),
        namespace: "mail".into(),
        process: ProcessId::random(),
        boot_id: "boot".into(),
        numbers: Numbers::default(),
    }
}

/// Waits for a condition, with a limit.
async fn eventually<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn limit(pool: &SlotPool, wanted: u32) {
    let mut watch = pool.watch();
    let outcome = tokio::time::timeout(PATIENCE, watch.wait_for(|status| status.limit == wanted)).await;
    assert!(matches!(outcome, Ok(Ok(_))), "the limit never was {wanted}: {pool:?}");
}

async fn take(pool: &SlotPool, n: usize) -> Vec<Slot> {
    let mut slots = Vec::new();
    for _ in 0..n {
        let slot = tokio::time::timeout(PATIENCE, pool.acquire()).await.unwrap_or_else(|_| panic!("a slot: {pool:?}"));
        slot.connected();
        slots.push(slot);
    }
    slots
}

/// Gives revoked slots back as soon as they are revoked, as a worker with idle sessions does.
fn yielding(slots: Vec<Slot>) {
    for slot in slots {
        tokio::spawn(async move {
            slot.revoked().await;
            slot.release();
        });
    }
}

#[tokio::test]
async fn shares_are_held_and_move_within_milliseconds_when_a_third_pod_joins() {
    let mut scene = Scene::open(16, &[("a", 8), ("b", 8)]).await;
    let (a, b) = (scene.join("a"), scene.join("b"));
    let (of_a, of_b) = (take(&a, 8).await, take(&b, 8).await);
    assert!(a.try_acquire().is_none() && b.try_acquire().is_none(), "the 17th slot");
    let c = scene.join("c");
    eventually("c registers without a share", async || c.status().registered.then_some(())).await;
    assert_eq!(c.status().limit, 0);
    yielding(of_a);
    yielding(of_b);
    let start = Instant::now();
    scene.policy(16, &[("a", 6), ("b", 5), ("c", 5)]).await;
    let of_c = take(&c, 5).await;
    let moved = start.elapsed();
    println!("5 slots moved in {moved:?}");
    assert!(c.try_acquire().is_none());
    limit(&a, 6).await;
    limit(&b, 5).await;
    assert_eq!((a.status().counted, b.status().counted, of_c.len()), (6, 5, 5));
    // Far below a heartbeat: events carry it.
    assert!(moved < Duration::from_millis(700), "{moved:?}");
}

#[tokio::test]
async fn idle_slots_are_revoked_before_busy_ones_and_what_is_needed_stays_counted() {
    let mut scene = Scene::open(16, &[("a", 8), ("b", 8)]).await;
    let (a, b) = (scene.join("a"), scene.join("b"));
    let slots = take(&a, 8).await;
    for slot in &slots[..6] {
        slot.set_busy(true);
    }
    scene.policy(8, &[("a", 4), ("b", 4)]).await;
    limit(&a, 4).await;
    let revoked: Vec<bool> = slots.iter().map(Slot::is_revoked).collect();
    assert!(revoked[6] && revoked[7], "the idle ones go first: {revoked:?}");
    assert_eq!(revoked.iter().filter(|r| **r).count(), 4);
    assert_eq!(scene.claim("a").await, 8, "what is open is counted");
    eventually("b registers", async || b.status().registered.then_some(())).await;
    assert_eq!(b.status().limit, 0, "nothing is free while a needs all");
    assert!(a.try_acquire().is_none());
    let (revoked, _kept): (Vec<_>, Vec<_>) = slots.into_iter().partition(Slot::is_revoked);
    revoked.into_iter().for_each(Slot::release);
    limit(&b, 4).await;
    assert_eq!(scene.claim("a").await, 4);
}

#[tokio::test]
async fn a_pod_that_leaves_gives_its_slots_to_the_others_at_once() {
    let scene = Scene::open(8, &[("a", 8), ("b", 8)]).await;
    let a = scene.join("a");
    limit(&a, 8).await;
    let slots = take(&a, 3).await;
    let b = scene.join("b");
    eventually("b registers", async || b.status().registered.then_some(())).await;
    assert_eq!(b.status().limit, 0);
    let leaving = tokio::spawn(a.shutdown());
    eventually("the slots are revoked", async || slots.iter().all(Slot::is_revoked).then_some(())).await;
    limit(&b, 5).await;
    assert!(!leaving.is_finished(), "three slots still count");
    slots.into_iter().for_each(Slot::release);
    tokio::time::timeout(PATIENCE, leaving).await.expect("shutdown ends").unwrap();
    assert_eq!(scene.claim("a").await, 0);
    assert!(scene.view().await.holders.iter().all(|h| h.pod_uid != "a"), "it left");
    limit(&b, 8).await;
}

#[tokio::test]
async fn a_slot_that_ended_uncleanly_stays_counted_until_its_time_is_over() {
    let scene = Scene::open(2, &[("a", 2), ("b", 2)]).await;
    let a = scene.join("a");
    let mut slots = take(&a, 2).await;
    let b = scene.join("b");
    eventually("b registers", async || b.status().registered.then_some(())).await;
    a.set_want(1);
    slots.pop().expect("two").quarantine("no-eof", Duration::from_secs(1));
    let start = Instant::now();
    let entry = eventually("the quarantine", async || scene.view().await.quarantine.first().cloned()).await;
    assert_eq!((entry.slots, entry.seconds, entry.why.as_str()), (1, 1, "no-eof"));
    assert_eq!(scene.claim("a").await, 1);
    assert_eq!(b.status().limit, 0, "it is nobody's");
    // No leader here: the workers end it.
    let _slot = take(&b, 1).await;
    assert!(start.elapsed() >= Duration::from_millis(1250), "{:?}", start.elapsed());
    assert!(scene.view().await.quarantine.is_empty());
}

#[tokio::test]
async fn a_slot_that_is_dropped_goes_into_quarantine_for_the_session_timeout() {
    let scene = Scene::open(2, &[("a", 2)]).await;
    let a = scene.join("a");
    a.set_hold(Duration::from_secs(77));
    drop(take(&a, 1).await);
    let entry = eventually("the quarantine", async || scene.view().await.quarantine.first().cloned()).await;
    assert_eq!((entry.slots, entry.seconds, entry.why.as_str()), (1, 107, "dropped"));
    limit(&a, 1).await;
}

#[tokio::test]
async fn a_slot_whose_end_is_seen_after_all_is_free_at_once() {
    let scene = Scene::open(2, &[("a", 2), ("b", 2)]).await;
    let a = scene.join("a");
    let mut slots = take(&a, 2).await;
    let b = scene.join("b");
    eventually("b registers", async || b.status().registered.then_some(())).await;
    a.set_want(0);
    let withheld = slots.pop().expect("two").withhold("no-eof");
    let entry = eventually("the quarantine", async || scene.view().await.quarantine.first().cloned()).await;
    assert_eq!((entry.seconds, &*entry.id), (330, withheld.id()));
    let start = Instant::now();
    withheld.prove();
    let _of_b = take(&b, 1).await;
    // Before the ledger can have heard of it.
    slots.pop().expect("one").withhold("no-eof").prove();
    let _more_of_b = take(&b, 1).await;
    // Far below a heartbeat.
    assert!(start.elapsed() < Duration::from_millis(700), "{:?}", start.elapsed());
    eventually("no quarantine", async || scene.view().await.quarantine.is_empty().then_some(())).await;
}

#[tokio::test]
async fn what_an_older_process_left_is_withheld_by_connection_and_free_when_proven() {
    let scene = Scene::open(4, &[("a", 4)]).await;
    let old = identity("a");
    let (first, options) =
        (scene.join_as(old.clone(), Timing::default(), SlotOptions::default()), SlotOptions::default());
    let slots = take(&first, 4).await;
    let hold = Duration::from_secs(300);
    let unproven = [1, 2].map(|slot| (Left::id_of(old.process.as_str(), slot), hold));
    let inheritance = Inheritance { accounts: vec![old.process.to_string()], unproven: unproven.to_vec() };
    let new = scene.join_with("a", Timing::default(), SlotOptions { inheritance, ..options });
    limit(&new, 2).await;
    assert_eq!(scene.view().await.quarantined(), 2);
    new.prove(&unproven[0].0);
    limit(&new, 3).await;
    let left = scene.view().await.quarantine;
    assert_eq!(left.iter().map(|entry| &entry.id).collect::<Vec<_>>(), [&unproven[1].0]);
    drop(slots);
}

/// What was written down, and taken off again.
#[derive(Debug, Default)]
struct Table(Mutex<(u32, Vec<String>)>);

impl Table {
    fn write(&self, what: String) {
        self.0.lock().unwrap().1.push(what);
    }

    fn notes(&self) -> Vec<String> {
        self.0.lock().unwrap().1.clone()
    }
}

impl ConnectionTable for Table {
    fn begin(&self, _: &ProcessId) -> std::io::Result<()> {
        Ok(())
    }

    fn reserve(&self, pool: &str, slot: u64) -> Option<Entry> {
        let number = {
            let mut inner = self.0.lock().unwrap();
            inner.0 += 1;
            inner.0
        };
        self.write(format!("{number} {pool}"));
        // The third has no room.
        (number < 3).then_some(Entry { line: number, slot })
    }

    fn connected(&self, entry: Entry, local: SocketAddr, remote: SocketAddr) {
        self.write(format!("{} {local} {remote}", entry.line));
    }

    fn note(&self, note: Note) {
        self.write(match note {
            Note::Ended(entry) => format!("{} ended", entry.line),
            Note::Withheld(entry, _) => format!("{} withheld", entry.line),
        });
    }

    fn predecessors(&self) -> std::io::Result<Vec<Predecessor>> {
        Ok(Vec::new())
    }
}

#[tokio::test]
async fn connections_are_written_down_before_they_are_opened_and_until_their_end_was_seen() {
    let scene = Scene::open(4, &[("a", 4)]).await;
    let table = Arc::new(Table::default());
    let options = SlotOptions { table: Some(table.clone()), ..SlotOptions::default() };
    let a = scene.join_with("a", Timing::default(), options);
    let slots = take(&a, 3).await;
    let lines: Vec<_> = slots.iter().map(|slot| slot.entry().map(|entry| entry.line)).collect();
    assert_eq!(lines, [Some(1), Some(2), None]);
    slots[1].note_connected(([10, 0, 0, 1], 4000).into(), ([10, 0, 0, 2], 25).into());
    slots[2].note_connected(([10, 0, 0, 1], 4001).into(), ([10, 0, 0, 2], 25).into());
    let mut slots = slots.into_iter();
    let ended = slots.next().expect("three");
    ended.note_ended();
    assert_eq!(table.notes().last(), Some(&"1 ended".to_owned()), "its end was seen, and it still counts");
    assert_eq!(a.status().counted, 3);
    ended.release();
    let withheld = slots.next().expect("three").withhold("no-eof");
    drop(slots);
    eventually("the ledger withholds both", async || (scene.view().await.quarantined() == 2).then_some(())).await;
    assert_eq!(table.notes().last(), Some(&"2 withheld".to_owned()), "also when the ledger has it: it may be lost");
    withheld.prove();
    let expected = ["1 ", "2 ", "3 "].map(|n| format!("{n}{POOL}")).into_iter();
    let expected =
        expected.chain(["2 10.0.0.1:4000 10.0.0.2:25", "1 ended", "2 withheld", "2 ended"].map(str::to_owned));
    // Once and not again: the entry may be another slot's by then.
    assert_eq!(table.notes(), expected.collect::<Vec<_>>());
}

#[tokio::test]
async fn an_older_copy_of_the_ledger_grants_nothing_and_sessions_go_on_in_the_next_one() {
    let mut scene = Scene::open(4, &[("a", 4)]).await;
    let a = scene.join("a");
    limit(&a, 4).await;
    let store = scene.ledger.store().clone();
    let copy: Vec<String> = store.query(redis::cmd("HGETALL").arg(scene.ledger.key()), PATIENCE).await.unwrap();
    let slots = take(&a, 2).await;
    let before = a.status().deadline;
    eventually("a renewal", async || (a.status().deadline > before).then_some(())).await;
    let mut bring_back = redis::cmd("HSET");
    store.query::<u64>(bring_back.arg(scene.ledger.key()).arg(copy), PATIENCE).await.unwrap();
    eventually("it is noticed", async || scene.ledger.snapshot().await.unwrap().in_force().is_none().then_some(()))
        .await;
    scene.init(4, &[("a", 4)]).await;
    eventually("a re-asserts", async || (scene.claim("a").await == 2).then_some(())).await;
    assert!(slots.iter().all(Slot::may_start));
    scene.grant().await;
    limit(&a, 4).await;
}

#[tokio::test]
async fn a_new_process_of_a_pod_takes_over_and_the_old_ones_slots_are_withheld() {
    let scene = Scene::open(4, &[("a", 4)]).await;
    let options = || SlotOptions { hold: Duration::from_secs(1), ..SlotOptions::default() };
    let timing = Timing { drain_margin: Duration::ZERO, ..Timing::default() };
    let old = scene.join_with("a", timing, options());
    let slots = take(&old, 4).await;
    let new = scene.join_with("a", timing, options());
    eventually("the new process registers", async || new.status().registered.then_some(())).await;
    assert_eq!(scene.view().await.quarantined(), 4);
    eventually("the old one hears that it is gone", async || slots[0].is_revoked().then_some(())).await;
    assert!(old.try_acquire().is_none());
    limit(&new, 4).await;
    drop(slots);
}

#[tokio::test]
async fn without_redis_the_limit_falls_to_nothing_at_the_deadline_and_comes_back_with_it() {
    let mut scene = Scene::open(4, &[("a", 4)]).await;
    let a = scene.join("a");
    let mut slots = take(&a, 2).await;
    scene.redis.crash();
    let expired = slots[0].expired();
    tokio::time::timeout(PATIENCE, expired).await.expect("the lease ends");
    let status = a.status();
    assert!(!slots[0].may_start() && !slots[0].may_commit());
    let early = status.deadline.expect("a deadline").saturating_since(mailrelay::lease::BootTime::now());
    assert!(early > Duration::from_millis(50) && early <= Duration::from_millis(250), "250 ms before: {early:?}");
    limit(&a, 0).await;
    assert!(slots.iter().all(Slot::is_revoked) && a.try_acquire().is_none());
    scene.redis.resume();
    scene.init(4, &[("a", 4)]).await;
    scene.grant().await;
    // R3: no new incarnation while an old socket is not accounted for.
    slots.pop().expect("two").release();
    throughout(Duration::from_millis(600), "not registered", async || {
        let (status, view) = (a.status(), scene.view().await);
        if !status.registered && view.holders.is_empty() { Ok(()) } else { Err(format!("{status:?} {view:?}")) }
    })
    .await;
    slots.pop().expect("one").release();
    let _slots = take(&a, 4).await;
}

#[tokio::test]
async fn live_sessions_go_on_through_a_restart_of_redis_and_are_counted_again() {
    let mut scene = Scene::open(8, &[("a", 4), ("b", 4)]).await;
    let (a, b) = (scene.join("a"), scene.join("b"));
    let (of_a, of_b) = (take(&a, 3).await, take(&b, 4).await);
    scene.redis.crash();
    scene.redis.resume();
    scene.init(8, &[("a", 4), ("b", 4)]).await;
    eventually("both re-assert", async || {
        let view = scene.view().await;
        (view.holders.len() == 2 && view.claimed() == 7).then_some(())
    })
    .await;
    eventually("a knows", async || a.status().recovering.then_some(())).await;
    assert!(a.try_acquire().is_none(), "nothing grows in recovery");
    assert!(of_a.iter().chain(&of_b).all(Slot::may_start), "live sessions go on");
    scene.grant().await;
    let _fourth = take(&a, 1).await;
    assert_eq!(scene.view().await.claimed(), 8);
}

#[tokio::test]
async fn a_stopped_redis_costs_no_session_within_the_lease() {
    let scene = Scene::open(4, &[("a", 4)]).await;
    let a = scene.join("a");
    let slots = take(&a, 2).await;
    scene.redis.pause();
    throughout(Duration::from_secs(3), "sessions go on", async || {
        if slots.iter().all(Slot::may_start) { Ok(()) } else { Err(format!("{:?}", a.status())) }
    })
    .await;
    scene.redis.unpause();
    let before = a.status().deadline;
    eventually("a renewal", async || (a.status().deadline > before).then_some(())).await;
    assert!(slots.iter().all(Slot::may_start));
    let _more = take(&a, 2).await;
}
