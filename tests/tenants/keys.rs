//! What one tenant can do to the other, key by key.

use std::collections::BTreeMap;

use redis::cmd;

use crate::house::{House, LIMIT, Tenant, mail};

/// Commands that read or write a key, or tell of it; `K` stands for it, `S` for the digest of a script.
const ON_A_KEY: &str = "GET K|SET K v|GETRANGE K 0 9|SETRANGE K 0 v|STRLEN K|APPEND K v|GETDEL K|GETEX K|INCR K|MGET K|MSET K v|\
    DEL K|UNLINK K|EXISTS K|TYPE K|TTL K|PTTL K|EXPIRE K 1|PEXPIRE K 1|PERSIST K|DUMP K|RESTORE K 0 v|RENAME K x|RENAME x K|\
    COPY K x|COPY x K|MOVE K 1|TOUCH K|OBJECT ENCODING K|OBJECT IDLETIME K|MEMORY USAGE K|SORT K|SORT_RO K|\
    LLEN K|LINDEX K 0|LRANGE K 0 -1|LPUSH K v|RPUSH K v|LPOP K|RPOP K|LSET K 0 v|LREM K 0 v|LTRIM K 0 0|LPOS K v|LINSERT K BEFORE v v|\
    LMOVE K x LEFT LEFT|LMOVE x K LEFT LEFT|BLMOVE K x LEFT LEFT 0|BLMOVE x K LEFT LEFT 0|RPOPLPUSH K x|BRPOP K 0|LMPOP 1 K LEFT|\
    HGET K f|HMGET K f|HGETALL K|HKEYS K|HVALS K|HLEN K|HEXISTS K f|HSCAN K 0|HSTRLEN K f|HRANDFIELD K|HSET K f v|HDEL K f|HINCRBY K f 1|\
    ZADD K 1 v|ZRANGE K 0 -1|ZRANGEBYSCORE K -inf +inf|ZSCORE K v|ZCARD K|ZREM K v|ZPOPMIN K|ZSCAN K 0|\
    XADD K * f v|XRANGE K - +|XREVRANGE K + -|XREAD STREAMS K 0|XLEN K|XTRIM K MAXLEN 0|XDEL K 1-1|\
    SADD K v|SMEMBERS K|PFADD K v|GEOADD K 1 1 v|BITCOUNT K|EVALSHA S 1 K|EVALSHA_RO S 1 K|EVAL x 1 K|FCALL f 1 K|WATCH K";

/// Commands that name no key and would reach all, or Redis itself.
const ON_ALL: &str = "KEYS *|SCAN 0|RANDOMKEY|DBSIZE|FLUSHALL|FLUSHDB|SWAPDB 0 1|MONITOR|CONFIG GET requirepass|CONFIG SET save x|\
    CONFIG REWRITE|ACL LIST|ACL GETUSER default|ACL SETUSER x|ACL LOG|CLIENT LIST|CLIENT KILL ID 1|CLIENT PAUSE 1|CLIENT TRACKING ON|\
    CLIENT UNBLOCK 1|SHUTDOWN|SAVE|BGSAVE|BGREWRITEAOF|REPLICAOF NO ONE|DEBUG SLEEP 0|MODULE LIST|SLOWLOG GET|LATENCY RESET|\
    SCRIPT FLUSH|SCRIPT KILL|FUNCTION LOAD x|FUNCTION LIST|EVAL x 0|PUBSUB CHANNELS|PSUBSCRIBE *|SYNC|PSYNC x 0|\
    MEMORY DOCTOR|LOLWUT|WAIT 0 0|FAILOVER|CLUSTER INFO";

/// Those with which mail, or what is known of it, is read or taken away.
const READS_OR_TAKES: &str = "GET K|GETRANGE K 0 9|GETDEL K|GETEX K|MGET K|DEL K|UNLINK K|EXPIRE K 1|DUMP K|RESTORE K 0 v|RENAME K x|RENAME x K|COPY K x|\
    SORT K|LINDEX K 0|LRANGE K 0 -1|LPOP K|RPOP K|LSET K 0 v|LREM K 0 v|LTRIM K 0 0|LPOS K v|LINSERT K BEFORE v v|RPUSH K v|LMOVE K x LEFT LEFT|\
    BLMOVE K x LEFT LEFT 0|RPOPLPUSH K x|BRPOP K 0|LMPOP 1 K LEFT|HVALS K|HSCAN K 0|HRANDFIELD K|XREVRANGE K + -|XRANGE K - +|XREAD STREAMS K 0|XTRIM K MAXLEN 0|XDEL K 1-1|ZREM K v|ZPOPMIN K";

/// Which of these commands, on this key, a user may do.
async fn permitted(house: &House, user: &str, key: &str, commands: &str) -> Vec<String> {
    let admin = house.connected("default").await;
    let (mut dry, mut asked) = (redis::pipe(), Vec::new());
    for text in commands.split('|') {
        let words: Vec<&str> = text.split_whitespace().map(|word| if word == "K" { key } else { word }).collect();
        dry.cmd("ACL").arg("DRYRUN").arg(user).arg(&words);
        asked.push(words.join(" "));
    }
    let answers: Vec<String> = admin.query_all(&dry, LIMIT).await.expect("answers");
    asked.into_iter().zip(answers).filter(|(_, answer)| answer == "OK").map(|(asked, _)| asked).collect()
}

/// Whose a key is, by the names that the tenants gave.
fn owner(key: &str) -> Option<&'static str> {
    let of = |tenant: &'static str| {
        let begins = [
            format!("{tenant}-mail"),
            format!("{{{tenant}-mail}}:"),
            format!("{tenant}-dead"),
            format!("{tenant}-body:"),
            format!("mailrelay:{{mx-{tenant}}}:"),
            format!("mailrelay:config:{tenant}/"),
            format!("mailrelay:reports:{tenant}/"),
        ];
        begins.iter().any(|begin| key.starts_with(begin)).then_some(tenant)
    };
    of("a").or_else(|| of("b"))
}

#[tokio::test(flavor = "multi_thread")]
async fn no_login_of_a_tenant_reaches_a_key_or_a_channel_of_another() {
    let mut house = House::empty();
    house.lead();
    let (mut a, mut b) = (Tenant::settle(&house, "a").await, Tenant::settle(&house, "b").await);
    tokio::join!(a.live(&house), b.live(&house));
    house.nothing_was_refused();
    let keys: Vec<String> = house.seen.lock().expect("no panic").iter().cloned().collect();
    let mut of: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for key in &keys {
        of.entry(owner(key).unwrap_or_else(|| panic!("whose is {key}?"))).or_default().push(key);
    }
    house.redis(&["ACL", "SETUSER", "nosy", "on", "nopass", "~*", "&*", "+@all"]);
    for (tenant, other) in [(&a, &b), (&b, &a)] {
        let theirs = &of[other.name];
        for kind in [
            "}:claims:",
            "}:stages:",
            "}:records:",
            "}:held",
            "}:batch:",
            "}:delayed:mails",
            "-dead",
            "-body:",
            "}:ledger",
            "}:rate",
        ] {
            assert!(
                theirs.iter().any(|key| key.contains(kind)),
                "the life of {} had a key of the kind {kind}: {theirs:?}",
                other.name
            );
        }
        for user in [&tenant.worker, &tenant.producer, &tenant.operator] {
            for key in theirs {
                let can = permitted(&house, user, key, ON_A_KEY).await;
                assert!(can.is_empty(), "{user}: {can:?}");
            }
            for channel in channels(other.name) {
                let can =
                    permitted(&house, user, &channel, "PUBLISH K v|SUBSCRIBE K|PSUBSCRIBE K|SPUBLISH K v|SSUBSCRIBE K")
                        .await;
                assert!(can.is_empty(), "{user}: {can:?}");
            }
            let can = permitted(&house, user, "", ON_ALL).await;
            assert!(can.is_empty(), "{user}: {can:?}");
        }
        // Whoever may do everything is told so: the questions are sound.
        let key = theirs[0];
        assert_eq!(permitted(&house, "nosy", key, ON_A_KEY).await.len(), ON_A_KEY.split('|').count());
        assert!(
            permitted(&house, &other.worker, &format!("{}-mail", other.name), "BLMOVE K K RIGHT LEFT 0|LPUSH K v")
                .await
                .len()
                == 2
        );
    }
    producers_only_push(&house, &a, &of["a"]).await;
    in_earnest(&house, &a, &b).await;
}

fn channels(tenant: &str) -> [String; 4] {
    [
        format!("mailrelay:config:{tenant}/corporate"),
        format!("mailrelay:{{mx-{tenant}}}:events"),
        format!("{{{tenant}-mail}}:arrived"),
        format!("{{{tenant}-mail}}:delayed"),
    ]
}

/// A producer can't read or take what waits, not even in its own queue.
async fn producers_only_push(house: &House, tenant: &Tenant, keys: &[&str]) {
    let relay = tenant.relay();
    let pusher = house.login(&["producer", "--relay", &relay, "--push-only", "--user", "pusher"]);
    for key in keys {
        // It may ask for the relay's record, which `--relay` reads; and a batch that it names ends after a time.
        let expected = match () {
            () if key.starts_with("mailrelay:config:") => vec![format!("GET {key}")],
            () if key.contains("}:batch:") => vec![format!("EXPIRE {key} 1")],
            () => Vec::new(),
        };
        let can = permitted(house, &tenant.producer, key, READS_OR_TAKES).await;
        assert_eq!(can, expected, "{key}");
        let can = permitted(house, &pusher, key, ON_A_KEY).await;
        let list = ["a-mail", "{a-mail}:high", "{a-mail}:low"].contains(key);
        let expected: Vec<String> = match (list, key.starts_with("a-body:")) {
            (true, _) => vec![format!("LPUSH {key} v")],
            (_, true) => vec![format!("SET {key} v")],
            _ => Vec::new(),
        };
        assert_eq!(can, expected, "{key}");
    }
    let mail_lies = |key: &&&str| {
        ["}:claims:", "}:held", "}:delayed:mails", "-dead", "}:arrived"].iter().any(|kind| key.contains(kind))
    };
    for key in keys.iter().filter(mail_lies) {
        let can =
            permitted(house, &tenant.producer, key, "HGET K f|HMGET K f|HGETALL K|HKEYS K|LPUSH K v|HDEL K f").await;
        assert!(can.is_empty(), "{can:?}");
    }
}

/// The same by really doing it: not by what Redis would say.
async fn in_earnest(house: &House, a: &Tenant, b: &Tenant) {
    let elsewhere =
        house.connected(&a.producer).await.query::<i64>(cmd("LPUSH").arg("a-mail-too").arg("x"), LIMIT).await;
    assert!(elsewhere.expect_err("not its list").is_forbidden());
    let mallory = house.connected(&b.worker).await;
    let words = [
        "LRANGE a-mail 0 -1",
        "GET mailrelay:config:a/corporate",
        "HGETALL mailrelay:{mx-a}:ledger",
        "LPUSH a-mail x",
        "DEL a-mail",
        "HSET {a-mail}:counters accepted 7",
        "HGETALL {a-mail}:held",
        "PUBLISH {a-mail}:arrived mail",
        "SUBSCRIBE mailrelay:{mx-a}:events",
        "COPY a-mail b-mail",
        "BLMOVE a-mail b-mail LEFT LEFT 1",
        "GETRANGE a-body:short 0 9",
    ];
    for text in words {
        let words: Vec<&str> = text.split(' ').collect();
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        let error = mallory.query::<redis::Value>(&command, LIMIT).await.expect_err(text);
        assert!(error.is_forbidden(), "{text}: {error}");
    }
    // A script may name a key that it did not declare; it has its user's rights all the same.
    for call in [
        "'LRANGE', 'a-mail', 0, -1",
        "'HSET', 'mailrelay:{mx-a}:ledger', 'budget', 99",
        "'KEYS', '*'",
        "'PUBLISH', '{a-mail}:arrived', 'x'",
    ] {
        let script = redis::Script::new(&format!("return redis.call({call})"));
        let error = mallory.invoke::<redis::Value>(&script, &["b-mail"], &[], LIMIT).await.expect_err(call);
        assert!(error.is_forbidden(), "{call}: {error}");
    }
    // By its own command line, for the other's relay and queue.
    for arguments in [
        &["dead", "list", "--relay", "a/corporate"][..],
        &["queue", "--queue", "a-mail", "--dead-letter", "a-dead"],
        &["leases", "mx-a"],
    ] {
        let output = house.cli(&b.operator, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("mailrelay redis-acl"), "{arguments:?}: {said}");
    }
    let output = house.cli(
        &b.producer,
        &["send", "--queue", "a-mail", "--dead-letter", "a-dead"],
        &mail("x@example.org").to_string(),
    );
    assert!(!output.status.success(), "{output:?}");
    assert_eq!(house.redis(&["LLEN", "a-mail"]).trim(), "0");
}
