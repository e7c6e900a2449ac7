//! Other releases on the same ledger, older and newer ones, and totals that went wrong.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::collections::BTreeMap;

use mailrelay::{
    lease::{
        CondemnReply, InitRequest, Ledger, LedgerState, OpenRequest, Policy, Quarantine, SyncReply, SyncRequest, Wait,
    },
    store::StoreError,
};
use redis::Cmd;
use testkit::Persistence;

use super::{
    RedisServer,
    compared::{apply, audited, both, fields, opened, send, send_as_older, synced},
    operations::Operation,
    support::{LIMIT, process, shares},
};

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
