//! Lists that hold ids alone: what lies under them may not be readable.

use mailrelay::{
    queue::{Filter, Queue},
    store::{Store, StoreOptions},
};
use redis::cmd;

use super::support::*;

/// The fixture's queue as a user sees it who may not read every payload.
fn restricted(fixture: &Fixture) -> Queue {
    let rules = ["ACL", "SETUSER", "worker", "on", ">secret", "+@all", "~mail_queue", "~{mail_queue}:*"];
    let keys = ["~mail_dead_letter_queue", "~mail:open"];
    fixture.redis.command(&[&rules[..], &keys].concat()).expect("a user");
    let url = format!("redis://worker:secret@127.0.0.1:{}", fixture.redis.port());
    Queue::new(Store::new(&StoreOptions::from_url(url)).expect("options"), names())
}

#[tokio::test]
async fn a_payload_that_the_user_may_not_read_ends_with_a_reason_and_holds_up_nobody() {
    let fixture = fixture();
    let queue = restricted(&fixture);
    for id in ["open", "closed"] {
        let _: () = fixture.store.query(cmd("SET").arg(format!("mail:{id}")).arg(mail(id)), LIMIT).await.expect("SET");
    }
    for id in ["closed", "open"] {
        fixture.push("mail_queue", id).await;
    }
    let batch = queue.claim(ONE, "pod", 2, NOW).await.expect("claimed");
    assert_eq!(batch.mails.iter().map(|claim| &*claim.header.id).collect::<Vec<_>>(), ["open"]);
    let letter = fixture.queue.dead_show("closed").await.expect("shown").expect("a dead letter");
    assert_eq!((letter.reason.as_str(), letter.payload_key.as_deref()), ("PayloadUnreadable", Some("mail:closed")));
    assert!(letter.reply.contains("+getrange"), "{}", letter.reply);
    fixture.balanced().await;
    // Once it may be read, a re-drive sends it.
    let filter = Filter { reason: Some("PayloadUnreadable".into()), ..Filter::default() };
    assert_eq!(fixture.queue.dead_requeue(&filter, 10, NOW).await.expect("requeued").done, 1);
    assert_eq!(fixture.claim_one(ONE).await.header.id, "closed");
}

#[tokio::test]
async fn a_value_of_another_type_is_told_from_one_that_is_gone() {
    let fixture = fixture();
    fixture.push("mail:list", "x").await;
    for id in ["gone", "list"] {
        fixture.push("mail_queue", id).await;
    }
    assert!(fixture.claim(ONE, 2).await.is_empty());
    let reasons: Vec<(String, String)> =
        fixture.letters().await.into_iter().map(|letter| (letter.id, letter.reason)).collect();
    let expected = [("list", "PayloadUnreadable"), ("gone", "PayloadMissing")];
    assert_eq!(reasons, expected.map(|(id, reason)| (id.to_owned(), reason.to_owned())));
}
