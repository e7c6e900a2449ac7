//! One pool's ledger answers garbage: its relay says so, and nobody else notices.

use mailrelay::{
    mail::UnixMillis,
    queue::{Queue, QueueNames},
};
use testkit::eventually;

use crate::house::{House, LIMIT};

/// Two relays, `bad` and `good`, by name before and after each other in every list, with a pod each that has its share.
async fn two_relays() -> House {
    let mut house = House::empty();
    for relay in ["aaa", "bad", "zzz"] {
        house.relay(relay, 1);
        house.pod(&format!("{relay}-0"), relay);
    }
    house.lead();
    for relay in ["aaa", "bad", "zzz"] {
        house.shares(relay, &[(&format!("{relay}-0"), 16)]).await;
    }
    house
}

/// What may be wrong with a ledger: the commands that make it so, and the reason that is shown.
const WRONG: [(&str, &[&[&str]], &str); 3] = [
    ("a field is garbage", &[&["HSET", "mailrelay:{bad}:ledger", "h:junk", "one two"]], "LedgerUnreadable"),
    ("a field is missing", &[&["HDEL", "mailrelay:{bad}:ledger", "epoch"]], "LedgerUnreadable"),
    (
        "the key is of another type",
        &[&["DEL", "mailrelay:{bad}:ledger"], &["SET", "mailrelay:{bad}:ledger", "text"]],
        "LedgerUnreadable",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_cannot_be_read_stops_no_other_relay_and_is_named() {
    for (what, commands, reason) in WRONG {
        let house = two_relays().await;
        for command in commands {
            house.redis(command).await;
        }
        let message = house.until("bad", "Ready", "False", reason).await;
        assert!(message.contains("mailrelay:{bad}:ledger"), "{what}: {message}");
        for relay in ["aaa", "zzz"] {
            // Planned and published as ever.
            house.pod(&format!("{relay}-1"), relay);
            house.shares(relay, &[(&format!("{relay}-0"), 8), (&format!("{relay}-1"), 8)]).await;
            house.edit(relay, |spec| spec["suspend"] = true.into());
            eventually(&format!("{what}: the record of {relay} follows its spec"), async || {
                let record = house.record(relay).await.expect("a record");
                if record.spec.suspend { Ok(()) } else { Err(format!("generation {}", record.generation)) }
            })
            .await;
            house.until(relay, "Ready", "False", "Suspended").await;
        }
        assert_eq!(house.says("bad", "Stalled").1, reason, "{what}: nothing moves there without a person");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_that_was_unreadable_goes_on_when_it_is_deleted() {
    let house = two_relays().await;
    house.redis(&["HSET", "mailrelay:{bad}:ledger", "h:junk", "one two"]).await;
    house.until("bad", "Ready", "False", "LedgerUnreadable").await;
    house.redis(&["DEL", "mailrelay:{bad}:ledger"]).await;
    house.shares("bad", &[("bad-0", 16)]).await;
    eventually("nothing is said of it any more", async || {
        let (stalled, ready) = (house.says("bad", "Stalled"), house.says("bad", "Ready"));
        if stalled.1.is_empty() && ready.1 != "LedgerUnreadable" { Ok(()) } else { Err(format!("{ready:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_of_a_dead_worker_is_recovered_beside_a_ledger_that_cannot_be_read() {
    let house = two_relays().await;
    let worker = house.register("zzz", "zzz-0").await;
    house
        .redis(&[
            "LPUSH",
            "zzz",
            r#"{"id":"m1","from":"a@example.com","to":"b@example.org","subject":"m1","text":"hello"}"#,
        ])
        .await;
    let queue = Queue::new(house.store.clone(), QueueNames::new("zzz", "zzz_dead"));
    let claimed = queue.claim(worker.process(), "zzz-0", 1, UnixMillis::now()).await.expect("claimed");
    assert_eq!(claimed.mails.len(), 1);
    house.redis(&["HSET", "mailrelay:{bad}:ledger", "h:junk", "one two"]).await;
    house.until("bad", "Ready", "False", "LedgerUnreadable").await;
    // It says nothing more.
    eventually("its mail is in the queue again", async || {
        let mut count = redis::cmd("LLEN");
        let waiting: i64 = house.store.query(count.arg("{zzz}:high"), LIMIT).await.expect("counted");
        let mut count = redis::cmd("LLEN");
        let queued: i64 = house.store.query(count.arg("zzz"), LIMIT).await.expect("counted");
        if waiting + queued == 1 { Ok(()) } else { Err(format!("{waiting} and {queued}")) }
    })
    .await;
}

/// The right to all but the record of `bad` and what is kept of its queue.
const NOT_BAD: [&str; 8] =
    ["ACL", "SETUSER", "default", "resetkeys", "~mailrelay:{*", "~mailrelay:reports:*", "~*aaa*", "~*zzz*"];

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_cannot_be_written_stops_no_other_relay_and_is_named() {
    let house = two_relays().await;
    house.redis(&NOT_BAD).await;
    let message = house.until("bad", "Ready", "False", "RecordNotWritten").await;
    assert!(message.contains("mailrelay:config:mail/bad") && message.contains("no permissions"), "{message}");
    house.edit("zzz", |spec| spec["suspend"] = true.into());
    eventually("the record of another follows its spec", async || {
        let record = house.record("zzz").await.expect("a record");
        if record.spec.suspend { Ok(()) } else { Err(format!("generation {}", record.generation)) }
    })
    .await;
    house.redis(&["ACL", "SETUSER", "default", "allkeys"]).await;
    house.until("bad", "Ready", "False", "WaitingForWorkers").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_the_place_of_a_record_is_replaced() {
    let house = two_relays().await;
    house.redis(&["DEL", "mailrelay:config:mail/bad"]).await;
    house.redis(&["LPUSH", "mailrelay:config:mail/bad", "x"]).await;
    eventually("its record is there again", async || {
        let mut kind = redis::cmd("TYPE");
        let kind: String = house.store.query(kind.arg("mailrelay:config:mail/bad"), LIMIT).await.expect("asked");
        if kind == "string" { Ok(()) } else { Err(kind) }
    })
    .await;
    assert!(house.record("bad").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ledger_of_a_newer_version_is_refused_and_left_as_it_is() {
    let house = two_relays().await;
    house.redis(&["HSET", "mailrelay:{bad}:ledger", "schema", "2", "h:new", "in words of its own"]).await;
    let message = house.until("bad", "Ready", "False", "NewerVersion").await;
    assert!(message.contains("update"), "{message}");
    house.pod("zzz-1", "zzz");
    house.shares("zzz", &[("zzz-0", 8), ("zzz-1", 8)]).await;
    let mut ask = redis::cmd("HMGET");
    ask.arg("mailrelay:{bad}:ledger").arg("schema").arg("h:new");
    let kept: (String, String) = house.store.query(&ask, LIMIT).await.expect("asked");
    assert_eq!(kept, ("2".into(), "in words of its own".into()));
}
