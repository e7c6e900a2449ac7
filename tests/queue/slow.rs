//! A slow link to Redis.

use std::time::{Duration, Instant};

use mailrelay::{
    queue::{Queue, Settlement, Stage},
    store::{Store, StoreOptions},
};
use redis::cmd;
use testkit::SlowLink;

use super::support::*;

/// Bytes a second.
const RATE: u32 = 3_000_000;

/// The queue as it is seen over such a link.
async fn over_slow_link(fixture: &Fixture) -> (SlowLink, Store, Queue) {
    let link = SlowLink::open(fixture.redis.address(), RATE).await.expect("a port");
    let store = Store::new(&StoreOptions::from_url(format!("redis://{}", link.address()))).expect("options");
    (link, store.clone(), Queue::new(store, names()))
}

/// Asks Redis again and again until `work` is done; the longest that an answer took.
async fn asked_meanwhile<T>(store: &Store, work: impl Future<Output = T>) -> (T, Duration) {
    let mut work = std::pin::pin!(work);
    let mut longest = Duration::ZERO;
    let ping = cmd("PING");
    loop {
        let began = Instant::now();
        tokio::select! {
            biased;
            done = &mut work => return (done, longest),
            answer = store.query::<String>(&ping, LIMIT) => {
                answer.expect("an answer");
                longest = longest.max(began.elapsed());
            }
        }
        // Not a test of how many questions it stands.
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_mail_crosses_a_slow_link_both_ways_and_nothing_in_a_hurry_waits_for_it() {
    let fixture = fixture();
    let (_link, store, queue) = over_slow_link(&fixture).await;
    let large = mail_with("large", &format!(r#""html":"{}""#, "x".repeat(10_000_000)));
    fixture.push("mail_queue", &large).await;
    fixture.push("mail_queue", mail("small")).await;
    let by_id = large.replace("\"large\"", "\"by-id\"");
    let () = fixture.store.query(cmd("SET").arg("mail:by-id").arg(by_id), LIMIT).await.expect("SET");
    fixture.push("mail_queue", "by-id").await;

    let began = Instant::now();
    let (claimed, longest) = asked_meanwhile(&store, queue.claim(ONE, "pod", 3, NOW)).await;
    let claimed = claimed.expect("it comes in the end");
    assert_eq!(claimed.mails.iter().map(|claim| claim.header.id.as_str()).collect::<Vec<_>>(), ["large"], "alone");
    assert!(claimed.mails[0].payload == large.as_bytes(), "to the byte");
    assert!(began.elapsed() > Duration::from_secs(3) && longest < Duration::from_secs(1), "{longest:?}");

    let (others, _) = asked_meanwhile(&store, queue.claim(ONE, "pod", 3, NOW)).await;
    let others = others.expect("both come");
    assert_eq!(others.mails.iter().map(|claim| claim.header.id.as_str()).collect::<Vec<_>>(), ["small", "by-id"]);

    let advanced = queue.advance(ONE, &claimed.mails[0].claim_id, Stage::Sending, NOW).await;
    assert!(advanced.is_ok(), "{advanced:?}");
    let outcome = Settlement::Dead { reason: "Policy".into(), reply: "554 no".into() };
    let (operation, progress) = (mailrelay::queue::OperationId::random(), mailrelay::queue::PerRecipient::default());
    let settling = queue.settle(ONE, &claimed.mails[0], &operation, &outcome, &progress, NOW);
    let (settled, longest) = asked_meanwhile(&store, settling).await;
    assert_eq!(settled.expect("told in the end"), mailrelay::queue::Settled::Done);
    assert!(longest < Duration::from_secs(1), "{longest:?}");

    let (shown, longest) = asked_meanwhile(&store, queue.dead_show("large")).await;
    assert_eq!(shown.expect("shown").expect("there").payload.as_deref(), Some(large.as_str()));
    assert!(longest < Duration::from_secs(1), "{longest:?}");
}
