//! Relays that change while mail flows.

use std::collections::HashSet;

use anyhow::Result;
use kube::ResourceExt;
use mailsink::Behaviour;
use serde_json::{Value, json};

use super::{
    Scenario, Trial,
    load::Load,
    setup::{slow, two_pods},
    trial::{PATIENCE, millis},
};
use crate::{
    command::{apply, kubectl},
    mails::id_of,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own("resource_budget_cut", "maxConnections 16, then 4, then 16 again", two_pods, |trial| {
        Box::pin(budget_cut(trial))
    }),
    Scenario::own("resource_relay_recreated", "the MailRelay deleted and created again", two_pods, |trial| {
        Box::pin(relay_recreated(trial))
    }),
    Scenario::own("resource_budget_shared", "a second relay with the same budgetName", two_pods, |trial| {
        Box::pin(budget_shared(trial))
    }),
];

/// The smaller budget.
const FEW: u32 = 4;
/// The name of the relay, Deployment and label value beside the first.
const SECOND: &str = "second";

async fn budget_cut(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let cut = trial.strike();
    set_budget(trial, FEW).await?;
    trial.relay.await_shares(2, FEW).await?;
    trial.time("no more than 4 slots claimed after the cut", cut.elapsed(), PATIENCE);
    // A claim goes down only after its session was seen to end. From now on a fifth one is refused, and O1 counts it.
    let open = trial.relay.server.stats().open;
    trial.must(open <= 4, || format!("4 slots are claimed and {open} sessions are open"));
    trial.relay.server.set_behaviour(Behaviour { limit: Some(4), ..slow() });
    let accepted = trial.relay.server.stats().accepted;
    trial.sink_until("mail flows through 4", |stats| stats.accepted > accepted + 40).await?;
    trial.relay.server.set_behaviour(slow());
    let raised = trial.strike();
    set_budget(trial, 16).await?;
    trial.all_busy().await?;
    trial.note("all 16 used after the raise", millis(raised.elapsed()), "ms");
    Ok(())
}

/// Lists are replaced as a whole by a merge patch.
async fn set_budget(trial: &Trial<'_>, budget: u32) -> Result<()> {
    let mut spec = serde_json::to_value(trial.relay.object().await?.spec)?;
    spec["servers"][0]["maxConnections"] = json!(budget);
    trial.relay.patch(json!({"servers": spec["servers"]})).await
}

async fn relay_recreated(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let object = again(trial, None).await?;
    let before = trial.load.accepted();
    trial.strike();
    kubectl(&["-n", &trial.relay.namespace, "delete", "mailrelay", &trial.relay.object().await?.name_any()]).await?;
    trial.sink_until("all sessions have ended", |stats| stats.open == 0).await?;
    // The workers live on: the ledger is theirs until they are gone, too.
    trial.relay.await_shares(0, 16).await?;
    let back = trial.strike();
    apply(&object).await?;
    trial.all_busy().await?;
    trial.note("all 16 used after it was created again", millis(back.elapsed()), "ms");
    trial.settled_until(before, PATIENCE).await
}

async fn budget_shared(trial: &mut Trial<'_>) -> Result<()> {
    let namespace = trial.relay.namespace.clone();
    let queue = format!("mail_{namespace}_{SECOND}");
    let mut workload: Value =
        serde_json::from_str(&kubectl(&["-n", &namespace, "get", "deployment", "web", "-o", "json"]).await?)?;
    let labels = json!({"app": SECOND, "mailrelay.dev/relay": SECOND});
    workload["metadata"] = json!({"name": SECOND, "namespace": namespace});
    workload["status"] = json!({});
    workload["spec"]["selector"] = json!({"matchLabels": labels.clone()});
    workload["spec"]["template"]["metadata"]["labels"] = labels;
    let text = serde_json::to_string(&workload)?.replace("\"corporate\"", &format!("\"{SECOND}\""));
    let workload: Value = serde_json::from_str(&text)?;
    trial.moment(0..1_000).await;
    let struck = trial.strike();
    apply(&again(trial, Some(&queue)).await?).await?;
    apply(&workload).await?;
    let load = Load::start(trial.stage.store.clone(), queue, format!("{namespace}-{SECOND}"), None, false);
    trial.expect.pods = 4;
    trial.relay.await_shares(4, 16).await?;
    trial.note("the budget divided over both", millis(struck.elapsed()), "ms");
    trial.sink_until("all sessions are used by both", |stats| stats.open == 16).await?;
    load.stop();
    let accepted = load.sent().accepted;
    trial.must(!accepted.is_empty(), || "the second relay had no mail".into());
    until("the second relay's mail is delivered", PATIENCE, async || {
        let taken = trial.relay.server.taken();
        let found: HashSet<&str> = taken.iter().filter_map(|id| id_of(id)).collect();
        let missing = accepted.iter().filter(|id| !found.contains(id.as_str())).count();
        Ok(Look::when(missing == 0, (), || format!("{missing} are not")))
    })
    .await
    .map(drop)
}

/// The relay as one would apply it again; with a queue it is the second one.
async fn again(trial: &Trial<'_>, queue: Option<&str>) -> Result<Value> {
    let object = trial.relay.object().await?;
    let mut spec = serde_json::to_value(&object.spec)?;
    if let Some(queue) = queue {
        spec["queue"] = json!({"name": queue, "deadLetterName": format!("{queue}_dead")});
        spec["workers"] = json!({"selector": {"matchLabels": {"mailrelay.dev/relay": SECOND}}});
    }
    Ok(json!({
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {"name": queue.map_or_else(|| object.name_any(), |_| SECOND.into()), "namespace": trial.relay.namespace},
        "spec": spec,
    }))
}
