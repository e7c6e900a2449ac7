//! An operation done to the pure machine and to the ledger in Redis, whose answers and totals are compared.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::collections::{BTreeMap, BTreeSet};

use mailrelay::lease::{InitRequest, Ledger, LedgerStore, LedgerView, OpenRequest, SyncReply, SyncRequest};
use redis::Cmd;

use super::{
    RedisServer,
    operations::{Back, Operation},
    support::{LIMIT, shares, store},
};

/// Does the operation to the pure machine; the answer as text.
pub fn apply(ledger: &mut Ledger, copy: &mut Option<LedgerView>, operation: &Operation) -> String {
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
pub async fn duplicate(ledger: &LedgerStore, from: &str, to: &str) {
    let fields: Vec<String> = ledger.store().query(redis::cmd("HGETALL").arg(from), LIMIT).await.unwrap();
    ledger.store().query::<u64>(redis::cmd("DEL").arg(to), LIMIT).await.unwrap();
    if !fields.is_empty() {
        ledger.store().query::<u64>(redis::cmd("HSET").arg(to).arg(fields), LIMIT).await.unwrap();
    }
}

/// Brings a copy back.
pub async fn restore(ledger: &LedgerStore, copy: &str, back: Back) {
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
pub async fn send(ledger: &LedgerStore, operation: &Operation) -> String {
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
pub async fn fields(ledger: &LedgerStore) -> BTreeMap<String, String> {
    ledger.store().query(redis::cmd("HGETALL").arg(ledger.key()), LIMIT).await.unwrap()
}

/// The fields that an older release does not know.
pub fn totals(fields: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let is_total = |field: &str| ["claimed", "withheld", "counted"].contains(&field) || field.starts_with("i:");
    fields.iter().filter(|(field, _)| is_total(field)).map(|(field, value)| (field.clone(), value.clone())).collect()
}

/// What they must be, by all holders and entries. In which order the words are says nothing.
pub fn recounted(fields: &BTreeMap<String, String>) -> BTreeMap<String, BTreeSet<String>> {
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
pub async fn audited(ledger: &LedgerStore) -> bool {
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
pub async fn send_as_older(ledger: &LedgerStore, operation: &Operation) -> String {
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

/// A ledger of 4 slots, open, of which the pods a and b have 4 each; by itself, and on Redis.
pub async fn opened(redis: &RedisServer) -> (LedgerStore, Ledger) {
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

/// Does the operation to both, which answer alike.
pub async fn both(store: &LedgerStore, machine: &mut Ledger, operation: &Operation) -> String {
    let answer = send(store, operation).await;
    assert_eq!(answer, apply(machine, &mut None, operation), "{operation:?}");
    assert_eq!(store.snapshot().await.unwrap(), machine.snapshot(), "{operation:?}");
    audited(store).await;
    answer
}

pub async fn synced(store: &LedgerStore, machine: &mut Ledger, request: &SyncRequest) -> SyncReply {
    let reply = store.sync(request, LIMIT).await.unwrap();
    assert_eq!(reply, machine.sync(request));
    assert_eq!(store.snapshot().await.unwrap(), machine.snapshot());
    assert!(audited(store).await || !matches!(reply, SyncReply::Ok(_)));
    reply
}
