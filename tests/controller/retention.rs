//! How long dead letters and records are kept.

use std::{sync::Arc, time::Duration};

use mailrelay::{
    api::{DurationText, MailRelay, Retention},
    controller::{Expired, discard_expired, keep_records},
    mail::UnixMillis,
    queue::{Queue, QueueNames},
};

use super::support::{LIMIT, bench, relay_plan};

fn keeps_letters_for(relay: &MailRelay, retention: Duration) -> Arc<MailRelay> {
    let mut wanted = relay.clone();
    wanted.spec.queue.dead_letter_retention = Retention::For(DurationText::new(retention));
    Arc::new(wanted)
}

#[tokio::test]
async fn dead_letters_go_when_their_retention_is_over_and_not_before() {
    let bench = bench();
    let (key, mut plan) = relay_plan(1);
    let relay = plan.relays.get_mut(&key).expect("planned");
    let queue = Queue::new(bench.store.clone(), QueueNames::from_spec(&relay.relay.spec.queue));
    let _: i64 = bench.store.query(redis::cmd("LPUSH").arg("mail_queue").arg("{"), LIMIT).await.expect("pushed");
    let parked = UnixMillis::now();
    assert_eq!(
        queue.claim("0123456789abcdef0123456789abcdef", "web-0", 1, parked).await.expect("claimed").mails.len(),
        0
    );
    let retention = Duration::from_secs(720 * 3_600);
    let over = parked.after(retention + Duration::from_millis(1));
    let none = Expired::default();
    assert_eq!(discard_expired(&bench.store, relay, over).await.expect("looked"), none, "by default they are kept");
    relay.relay = keeps_letters_for(&relay.relay, retention);
    assert_eq!(discard_expired(&bench.store, relay, parked.after(retention)).await.expect("looked"), none);
    let oldest = retention + Duration::from_millis(1);
    assert_eq!(discard_expired(&bench.store, relay, over).await.expect("looked"), Expired { letters: 1, oldest });
    let audit = queue.audit().await.expect("an audit");
    assert_eq!((audit.dead, audit.discarded, audit.difference), (0, 1, 0));
}

#[tokio::test]
async fn all_who_use_a_queue_are_told_how_long_its_records_are_kept() {
    let bench = bench();
    let (key, plan) = relay_plan(1);
    keep_records(&bench.store, &plan.relays[&key]).await.expect("told");
    let mut ask = redis::cmd("HGET");
    ask.arg("{mail_queue}:counters").arg("retention");
    let told: Option<u64> = bench.store.query(&ask, LIMIT).await.expect("asked");
    assert_eq!(told, Some(86_400_000));
}

#[tokio::test]
async fn an_entry_of_unknown_age_outlives_every_retention() {
    let bench = bench();
    let (key, mut plan) = relay_plan(1);
    let relay = plan.relays.get_mut(&key).expect("planned");
    relay.relay = keeps_letters_for(&relay.relay, Duration::from_secs(60));
    let mut push = redis::cmd("LPUSH");
    let _: i64 = bench.store.query(push.arg("mail_dead_letter_queue").arg("not ours"), LIMIT).await.expect("pushed");
    let discarded = discard_expired(&bench.store, relay, UnixMillis::now()).await.expect("looked");
    let mut count = redis::cmd("LLEN");
    let left: i64 = bench.store.query(count.arg("mail_dead_letter_queue"), LIMIT).await.expect("counted");
    assert_eq!((discarded.letters, left), (0, 1));
}
