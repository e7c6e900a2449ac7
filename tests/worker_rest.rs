//! A worker without work rests: it claims nothing and is quiet, and works at once when there is something to do.

mod scene;

use std::time::Duration;

use mailrelay::lease::HolderView;
use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use redis::cmd;
use scene::{Scene, Worker, mail};
use serde_json::json;
use testkit::{eventually, throughout};

/// Two workers with one slot each.
async fn two() -> Scene {
    let mut scene = Scene::open(2, SinkConfig::default(), json!({})).await;
    scene.add_worker();
    scene.add_worker();
    scene.share(2, &[1, 1]).await;
    scene
}

/// Waits until all workers are in the ledger and claim nothing, and nothing is withheld.
async fn all_rest(scene: &Scene) {
    let ledger = scene.ledger();
    eventually("all rest", async || {
        let snapshot = ledger.snapshot().await.map_err(|error| error.to_string())?;
        let view = snapshot.in_force().ok_or("no ledger")?;
        let rest = view.holders.len() == scene.workers.len() && view.holders.iter().all(HolderView::is_resting);
        if rest && view.quarantine.is_empty() { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
}

/// How many commands Redis has carried out, those in scripts too, but for those that ask so.
async fn commands(scene: &Scene) -> u64 {
    let text: String = scene.query(cmd("INFO").arg("commandstats")).await;
    let calls = text.lines().filter_map(|line| {
        let (name, figures) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let is_ours = name == "info" || name.starts_with("config");
        (!is_ours).then(|| figures.split(',').next()?.parse::<u64>().ok())?
    });
    calls.sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_asks_redis_for_nothing_and_works_as_soon_as_mail_comes() {
    let scene = two().await;
    scene.send(5).await;
    scene.all_delivered(5).await;
    all_rest(&scene).await;
    scene.stop_leading();
    // Blocks of the time of work last five seconds.
    eventually("all blocks are those of rest", async || {
        let clients: String = scene.query(cmd("CLIENT").arg("LIST")).await;
        let idle = |line: &str| line.split_once(" idle=")?.1.split(' ').next()?.parse::<u64>().ok();
        let blocked: Vec<u64> = clients.lines().filter(|line| line.contains(" flags=b ")).filter_map(idle).collect();
        if blocked.len() == 2 * 3 && blocked.iter().all(|idle| *idle > 6) { Ok(()) } else { Err(clients) }
    })
    .await;
    let () = scene.query(cmd("CONFIG").arg("RESETSTAT")).await;
    throughout(Duration::from_secs(5), "both are quiet", async || match commands(&scene).await {
        0 => Ok(()),
        more => Err(format!("{more} commands")),
    })
    .await;
    scene.send(20).await;
    scene.all_delivered(25).await;
    scene.logs_are_clean();
}

// Before the rest there are ten seconds with heartbeats and looks, which a busy machine and a debug build make dear.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_work_uses_hardly_any_processor_time() {
    let scene = two().await;
    scene.send(5).await;
    scene.all_delivered(5).await;
    all_rest(&scene).await;
    let of_both = || scene.workers.iter().map(Worker::cpu).sum::<Duration>();
    let before = of_both();
    throughout(Duration::from_secs(5), "two workers rest, even in a debug build", async || {
        let used = of_both().saturating_sub(before);
        if used <= Duration::from_millis(150) { Ok(()) } else { Err(format!("{used:?} of processor time")) }
    })
    .await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rests_is_told_when_delayed_mail_is_due() {
    let scene = two().await;
    all_rest(&scene).await;
    // The later one first: the earlier one is announced in its place.
    for wait in [3_600_000, 2_000] {
        let mut later = mail("somebody@example.org");
        later["notBefore"] = json!(mailrelay::mail::UnixMillis::now().0 + wait);
        scene.send_one(later).await;
    }
    scene.audit_until("the one that is due", |audit| (audit.delivered, audit.delayed) == (1, 1)).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_that_a_stopped_worker_was_woken_for_is_taken_by_who_is_called() {
    let scene = two().await;
    all_rest(&scene).await;
    let text = mail("somebody@example.org").to_string();
    let _: i64 = scene.query(cmd("LPUSH").arg(scene.queue.names().arrived()).arg(text)).await;
    scene.queue.call().await.expect("called");
    scene.all_delivered(1).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_worker_whose_old_block_moved_a_mail_leaves_it_to_another() {
    let scene = two().await;
    all_rest(&scene).await;
    let failure = Failure::silence(FailureStage::Rcpt, Duration::from_secs(600)).times(1);
    scene.sink.set_behaviour(Behaviour::failing([failure]));
    scene.send(1).await;
    scene.sink_until("one of them has work", |stats| stats.silent == 1).await;
    // Each of them still blocks on this list from before; whoever began first gets the first mail.
    for delivered in 1..=2 {
        let text = mail("somebody@example.org").to_string();
        let high = scene.queue.names().list(mailrelay::mail::Priority::High);
        let _: i64 = scene.query(cmd("LPUSH").arg(high).arg(text)).await;
        scene.audit_until("the other one sends it", |audit| audit.delivered == delivered).await;
    }
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_rests_when_all_is_lost_answers_for_itself_so_that_nothing_is_withheld() {
    let scene = two().await;
    all_rest(&scene).await;
    let () = scene.query(&cmd("FLUSHALL")).await;
    let () = scene.query(cmd("CLIENT").arg("KILL").arg("TYPE").arg("pubsub")).await;
    all_rest(&scene).await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_woken_while_its_share_is_lent_stays_awake_until_the_share_comes_back() {
    let mut scene = two().await;
    all_rest(&scene).await;
    // Who rests is not told of other shares.
    scene.share(2, &[0, 0]).await;
    scene.send(1).await;
    let ledger = scene.ledger();
    let wants_its_share = async || {
        let snapshot = ledger.snapshot().await.map_err(|error| error.to_string())?;
        let view = snapshot.in_force().ok_or("no ledger")?;
        let wants = view.holders.iter().any(|holder| !holder.is_resting());
        if wants { Ok(()) } else { Err(format!("{view:?}")) }
    };
    eventually("it wants its share", wants_its_share).await;
    throughout(Duration::from_secs(4), "it goes on wanting it", wants_its_share).await;
    scene.share(2, &[1, 1]).await;
    scene.all_delivered(1).await;
    scene.logs_are_clean();
}
