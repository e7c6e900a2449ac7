//! What happens beside requests and replies: waiting, messages, expiry, refusals by memory, role and login.

use crate::{
    compare::same,
    servers,
    wire::{Pair, shown, words},
};

/// Asks both and compares; what the real one said.
pub async fn both(pair: &mut Pair, command: &[&str]) -> Vec<u8> {
    let words = words(command);
    let (real, simulated) = pair.ask(&words).await;
    if let Err(why) = same(pair, &words, &real, &simulated).await {
        panic!("{command:?}: {why}\nreal      {}\nsimulated {}", shown(&real), shown(&simulated));
    }
    real
}

/// The next message or late reply of both.
async fn hear(pair: &mut Pair) -> Vec<u8> {
    let (real, simulated) = pair.receive().await;
    assert_eq!(shown(&real), shown(&simulated));
    real
}

/// Until both say that so many clients wait.
async fn until_blocked(pair: &mut Pair, clients: usize) {
    let wanted = format!("blocked_clients:{clients}\r\n");
    loop {
        let (real, simulated) = pair.ask(&words(&["INFO", "clients"])).await;
        let blocked = |reply: &[u8]| String::from_utf8_lossy(reply).contains(&wanted);
        if blocked(&real) && blocked(&simulated) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_text_that_was_changed_in_place_is_told_from_one_that_was_written_whole() {
    let (real, simulated) = servers(1);
    let mut pair = Pair::connect(&real, &simulated).await;
    let version = "00000000000000000017";
    let encoding = async |pair: &mut Pair| both(pair, &["OBJECT", "ENCODING", "text"]).await;
    assert_eq!(encoding(&mut pair).await, b"$-1\r\n");
    for round in ["first", "second"] {
        both(&mut pair, &["SETRANGE", "text", "0", version]).await;
        assert_eq!(encoding(&mut pair).await, b"$3\r\nraw\r\n", "{round}");
    }
    both(&mut pair, &["RENAME", "text", "other"]).await;
    both(&mut pair, &["RENAME", "other", "text"]).await;
    assert_eq!(encoding(&mut pair).await, b"$3\r\nraw\r\n");
    for (text, wanted) in [(version, "embstr"), ("17", "int"), (&*"x".repeat(45), "raw"), (&*"x".repeat(44), "embstr")]
    {
        both(&mut pair, &["SET", "text", text]).await;
        assert_eq!(encoding(&mut pair).await, format!("${}\r\n{wanted}\r\n", wanted.len()).into_bytes());
    }
}

#[tokio::test]
async fn who_waits_first_is_served_first_and_by_scripts_too() {
    let (real, simulated) = servers(1);
    let mut pair = Pair::connect(&real, &simulated).await;
    let (mut first, mut second) = (Pair::connect(&real, &simulated).await, Pair::connect(&real, &simulated).await);
    let waiting = words(&["BLMOVE", "list", "target", "RIGHT", "LEFT", "0"]);
    first.send(&waiting).await;
    until_blocked(&mut pair, 1).await;
    second.send(&waiting).await;
    until_blocked(&mut pair, 2).await;
    // Both elements are there before anyone is served; the length is that of before.
    let script = "redis.call('RPUSH', 'list', 'a') return redis.call('RPUSH', 'list', 'b')";
    assert_eq!(both(&mut pair, &["EVAL", script, "0"]).await, b":2\r\n");
    assert_eq!((hear(&mut first).await, hear(&mut second).await), (b"$1\r\nb\r\n".to_vec(), b"$1\r\na\r\n".to_vec()));
    assert_eq!(both(&mut pair, &["LRANGE", "target", "0", "-1"]).await, b"*2\r\n$1\r\na\r\n$1\r\nb\r\n");
    // A list that another command brings; a target of another kind; a key of another kind; a client that went.
    first.send(&waiting).await;
    until_blocked(&mut pair, 1).await;
    both(&mut pair, &["RPUSH", "other", "c", "d"]).await;
    both(&mut pair, &["RENAME", "other", "list"]).await;
    assert_eq!(hear(&mut first).await, b"$1\r\nd\r\n");
    both(&mut pair, &["DEL", "list", "target"]).await;
    both(&mut pair, &["SET", "target", "text"]).await;
    first.send(&waiting).await;
    until_blocked(&mut pair, 1).await;
    both(&mut pair, &["RPUSH", "list", "e"]).await;
    assert!(hear(&mut first).await.starts_with(b"-WRONGTYPE"));
    assert_eq!(both(&mut pair, &["LRANGE", "list", "0", "-1"]).await, b"*1\r\n$1\r\ne\r\n", "nothing is lost");
    both(&mut pair, &["DEL", "list", "target"]).await;
    first.send(&waiting).await;
    until_blocked(&mut pair, 1).await;
    drop(first);
    until_blocked(&mut pair, 0).await;
    both(&mut pair, &["RPUSH", "list", "f"]).await;
    assert_eq!(both(&mut pair, &["LLEN", "list"]).await, b":1\r\n");
    both(&mut pair, &["SET", "text", "x"]).await;
    assert!(both(&mut pair, &["BLMOVE", "text", "target", "LEFT", "LEFT", "0"]).await.starts_with(b"-WRONGTYPE"));
    both(&mut pair, &["DEL", "list"]).await;
    assert_eq!(both(&mut pair, &["BLMOVE", "list", "target", "LEFT", "LEFT", "0.01"]).await, b"*-1\r\n");
}

#[tokio::test]
async fn messages_reach_those_who_follow_and_only_those() {
    let (real, simulated) = servers(2);
    let mut pair = Pair::connect(&real, &simulated).await;
    let mut follower = Pair::connect(&real, &simulated).await;
    both(&mut follower, &["SUBSCRIBE", "a", "b", "a"]).await;
    hear(&mut follower).await;
    hear(&mut follower).await;
    assert_eq!(both(&mut pair, &["PUBLISH", "a", "1"]).await, b":1\r\n");
    assert_eq!(both(&mut pair, &["PUBLISH", "c", "2"]).await, b":0\r\n");
    assert_eq!(both(&mut pair, &["EVAL", "return redis.call('PUBLISH', 'b', 'two\\nlines')", "0"]).await, b":1\r\n");
    hear(&mut follower).await;
    hear(&mut follower).await;
    for command in [&["GET", "a"][..], &["PING"], &["PING", "x"], &["NOPE"], &["EVAL", "return 1", "0"]] {
        both(&mut follower, command).await;
    }
    both(&mut follower, &["UNSUBSCRIBE", "b", "never"]).await;
    hear(&mut follower).await;
    assert_eq!(both(&mut pair, &["PUBLISH", "b", "3"]).await, b":0\r\n");
    both(&mut follower, &["UNSUBSCRIBE"]).await;
    both(&mut follower, &["UNSUBSCRIBE"]).await;
    both(&mut follower, &["PING"]).await;
    both(&mut follower, &["SUBSCRIBE", "a"]).await;
    drop(follower);
    loop {
        let (real, simulated) = pair.ask(&words(&["PUBLISH", "a", "4"])).await;
        if real == simulated && real == b":0\r\n" {
            break;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_expires_is_gone_for_everyone() {
    let (real, simulated) = servers(3);
    let mut pair = Pair::connect(&real, &simulated).await;
    for command in [
        &["SET", "k", "v"][..],
        &["PEXPIRE", "k", "1"],
        &["RPUSH", "l", "a"],
        &["PEXPIRE", "l", "100000"],
        // A list that rotates on itself keeps its end, one that is set anew does not.
        &["LMOVE", "l", "l", "LEFT", "RIGHT"],
        &["TTL", "l"],
        &["RENAME", "l", "m"],
        &["TTL", "m"],
        &["SET", "m", "x"],
        &["TTL", "m"],
        &["PEXPIRE", "m", "-5"],
        &["EXISTS", "m"],
        &["PEXPIRE", "m", "5"],
    ] {
        both(&mut pair, command).await;
    }
    loop {
        let (real, simulated) = pair.ask(&words(&["EXISTS", "k"])).await;
        if real == simulated && real == b":0\r\n" {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(both(&mut pair, &["TTL", "k"]).await, b":-2\r\n");
    both(&mut pair, &["KEYS", "*"]).await;
}

const SCRIPTS: &[&str] = &[
    "return 1",
    "#!lua\nreturn 1",
    "#!lua flags=no-writes\nreturn redis.call('GET', 'k')",
    "#!lua flags=no-writes\nreturn redis.call('SET', 'k', 'v')",
    "#!lua flags=allow-oom\nreturn redis.call('SET', 'k', 'v')",
    "#!lua flags=allow-oom,no-writes\nreturn redis.call('DEL', 'k')",
    "#!lua flags=nonsense\nreturn 1",
    "#!lua other=1\nreturn 1",
    "#!python\nreturn 1",
    "#!lua",
    "return redis.call('SET', 'k', 'v')",
    "return redis.pcall('SET', 'k', 'v')",
    "return redis.call('INFO', 'replication') ~= nil",
];

#[tokio::test]
async fn a_full_memory_refuses_what_would_grow() {
    let (real, simulated) = servers(4);
    let mut pair = Pair::connect(&real, &simulated).await;
    both(&mut pair, &["RPUSH", "list", "a"]).await;
    both(&mut pair, &["CONFIG", "SET", "maxmemory", "100kb"]).await;
    both(&mut pair, &["CONFIG", "GET", "maxmemory"]).await;
    for script in SCRIPTS {
        both(&mut pair, &["EVAL", script, "0"]).await;
    }
    for command in [
        &["SET", "k", "v"][..],
        &["HSET", "h", "a", "b"],
        &["HINCRBY", "h", "a", "1"],
        &["LPUSH", "list", "x"],
        &["LMOVE", "list", "list", "LEFT", "LEFT"],
        &["BLMOVE", "list", "list", "LEFT", "LEFT", "1"],
        &["XADD", "s", "*", "a", "b"],
        &["ZADD", "z", "1", "a"],
        &["RENAME", "list", "other"],
        &["RPOP", "other"],
        &["PEXPIRE", "k", "9"],
        &["DEL", "k"],
        &["GET", "k"],
        &["PUBLISH", "a", "b"],
        &["INFO"],
        &["HDEL", "h", "a"],
        &["LREM", "list", "1", "a"],
        &["ZREM", "z", "a"],
        &["SCRIPT", "FLUSH"],
        &["LLEN", "list"],
    ] {
        both(&mut pair, command).await;
    }
    both(&mut pair, &["CONFIG", "SET", "maxmemory", "0"]).await;
    both(&mut pair, &["SET", "k", "v"]).await;
}

#[tokio::test]
async fn a_replica_takes_no_writes_until_it_is_promoted() {
    let (real, simulated) = servers(5);
    let mut pair = Pair::connect(&real, &simulated).await;
    let mut waiting = Pair::connect(&real, &simulated).await;
    both(&mut pair, &["SET", "k", "v"]).await;
    waiting.send(&words(&["BLMOVE", "list", "target", "LEFT", "LEFT", "0"])).await;
    until_blocked(&mut pair, 1).await;
    let nowhere = testkit::free_port().to_string();
    assert_eq!(pair.real.ask(&words(&["REPLICAOF", "127.0.0.1", &nowhere])).await, b"+OK\r\n");
    simulated.demote();
    assert!(hear(&mut waiting).await.starts_with(b"-UNBLOCKED"));
    for script in SCRIPTS {
        both(&mut pair, &["EVAL", script, "0"]).await;
    }
    for command in [
        &["SET", "k", "w"][..],
        &["GET", "k"],
        &["DEL", "k"],
        &["PUBLISH", "a", "b"],
        &["FLUSHALL"],
        &["INFO", "server"],
        &["BLMOVE", "list", "target", "LEFT", "LEFT", "1"],
        &["PEXPIRE", "k", "1"],
        &["CONFIG", "GET", "save"],
    ] {
        both(&mut pair, command).await;
    }
    let role = |reply: Vec<u8>| {
        String::from_utf8_lossy(&reply).lines().find(|line| line.starts_with("role:")).map(str::to_owned)
    };
    let (theirs, ours) = pair.ask(&words(&["INFO", "replication"])).await;
    assert_eq!((role(theirs).as_deref(), role(ours).as_deref()), (Some("role:slave"), Some("role:slave")));
    pair.real.ask(&words(&["REPLICAOF", "NO", "ONE"])).await;
    simulated.promote();
    let (theirs, ours) = pair.ask(&words(&["INFO", "server", "replication"])).await;
    for reply in [theirs, ours] {
        let info = String::from_utf8_lossy(&reply).into_owned();
        assert!(info.contains(&format!("run_id:{}", crate::wire::RUN)), "the same process: {info}");
        assert!(!info.contains(&format!("master_replid:{}", crate::wire::REPLICATION)), "another replication: {info}");
        assert!(info.contains(&format!("master_replid2:{}", crate::wire::REPLICATION)), "which it came from: {info}");
    }
    both(&mut pair, &["SET", "k", "w"]).await;
}

#[tokio::test]
async fn a_login_is_asked_for_and_commands_may_be_denied() {
    let (real, simulated) = servers(6);
    let mut pair = Pair::connect(&real, &simulated).await;
    both(&mut pair, &["AUTH", "x"]).await;
    both(&mut pair, &["AUTH", "default", "x"]).await;
    both(&mut pair, &["AUTH", "nobody", "x"]).await;
    pair.real.ask(&words(&["ACL", "SETUSER", "default", "-config|get", "-ttl"])).await;
    simulated.deny("config|get");
    simulated.deny("ttl");
    for command in [
        &["CONFIG", "GET", "save"][..],
        &["CONFIG", "SET", "save", ""],
        &["TTL", "k"],
        &["PTTL", "k"],
        &["EVAL", "return redis.call('TTL', 'k')", "0"],
    ] {
        both(&mut pair, command).await;
    }
    simulated.permit("ttl");
    pair.real.ask(&words(&["ACL", "SETUSER", "default", "+ttl"])).await;
    both(&mut pair, &["TTL", "k"]).await;
    both(&mut pair, &["CONFIG", "SET", "requirepass", "secret"]).await;
}

#[tokio::test]
async fn a_new_connection_must_log_in() {
    let (real, simulated) = servers(7);
    let mut pair = Pair::connect(&real, &simulated).await;
    let mut other = Pair::connect(&real, &simulated).await;
    both(&mut pair, &["CONFIG", "SET", "requirepass", "secret"]).await;
    for client in [&mut pair, &mut other] {
        for command in [
            &["GET", "k"][..],
            &["PING"],
            &["NOPE"],
            &["AUTH", "wrong"],
            &["AUTH", "default", "wrong"],
            &["AUTH"],
            &["AUTH", "a", "b", "c"],
            &["GET"],
            &["AUTH", "default", "secret"],
            &["GET", "k"],
        ] {
            both(client, command).await;
        }
    }
}
