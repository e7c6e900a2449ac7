//! One slot for each script: against a Redis in Cluster mode that owns all slots, which checks every script's keys. And a
//! payload that lies on another node.

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use mailrelay::{
    api::UnknownOutcome,
    queue::{Filter, OperationId, PerRecipient, Queue, QueueNames, RecoverOptions, Settled, Stage},
    store::{Store, StoreOptions},
};
use redis::cmd;
use testkit::eventually;

use crate::real::support::*;

/// The process and its folder; both go with the test.
struct ClusterNode {
    child: Child,
    folder: PathBuf,
}

impl Drop for ClusterNode {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A node that knows of no other and owns no slot.
fn node() -> (ClusterNode, u16, u16, Store) {
    let (port, bus) = (testkit::free_port(), testkit::free_port());
    let folder = std::env::temp_dir().join(format!("mailrelay-cluster-{}-{port}", std::process::id()));
    std::fs::create_dir(&folder).expect("a folder");
    // The bus port follows the port by default, and may lie beyond what ports may be.
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--cluster-port", &bus.to_string(), "--bind", "127.0.0.1"])
        .args(["--cluster-enabled", "yes", "--save", "", "--logfile", "redis.log", "--dir"])
        .arg(&folder)
        .stdout(Stdio::null())
        .spawn()
        .expect("redis-server starts");
    let store = Store::new(&StoreOptions::from_url(format!("redis://127.0.0.1:{port}"))).expect("options");
    (ClusterNode { child, folder }, port, bus, store)
}

/// Gives a node all slots of these ranges.
async fn assign(store: &Store, ranges: &[(u16, u16)]) {
    let mut assign = cmd("CLUSTER");
    assign.arg("ADDSLOTSRANGE");
    for (first, last) in ranges {
        assign.arg(first).arg(last);
    }
    eventually("the slots are assigned", async || store.query::<()>(&assign, LIMIT).await).await;
}

async fn until_up(store: &Store) {
    eventually("the cluster is up", async || {
        let info: String = store.query(cmd("CLUSTER").arg("INFO"), LIMIT).await.unwrap_or_default();
        if info.contains("cluster_state:ok") { Ok(()) } else { Err(info) }
    })
    .await;
}

async fn cluster() -> (ClusterNode, Store) {
    let (node, _, _, store) = node();
    assign(&store, &[(0, 16_383)]).await;
    until_up(&store).await;
    (node, store)
}

#[tokio::test]
async fn a_payload_on_another_node_of_the_cluster_ends_with_a_reason_that_says_what_to_do() {
    let ((_near, _, _, store), (_far, port, bus, far)) = (node(), node());
    let slot: u16 =
        eventually("a node answers", async || store.query(cmd("CLUSTER").arg("KEYSLOT").arg("mail:far"), LIMIT).await)
            .await;
    assign(&store, &[(0, slot - 1), (slot + 1, 16_383)]).await;
    assign(&far, &[(slot, slot)]).await;
    let mut meet = cmd("CLUSTER");
    meet.arg("MEET").arg("127.0.0.1").arg(port).arg(bus);
    let _: () = store.query(&meet, LIMIT).await.expect("they meet");
    until_up(&store).await;
    until_up(&far).await;
    let _: () = far.query(cmd("SET").arg("mail:far").arg(mail("far")), LIMIT).await.expect("SET");

    let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "{mail_queue}:dead"));
    let _: () = store.query(cmd("LPUSH").arg("mail_queue").arg("far").arg(mail("near")), LIMIT).await.expect("LPUSH");
    let batch = queue.claim(ONE, "pod", 2, NOW).await.expect("claimed");
    assert_eq!(batch.mails.iter().map(|claim| &*claim.header.id).collect::<Vec<_>>(), ["near"], "it holds up nobody");
    let letter = queue.dead_show("far").await.expect("shown").expect("a dead letter");
    assert_eq!((letter.reason.as_str(), letter.payload_key.as_deref()), ("PayloadUnreadable", Some("mail:far")));
    assert!(letter.reply.contains("hash tag"), "{}", letter.reply);
}

#[tokio::test]
async fn every_move_stays_within_one_cluster_slot() {
    let (_node, store) = cluster().await;
    let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "{mail_queue}:dead"));
    for id in ["a", "b", "c", "d"] {
        let json = mail_with(id, &format!(r#""idempotencyKey":"key {id}""#));
        queue.enqueue(json.as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
    }
    let claims = queue.claim(ONE, "pod", 4, NOW).await.expect("claimed").mails;
    assert_eq!(claims.len(), 4);
    queue.advance(ONE, &claims[0].claim_id, Stage::Committing, NOW).await.expect("advanced");
    for (claim, outcome) in claims[1..].iter().zip([delivered(), delayed(Duration::ZERO), dead("Policy")]) {
        let settled = queue
            .settle(ONE, claim, &OperationId::random(), &outcome, &PerRecipient::default(), NOW)
            .await
            .expect("settled");
        assert_eq!(settled, Settled::Done);
    }
    let options =
        RecoverOptions { unknown: UnknownOutcome::Hold, fence_changed: false, crashed: false, out_of_memory: false };
    assert_eq!(queue.recover(ONE, &options, NOW).await.expect("recovered").held, 1);
    assert_eq!(queue.promote_due(NOW, 10).await.expect("promoted"), 1);
    assert_eq!(queue.held_release(&Filter::default(), 1, NOW).await.expect("released").done, 1);
    assert_eq!(queue.dead_requeue(&Filter::default(), 1, NOW).await.expect("requeued").done, 1);
    queue.depths(NOW).await.expect("depths");
    let audit = queue.audit().await.expect("audit");
    assert_eq!((audit.difference, audit.queued, audit.delivered), (0, 3, 1));

    let split = Queue::new(store, QueueNames::new("mail_queue", "mail_dead_letter_queue"));
    assert!(!split.names().fits_cluster());
    assert!(split.claim(ONE, "pod", 1, NOW).await.is_err(), "refused, and nothing was claimed");
    assert_eq!(queue.audit().await.expect("audit"), audit);
}
