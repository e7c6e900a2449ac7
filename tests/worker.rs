//! The worker's contracts: real processes, a real Redis, and the sink that counts.

mod scene;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use nix::sys::signal::Signal;
use scene::{PATIENCE, Scene, eventually, mail};
use serde_json::json;

fn slow(milliseconds: u64) -> Behaviour {
    Behaviour { mail_delay_ms: milliseconds, ..Behaviour::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_200_mails_at_once_16_are_being_sent_and_none_is_lost() {
    let scene = Scene::sixteen(2, json!({})).await;
    scene.sink.set_behaviour(slow(50));
    scene.send(200).await;
    let peak = scene.sink_until("16 sessions", |stats| stats.open == 16).await;
    assert!(peak.accepted < 200, "the mails must still be queued: {peak:?}");
    scene.all_delivered(200).await;
    let stats = scene.sink.stats();
    assert_eq!((stats.peak, stats.peak_attempted, stats.rejected), (16, 16, 0), "{stats:?}");
    assert_eq!((stats.accepted, stats.unique_message_ids, stats.duplicates), (200, 200, 0), "{stats:?}");
    let recipients: BTreeSet<_> = scene.sink.journal().into_iter().flat_map(|entry| entry.to).collect();
    assert_eq!(recipients.len(), 200);
    scene.logs_are_clean();
}
