//! One server, one ledger: budgets that are renamed and moved under load, against a real Redis. The leader's pure decisions
//! are in `controller/succession.rs`; here its writes, real slots and lost ledgers come together.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use mailrelay::{
    controller::{Candidate, Known, Lenders, Ownership, Plan, Pool, Topology, Turn, plan, stand},
    lease::{Evidence, Identity, LedgerState, LedgerStore, LedgerView, Mirror, Numbers, ProcessId, SlotPool, Timing},
    store::{Store, StoreOptions},
};
use serde_json::json;
use testkit::{Persistence, RedisServer};
use tokio::{sync::watch, task::JoinHandle, time::Instant};

const LIMIT: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const BUDGET: u32 = 16;
const PODS: [&str; 3] = ["a", "b", "c"];

/// The relay `corporate` with one server: the budget's name, the host, the port.
type Server<'a> = (&'a str, &'a str, u16);

fn planned((budget, host, port): Server<'_>) -> Plan {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": { "name": "corporate", "namespace": "mail", "uid": "u", "generation": 1 },
        "spec": { "servers": [{
            "name": "primary", "host": host, "port": port, "budgetName": budget, "sessionTimeout": "1s",
        }] },
    });
    let relay = Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &Lenders::default());
    let mut plan = plan(&[relay], &[], &Ownership::default(), &Lenders::default());
    for pod in PODS {
        for relay in plan.relays.values_mut() {
            relay.workers.insert(pod.into(), pod.into());
        }
        for pool in plan.pools.values_mut() {
            Arc::make_mut(pool).members.insert(pod.into());
        }
    }
    plan
}

/// A leader's turns over all pools, without an API server.
struct Leader {
    store: Store,
    epoch: u64,
    opened: BTreeSet<String>,
    pools: BTreeMap<String, Pool>,
}

impl Leader {
    fn new(store: &Store, epoch: u64, opened: BTreeSet<String>, mirrors: &BTreeMap<String, Mirror>) -> Self {
        let mut pools = BTreeMap::new();
        for name in opened.iter().chain(mirrors.keys()) {
            let mut pool = Pool::new(store.clone(), name);
            if let Some(mirror) = mirrors.get(name) {
                pool.restore(mirror);
            }
            pools.insert(name.clone(), pool);
        }
        Self { store: store.clone(), epoch, opened, pools }
    }

    fn mirrors(&self) -> BTreeMap<String, Mirror> {
        self.pools.iter().map(|(name, pool)| (name.clone(), pool.mirror(&Timing::default()))).collect()
    }

    async fn turn(&mut self, plan: &Plan) {
        let (timing, evidence, topology) = (Timing::default(), Evidence::default(), Topology::of_a_single_node());
        let timing = Timing { drain_margin: Duration::from_secs(1), ..timing };
        for name in plan.pools.keys() {
            self.pools.entry(name.clone()).or_insert_with(|| Pool::new(self.store.clone(), name));
        }
        let known: BTreeMap<String, Known> = self
            .pools
            .iter()
            .filter_map(|(name, pool)| Some((name.clone(), pool.succession(self.opened.contains(name), &timing)?)))
            .collect();
        let mut standings = stand(plan, &known);
        let turn = Turn { epoch: self.epoch, timing: &timing, evidence: &evidence, topology: &topology };
        let mut gone = Vec::new();
        for (name, pool) in &mut self.pools {
            pool.stand(standings.remove(name).unwrap_or_default(), false);
            let marked = self.opened.contains(name);
            let driven = pool.drive(plan.pools.get(name), marked, &turn, &mut Vec::new()).await.expect("a turn");
            if driven.wants_mark {
                self.opened.insert(name.clone());
            }
            if driven.removed {
                gone.push(name.clone());
            }
        }
        for name in gone {
            self.pools.remove(&name);
            self.opened.remove(&name);
        }
    }
}

/// Workers that use every slot they get, all the time, at the budget that the record names.
struct Workers {
    record: watch::Sender<String>,
    open: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
    tasks: Vec<JoinHandle<()>>,
}

impl Workers {
    fn start(store: &Store, budget: &str) -> Self {
        let (record, follow) = watch::channel(budget.to_owned());
        let mut workers = Self { record, open: Arc::default(), most: Arc::default(), tasks: Vec::new() };
        for pod in PODS {
            let identity = Identity {
                pod_uid: pod.into(),
                pod: pod.into(),
                namespace: "mail".into(),
                process: ProcessId::random(),
                boot_id: "boot".into(),
                numbers: Numbers::default(),
            };
            let (open, most) = (Arc::clone(&workers.open), Arc::clone(&workers.most));
            workers.tasks.push(tokio::spawn(work(store.clone(), identity, follow.clone(), open, most)));
        }
        workers
    }

    fn most(&self) -> u32 {
        self.most.load(Ordering::SeqCst)
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn work(
    store: Store,
    identity: Identity,
    mut record: watch::Receiver<String>,
    open: Arc<AtomicU32>,
    most: Arc<AtomicU32>,
) {
    let mut leaving: BTreeMap<String, JoinHandle<()>> = BTreeMap::new();
    loop {
        let budget = record.borrow_and_update().clone();
        // As the worker does: it leaves a pool while it joins the next one, and joins again what it has left for good.
        if let Some(left) = leaving.remove(&budget) {
            let _ = left.await;
        }
        let pool = SlotPool::spawn(store.clone(), &budget, identity.clone(), Timing::default());
        pool.set_want(BUDGET);
        let stop = tokio_util::sync::CancellationToken::new();
        let mut sessions = tokio::task::JoinSet::new();
        for number in 0..u64::from(BUDGET) {
            let (pool, stop, open, most) = (pool.clone(), stop.clone(), Arc::clone(&open), Arc::clone(&most));
            sessions.spawn(async move {
                while let Some(slot) = stop.run_until_cancelled(pool.acquire()).await {
                    most.fetch_max(open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    // One mail, and then the end of the session, whose EOF is read.
                    tokio::time::sleep(Duration::from_millis(50 + number * 50)).await;
                    open.fetch_sub(1, Ordering::SeqCst);
                    slot.release();
                }
            });
        }
        let changed = record.changed().await;
        stop.cancel();
        let left = tokio::spawn(async move {
            while sessions.join_next().await.is_some() {}
            pool.shutdown().await;
        });
        leaving.insert(budget, left);
        if changed.is_err() {
            return;
        }
    }
}

/// All claims and withheld slots over these ledgers, in one look. What one ledger has from another has the same id there.
async fn counted(store: &Store, budgets: &[&str]) -> u32 {
    let script = "local sum, withheld = 0, {} \
        for _, key in ipairs(KEYS) do local flat = redis.call('HGETALL', key) \
        for i = 1, #flat, 2 do local kind, slots = string.sub(flat[i], 1, 2), tonumber(string.match(flat[i + 1], '^%d+')) \
        if kind == 'h:' then sum = sum + slots end \
        if kind == 'q:' then withheld[flat[i]] = slots end end end \
        for _, slots in pairs(withheld) do sum = sum + slots end \
        return sum";
    let mut command = redis::cmd("EVAL");
    command.arg(script).arg(budgets.len());
    for budget in budgets {
        command.arg(format!("mailrelay:{{{budget}}}:ledger"));
    }
    store.query(&command, LIMIT).await.expect("a sum")
}

async fn ledger(store: &Store, budget: &str) -> Option<LedgerView> {
    LedgerStore::new(store.clone(), budget).snapshot().await.expect("a look").in_force().cloned()
}

struct Scene {
    _redis: RedisServer,
    store: Store,
    leader: Leader,
    workers: Workers,
}

impl Scene {
    /// All slots of the budget are in use.
    async fn busy(server: Server<'_>) -> Self {
        let redis = RedisServer::start(Persistence::Off);
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("a store");
        let leader = Leader::new(&store, 1, BTreeSet::new(), &BTreeMap::new());
        let workers = Workers::start(&store, server.0);
        let mut scene = Self { _redis: redis, store, leader, workers };
        scene.until_busy(server, &[server.0]).await;
        scene
    }

    /// Turns until all of the budget is in use and every earlier ledger is gone. What all ledgers count is never more.
    async fn until_busy(&mut self, server: Server<'_>, all: &[&str]) {
        let plan = planned(server);
        self.workers.record.send_replace(server.0.to_owned());
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.turn(&plan, all).await;
            let view = ledger(&self.store, server.0).await;
            let full = view.is_some_and(|view| view.state == LedgerState::Open && view.claimed() == BUDGET);
            if full && self.leader.pools.len() == 1 {
                return;
            }
            assert!(Instant::now() < deadline, "not busy at {}: {:?}", server.0, self.leader.opened);
        }
    }

    async fn turn(&mut self, plan: &Plan, all: &[&str]) {
        self.leader.turn(plan).await;
        for _ in 0..3 {
            let counted = counted(&self.store, all).await;
            assert!(counted <= BUDGET, "{counted} are counted over {all:?}");
            assert!(self.workers.most() <= BUDGET, "{} sessions were open", self.workers.most());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Another leader takes over with what outlives one.
    fn succeed(&mut self, mirrors: &BTreeMap<String, Mirror>) {
        self.leader = Leader::new(&self.store, self.leader.epoch + 1, self.leader.opened.clone(), mirrors);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_is_renamed_and_moved_under_load_is_never_granted_twice() {
    let mut scene = Scene::busy(("old", "mx", 25)).await;
    let all = ["old", "new", "third"];
    for server in [("new", "mx", 25), ("new", "mx2", 25), ("old", "mx2", 587), ("new", "mx", 25), ("third", "mx3", 25)]
    {
        scene.until_busy(server, &all).await;
    }
    assert_eq!(scene.workers.most(), BUDGET, "the load was real");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_and_back_faster_than_slots_come_back_and_with_another_leader_each_time() {
    let mut scene = Scene::busy(("old", "mx", 25)).await;
    let all = ["old", "new", "third"];
    for round in 0..12 {
        let server = [("new", "mx", 25), ("old", "mx", 25), ("third", "mx2", 25), ("new", "mx2", 587)][round % 4];
        let plan = planned(server);
        scene.workers.record.send_replace(server.0.to_owned());
        for _ in 0..=round {
            scene.turn(&plan, &all).await;
        }
        if round % 3 == 0 {
            let mirrors = scene.leader.mirrors();
            scene.succeed(&mirrors);
        }
    }
    scene.until_busy(("third", "mx", 25), &all).await;
    assert_eq!(scene.workers.most(), BUDGET);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_is_lost_while_its_server_moves_is_made_anew_before_the_other_one_grants() {
    for leader_is_lost in [false, true] {
        let mut scene = Scene::busy(("old", "mx", 25)).await;
        let mirrors = scene.leader.mirrors();
        let _: () = scene.store.query(&redis::cmd("FLUSHALL"), LIMIT).await.expect("flushed");
        if leader_is_lost {
            scene.succeed(&mirrors);
        }
        let plan = planned(("new", "mx", 25));
        scene.turn(&plan, &["old", "new"]).await;
        assert!(ledger(&scene.store, "new").await.is_none());
        // How far it has come, a busy machine decides: workers say again what they hold while the leader's turn lasts.
        assert!(ledger(&scene.store, "old").await.is_some());
        scene.until_busy(("new", "mx", 25), &["old", "new"]).await;
    }
}
