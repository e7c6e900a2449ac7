//! What befalls a simulated Redis, as its clients see it; on a clock that stands still unless all wait.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use simredis::{Fate, SimRedis};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, timeout},
};

/// Longer than anything here takes; on a paused clock it costs nothing.
const LONG: Duration = Duration::from_secs(3_600);

async fn say(stream: &mut DuplexStream, request: &str) {
    stream.write_all(format!("{request}\r\n").as_bytes()).await.expect("taken");
}

/// What is there to read after `request`, as a whole; replies here are small.
async fn ask(stream: &mut DuplexStream, request: &str) -> String {
    say(stream, request).await;
    hear(stream).await
}

async fn hear(stream: &mut DuplexStream) -> String {
    let mut answer = [0; 1024];
    let read = timeout(LONG, stream.read(&mut answer)).await.expect("an answer").expect("a stream");
    String::from_utf8_lossy(&answer[..read]).into_owned()
}

/// The end of the connection.
async fn ended(stream: &mut DuplexStream) {
    assert_eq!(hear(stream).await, "");
}

#[tokio::test(start_paused = true)]
async fn a_crash_ends_all_connections_and_a_restart_brings_back_what_it_should() {
    let redis = SimRedis::new(1);
    let (mut client, mut waiting) = (redis.connect().expect("up"), redis.connect().expect("up"));
    assert_eq!(ask(&mut client, "SET k old").await, "+OK\r\n");
    let dump = redis.snapshot();
    ask(&mut client, "SET k new").await;
    let loaded = ask(&mut client, "SCRIPT LOAD x=1").await;
    let known = format!("SCRIPT EXISTS {}", loaded.lines().nth(1).expect("a digest"));
    assert_eq!(ask(&mut client, &known).await, "*1\r\n:1\r\n");
    say(&mut waiting, "BLMOVE list target LEFT LEFT 0").await;
    let first = redis.run_id();
    redis.crash();
    ended(&mut client).await;
    ended(&mut waiting).await;
    assert!(redis.is_down() && redis.connect().is_err());
    redis.restart();
    assert_ne!(redis.run_id(), first, "another run");
    let mut client = redis.connect().expect("up again");
    assert_eq!(ask(&mut client, "GET k").await, "$3\r\nnew\r\n");
    assert_eq!(ask(&mut client, &known).await, "*1\r\n:0\r\n");
    assert_eq!(ask(&mut client, "RPUSH list a").await, ":1\r\n");
    assert_eq!(redis.list("list"), ["a"], "nobody waits any more");
    redis.restart_from(&dump);
    ended(&mut client).await;
    assert_eq!((redis.text("k").as_deref(), redis.list("list").len()), (Some(&b"old"[..]), 0));
    redis.restart_empty();
    assert!(redis.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_frozen_one_takes_connections_and_says_nothing_until_it_is_thawed() {
    let redis = SimRedis::new(1);
    let (mut client, mut waiting) = (redis.connect().expect("up"), redis.connect().expect("up"));
    assert_eq!(ask(&mut client, "SET k v").await, "+OK\r\n");
    assert_eq!(ask(&mut client, "PEXPIRE k 5000").await, ":1\r\n");
    say(&mut waiting, "BLMOVE list target LEFT LEFT 1").await;
    redis.freeze();
    let mut late = redis.connect().expect("taken");
    say(&mut client, "GET k").await;
    say(&mut late, "PING").await;
    for stream in [&mut client, &mut waiting, &mut late] {
        let mut byte = [0];
        assert!(timeout(Duration::from_secs(10), stream.read(&mut byte)).await.is_err(), "not a word");
    }
    redis.thaw();
    assert_eq!(hear(&mut client).await, "$-1\r\n", "its time went by meanwhile");
    assert_eq!((hear(&mut waiting).await, hear(&mut late).await), ("*-1\r\n".into(), "+PONG\r\n".into()));
}

#[tokio::test(start_paused = true)]
async fn time_is_that_of_the_runtime_and_the_wall_clock_is_given() {
    let wall = Arc::new(AtomicU64::new(5_000_123));
    let read = wall.clone();
    let redis = SimRedis::with_wall_clock(1, Arc::new(move || read.load(Ordering::Relaxed)));
    let mut client = redis.connect().expect("up");
    assert_eq!(ask(&mut client, "TIME").await, "*2\r\n$4\r\n5000\r\n$6\r\n123000\r\n");
    ask(&mut client, "SET k v").await;
    ask(&mut client, "PEXPIRE k 60000").await;
    // The wall clock jumps: nothing expires, and ids of streams never go back.
    assert_eq!(ask(&mut client, "XADD s * a b").await, "$9\r\n5000123-0\r\n");
    wall.store(1, Ordering::Relaxed);
    assert_eq!(ask(&mut client, "XADD s * a b").await, "$9\r\n5000123-1\r\n");
    wall.store(9_000_000_000, Ordering::Relaxed);
    assert_eq!(ask(&mut client, "TTL k").await, ":60\r\n");
    let before = Instant::now();
    assert_eq!(ask(&mut client, "BLMOVE a b LEFT LEFT 60").await, "*-1\r\n");
    assert_eq!(before.elapsed().as_secs(), 60);
    assert!(redis.text("k").is_none() && redis.stream("s").len() == 2);
}

#[tokio::test(start_paused = true)]
async fn a_stale_replica_that_is_promoted_is_another_node_with_older_data() {
    let redis = SimRedis::new(1);
    let mut client = redis.connect().expect("up");
    ask(&mut client, "SET k old").await;
    let stale = redis.snapshot();
    ask(&mut client, "SET k new").await;
    let before = redis.fence();
    redis.promote_stale(&stale);
    ended(&mut client).await;
    let (run, replication) = before.split_once(':').expect("two ids");
    let after = redis.fence();
    assert!(!after.contains(run) && !after.contains(replication));
    let mut client = redis.connect().expect("up");
    assert_eq!(ask(&mut client, "GET k").await, "$3\r\nold\r\n");
    let info = ask(&mut client, "INFO replication").await;
    assert!(info.contains("role:master") && info.contains(&format!("master_replid2:{replication}")), "{info}");
}

#[tokio::test(start_paused = true)]
async fn two_nodes_live_side_by_side_and_the_first_replica_changes_the_fence() {
    let redis = SimRedis::new(1);
    let mut client = redis.connect().expect("up");
    ask(&mut client, "SET k old").await;
    let before = redis.fence();
    let replica = redis.attach_replica(2);
    let attached = redis.fence();
    assert_ne!(attached, before);
    let second = redis.attach_replica(3);
    assert_eq!((redis.fence(), second.text("k").as_deref()), (attached, Some(&b"old"[..])));
    assert!(ask(&mut client, "INFO replication").await.contains("connected_slaves:2"));
    ask(&mut client, "SET k new").await;
    let mut other = replica.connect().expect("up");
    assert_eq!(ask(&mut other, "GET k").await, "$3\r\nold\r\n", "it lags until it is brought more");
    assert!(ask(&mut other, "SET k x").await.starts_with("-READONLY"));
    replica.sync_from(&redis);
    assert_eq!(ask(&mut other, "GET k").await, "$3\r\nnew\r\n");
    replica.promote();
    redis.demote();
    assert_eq!(ask(&mut other, "SET k x").await, "+OK\r\n");
    assert!(ask(&mut client, "SET k y").await.starts_with("-READONLY"));
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_waits_no_more_and_one_that_reads_nothing_loses_nothing() {
    let redis = SimRedis::new(1);
    let mut client = redis.connect().expect("up");
    let mut gone = redis.connect().expect("up");
    say(&mut gone, "BLMOVE list target LEFT LEFT 0").await;
    while !ask(&mut client, "INFO clients").await.contains("blocked_clients:1") {}
    drop(gone);
    while !ask(&mut client, "INFO clients").await.contains("blocked_clients:0") {}
    let mut stopped = redis.connect().expect("up");
    say(&mut stopped, "BLMOVE list target LEFT LEFT 0").await;
    while !ask(&mut client, "INFO clients").await.contains("blocked_clients:1") {}
    ask(&mut client, "RPUSH list a").await;
    assert_eq!((redis.list("list").len(), redis.list("target")), (0, vec!["a".into()]));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_and_the_same_commands_give_the_same_bytes() {
    let run = async |seed| {
        let redis = SimRedis::new(seed);
        let mut client = redis.connect().expect("up");
        let mut said = String::new();
        for number in 0..600 {
            said += &ask(&mut client, &format!("HSET h f{} {number}", number * 7 % 601)).await;
            said += &ask(&mut client, "XADD s * a b").await;
            said += &ask(&mut client, &format!("HSCAN h {} COUNT 3", number % 2)).await;
        }
        redis.restart();
        (said, redis.fence())
    };
    let start = run(7).await;
    assert_eq!(start.0, run(7).await.0);
    assert_eq!(start.1, run(7).await.1);
    assert_ne!(start.1, run(8).await.1);
}

/// A connection on which the first command of this name meets a fate.
fn fated(redis: &SimRedis, name: &'static str, fate: Fate) -> DuplexStream {
    let (ours, theirs) = tokio::io::duplex(4_096);
    let (redis, mut once) = (redis.clone(), Some(fate));
    tokio::spawn(async move {
        redis
            .serve_by(ours, |words| match once {
                Some(_) if words[0] == name.as_bytes() => once.take().unwrap_or(Fate::Prompt),
                _ => Fate::Prompt,
            })
            .await;
    });
    theirs
}

const WHILE: Duration = Duration::from_secs(5);

async fn hears_nothing(stream: &mut DuplexStream) {
    timeout(WHILE * 2, stream.read(&mut [0; 64])).await.expect_err("no answer, and no end");
}

#[tokio::test(start_paused = true)]
async fn a_late_command_is_run_after_newer_ones_though_its_client_is_gone() {
    let redis = SimRedis::new(1);
    let mut client = fated(&redis, "SET", Fate::Late(WHILE));
    say(&mut client, "SET k late").await;
    tokio::time::sleep(WHILE / 2).await;
    drop(client);
    let mut other = redis.connect().expect("up");
    assert_eq!(ask(&mut other, "SET k newer").await, "+OK\r\n");
    tokio::time::sleep(WHILE).await;
    assert_eq!(ask(&mut other, "GET k").await, "$4\r\nlate\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_late_command_that_its_client_waits_for_is_answered_late_and_dies_with_the_server() {
    let redis = SimRedis::new(1);
    let (mut client, start) = (fated(&redis, "SET", Fate::Late(WHILE)), Instant::now());
    assert_eq!(ask(&mut client, "SET k v").await, "+OK\r\n");
    assert!(start.elapsed() >= WHILE);
    let mut client = fated(&redis, "DEL", Fate::Overtaken(WHILE));
    say(&mut client, "DEL k").await;
    tokio::time::sleep(WHILE / 2).await;
    redis.crash();
    redis.restart();
    tokio::time::sleep(WHILE).await;
    assert_eq!(ask(&mut redis.connect().expect("up"), "GET k").await, "$1\r\nv\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_overtaken_is_run_after_those_behind_it_and_nothing_is_answered() {
    let redis = SimRedis::new(1);
    let mut client = fated(&redis, "SET", Fate::Overtaken(WHILE));
    say(&mut client, "SET k first\r\nRPUSH l second").await;
    tokio::time::sleep(WHILE / 2).await;
    let mut other = redis.connect().expect("up");
    assert_eq!(ask(&mut other, "LLEN l").await, ":1\r\n");
    assert_eq!(ask(&mut other, "EXISTS k").await, ":0\r\n");
    hears_nothing(&mut client).await;
    assert_eq!(ask(&mut other, "GET k").await, "$5\r\nfirst\r\n");
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_sent_again_is_run_twice_and_one_without_an_answer_once() {
    let redis = SimRedis::new(1);
    let mut client = fated(&redis, "RPUSH", Fate::Again(WHILE));
    assert_eq!(ask(&mut client, "RPUSH l x").await, ":1\r\n");
    tokio::time::sleep(WHILE * 2).await;
    assert_eq!(ask(&mut client, "LLEN l").await, ":2\r\n");
    let mut client = fated(&redis, "RPUSH", Fate::Unanswered);
    say(&mut client, "RPUSH l x").await;
    hears_nothing(&mut client).await;
    assert_eq!(ask(&mut redis.connect().expect("up"), "LLEN l").await, ":3\r\n");
}
