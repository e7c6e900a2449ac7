//! Row 38: a relay that is set up wrongly, or a server that is ill, kills no mail; and what is really about a mail ends it.

mod scene;

use std::time::{Duration, Instant};

use mailrelay::{
    api::{self, SCHEMA},
    queue::Filter,
};
use mailsink::{Behaviour, Failure, FailureStage, Sink, SinkConfig};
use scene::{Scene, eventually, mail};
use serde_json::json;
use testkit::throughout;

/// Twice what is promised, for a machine that is busy beside.
const AT_ONCE: Duration = Duration::from_secs(10);

/// All sessions are in use again as soon as the server refuses no longer.
async fn flows_at_once(scene: &Scene) {
    let mended = Instant::now();
    scene.sink.set_behaviour(Behaviour { mail_delay_ms: 200, ..Behaviour::default() });
    scene.sink_until("full flow", |stats| stats.open == 16 && stats.accepted >= 16).await;
    assert!(mended.elapsed() < AT_ONCE, "{:?}", mended.elapsed());
    scene.sink.set_behaviour(Behaviour::default());
}

async fn refuses_everybody(stage: FailureStage, reply: &str, reason: &str) {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour::failing([Failure::reply(stage, reply)]));
    scene.send(300).await;
    scene.unavailable_for(reason).await;
    throughout(Duration::from_secs(8), "no mail dies, and the server is asked now and then only", async || {
        let audit = scene.queue.audit().await.map_err(|error| error.to_string())?;
        let tried = audit.delayed + audit.in_flight;
        if audit.dead == 0 && tried < 60 { Ok(()) } else { Err(format!("{audit:?}")) }
    })
    .await;
    flows_at_once(&scene).await;
    let audit = scene.all_delivered(300).await;
    assert_eq!((audit.dead, scene.sink.stats().duplicates), (0, 0), "{audit:?}");
    scene.usable_again().await;
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_relaying_denied_kills_no_mail() {
    refuses_everybody(FailureStage::Rcpt, "554 5.7.1 <x>: Relay access denied", "RelayDenied").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_our_name_refused_kills_no_mail() {
    let reply = "504 5.5.2 <relay>: Helo command rejected: need fully-qualified hostname";
    refuses_everybody(FailureStage::Rcpt, reply, "HeloRefused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_that_the_server_wants_in_ehlo_is_said_as_soon_as_the_spec_has_it() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    let name = "relay.example.com";
    scene.sink.set_behaviour(Behaviour { helo_name: Some(name.into()), ..Behaviour::default() });
    scene.send(50).await;
    scene.unavailable_for("HeloRefused").await;
    scene.change(|record| record.spec.servers[0].helo_name = Some(name.parse().expect("a name"))).await;
    let audit = scene.all_delivered(50).await;
    assert_eq!(audit.dead, 0, "{audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_one_sender_that_everybody_uses_refused_kills_no_mail() {
    let reply = "553 5.7.1 <app@example.com>: Sender address rejected: not owned by user relay";
    refuses_everybody(FailureStage::Mail, reply, "SenderRefused").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_a_server_whose_user_database_is_away_kills_no_mail() {
    let scene = Scene::sixteen(1, json!({ "breaker": { "pause": "1s" } })).await;
    let ill = Failure::reply(FailureStage::Rcpt, "451 4.3.0 <x>: Temporary lookup failure").times(120);
    scene.sink.set_behaviour(Behaviour::failing([ill]));
    scene.send(100).await;
    let audit = scene.all_delivered(100).await;
    assert_eq!(audit.dead, 0, "{audit:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_what_is_refused_while_others_are_taken_is_dead_at_its_second_refusal() {
    let scene = Scene::sixteen(1, json!({})).await;
    let refusal = Failure::reply(FailureStage::Rcpt, "550 5.7.1 you are on my blocklist").for_recipient("gone");
    scene.sink.set_behaviour(Behaviour::failing([refusal]));
    let id = scene.send_one(mail("gone@example.org")).await;
    scene.send(20).await;
    let audit = scene.audit_until("it is dead", |audit| audit.dead == 1 && audit.delivered == 20).await;
    assert_eq!((audit.delayed, audit.in_flight), (0, 0), "{audit:?}");
    let letter = scene.queue.dead_show(&id).await.expect("redis").expect("a dead letter");
    assert_eq!((&*letter.reason, letter.attempts, letter.deferrals), ("Blocked", 0, 1), "{letter:?}");
    assert!(letter.tries[0].suspect, "{letter:?}");
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_a_server_that_takes_mails_for_some_recipients_is_never_left_alone() {
    let scene = Scene::sixteen(1, json!({})).await;
    let refusal = Failure::reply(FailureStage::Rcpt, "550 5.7.1 not for you").for_recipient("gone");
    scene.sink.set_behaviour(Behaviour::failing([refusal]));
    for number in 0..30 {
        let mut mixed = mail(&format!("ann{number}@example.org"));
        mixed["cc"] = json!([format!("gone{number}@example.org")]);
        scene.send_one(mixed).await;
    }
    scene.sink_until("all have it who may", |stats| stats.accepted == 30).await;
    scene.audit_until("the others wait", |audit| audit.delayed == 30).await;
    // They are dead when the server has taken another mail since.
    scene.send(1).await;
    let audit = scene.audit_until("the others are dead", |audit| audit.dead == 30 && audit.in_flight == 0).await;
    assert_eq!((audit.delivered, audit.delayed, scene.sink.stats().duplicates), (1, 0, 0), "{audit:?}");
    let report = scene.report(0).await.expect("a report");
    assert_eq!(report.servers[0].unavailable, None);
    scene.logs_are_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn row_38_when_most_mail_dies_the_relay_rests_until_one_is_taken() {
    let scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour::failing([Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user")]));
    for number in 0..200 {
        scene.send_one(mail(&format!("customer-{number}@example.org"))).await;
    }
    scene.unavailable_for("DeadLetterSurge").await;
    throughout(Duration::from_secs(6), "few die", async || {
        let audit = scene.queue.audit().await.map_err(|error| error.to_string())?;
        if audit.dead <= 40 { Ok(()) } else { Err(format!("{audit:?}")) }
    })
    .await;
    scene.sink.set_behaviour(Behaviour::default());
    let audit =
        scene.audit_until("the rest is taken", |audit| audit.queued + audit.delayed + audit.in_flight == 0).await;
    assert!(audit.dead >= 11 && audit.delivered + audit.dead == 200, "{audit:?}");
    scene.logs_are_clean();
}

/// A proxy offers what the server behind it can do, and knows nothing of BDAT: each message sent so is commands for it.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_offers_chunking_and_refuses_bdat_gets_data_from_then_on() {
    let scene = Scene::sixteen(1, json!({})).await;
    let refused = Failure::reply(FailureStage::Bdat, "502 5.5.1 command not recognized");
    scene.sink.set_behaviour(Behaviour::failing([refused]));
    scene.send(50).await;
    let audit = scene.all_delivered(50).await;
    assert_eq!((audit.dead, scene.sink.stats().duplicates), (0, 0), "{audit:?}");
    let log = scene.workers[0].log();
    assert_eq!(log.matches("DATA is used from now on").count(), 1, "{log}");
    assert_eq!(log.matches("put off").count(), 0, "{log}");
    scene.logs_are_clean();
}

/// What is too large for one server of a relay goes to the other, and dies only when it is too large for all.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_one_server_cannot_take_goes_to_another_that_can() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.sink.set_behaviour(Behaviour { size: Some(2_000), ..Behaviour::default() });
    let large = Sink::start(SinkConfig::default()).await.expect("the sink starts");
    large.set_behaviour(Behaviour { size: Some(200_000), ..Behaviour::default() });
    let port = large.smtp().port();
    scene
        .change(|record| {
            let second = api::Server { name: "second".into(), port, ..record.spec.servers[0].clone() };
            record.spec.servers.push(second);
        })
        .await;
    let mail = |number: usize, length: usize| json!({ "id": format!("m{number}"), "from": "a@example.com", "to": format!("b{number}@example.org"), "text": "hello world\n".repeat(length / 12) });
    for number in 0..60 {
        scene.send_one(mail(number, if number % 2 == 0 { 100 } else { 10_000 })).await;
    }
    scene.send_one(mail(60, 300_000)).await;
    let audit = scene.audit_until("all are settled", |audit| audit.delivered + audit.dead == 61).await;
    assert_eq!((audit.delivered, audit.dead), (60, 1), "{audit:?}");
    assert!(large.stats().accepted >= 30, "{:?}", large.stats());
    let dead = scene.queue.dead_list(&Filter::default(), 10).await.expect("the dead letters");
    assert_eq!((dead[0].id.as_str(), dead[0].reason.as_str()), ("m60", "TooLarge"));
    scene.logs_are_clean();
}

/// Waits until the worker says why it does not follow the record.
async fn refuses_record(scene: &Scene, worker: usize) -> String {
    eventually("the worker says what it cannot read", async || {
        let report = scene.report(worker).await.ok_or_else(|| "no report".to_owned())?;
        match report.record {
            Some(refused) if refused.reason == api::Reason::NewerVersion => Ok(refused.message),
            other => Err(format!("{other:?}")),
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_of_a_newer_version_is_refused_and_told_and_the_last_one_stays_in_force() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    scene.send(5).await;
    scene.all_delivered(5).await;
    scene.change(|record| (record.schema, record.spec.suspend) = (SCHEMA + 1, true)).await;
    let told = refuses_record(&scene, 0).await;
    assert!(told.contains(&format!("schema {}", SCHEMA + 1)) && told.contains("update"), "{told}");
    scene.send(5).await;
    scene.all_delivered(10).await;
    // One that never had another says so, too, and sends nothing.
    scene.add_worker();
    refuses_record(&scene, 1).await;
    scene.change(|record| (record.schema, record.spec.suspend) = (SCHEMA, false)).await;
    eventually("it is followed again", async || {
        let report = scene.report(1).await.ok_or_else(|| "no report".to_owned())?;
        report.record.map_or(Ok(()), |refused| Err(refused.message))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_the_queue_that_makes_no_sense_keeps_no_worker_from_reporting() {
    let mut scene = Scene::sixteen(1, json!({})).await;
    let mut garbage = redis::cmd("SET");
    let () = scene.query(garbage.arg("{mail_queue}:delayed").arg("text")).await;
    scene.add_worker();
    eventually("the new worker reports", async || scene.report(1).await.map(drop).ok_or("none yet")).await;
}
