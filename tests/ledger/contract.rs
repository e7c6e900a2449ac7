//! The ledger's contract, against whichever Redis the module around it names.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, time::Duration};

use futures::StreamExt;
use mailrelay::{
    lease::{
        InitReply, InitRequest, Ledger, LedgerState, LedgerStore, Missing, OpenRequest, Policy, Quarantine,
        SyncRequest, pools,
    },
    store::{Store, StoreOptions},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use redis::Cmd;
use testkit::Persistence;

use super::RedisServer;

const LIMIT: Duration = Duration::from_secs(5);
const PODS: [&str; 4] = ["uid-a", "uid-b", "uid-c", "uid-d"];

fn store(redis: &RedisServer) -> Store {
    Store::new(&StoreOptions::from_url(redis.url())).expect("options")
}

/// Everything that can be done to a ledger.
#[derive(Debug, Clone)]
enum Operation {
    Sync(SyncRequest),
    Leave {
        token: String,
        inc: String,
        seq: u64,
    },
    Policy(Policy),
    Reap {
        token: String,
        inc: String,
        seq: Option<u64>,
        quarantine: Duration,
    },
    Init(InitRequest),
    Open(OpenRequest),
    Clear {
        token: String,
        id: String,
    },
    /// The key is deleted.
    Delete,
    /// The ledger becomes a stale copy of another node's.
    Stale,
}

/// Draws operations that are mostly sensible, so that deep states are reached.
struct Generator {
    random: StdRng,
    tokens: u32,
    revision: u64,
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self { random: StdRng::seed_from_u64(seed), tokens: 0, revision: 0 }
    }

    fn below(&mut self, n: u32) -> u32 {
        self.random.random_range(0..n)
    }

    fn likely(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    fn next(&mut self, ledger: &Ledger) -> Operation {
        let token = match &ledger.view {
            Some(view) if self.likely(97) => view.token.clone(),
            _ => "other".to_owned(),
        };
        let in_force = ledger.snapshot().in_force().is_some();
        if !in_force && self.likely(35) {
            return self.init(ledger);
        }
        if !in_force && self.likely(10) {
            return self.open(ledger, token);
        }
        if ledger.view.as_ref().is_some_and(|view| view.state == LedgerState::Rec) && self.likely(15) {
            return self.open(ledger, token);
        }
        match self.below(1000) {
            0..640 => Operation::Sync(self.sync(ledger, token)),
            640..700 => {
                let (inc, seq) = self.target(ledger);
                Operation::Leave { token, inc, seq: seq + 1 }
            }
            700..800 => Operation::Policy(self.policy()),
            800..880 => {
                let (inc, seq) = self.target(ledger);
                let dead = self.likely(30);
                let quarantine = Duration::from_millis(u64::from(self.below(3)) * 1500);
                Operation::Reap { token, inc, seq: (!dead).then_some(seq), quarantine }
            }
            880..970 => Operation::Clear { token, id: self.quarantine_id(ledger) },
            970..980 => self.init(ledger),
            980..990 => self.open(ledger, token),
            990..995 => Operation::Delete,
            _ => Operation::Stale,
        }
    }

    /// A holder that is there, mostly, and its seq, mostly.
    fn target(&mut self, ledger: &Ledger) -> (String, u64) {
        let holders = ledger.view.as_ref().map_or(&[][..], |view| &view.holders);
        if holders.is_empty() || self.likely(5) {
            return ("nobody".to_owned(), 1);
        }
        let holder = &holders[self.below(u32::try_from(holders.len()).unwrap()) as usize];
        (holder.inc.clone(), holder.seq - u64::from(self.likely(20)))
    }

    fn quarantine_id(&mut self, ledger: &Ledger) -> String {
        let entries = ledger.view.as_ref().map_or(&[][..], |view| &view.quarantine);
        if entries.is_empty() || self.likely(10) {
            return "nothing".to_owned();
        }
        entries[self.below(u32::try_from(entries.len()).unwrap()) as usize].id.clone()
    }

    fn quarantine(&mut self) -> Quarantine {
        Quarantine {
            id: format!("q{}", self.below(12)),
            slots: 1 + self.below(2),
            seconds: u64::from(self.below(300)),
            why: ["no-eof", "dropped"][self.below(2) as usize].to_owned(),
        }
    }

    fn sync(&mut self, ledger: &Ledger, token: String) -> SyncRequest {
        let pod = PODS[self.below(4) as usize];
        let view = ledger.view.as_ref();
        let last = view.and_then(|v| v.generations.get(pod).copied()).unwrap_or(0);
        let known: Vec<_> = view.map_or(Vec::new(), |v| v.holders.iter().filter(|h| h.pod_uid == pod).collect());
        let recovering = view.is_some_and(|v| v.state == LedgerState::Rec);
        let want = if self.likely(70) { 16 } else { self.below(12) };
        let mut request = SyncRequest {
            token,
            inc: String::new(),
            pod_uid: pod.to_owned(),
            pod: format!("mail/{pod}"),
            process: format!("process{}", self.below(3)),
            boot_id: format!("boot{}", self.below(4) / 3),
            generation: 0,
            seq: 0,
            need: 0,
            want,
            open: self.below(4),
            busy: self.below(3),
            close_grace: Duration::from_millis(u64::from(self.below(3)) * 900),
            session_timeout: Duration::from_secs(300),
            quarantine: Vec::new(),
        };
        if !known.is_empty() && self.likely(80) {
            let holder = known[self.below(u32::try_from(known.len()).unwrap()) as usize];
            request.inc.clone_from(&holder.inc);
            request.generation = holder.generation;
            request.seq = if self.likely(90) { holder.seq + 1 } else { holder.seq };
            let spare = self.below(holder.claim + 1);
            request.need = if self.likely(50) { holder.claim } else { spare };
            if self.likely(15) && holder.claim > 0 {
                request.need = request.need.min(holder.claim - 1);
                request.quarantine = vec![self.quarantine()];
            }
        } else {
            request.generation = match self.below(10) {
                0 => 0,
                1 => last,
                2 => last + 2,
                3 => last.saturating_sub(1),
                _ => last + 1,
            };
            request.inc = format!("{pod}.{}.{}", request.generation, self.below(3));
            request.seq = if self.likely(85) { 1 } else { 7 };
            request.need = if recovering || self.likely(5) { self.below(6) } else { 0 };
            if self.likely(10) {
                request.quarantine = vec![self.quarantine(), self.quarantine()];
            }
        }
        request
    }

    fn policy(&mut self) -> Policy {
        let advance = self.likely(85);
        self.revision += u64::from(advance);
        let budget = [16, 16, 8, 4][self.below(4) as usize];
        let mut entitlements = BTreeMap::new();
        let mut left = budget;
        for pod in PODS {
            if self.likely(75) {
                let share = self.below(left + 1);
                left -= share;
                entitlements.insert(pod.to_owned(), share);
            }
        }
        let back = u64::from(self.likely(10));
        Policy {
            epoch: 1 + self.revision / 40,
            revision: self.revision.saturating_sub(back),
            budget,
            lease: Duration::from_secs(if self.likely(90) { 6 } else { 15 }),
            entitlements,
        }
    }

    fn init(&mut self, ledger: &Ledger) -> Operation {
        self.tokens += 1;
        let wrong = self.likely(5);
        let quarantine = if self.likely(30) { vec![self.quarantine()] } else { Vec::new() };
        let mut policy = self.policy();
        if self.likely(10) {
            policy.epoch = 0;
        }
        Operation::Init(InitRequest {
            fence: if wrong { "elsewhere".to_owned() } else { ledger.node_fence.clone() },
            token: format!("t{}", self.tokens),
            policy,
            quarantine,
        })
    }

    fn open(&mut self, ledger: &Ledger, token: String) -> Operation {
        let mut missing = Vec::new();
        for _ in 0..self.below(3) {
            let quarantine = self.quarantine();
            let inc = if self.likely(50) { self.target(ledger).0 } else { String::new() };
            missing.push(Missing { inc, quarantine });
        }
        let epoch = if self.likely(10) { 0 } else { 1 + self.revision / 40 };
        Operation::Open(OpenRequest { epoch, token, missing })
    }
}

/// Does the operation to the pure machine; the answer as text.
fn apply(ledger: &mut Ledger, operation: &Operation) -> String {
    match operation {
        Operation::Sync(request) => format!("{:?}", ledger.sync(request)),
        Operation::Leave { token, inc, seq } => format!("{:?}", ledger.leave(token, inc, *seq)),
        Operation::Policy(policy) => format!("{:?}", ledger.policy(policy)),
        Operation::Reap { token, inc, seq, quarantine } => {
            let seconds = u64::try_from(quarantine.as_millis().div_ceil(1000)).unwrap();
            format!("{:?}", ledger.reap(token, inc, *seq, seconds, "silent"))
        }
        Operation::Init(request) => format!("{:?}", ledger.init(request)),
        Operation::Open(request) => format!("{:?}", ledger.open(request)),
        Operation::Clear { token, id } => format!("{:?}", ledger.clear(token, id)),
        Operation::Delete => {
            ledger.view = None;
            String::new()
        }
        Operation::Stale => {
            if let Some(view) = &mut ledger.view {
                "stale".clone_into(&mut view.fence);
            }
            String::new()
        }
    }
}

/// Does the operation to the ledger in Redis; the answer as text.
async fn send(ledger: &LedgerStore, operation: &Operation) -> String {
    let mut command = Cmd::new();
    match operation {
        Operation::Sync(request) => format!("{:?}", ledger.sync(request, LIMIT).await.unwrap()),
        Operation::Leave { token, inc, seq } => format!("{:?}", ledger.leave(token, inc, *seq).await.unwrap()),
        Operation::Policy(policy) => format!("{:?}", ledger.policy(policy).await.unwrap()),
        Operation::Reap { token, inc, seq: Some(seq), quarantine } => {
            format!("{:?}", ledger.reap(token, inc, *seq, *quarantine, "silent").await.unwrap())
        }
        Operation::Reap { token, inc, seq: None, quarantine } => {
            format!("{:?}", ledger.reap_dead(token, inc, *quarantine, "silent").await.unwrap())
        }
        Operation::Init(request) => format!("{:?}", ledger.init(request).await.unwrap()),
        Operation::Open(request) => format!("{:?}", ledger.open(request).await.unwrap()),
        Operation::Clear { token, id } => format!("{:?}", ledger.clear(token, id).await.unwrap()),
        Operation::Delete => {
            command.arg("DEL").arg(ledger.key());
            ledger.store().query::<u64>(&command, LIMIT).await.unwrap();
            String::new()
        }
        Operation::Stale => {
            if ledger.snapshot().await.unwrap().ledger.is_some() {
                command.arg("HSET").arg(ledger.key()).arg("fence").arg("stale");
                ledger.store().query::<u64>(&command, LIMIT).await.unwrap();
            }
            String::new()
        }
    }
}

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

#[test]
fn slots_of_another_boot_of_the_node_are_withheld_for_the_session_timeout() {
    let mut ledger = Ledger::new("node");
    let entitlements = BTreeMap::from([("uid-a".to_owned(), 4)]);
    let policy = Policy { epoch: 1, revision: 1, budget: 4, lease: Duration::from_secs(6), entitlements };
    ledger.init(&InitRequest { fence: "node".into(), token: "t".into(), policy, quarantine: Vec::new() });
    ledger.open(&OpenRequest { epoch: 1, token: "t".into(), missing: Vec::new() });
    let mut request = Generator::new(1).sync(&ledger, "t".to_owned());
    for (generation, process, boot, seconds) in [(1, "p", "b", None), (2, "q", "b", Some(2)), (3, "r", "c", Some(300))]
    {
        request = SyncRequest {
            inc: format!("{process}.1"),
            pod_uid: "uid-a".into(),
            process: process.into(),
            boot_id: boot.into(),
            generation,
            seq: 1,
            need: 0,
            want: 2,
            close_grace: Duration::from_secs(2),
            session_timeout: Duration::from_secs(300),
            quarantine: Vec::new(),
            ..request
        };
        assert!(format!("{:?}", ledger.sync(&request)).starts_with("Ok"));
        let view = ledger.view.as_mut().unwrap();
        assert_eq!(view.quarantine.pop().map(|entry| entry.seconds), seconds);
    }
}

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
    for seed in 0..16 {
        let ledger = LedgerStore::new(store.clone(), &format!("pool{seed}"));
        let mut events = store.subscriber().await.unwrap();
        events.subscribe(ledger.channel()).await.unwrap();
        let mut machine = Ledger::new(ledger.snapshot().await.unwrap().node_fence);
        let mut generator = Generator::new(seed);
        for step in 0..500 {
            let operation = generator.next(&machine);
            let expected = apply(&mut machine, &operation);
            let answer = send(&ledger, &operation).await;
            assert_eq!(answer, expected, "seed {seed} step {step}: {operation:?}");
            assert_eq!(ledger.snapshot().await.unwrap(), machine.snapshot(), "seed {seed} step {step}: {operation:?}");
            let kind = format!("{operation:?} ").split([' ', '(']).next().unwrap().to_owned();
            let word = expected.split([' ', '(', '{']).next().unwrap().to_owned();
            *answers.entry(format!("{kind} {word}")).or_default() += 1;
        }
        let mut messages = events.on_message();
        for told in &machine.told {
            let message = tokio::time::timeout(LIMIT, messages.next()).await.expect("an event").unwrap();
            assert_eq!(&message.get_payload::<String>().unwrap(), told);
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
    ];
    for answer in all {
        assert!(answers.contains_key(answer), "never seen: {answer} in {answers:?}");
    }
    assert_eq!(pools(&store).await.unwrap().len(), 16);
}
