//! The tools that disturb things do what they say: a fault that does not happen would let every scenario pass.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use testkit::{ClockLibrary, Door, PATIENCE, Persistence, RedisServer, WallClock, eventually};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::timeout,
};

fn set(redis: &RedisServer, key: &str) {
    redis.command(&["SET", key, "1"]).expect("Redis takes it");
}

/// The keys that are there, of those that the tests use.
fn keys(redis: &RedisServer) -> Vec<String> {
    let answer = redis.command(&["KEYS", "*"]).expect("Redis answers");
    let mut keys: Vec<String> = answer.split_whitespace().map(Into::into).collect();
    keys.sort_unstable();
    keys
}

/// Seconds that Redis' clock is ahead of ours.
fn ahead(redis: &RedisServer) -> i64 {
    let answer = redis.command(&["TIME"]).expect("Redis answers");
    let theirs: i64 = answer.lines().next().and_then(|line| line.parse().ok()).expect("seconds");
    let ours = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    theirs - i64::try_from(ours).expect("seconds")
}

#[test]
fn a_wall_clock_jumps_while_the_process_runs() {
    let library = ClockLibrary::build();
    let mut redis = RedisServer::start(Persistence::Always);
    assert!(WallClock::of(redis.pid().expect("it runs")).is_err(), "it runs without the library");
    redis.take_clock(&library);
    set(&redis, "a");
    redis.command(&["SET", "mortal", "1", "EX", "100"]).expect("Redis takes it");
    let clock = WallClock::of(redis.pid().expect("it runs")).expect("its clock");
    for seconds in [-3_600, 0, 3_600] {
        clock.move_to(seconds).expect("moved");
        let seen = ahead(&redis);
        assert!((seen - seconds).abs() <= 1, "{seen} s ahead instead of {seconds}");
    }
    assert_eq!(keys(&redis), ["a"], "Redis believes it: what lives for 100 s is gone");
}

#[test]
fn redis_loses_what_it_is_told_to_lose() {
    let mut redis = RedisServer::start(Persistence::Always);
    set(&redis, "a");
    let copy = redis.copy_data();
    set(&redis, "b");
    redis.crash();
    redis.resume();
    assert_eq!(keys(&redis), ["a", "b"], "a crash loses nothing");
    redis.crash();
    redis.restore_data(&copy);
    redis.resume();
    assert_eq!(keys(&redis), ["a"], "an older copy");
    redis.crash();
    redis.lose_data();
    redis.resume();
    assert_eq!(keys(&redis), [""; 0], "an empty restart");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_behind_a_frozen_door_misses_the_last_writes() {
    let mut primary = RedisServer::start(Persistence::Always);
    set(&primary, "a");
    let door = Door::open(Ipv4Addr::LOCALHOST.into(), primary.address()).await.expect("a door");
    let mut replica = primary.replica(door.address());
    assert_eq!(keys(&replica), ["a"]);
    set(&primary, "b");
    eventually("the replica follows", async || {
        let keys = keys(&replica);
        if keys == ["a", "b"] { Ok(()) } else { Err(format!("{keys:?}")) }
    })
    .await;
    assert!(replica.command(&["SET", "x", "1"]).expect_err("it is read-only").contains("READONLY"));
    door.freeze();
    set(&primary, "c");
    primary.crash();
    drop(door);
    replica.promote();
    assert_eq!(keys(&replica), ["a", "b"]);
    set(&replica, "d");
    replica.crash();
    replica.resume();
    assert_eq!(keys(&replica), ["a", "b", "d"], "a primary after its restart too");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_ends_a_redis_that_promised_to_write_and_room_brings_it_back() {
    let mut redis = RedisServer::start(Persistence::Always);
    set(&redis, "a");
    redis.move_to_small_disk(8);
    set(&redis, "b");
    redis.fill_disk();
    redis.command(&["SET", "c", &"x".repeat(10_000)]).expect_err("there is no room");
    eventually("it ends by itself", async || if redis.has_ended() { Ok(()) } else { Err("it runs") }).await;
    redis.make_room();
    redis.resume();
    assert_eq!(keys(&redis), ["a", "b"]);
}

/// A server that says back what it hears, after a word of its own, and where it is.
async fn echo(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                write.write_all(word.as_bytes()).await.expect("said");
                let _ = tokio::io::copy(&mut read, &mut write).await;
            });
        }
    });
    address
}

/// Says something and hears so many bytes.
async fn talk(stream: &mut TcpStream, say: &str, hear: usize) -> String {
    stream.write_all(say.as_bytes()).await.expect("said");
    let mut heard = vec![0; hear];
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("an answer").expect("heard");
    String::from_utf8(heard).expect("text")
}

#[tokio::test]
async fn a_door_delays_freezes_and_leads_elsewhere() {
    let (first, second) = (echo("1").await, echo("2").await);
    let door = Door::open(Ipv4Addr::LOCALHOST.into(), first).await.expect("a door");
    let mut stream = TcpStream::connect(door.address()).await.expect("connected");
    assert_eq!(talk(&mut stream, "hello", 6).await, "1hello");
    door.delay(Duration::from_millis(200));
    let start = Instant::now();
    assert_eq!(talk(&mut stream, "late", 4).await, "late");
    assert!(start.elapsed() >= Duration::from_millis(400), "both ways: {:?}", start.elapsed());
    door.delay(Duration::ZERO);
    door.freeze();
    stream.write_all(b"held").await.expect("said");
    let mut heard = [0; 4];
    let nothing = timeout(Duration::from_millis(100), stream.read_exact(&mut heard)).await;
    assert!(nothing.is_err(), "nothing passes a frozen door");
    door.thaw();
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("an answer").expect("heard");
    assert_eq!(&heard, b"held", "and nothing is lost by it");
    door.lead_to(second);
    let end = timeout(PATIENCE, stream.read(&mut heard)).await.expect("an end");
    assert!(matches!(end, Ok(0) | Err(_)), "present connections are closed");
    let mut stream = TcpStream::connect(door.address()).await.expect("connected");
    assert_eq!(talk(&mut stream, "hello", 6).await, "2hello");
    stream.shutdown().await.expect("shut down");
    assert_eq!(timeout(PATIENCE, stream.read(&mut heard)).await.expect("in time").expect("heard"), 0, "an end passes");
}

#[tokio::test]
async fn a_door_freezes_at_what_a_client_sends() {
    let server = echo("1").await;
    let door = Door::open(Ipv4Addr::LOCALHOST.into(), server).await.expect("a door");
    let mut stream = TcpStream::connect(door.address()).await.expect("connected");
    door.freeze_at("now");
    assert_eq!(talk(&mut stream, "no", 3).await, "1no");
    stream.write_all(b"not now").await.expect("said");
    timeout(PATIENCE, door.frozen()).await.expect("frozen");
    let mut heard = [0; 7];
    let nothing = timeout(Duration::from_millis(100), stream.read_exact(&mut heard)).await;
    assert!(nothing.is_err(), "what froze the door is held back");
    door.thaw();
    timeout(PATIENCE, stream.read_exact(&mut heard)).await.expect("an answer").expect("heard");
    assert_eq!(&heard, b"not now");
    assert_eq!(talk(&mut stream, "now", 3).await, "now", "only once");
}

#[tokio::test]
async fn a_door_holds_back_the_answer_to_what_a_client_sends() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let door = Door::open(Ipv4Addr::LOCALHOST.into(), server.local_addr().expect("an address")).await.expect("a door");
    let mut near = TcpStream::connect(door.address()).await.expect("connected");
    let (mut far, _) = timeout(PATIENCE, server.accept()).await.expect("in time").expect("a client");
    door.freeze_answers_at("now");
    near.write_all(b"now").await.expect("said");
    let mut heard = [0; 3];
    timeout(PATIENCE, far.read_exact(&mut heard)).await.expect("it passes").expect("heard");
    timeout(PATIENCE, door.frozen()).await.expect("frozen");
    far.write_all(b"yes").await.expect("said");
    let nothing = timeout(Duration::from_millis(100), near.read_exact(&mut heard)).await;
    assert!(nothing.is_err(), "the answer is held back");
    door.thaw();
    timeout(PATIENCE, near.read_exact(&mut heard)).await.expect("an answer").expect("heard");
    assert_eq!(&heard, b"yes");
}
