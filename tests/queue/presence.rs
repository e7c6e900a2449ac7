//! Which of many queues have anything in them.

use mailrelay::queue::{Presence, QueueNames};

use super::support::{LIMIT, fixture};

#[tokio::test]
async fn what_comes_or_goes_in_one_of_many_queues_is_noticed_and_the_rest_is_not_doubted() {
    let fixture = fixture();
    let store = &fixture.store;
    let names: Vec<QueueNames> = (0..300).map(|n| QueueNames::new(&format!("q{n}"), &format!("dead{n}"))).collect();
    let all: Vec<&QueueNames> = names.iter().collect();
    let redis_does = async |words: &[&str]| {
        let _: redis::Value = store.query(redis::cmd(words[0]).arg(&words[1..]), LIMIT).await.expect("done");
    };
    redis_does(&["LPUSH", "dead7", "x"]).await;
    redis_does(&["HSET", "{q8}:held", "id", "x"]).await;
    let found = Presence::of(store, &all).await.expect("an answer");
    let nothing = Presence::default();
    assert_eq!((found[6], found[7]), (nothing, Presence { dead: true, ..nothing }));
    assert_eq!(found[8], Presence { held: true, ..nothing });
    let known: Vec<(&QueueNames, Presence)> = all.iter().copied().zip(found).collect();
    let doubtful = async || Presence::doubtful(store, &known).await.expect("an answer");
    assert_eq!(doubtful().await, [0; 0]);
    // One comes where there was nothing, and one goes where something was: neither hides the other.
    for (come, gone) in [
        (["LPUSH", "q9", "x"].as_slice(), ["RPOP", "q9"].as_slice()),
        (&["ZADD", "{q9}:delayed", "1", "x"], &["ZREM", "{q9}:delayed", "x"]),
        (&["HSET", "{q9}:processes", "p", "pod"], &["HDEL", "{q9}:processes", "p"]),
        (&["RPOP", "dead7"], &["LPUSH", "dead7", "x"]),
        (&["HDEL", "{q8}:held", "id"], &["HSET", "{q8}:held", "id", "x"]),
    ] {
        redis_does(come).await;
        let some = doubtful().await;
        let number: usize = come[1].chars().filter(char::is_ascii_digit).collect::<String>().parse().expect("a number");
        assert!(some.contains(&number) && some.len() < names.len(), "{come:?}: {some:?}");
        redis_does(gone).await;
        assert_eq!(doubtful().await, [0; 0], "{gone:?}");
    }
}
