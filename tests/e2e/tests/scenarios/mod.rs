//! The contracts.

#[path = "../../../api/refused.rs"]
mod refused;

use std::{collections::BTreeSet, future::Future, pin::Pin, time::Duration};

use anyhow::{Context, Result, ensure};
use e2e::{
    Relay, RelayOptions, Stage, Tenants, command, is_local,
    mails::mail,
    wait::{Look, until},
};
use kube::api::PostParams;
use mailrelay::api::{MailRelay, MailServer};
use mailsink::{Behaviour, Failure, FailureStage};
use serde_json::json;

type Scenario = for<'a> fn(&'a Stage) -> Pin<Box<dyn Future<Output = Result<()>> + 'a>>;

macro_rules! scenarios {
    ($($name:ident),* $(,)?) => {
        /// Every scenario, in the order in which they run.
        pub const ALL: &[(&str, Scenario)] = &[$((stringify!($name), |stage| Box::pin($name(stage)))),*];
    };
}

scenarios![
    nonsense_is_refused_with_a_sentence_that_names_the_field,
    the_examples_and_the_chart_with_everything_on_fit_the_schemas_of_kubernetes,
    two_hundred_mails_at_once_are_all_delivered_over_sixteen_connections,
    shares_follow_the_pods_from_2_to_4_to_1_to_20_to_2_under_load,
    a_killed_worker_s_mail_is_delivered_by_others,
    a_pod_deleted_without_grace_loses_no_mail,
    mail_flows_while_the_controller_is_away,
    mail_flows_again_after_redis_was_restarted,
    a_server_that_fails_for_a_while_gets_the_mail_in_the_end,
    a_refused_recipient_goes_to_the_dead_letters_and_can_be_sent_again,
    malformed_mail_does_not_stop_good_mail,
    a_long_queue_raises_the_alarm_and_a_drained_one_ends_it,
    several_servers_share_the_work_each_within_its_own_budget,
    two_namespaces_borrow_one_server_s_connections_and_lend_them_to_each_other,
    a_broken_object_does_not_stop_the_others,
    an_upgrade_and_an_uninstall_lose_no_relay_and_no_mail_and_no_namespace_hangs,
];

/// How long the sink takes for a mail, so that load lasts while something happens.
const SLOW_MS: u64 = 100;
/// How long a batch may take to be delivered on a busy two-core machine.
const DELIVERY: Duration = Duration::from_secs(60);
/// How long until a worker without work rests.
const REST: Duration = Duration::from_secs(20);
/// How long Kubernetes may take to delete what a namespace holds.
const GONE: Duration = Duration::from_secs(60);
/// How long until a dead worker's mail is delivered by others, or held.
const TAKEN_OVER: Duration = Duration::from_secs(15);

fn slow() -> Behaviour {
    Behaviour { mail_delay_ms: SLOW_MS, ..Behaviour::default() }
}

async fn nonsense_is_refused_with_a_sentence_that_names_the_field(stage: &Stage) -> Result<()> {
    let dry_run = PostParams { dry_run: true, ..PostParams::default() };
    let relays = stage.objects::<MailRelay>(Some("default"));
    let servers = stage.objects::<MailServer>(None);
    let mut wrong = Vec::new();
    for row in refused::rows() {
        let api = if row.kind == "MailServer" { &servers } else { &relays };
        let said = match api.create(&dry_run, &serde_json::from_value(row.object)?).await {
            Ok(_) => "it is accepted".to_owned(),
            Err(error) => error.to_string(),
        };
        if !said.contains(row.says) {
            let by = if row.by_rule { "rule" } else { "schema" };
            wrong.push(format!("{} {} = {} (by a {by}): no {:?} in: {said}", row.kind, row.place, row.value, row.says));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Unknown fields count, as they do not for `kubectl apply` and Helm.
async fn the_examples_and_the_chart_with_everything_on_fit_the_schemas_of_kubernetes(stage: &Stage) -> Result<()> {
    let apply = ["apply", "--dry-run=server", "--validate=strict", "-f"];
    // What a dry run makes is not there for the next object.
    let namespaces = ["mail", "team-a", "team-b"];
    for name in namespaces {
        stage.create_namespace(name).await?;
    }
    let examples = command::repository().join("examples").to_string_lossy().into_owned();
    let applied = command::kubectl(&[&apply[..], &[&examples]].concat()).await;
    for name in namespaces {
        stage.delete_namespace(name).await?;
    }
    ensure!(applied?.lines().count() == 12, "three relays, four servers, a Deployment, two Secrets, two namespaces");
    let chart = command::repository().join("charts/mailrelay").to_string_lossy().into_owned();
    let everything = "networkPolicy.enabled=true,serviceAccount.name=other,priorityClassName=high";
    let arguments = ["template", "mailrelay", &chart, "--namespace", "mailrelay-system", "--set", everything];
    let rendered = command::succeed("helm", &arguments, "").await?;
    command::succeed("kubectl", &[&apply[..], &["-"]].concat(), &rendered).await.map(drop)
}

async fn two_hundred_mails_at_once_are_all_delivered_over_sixteen_connections(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("burst", 2) }).await?;
    ensure!(relay.shares().await? == [8, 8], "two pods share 16 as 8 and 8");
    let wait = ["-n", "burst", "wait", "--for=condition=Ready", "mailrelay/corporate", "--timeout=30s"];
    command::kubectl(&wait).await?;
    relay.send("burst", 200).await?;
    relay.await_delivered(200, DELIVERY).await?;
    let stats = relay.check(&[("burst", 200)]).await?;
    ensure!(stats.peak == 16, "all 16 connections must have been in use: {stats:?}");
    let table = command::kubectl(&["-n", "burst", "get", "mailrelay"]).await?;
    for column in ["READY", "BUDGET", "OPEN", "WORKERS", "QUEUED", "DEAD", "HELD", "REASON", "AGE"] {
        ensure!(table.contains(column), "no column {column} in:\n{table}");
    }
    relay.lower().await
}

async fn shares_follow_the_pods_from_2_to_4_to_1_to_20_to_2_under_load(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("scale", 2) }).await?;
    relay.send("scale", 2_000).await?;
    for pods in [4, 1, 20, 2] {
        let rebalance = relay.rebalance(pods).await?;
        println!("  {pods} pods: shares {:?} in force {} ms after the pods", rebalance.shares, rebalance.milliseconds);
        ensure!(rebalance.milliseconds <= 2_000, "the rebalance took too long: {rebalance:?}");
    }
    relay.await_delivered(2_000, DELIVERY).await?;
    relay.check(&[("scale", 2_000)]).await?;
    told_of_each_rebalance(&relay).await?;
    relay.lower().await
}

/// Each rebalance that was shown is an Event of its own, with its own text, and what was done is a word.
async fn told_of_each_rebalance(relay: &Relay<'_>) -> Result<()> {
    let columns = "jsonpath={range .items[*]}{.reportingController}|{.reason}|{.action}|{.note}{\"\\n\"}{end}";
    let arguments = ["-n", &relay.namespace, "get", "events.v1.events.k8s.io", "-o", columns];
    until("the Events tell of the rebalances", DELIVERY, async || {
        let events = command::kubectl(&arguments).await?;
        let ours = events.lines().filter_map(|line| line.strip_prefix("mailrelay.dev/controller|"));
        let rebalances: BTreeSet<&str> =
            ours.filter_map(|event| event.strip_prefix("SharesRebalanced|Sharing|")).collect();
        let is_told = rebalances.len() >= 4 && rebalances.iter().any(|text| text.starts_with("2 workers share"));
        Ok(Look::when(is_told, (), || events))
    })
    .await
    .map(drop)
}

async fn a_killed_worker_s_mail_is_delivered_by_others(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("kill", 2) }).await?;
    relay.send("kill", 400).await?;
    relay.await_delivered(50, DELIVERY).await?;
    relay.kill_a_worker().await?;
    // What was between the final dot and its answer is held, never sent again blindly.
    let depths = relay.await_settled(TAKEN_OVER).await?;
    ensure!(depths.held <= 8, "more mails held than the dead worker had sessions: {depths:?}");
    relay.check(&[("kill", 400)]).await?;
    // What the dead process had in the server's hands is withheld; everything else is for both pods.
    relay.await_all_but_withheld(2, 16).await?;
    relay.lower().await
}

async fn a_pod_deleted_without_grace_loses_no_mail(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("force", 2) }).await?;
    relay.send("force", 400).await?;
    relay.await_delivered(50, DELIVERY).await?;
    relay.delete_a_pod_at_once().await?;
    relay.await_settled(TAKEN_OVER).await?;
    relay.check(&[("force", 400)]).await?;
    relay.lower().await
}

async fn mail_flows_while_the_controller_is_away(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("orphan", 2) }).await?;
    stage.scale_controller(0).await?;
    // One batch after the other, for longer than any lease, timer or heartbeat. A whole minute: make chaos ONLY=controller_absent.
    let start = std::time::Instant::now();
    let mut batches: Vec<String> = Vec::new();
    while start.elapsed() < Duration::from_secs(15) {
        let batch = format!("orphan{}", batches.len());
        relay.send(&batch, 400).await?;
        batches.push(batch);
        relay.await_delivered(400 * batches.len(), DELIVERY).await?;
    }
    ensure!(relay.shares().await? == [8, 8], "the workers keep their shares");
    stage.scale_controller(2).await?;
    relay.rebalance(3).await?;
    let sent: Vec<(&str, usize)> = batches.iter().map(|batch| (batch.as_str(), 400)).collect();
    relay.check(&sent).await?;
    relay.lower().await
}

async fn mail_flows_again_after_redis_was_restarted(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("redis", 2) }).await?;
    relay.send("redis", 600).await?;
    relay.await_delivered(100, DELIVERY).await?;
    stage.restart_redis();
    let before = relay.server.stats().unique_message_ids;
    // Mails already on their way may still arrive: more than the sessions at hand prove that new ones were claimed.
    let resumed =
        relay.await_delivered(before + 32, Duration::from_secs(10)).await.context("mail flows again within 10 s")?;
    println!("  flowing again {resumed:?} after Redis answered");
    relay.await_delivered(600, DELIVERY).await?;
    relay.await_shares(2, 16).await?;
    relay.check(&[("redis", 600)]).await?;
    relay.lower().await
}

async fn a_server_that_fails_for_a_while_gets_the_mail_in_the_end(stage: &Stage) -> Result<()> {
    let later = Failure::reply(FailureStage::Dot, "451 4.3.0 try again later").times(60);
    let behaviour = Behaviour::failing([later]);
    let relay = Relay::raise(stage, RelayOptions { behaviour, ..RelayOptions::new("flaky", 2) }).await?;
    relay.send("flaky", 200).await?;
    relay.await_delivered(200, DELIVERY).await?;
    relay.check(&[("flaky", 200)]).await?;
    relay.lower().await
}

async fn a_refused_recipient_goes_to_the_dead_letters_and_can_be_sent_again(stage: &Stage) -> Result<()> {
    let refusal = Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").for_recipient("customer-7@");
    let behaviour = Behaviour::failing([refusal]);
    let relay = Relay::raise(stage, RelayOptions { behaviour, ..RelayOptions::new("refused", 2) }).await?;
    relay.send("refused", 10).await?;
    relay.await_delivered(9, DELIVERY).await?;
    until("one dead letter", DELIVERY, async || {
        let depths = relay.depths().await?;
        Ok(Look::when(depths.dead == 1, (), || format!("{depths:?}")))
    })
    .await?;
    relay.await_condition("DeadLettersPresent", "True", Duration::from_secs(10)).await?;
    let list = relay.mailrelay(&["dead", "list", "--relay", "refused/corporate"], "").await?;
    ensure!(list.stdout.contains("refused-7") && list.stdout.contains("550"), "{list:?}");
    relay.server.set_behaviour(Behaviour::default());
    let again = relay.mailrelay(&["dead", "requeue", "--relay", "refused/corporate", "refused-7"], "").await?;
    ensure!(again.code == Some(0), "{again:?}");
    relay.await_delivered(10, DELIVERY).await?;
    relay.check(&[("refused", 10)]).await?;
    relay.lower().await
}

async fn malformed_mail_does_not_stop_good_mail(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions::new("malformed", 2)).await?;
    let bad = ["{", "[]", "{\"to\": \"x\"}", "\u{1}", "no-such-payload", "{\"from\": \"a b c\", \"to\": 7}"];
    for (index, bad) in bad.iter().enumerate() {
        relay.push(bad.as_bytes()).await?;
        relay.push(mail("malformed", index).to_string().as_bytes()).await?;
    }
    relay.await_delivered(bad.len(), DELIVERY).await?;
    until("the malformed mails in the dead letters", DELIVERY, async || {
        let depths = relay.depths().await?;
        Ok(Look::when(depths.dead == bad.len() as u64, (), || format!("{depths:?}")))
    })
    .await?;
    relay.check(&[("malformed", bad.len())]).await?;
    relay.lower().await
}

async fn a_long_queue_raises_the_alarm_and_a_drained_one_ends_it(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions::new("alarm", 2)).await?;
    relay.rebalance(0).await?;
    relay.send("alarm", 1_500).await?;
    let raised = relay.await_condition("QueueDepthHigh", "True", Duration::from_secs(10)).await?;
    println!("  QueueDepthHigh {raised:?} after the last mail was accepted");
    relay.scale(2).await?;
    relay.await_delivered(1_500, DELIVERY).await?;
    relay.await_condition("QueueDepthHigh", "False", Duration::from_secs(10)).await?;
    relay.check(&[("alarm", 1_500)]).await?;
    relay.lower().await
}

async fn several_servers_share_the_work_each_within_its_own_budget(stage: &Stage) -> Result<()> {
    let second = mailsink::Sink::start(mailsink::SinkConfig {
        smtp: (stage.address, 0).into(),
        limit: 4,
        behaviour: slow(),
        ..mailsink::SinkConfig::default()
    })
    .await?;
    let mut options = RelayOptions { behaviour: slow(), ..RelayOptions::new("several", 2) };
    options.more_servers.push(json!({
        "name": "secondary", "host": stage.address.to_string(), "port": second.smtp().port(),
        "budgetName": "several-2.test", "tls": "None", "maxConnections": 4,
    }));
    let relay = Relay::raise(stage, options).await?;
    relay.send("several", 400).await?;
    until("400 mails over both servers", DELIVERY, async || {
        let (first, second) = (relay.server.stats(), second.stats());
        Ok(Look::when(first.unique_message_ids + second.unique_message_ids >= 400, (), || {
            format!("{first:?}, {second:?}")
        }))
    })
    .await?;
    let (first, second) = (relay.server.stats(), second.stats());
    ensure!(first.peak == 16 && second.peak == 4, "both budgets are used up: {first:?}, {second:?}");
    ensure!(
        first.rejected + second.rejected == 0 && first.duplicates + second.duplicates == 0,
        "{first:?}, {second:?}"
    );
    ensure!(first.unique_message_ids + second.unique_message_ids == 400, "{first:?}, {second:?}");
    relay.lower().await
}

async fn two_namespaces_borrow_one_server_s_connections_and_lend_them_to_each_other(stage: &Stage) -> Result<()> {
    let tenants = Tenants::raise(stage, "shared", slow()).await?;
    // Who has nothing to send for ten seconds rests.
    tenants.await_parts((0, 0), REST).await?;
    tenants.heavy.send("heavy", 1_600).await?;
    tenants.await_parts((16, 0), TAKEN_OVER).await?;
    tenants.light.send("light", 100).await?;
    tenants.await_parts((12, 4), TAKEN_OVER).await?;
    tenants.light.await_settled(DELIVERY).await?;
    let waiting = tenants.heavy.depths().await?.pending;
    ensure!(waiting > 0, "the light one's mail did not wait for the end of the heavy one's");
    tenants.heavy.await_settled(DELIVERY).await?;
    let stats = tenants.check(("heavy", 1_600), ("light", 100)).await?;
    ensure!(stats.peak == 16, "all connections were in use: {stats:?}");
    let name = &tenants.name;
    let shown = command::kubectl(&["get", "mailserver", name]).await?;
    ensure!(shown.lines().any(|line| line.starts_with(&format!("{name} ")) && line.contains("True")), "{shown}");
    // Tenants see nothing of each other.
    for (relay, other) in [(&tenants.heavy, &tenants.light), (&tenants.light, &tenants.heavy)] {
        let shown = serde_json::to_string(&relay.object().await?.status)?;
        ensure!(!shown.contains(&other.namespace), "the status of {} names the other: {shown}", relay.namespace);
    }
    tenants.lower().await
}

async fn a_broken_object_does_not_stop_the_others(stage: &Stage) -> Result<()> {
    if !is_local() {
        println!("  skipped: this scenario breaks the CRD for a moment, which is for a cluster of our own only");
        return Ok(());
    }
    // An object that an older CRD let in: the API server stores it, our types can't read it.
    let crd = command::kubectl(&["get", "crd", "mailrelays.mailrelay.dev", "-o", "json"]).await?;
    let mut strict: serde_json::Value = serde_json::from_str(&crd)?;
    // Without it, `replace` does not ask whether anyone else changed the object.
    strict["metadata"].as_object_mut().context("the definition's metadata")?.remove("resourceVersion");
    let mut loose = strict.clone();
    loose["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
        json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    command::succeed("kubectl", &["replace", "-f", "-"], &loose.to_string()).await?;
    stage.create_namespace("broken").await?;
    let broken = json!({"apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": {"name": "broken", "namespace": "broken"}, "spec": {"servers": "none"}});
    until("the loose schema in force", DELIVERY, async || {
        let output = command::run("kubectl", &["apply", "-f", "-"], &broken.to_string()).await?;
        Ok(Look::when(output.code == Some(0), (), || output.stderr))
    })
    .await?;
    command::succeed("kubectl", &["replace", "-f", "-"], &strict.to_string()).await?;
    let relay = Relay::raise(stage, RelayOptions::new("beside", 2)).await?;
    relay.send("beside", 20).await?;
    relay.await_delivered(20, DELIVERY).await?;
    relay.check(&[("beside", 20)]).await?;
    stage.delete_namespace("broken").await?;
    relay.lower().await
}

/// The way out is the one that docs/operations.md gives.
async fn an_upgrade_and_an_uninstall_lose_no_relay_and_no_mail_and_no_namespace_hangs(stage: &Stage) -> Result<()> {
    let relay = Relay::raise(stage, RelayOptions { behaviour: slow(), ..RelayOptions::new("upgrade", 2) }).await?;
    let left = Relay::raise(stage, RelayOptions::new("left", 1)).await?;
    let uid = relay.object().await?.metadata.uid;
    relay.send("before", 600).await?;
    // All pods of the controller are others afterwards.
    stage.install(&["podAnnotations.upgraded=yes"]).await?;
    relay.rebalance(3).await?;
    relay.await_delivered(600, DELIVERY).await?;

    stage.uninstall().await?;
    relay.send("without", 200).await?;
    relay.await_delivered(800, DELIVERY).await?;
    ensure!(relay.object().await?.metadata.uid == uid, "the relay is another one");
    command::kubectl(&["delete", "namespace", &left.namespace, "--wait=false"]).await?;
    until("the relay waits for a controller", GONE, async || {
        let waits = left.object().await?.metadata.deletion_timestamp.is_some();
        Ok(Look::when(waits, (), || "it is not deleted".into()))
    })
    .await?;
    let let_go = r#"{"metadata":{"finalizers":null}}"#;
    command::kubectl(&["-n", &left.namespace, "patch", "mailrelay", "corporate", "--type=merge", "-p", let_go]).await?;
    command::kubectl(&["wait", "--for=delete", "namespace", &left.namespace, "--timeout=90s"]).await?;

    stage.install(&[]).await?;
    // Who has nothing to send rests, and claims no share.
    relay.send("again", 600).await?;
    relay.rebalance(2).await?;
    relay.await_delivered(1_400, DELIVERY).await?;
    relay.check(&[("before", 600), ("without", 200), ("again", 600)]).await?;
    relay.lower().await
}
