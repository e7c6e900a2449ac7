//! The ledger's contract, against whichever Redis the module around it names.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    time::Duration,
};

use mailrelay::{
    lease::{
        CondemnReply, InitReply, InitRequest, Ledger, LedgerState, LedgerStore, LedgerView, Missing, OpenRequest,
        Policy, Quarantine, SaturationRecord, SyncReply, SyncRequest, Wait, pools,
    },
    store::{Heard, Store, StoreError, StoreOptions},
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

/// How a copy comes back, and so what its twin says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Back {
    /// Without its twin.
    Alone,
    /// Together with it, as RESTORE does.
    Together,
    /// Redis and all, as a virtual machine that is set back: nothing shows it.
    Machine,
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
        ids: Vec<String>,
    },
    Condemn(u64),
    /// The key is copied elsewhere.
    Copy,
    /// The copy is brought back.
    Restore(Back),
    /// The key is deleted.
    Delete,
    /// The ledger becomes a stale copy of another node's.
    Stale,
}

impl Operation {
    /// Whether a release of mailrelay does it, and not some mishap.
    fn is_script(&self) -> bool {
        !matches!(self, Self::Copy | Self::Restore(_) | Self::Delete | Self::Stale)
    }
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
            880..960 => {
                let ids = (0..self.below(3)).map(|_| self.quarantine_id(ledger)).collect();
                Operation::Clear { token, ids }
            }
            960..966 => Operation::Condemn(self.version(ledger)),
            966..972 => Operation::Copy,
            972..976 => Operation::Restore([Back::Alone, Back::Together, Back::Machine][self.below(3) as usize]),
            976..983 => self.init(ledger),
            983..990 => self.open(ledger, token),
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

    /// What was heard last, mostly.
    fn version(&mut self, ledger: &Ledger) -> u64 {
        let version = ledger.view.as_ref().map_or(0, |view| view.version);
        if self.likely(2) {
            version + 1 + u64::from(self.below(3))
        } else {
            version - version.min(u64::from(self.below(4)))
        }
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
            hold: Duration::from_millis(u64::from(self.below(3)) * 900),
            seen: self.version(ledger),
            quarantine: Vec::new(),
            accounts: (0..self.below(3)).map(|_| format!("process{}", self.below(4))).collect(),
        };
        // One whose slots a leader withheld, if there is such.
        if let Some(withheld) = view.and_then(|view| view.quarantine.first()).filter(|_| self.likely(50)) {
            request.accounts.extend(withheld.id.split_once('.').map(|(process, _)| process.to_owned()));
        }
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
            servers: ["mx:25", "10.0.0.1:25"].into_iter().take(self.below(3) as usize).map(str::to_owned).collect(),
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
            version: self.version(ledger),
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
fn apply(ledger: &mut Ledger, copy: &mut Option<LedgerView>, operation: &Operation) -> String {
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
        Operation::Clear { token, ids } => format!("{:?}", ledger.clear(token, ids)),
        Operation::Condemn(version) => format!("{:?}", ledger.condemn(*version)),
        Operation::Copy => {
            copy.clone_from(&ledger.view);
            String::new()
        }
        Operation::Restore(back) => {
            ledger.view.clone_from(copy);
            match back {
                Back::Alone => {}
                Back::Together => ledger.twin = None,
                Back::Machine => ledger.twin = copy.as_ref().map(|copy| copy.version),
            }
            String::new()
        }
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

/// Puts all that one key holds in the place of another, as DUMP and RESTORE do.
async fn duplicate(ledger: &LedgerStore, from: &str, to: &str) {
    let fields: Vec<String> = ledger.store().query(redis::cmd("HGETALL").arg(from), LIMIT).await.unwrap();
    ledger.store().query::<u64>(redis::cmd("DEL").arg(to), LIMIT).await.unwrap();
    if !fields.is_empty() {
        ledger.store().query::<u64>(redis::cmd("HSET").arg(to).arg(fields), LIMIT).await.unwrap();
    }
}

/// Brings a copy back.
async fn restore(ledger: &LedgerStore, copy: &str, back: Back) {
    duplicate(ledger, copy, ledger.key()).await;
    let twin = ledger.key().replace(":ledger", ":twin");
    let version: Option<u64> = ledger.store().query(redis::cmd("HGET").arg(copy).arg("version"), LIMIT).await.unwrap();
    match (back, version) {
        (Back::Alone, _) => {}
        (_, None) => drop(ledger.store().query::<u64>(redis::cmd("DEL").arg(twin), LIMIT).await.unwrap()),
        (Back::Together, Some(version)) => {
            let text = format!("{version:020}");
            let _: String = ledger.store().query(redis::cmd("SET").arg(twin).arg(text), LIMIT).await.unwrap();
        }
        (Back::Machine, Some(version)) => {
            let mut command = redis::cmd("SETRANGE");
            command.arg(twin).arg(0).arg(format!("{version:020}"));
            let _: u64 = ledger.store().query(&command, LIMIT).await.unwrap();
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
        Operation::Clear { token, ids } => format!("{:?}", ledger.clear(token, ids).await.unwrap()),
        Operation::Condemn(version) => format!("{:?}", ledger.condemn(*version).await.unwrap()),
        Operation::Copy => {
            duplicate(ledger, ledger.key(), &format!("copy of {}", ledger.key())).await;
            String::new()
        }
        Operation::Restore(back) => {
            restore(ledger, &format!("copy of {}", ledger.key()), *back).await;
            String::new()
        }
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

/// All fields of the ledger.
async fn fields(ledger: &LedgerStore) -> BTreeMap<String, String> {
    ledger.store().query(redis::cmd("HGETALL").arg(ledger.key()), LIMIT).await.unwrap()
}

/// The fields that an older release does not know.
fn totals(fields: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_total = |field: &str| ["claimed", "withheld", "counted"].contains(&field) || field.starts_with("i:");
    fields.iter().filter(|(field, _)| is_total(field)).map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// What they must be, by all holders and entries. In which order the words are says nothing.
fn recounted(fields: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
    let (mut claimed, mut counted) = (0, BTreeMap::from([("withheld".to_owned(), BTreeSet::new())]));
    for (field, value) in fields {
        let words: Vec<&str> = value.split(' ').collect();
        if let Some(inc) = field.strip_prefix("h:") {
            claimed += words[0].parse::<u32>().unwrap();
            assert!(counted.entry(format!("i:{}", words[7])).or_default().insert(inc.to_owned()));
        } else if let Some(id) = field.strip_prefix("q:") {
            counted.entry("withheld".to_owned()).or_default().insert(id.to_owned());
        }
    }
    counted.insert("claimed".to_owned(), BTreeSet::from([claimed.to_string()]));
    counted
}

/// Whether the totals are of the ledger's version; then they must be right.
async fn audited(ledger: &LedgerStore) -> bool {
    let fields = fields(ledger).await;
    let mut stored = totals(&fields);
    if stored.remove("counted").is_none_or(|counted| counted != fields["version"]) {
        return false;
    }
    let words = |value: &String| value.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect();
    let stored: BTreeMap<_, BTreeSet<_>> = stored.iter().map(|(field, value)| (field.clone(), words(value))).collect();
    assert_eq!(stored, recounted(&fields));
    true
}

/// Does the operation as an older release does, which makes a new ledger without totals and leaves those of any other.
async fn send_as_older(ledger: &LedgerStore, operation: &Operation) -> String {
    let before = totals(&fields(ledger).await);
    let answer = send(ledger, operation).await;
    let is_new = matches!(operation, Operation::Init(_)) && answer == "Ok";
    let kept = if is_new { BTreeMap::new() } else { before };
    for field in totals(&fields(ledger).await).keys() {
        ledger.store().query::<u64>(redis::cmd("HDEL").arg(ledger.key()).arg(field), LIMIT).await.unwrap();
    }
    for (field, value) in kept {
        let mut command = Cmd::new();
        command.arg("HSET").arg(ledger.key()).arg(field).arg(value);
        ledger.store().query::<u64>(&command, LIMIT).await.unwrap();
    }
    answer
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

/// A ledger of 4 slots, open, of which the pods a and b have 4 each; by itself, and on Redis.
async fn opened(redis: &RedisServer) -> (LedgerStore, Ledger) {
    let store = LedgerStore::new(store(redis), "pool");
    let mut machine = Ledger::new(store.snapshot().await.unwrap().node_fence);
    let request = InitRequest {
        fence: machine.node_fence.clone(),
        token: "t".into(),
        policy: shares(1, &["uid-a", "uid-b"]),
        quarantine: Vec::new(),
        version: 0,
    };
    let open = OpenRequest { epoch: 1, token: "t".into(), missing: Vec::new() };
    for operation in [Operation::Init(request), Operation::Open(open)] {
        both(&store, &mut machine, &operation).await;
    }
    (store, machine)
}

fn shares(revision: u64, pods: &[&str]) -> Policy {
    let entitlements = pods.iter().map(|pod| ((*pod).to_owned(), 4)).collect();
    let lease = Duration::from_secs(6);
    Policy { epoch: 1, revision, budget: 4, lease, entitlements, servers: BTreeSet::new() }
}

/// Does the operation to both, which answer alike.
async fn both(store: &LedgerStore, machine: &mut Ledger, operation: &Operation) -> String {
    let answer = send(store, operation).await;
    assert_eq!(answer, apply(machine, &mut None, operation), "{operation:?}");
    assert_eq!(store.snapshot().await.unwrap(), machine.snapshot(), "{operation:?}");
    audited(store).await;
    answer
}

fn process(pod: &str, process: &str, generation: u64, seq: u64) -> SyncRequest {
    SyncRequest {
        token: "t".into(),
        inc: format!("{process}.1"),
        pod_uid: pod.into(),
        pod: format!("mail/{pod}"),
        process: process.into(),
        boot_id: "boot".into(),
        generation,
        seq,
        need: 0,
        want: 2,
        open: 0,
        busy: 0,
        hold: Duration::from_secs(330),
        seen: 0,
        quarantine: Vec::new(),
        accounts: Vec::new(),
    }
}

async fn synced(store: &LedgerStore, machine: &mut Ledger, request: &SyncRequest) -> SyncReply {
    let reply = store.sync(request, LIMIT).await.unwrap();
    assert_eq!(reply, machine.sync(request));
    assert_eq!(store.snapshot().await.unwrap(), machine.snapshot());
    assert!(audited(store).await || !matches!(reply, SyncReply::Ok(_)));
    reply
}

#[tokio::test]
async fn an_older_copy_of_the_ledger_is_noticed_by_whoever_was_granted_later() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let SyncReply::Ok(first) = synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await else { panic!() };
    let old = machine.view.clone();
    duplicate(&store, store.key(), "copy").await;
    let other = SyncRequest { seen: first.version, ..process("uid-b", "q", 1, 1) };
    let SyncReply::Ok(later) = synced(&store, &mut machine, &other).await else { panic!() };
    assert!(later.version > first.version);

    restore(&store, "copy", Back::Machine).await;
    machine.twin = old.as_ref().map(|old| old.version);
    machine.view = old;
    let known = SyncRequest { seen: first.version, ..process("uid-a", "p", 1, 2) };
    assert!(matches!(machine.clone().sync(&known), SyncReply::Ok(_)), "who heard no more than the copy can't know");
    // With an old token too: a copy from before the last recovery.
    let next = SyncRequest { seen: later.version, token: "older".into(), ..process("uid-b", "q", 1, 2) };
    assert_eq!(synced(&store, &mut machine, &next).await, SyncReply::Wait(Wait::Fence));
    assert_eq!(synced(&store, &mut machine, &known).await, SyncReply::Wait(Wait::Fence), "it is lost for all");
    let lost = machine.view.clone().unwrap();
    assert_eq!((&*lost.fence, lost.version), ("lost", later.version));

    // The leader makes a new one, which no one takes for an older copy.
    let fence = machine.node_fence.clone();
    let request =
        InitRequest { fence, token: "t2".into(), policy: shares(2, &["uid-a"]), quarantine: Vec::new(), version: 0 };
    both(&store, &mut machine, &Operation::Init(request)).await;
    assert!(machine.view.as_ref().unwrap().version > later.version);
    let again = SyncRequest { token: "t2".into(), ..next };
    assert!(matches!(synced(&store, &mut machine, &again).await, SyncReply::Ok(_)));
}

#[tokio::test]
async fn an_older_copy_of_the_ledger_is_known_by_its_twin_whoever_asks() {
    let redis = RedisServer::start(Persistence::Off);
    let token = || "t".to_owned();
    let operations = [
        Operation::Sync(process("uid-b", "q", 1, 1)),
        Operation::Sync(process("uid-a", "p", 1, 2)),
        Operation::Policy(shares(2, &["uid-b"])),
        Operation::Reap { token: token(), inc: "p.1".into(), seq: None, quarantine: LIMIT },
        Operation::Leave { token: token(), inc: "p.1".into(), seq: 9 },
        Operation::Clear { token: token(), ids: vec!["x".into()] },
        Operation::Open(OpenRequest { epoch: 1, token: token(), missing: Vec::new() }),
        Operation::Condemn(0),
    ];
    for operation in operations {
        // The copy alone, and together with its twin; a moment old, so that a version may have been heard or not.
        for back in [Back::Alone, Back::Together] {
            redis_is_empty(&redis).await;
            let (store, mut machine) = opened(&redis).await;
            synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await;
            let old = machine.view.clone();
            duplicate(&store, store.key(), "copy").await;
            synced(&store, &mut machine, &SyncRequest { want: 4, ..process("uid-a", "p", 1, 2) }).await;
            restore(&store, "copy", back).await;
            machine.view = old;
            machine.twin = machine.twin.filter(|_| back == Back::Alone);
            assert_eq!(both(&store, &mut machine, &operation).await, "Wait(Fence)", "{operation:?}, {back:?}");
        }
    }
}

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
async fn a_ledger_of_an_older_release_gets_a_twin_with_its_next_change() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let twin = store.key().replace(":ledger", ":twin");
    let without = async |machine: &mut Ledger| {
        store.store().query::<u64>(redis::cmd("DEL").arg(&twin), LIMIT).await.unwrap();
        machine.twin = None;
    };
    without(&mut machine).await;
    store.store().query::<u64>(redis::cmd("HDEL").arg(store.key()).arg("twinned"), LIMIT).await.unwrap();
    machine.view.as_mut().unwrap().twinned = false;
    assert!(matches!(synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await, SyncReply::Ok(_)));
    assert!(machine.view.as_ref().unwrap().twinned);
    // From then on it is of no force without.
    without(&mut machine).await;
    assert_eq!(synced(&store, &mut machine, &process("uid-a", "p", 1, 2)).await, SyncReply::Wait(Wait::Fence));
}

#[tokio::test]
async fn what_an_older_release_grants_or_withholds_counts_though_it_knows_no_totals() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    both(&store, &mut machine, &Operation::Policy(shares(2, &["uid-a", "uid-b", "uid-c", "uid-d"]))).await;
    let claimed = |reply| match reply {
        SyncReply::Ok(granted) => granted.claim,
        other => panic!("{other:?}"),
    };
    assert_eq!(claimed(synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await), 2);
    let withheld = Quarantine { id: "q/1".into(), slots: 1, seconds: 330, why: "no-eof".into() };
    let older = SyncRequest { want: 1, quarantine: vec![withheld], ..process("uid-b", "q", 1, 1) };
    let operation = Operation::Sync(older);
    assert_eq!(send_as_older(&store, &operation).await, apply(&mut machine, &mut None, &operation));
    assert!(!audited(&store).await);
    assert_eq!(claimed(synced(&store, &mut machine, &process("uid-c", "r", 1, 1)).await), 0);
    assert!(audited(&store).await);
    // The older release's holder is found when its successor registers.
    let successor = SyncRequest { accounts: vec!["q".into()], ..process("uid-b", "s", 2, 1) };
    assert_eq!(claimed(synced(&store, &mut machine, &successor).await), 1);
    assert!(machine.view.as_ref().unwrap().holder("q.1").is_none());
}

#[tokio::test]
async fn totals_that_are_wrong_are_right_after_the_next_policy() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    synced(&store, &mut machine, &process("uid-a", "p", 1, 1)).await;
    let mut command = redis::cmd("HSET");
    command.arg(store.key()).arg("claimed").arg("0").arg("withheld").arg("nothing").arg("i:uid-b").arg("nobody");
    store.store().query::<u64>(&command, LIMIT).await.unwrap();
    both(&store, &mut machine, &Operation::Policy(shares(2, &["uid-a", "uid-b"]))).await;
    assert!(audited(&store).await);
}

#[tokio::test]
async fn a_policy_that_cannot_count_the_holders_changes_nothing() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, _machine) = opened(&redis).await;
    let mut command = redis::cmd("HSET");
    command.arg(store.key()).arg("h:junk").arg("one two");
    store.store().query::<u64>(&command, LIMIT).await.unwrap();
    let before = fields(&store).await;
    assert!(store.policy(&Policy { budget: 16, ..shares(2, &["uid-a"]) }).await.is_err());
    assert_eq!(fields(&store).await, before);
}

#[tokio::test]
async fn after_a_script_that_failed_half_way_the_totals_are_counted_anew() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let withheld = Quarantine { id: "p/1".into(), slots: 1, seconds: 330, why: "no-eof".into() };
    let leaving = SyncRequest { quarantine: vec![withheld], ..process("uid-a", "p", 1, 1) };
    synced(&store, &mut machine, &leaving).await;
    // Somebody tidied up by hand, so that the next to list what is withheld does not find it.
    store.store().query::<u64>(redis::cmd("HDEL").arg(store.key()).arg("q:p/1"), LIMIT).await.unwrap();
    machine.view.as_mut().unwrap().quarantine.clear();
    assert!(store.sync(&process("uid-a", "p", 1, 2), LIMIT).await.is_err());
    assert!(!audited(&store).await);
    let view = machine.view.as_mut().unwrap();
    view.version += 1;
    machine.twin = Some(view.version);
    let SyncReply::Ok(granted) = synced(&store, &mut machine, &process("uid-a", "p", 1, 3)).await else { panic!() };
    assert!(granted.quarantine.is_empty());
}

#[tokio::test]
async fn a_leader_that_saw_more_than_the_ledger_has_condemns_it() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let version = machine.view.as_ref().unwrap().version;
    assert_eq!(store.condemn(version).await.unwrap(), CondemnReply::Current);
    assert!(store.snapshot().await.unwrap().in_force().is_some());
    both(&store, &mut machine, &Operation::Condemn(version + 1)).await;
    assert!(store.snapshot().await.unwrap().in_force().is_none());
}

#[tokio::test]
async fn a_ledger_of_a_newer_schema_is_left_as_it_is_by_every_script_in_force_or_not() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, machine) = opened(&redis).await;
    let version = machine.view.as_ref().unwrap().version;
    let SyncReply::Ok(_) = store.sync(&process("uid-a", "p", 1, 1), LIMIT).await.unwrap() else { panic!("registered") };
    let token = || "t".to_owned();
    let operations = [
        Operation::Sync(process("uid-a", "p", 1, 2)),
        Operation::Sync(process("uid-b", "q", 0, 1)),
        Operation::Leave { token: token(), inc: "p.1".into(), seq: 3 },
        Operation::Policy(shares(2, &["uid-a"])),
        Operation::Reap { token: token(), inc: "p.1".into(), seq: Some(1), quarantine: LIMIT },
        Operation::Reap { token: token(), inc: "p.1".into(), seq: None, quarantine: LIMIT },
        Operation::Init(InitRequest {
            fence: machine.node_fence.clone(),
            token: "t2".into(),
            policy: shares(1, &[]),
            quarantine: Vec::new(),
            version: 0,
        }),
        Operation::Open(OpenRequest { epoch: 1, token: token(), missing: Vec::new() }),
        Operation::Clear { token: token(), ids: vec!["x".into()] },
        Operation::Condemn(version + 10),
    ];
    let whole = async || -> BTreeMap<String, String> {
        let mut command = Cmd::new();
        store.store().query(command.arg("HGETALL").arg(store.key()), LIMIT).await.unwrap()
    };
    for fence in [machine.node_fence.clone(), "another".into()] {
        let mut command = Cmd::new();
        command.arg("HSET").arg(store.key()).arg("schema").arg("2").arg("fence").arg(&fence).arg("h:new").arg("words");
        store.store().query::<u64>(&command, LIMIT).await.unwrap();
        let before = whole().await;
        for operation in &operations {
            let answer = send(&store, operation).await;
            assert!(answer.contains("Wait(Schema)"), "{operation:?}: {answer}");
        }
        assert!(matches!(store.snapshot().await, Err(StoreError::Newer { found: 2, known: 1, .. })));
        assert_eq!(whole().await, before);
    }
}

#[tokio::test]
async fn workers_that_saw_more_of_a_lost_ledger_than_the_leader_take_the_new_one_for_newer() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let looked = machine.view.as_ref().unwrap().version;
    let mut seen = 0;
    for seq in 1..20 {
        let request = SyncRequest { seen, ..process("uid-a", "p", 1, seq) };
        let SyncReply::Ok(granted) = synced(&store, &mut machine, &request).await else { panic!() };
        seen = granted.version;
    }
    store.store().query::<u64>(redis::cmd("DEL").arg(store.key()), LIMIT).await.unwrap();
    machine.view = None;
    let fence = machine.node_fence.clone();
    let policy = shares(2, &["uid-a"]);
    let request = InitRequest { fence, token: "t".into(), policy, quarantine: Vec::new(), version: looked };
    both(&store, &mut machine, &Operation::Init(request)).await;
    let request = SyncRequest { seen, need: 2, ..process("uid-a", "p", 1, 20) };
    assert!(matches!(synced(&store, &mut machine, &request).await, SyncReply::Ok(_)));
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

async fn redis_is_empty(redis: &RedisServer) {
    store(redis).query::<String>(redis::cmd("FLUSHALL").arg("SYNC"), LIMIT).await.unwrap();
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

#[tokio::test]
async fn scripts_called_as_the_first_release_did_still_work() {
    let redis = RedisServer::start(Persistence::Off);
    let (store, mut machine) = opened(&redis).await;
    let policy = Policy { servers: ["mx:25".to_owned()].into(), ..shares(2, &["uid-a"]) };
    both(&store, &mut machine, &Operation::Policy(policy)).await;
    let text = |name: &str| {
        let read = |name: &str| std::fs::read_to_string(format!("src/lease/scripts/{name}.lua")).unwrap();
        format!("#!lua flags=allow-oom\n{}{}", read("prelude"), read(name))
    };
    let call = async |name: &str, arguments: &[&str]| {
        let mut command = redis::cmd("EVAL");
        command.arg(text(name)).arg(2).arg(store.key()).arg("mailrelay:{pool}:log").arg("mailrelay:{pool}:events");
        store.store().query::<Vec<String>>(command.arg(arguments), LIMIT).await.unwrap()
    };
    assert_eq!(call("policy", &["1", "3", "16", "6000", "1", "uid-a", "4"]).await, ["OK"]);
    let view = store.snapshot().await.unwrap().ledger.unwrap();
    assert_eq!((view.budget, view.servers.len()), (16, 1), "what is not said is kept");
    store.store().query::<u64>(redis::cmd("DEL").arg(store.key()), LIMIT).await.unwrap();
    let fence = machine.node_fence.as_str();
    assert_eq!(call("init", &[fence, "token1", "1", "1", "4", "6000", "1", "uid-a", "4", "0"]).await, ["OK"]);
    assert_eq!(call("open", &["1", "token1", "0"]).await, ["OK"]);
    let view = store.snapshot().await.unwrap().ledger.unwrap();
    assert!(view.version > 0 && view.servers.is_empty() && view.state == LedgerState::Open);
    assert!(view.twinned, "they find the twin beside the ledger");
    assert_eq!(store.condemn(view.version).await.unwrap(), CondemnReply::Current);
    assert_eq!(call("clear", &["token1", "nothing"]).await, ["GONE"]);
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
            let before = machine.view.clone();
            let expected = apply(&mut machine, &mut copy, &operation);
            let is_older = operation.is_script() && releases.random_range(0..10) < 3;
            let answer =
                if is_older { send_as_older(&ledger, &operation).await } else { send(&ledger, &operation).await };
            assert_eq!(answer, expected, "seed {seed} step {step}: {operation:?}");
            assert_eq!(ledger.snapshot().await.unwrap(), machine.snapshot(), "seed {seed} step {step}: {operation:?}");
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
