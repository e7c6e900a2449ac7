//! What the tests share: a Redis, a leader, and workers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use mailrelay::{
    api::DurationText,
    controller::{
        ApplyError, Candidate, Driven, Incident, Lenders, Ownership, Plan, Pool, PoolPlan, RelayKey, Topology, Turn,
        plan,
    },
    lease::{Evidence, LedgerStore, LedgerView, Timing},
    store::{Store, StoreOptions},
};
use serde_json::json;
use testkit::{Persistence, RedisServer};

pub const POOL: &str = "mx.example.com";
pub const LIMIT: Duration = Duration::from_secs(5);

/// A Redis of the test's own, and how to talk to it.
pub struct Bench {
    pub redis: RedisServer,
    pub store: Store,
}

impl Bench {
    /// Another connection.
    pub fn connect(&self) -> Store {
        Store::new(&StoreOptions::from_url(self.redis.url())).expect("a store")
    }
}

pub fn bench() -> Bench {
    let redis = RedisServer::start(Persistence::Off);
    let store = Store::new(&StoreOptions::from_url(redis.url())).expect("a store");
    Bench { redis, store }
}

pub fn servers() -> BTreeSet<String> {
    ["mx.example.com:587".to_owned(), "relay:mail/corporate/primary".to_owned()].into()
}

pub fn pool_plan(members: &[&str]) -> PoolPlan {
    PoolPlan {
        budget: 16,
        members: members.iter().map(ToString::to_string).collect(),
        relays: BTreeMap::new(),
        weights: None,
        session_timeout: DurationText::from_secs(300),
        close_grace: DurationText::new(Duration::from_millis(500)),
        rate_limits: Vec::new(),
        servers: servers(),
    }
}

/// Times that a test can wait for. Nothing here holds a socket, so their relations do not matter.
pub fn timing() -> Timing {
    Timing {
        lease: Duration::from_millis(300),
        reclaim: Duration::from_millis(600),
        drain_margin: Duration::from_secs(1),
        ..Timing::default()
    }
}

pub struct Leader {
    pub pool: Pool,
    pub epoch: u64,
    pub timing: Timing,
    pub evidence: Evidence,
    pub topology: Topology,
    pub incidents: Vec<Incident>,
}

impl Leader {
    pub fn new(bench: &Bench, epoch: u64) -> Self {
        Self::at(bench.store.clone(), epoch)
    }

    pub fn at(store: Store, epoch: u64) -> Self {
        Self::of(store, POOL, epoch)
    }

    pub fn of(store: Store, pool: &str, epoch: u64) -> Self {
        let (pool, topology) = (Pool::new(store, pool), Topology::of_a_single_node());
        Self { pool, epoch, timing: timing(), evidence: Evidence::default(), topology, incidents: Vec::new() }
    }

    pub async fn drive(&mut self, plan: Option<&PoolPlan>, marked: bool) -> Result<Driven, ApplyError> {
        let Self { pool, epoch, timing, evidence, topology, incidents } = self;
        let turn = Turn { epoch: *epoch, timing, evidence, topology };
        let plan = plan.cloned().map(Arc::new);
        pool.drive(plan.as_ref(), marked, &turn, incidents).await
    }

    /// Drives as the loop does until the ledger is as wanted.
    pub async fn drive_until(&mut self, plan: Option<&PoolPlan>, wanted: impl Fn(&LedgerView) -> bool) -> LedgerView {
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
    pub async fn open(&mut self, plan: &PoolPlan) -> LedgerView {
        assert!(self.drive(Some(plan), false).await.expect("a turn").wants_mark);
        let driven = self.drive(Some(plan), true).await.expect("a turn");
        driven.snapshot.in_force().expect("a ledger").clone()
    }
}

pub fn shares(of: &[(&str, u32)]) -> BTreeMap<String, u32> {
    of.iter().map(|(uid, share)| ((*uid).to_owned(), *share)).collect()
}

/// Registers a worker as the protocol has it, and has it claim its share. Returns its incarnation.
pub async fn register(store: &Store, pod_uid: &str) -> String {
    let (inc, claim) = register_any(store, pod_uid).await;
    assert!(claim > 0);
    inc
}

/// The same for one that may have no share: its incarnation, and what it could claim.
pub async fn register_any(store: &Store, pod_uid: &str) -> (String, u32) {
    let (request, claim) = crate::registration::register(&LedgerStore::new(store.clone(), POOL), pod_uid).await;
    (request.inc, claim)
}

pub fn relay_plan(generation: i64) -> (RelayKey, Plan) {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": { "name": "corporate", "namespace": "mail", "uid": "u", "generation": generation },
        "spec": { "servers": [{ "name": "primary", "host": POOL }] },
    });
    let relay = Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &Lenders::default());
    (
        RelayKey { namespace: "mail".into(), name: "corporate".into() },
        plan(&[relay], &[], &Ownership::default(), &Lenders::default()),
    )
}
