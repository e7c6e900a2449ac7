//! Mail that stays too long at one stage is ended there, as the stage allows.

mod scene;

use std::time::Duration;

use mailsink::{Behaviour, Failure, FailureStage, SinkConfig};
use scene::Scene;
use serde_json::json;

/// A worker whose stages may take two seconds, and a server that says nothing at this stage for longer than a test takes.
async fn stuck_at(stage: FailureStage) -> Scene {
    let mut scene = Scene::open(2, SinkConfig::default(), json!({})).await;
    scene.add_worker_with(&["--transaction-timeout", "2s"]);
    scene.share(2, &[2]).await;
    // With CHUNKING the message goes out behind its recipients, and is complete before anything is answered.
    let hide = vec!["CHUNKING".to_owned()];
    let failing = Behaviour::failing([Failure::silence(stage, Duration::from_secs(600)).times(1)]);
    scene.sink.set_behaviour(Behaviour { hide, ..failing });
    scene.send(1).await;
    scene
}

async fn counts_as_stuck(scene: &Scene, stage: &str) {
    let (_, metrics) = scene.workers[0].get("/metrics").await.expect("metrics");
    assert!(metrics.contains(&format!("mailrelay_stuck_total{{kind=\"{stage}\"}} 1\n")), "{metrics}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_server_is_stuck_before_it_is_complete_goes_back_and_is_delivered() {
    let scene = stuck_at(FailureStage::Rcpt).await;
    let audit = scene.all_delivered(1).await;
    assert_eq!((audit.delivered, audit.held), (1, 0));
    counts_as_stuck(&scene, "sending").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_server_is_stuck_when_it_is_complete_is_held() {
    let scene = stuck_at(FailureStage::Dot).await;
    scene.audit_until("it is held", |audit| audit.held == 1).await;
    counts_as_stuck(&scene, "committing").await;
}
