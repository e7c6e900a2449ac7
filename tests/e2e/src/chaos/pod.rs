//! Pods that end, vanish, or are scaled, and the node below them.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::Api;
use mailsink::Behaviour;
use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    COUNTING, Scenario, Trial,
    setup::{
        LEASE, a_pod, another_process, notices, pods, rest_is_used, slow, two_pods, uid, withheld_and_the_rest_used,
    },
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions,
    command::{kubectl, succeed},
    process::{Paused, Process, component, first_of, worker_of},
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own("pod_terminated", "a pod deleted with grace (SIGTERM)", two_pods, |trial| {
        Box::pin(terminated(trial))
    })
    .against(COUNTING)
    .in_slice(),
    Scenario::own(
        "pod_killed_by_kubelet",
        "a pod that does not react is killed: evidence by its status",
        two_pods,
        |trial| Box::pin(killed_by_kubelet(trial)),
    )
    .against(COUNTING),
    Scenario::own("pod_silent", "a worker dies and nothing restarts it", two_pods, |trial| Box::pin(silent(trial, 8)))
        .against(COUNTING)
        .in_slice(),
    Scenario::own("pod_silent_alone", "the same, and there is no other pod", one_pod, |trial| {
        Box::pin(silent(trial, 16))
    })
    .against(COUNTING),
    Scenario::own(
        "pod_too_many",
        "8 pods for 4 connections, and those with a share are deleted",
        too_many_pods,
        |trial| Box::pin(too_many(trial)),
    ),
    Scenario::alone("pod_scaled", "1 to 16 to 1 pods every second, then 16 and 1 again", one_pod, |trial| {
        Box::pin(scaled(trial))
    })
    .against(COUNTING),
    Scenario::alone(
        "pod_force_deleted",
        "force-deleted while kubelet is stopped: its process goes on",
        two_pods,
        |trial| Box::pin(force_deleted(trial)),
    ),
    Scenario::alone(
        "pod_force_deleted_frozen",
        "the same, and the process is stopped with its sessions",
        two_pods,
        |trial| Box::pin(force_deleted_frozen(trial)),
    )
    .against(COUNTING)
    .in_slice(),
    Scenario::alone("node_rebooted", "the node of a pod comes back with another boot id", two_pods, |trial| {
        Box::pin(node_rebooted(trial))
    })
    .against(COUNTING),
];

/// How soon a worker that is over, or silent, has its slots withheld.
const KNOWN: Duration = Duration::from_secs(25);
/// The one node of the local cluster (hack/cluster).
const NODE: &str = "mailrelay-node";

fn one_pod(name: &str) -> RelayOptions {
    pods(name, 1)
}

fn too_many_pods(name: &str) -> RelayOptions {
    RelayOptions { budget: 4, ..pods(name, 8) }
}

/// Supervisor and worker of a pod, both stopped: nothing in it does anything any more.
fn freeze(pod: &Pod) -> Result<[Paused; 2]> {
    Ok([first_of(uid(pod)?, "worker")?.pause()?, worker_of(uid(pod)?)?.pause()?])
}

async fn delete(trial: &Trial<'_>, pod: &Pod, how: &[&str]) -> Result<()> {
    let name = pod.metadata.name.as_deref().context("a pod without a name")?;
    let arguments = [&["-n", &trial.relay.namespace, "delete", "pod", name, "--wait=false"], how].concat();
    kubectl(&arguments).await.map(drop)
}

async fn terminated(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let pod = a_pod(trial).await?;
    trial.all_busy().await?;
    trial.strike();
    delete(trial, &pod, &[]).await?;
    trial.sink_until("the first of its sessions has ended", |stats| stats.open < 16).await?;
    let began = Instant::now();
    trial.all_busy().await?;
    trial.time("from its first ended session until all 16 are used", began.elapsed(), Duration::from_secs(2));
    trial.relay.await_pods(2).await
}

async fn killed_by_kubelet(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.held = 8;
    trial.moment(0..1_000).await;
    let pod = a_pod(trial).await?;
    trial.all_busy().await?;
    let _frozen = freeze(&pod)?;
    delete(trial, &pod, &["--grace-period=1"]).await?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    trial.strike();
    trial.relay.await_pods(2).await?;
    withheld_and_the_rest_used(trial, 8, KNOWN).await
}

/// Stops the supervisor and kills the worker below it.
async fn silence(trial: &mut Trial<'_>) -> Result<(Pod, Process, Paused)> {
    let pod = a_pod(trial).await?;
    let (supervisor, worker) = (first_of(uid(&pod)?, "worker")?, worker_of(uid(&pod)?)?);
    trial.all_busy().await?;
    let paused = supervisor.pause()?;
    trial.strike();
    worker.signal(Signal::SIGKILL)?;
    Ok((pod, worker, paused))
}

/// Silence proves that no new connection comes, and nothing else: all slots of the pod are withheld.
async fn silent(trial: &mut Trial<'_>, slots: u32) -> Result<()> {
    trial.expect.held = 16;
    trial.expect.ends = 1;
    // The liveness probe may become impatient before the supervisor goes on.
    trial.expect.restarts = 1;
    trial.moment(0..1_000).await;
    let (pod, worker, paused) = silence(trial).await?;
    let others = usize::try_from(trial.expect.budget - slots)?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= others).await?;
    withheld_and_the_rest_used(trial, slots, KNOWN).await?;
    trial.strike();
    drop(paused);
    another_process(uid(&pod)?, worker).await
}

async fn too_many(trial: &mut Trial<'_>) -> Result<()> {
    for _ in 0..4 {
        trial.moment(0..1_000).await;
        let ledger = trial.relay.ledger().await?;
        let pods = trial.relay.pods().await?;
        let has_share = |pod: &&Pod| {
            let share = pod.metadata.uid.as_ref().and_then(|uid| ledger.entitlements.get(uid));
            pod.metadata.deletion_timestamp.is_none() && share.is_some_and(|share| *share > 0)
        };
        let pod = pods.iter().find(has_share).context("a pod with a share")?;
        trial.strike();
        delete(trial, pod, &[]).await?;
        trial.sink_until("its session has ended", |stats| stats.open < 4).await?;
        let began = Instant::now();
        trial.all_busy().await?;
        trial.time("its share is used by one that had none", began.elapsed(), Duration::from_secs(2));
    }
    trial.relay.await_pods(8).await
}

async fn scaled(trial: &mut Trial<'_>) -> Result<()> {
    trial.strike();
    for _ in 0..3 {
        for replicas in [16, 1] {
            trial.relay.scale(replicas).await?;
            trial.moment(900..1_100).await;
        }
    }
    for replicas in [16, 1] {
        let rebalance = trial.relay.rebalance(replicas).await?;
        let name = format!("shares of {replicas} pods in force after the pods");
        trial.figure(&name, rebalance.milliseconds, "ms", 0..=2_000);
    }
    Ok(())
}

async fn force_deleted(trial: &mut Trial<'_>) -> Result<()> {
    // When kubelet finds out, it ends the process in the middle of its mails.
    trial.expect.held = 8;
    let kubelet = component("kubelet")?.pause()?;
    let pod = a_pod(trial).await?;
    let orphan = worker_of(uid(&pod)?)?;
    // Mails that take longer than the controller to say who holds what: else it is handed over before anybody can read it.
    trial.relay.server.set_behaviour(Behaviour { mail_delay_ms: 4_000, ..slow() });
    trial.moment(500..1_500).await;
    let struck = trial.strike();
    delete(trial, &pod, &["--force", "--grace-period=0"]).await?;
    held_by_vanished(trial).await?;
    trial.relay.server.set_behaviour(slow());
    until("the only pod left has the whole budget", PATIENCE, async || {
        let ledger = trial.relay.ledger().await?;
        let whole = ledger.holders.iter().any(|holder| holder.claim == 16);
        Ok(Look::when(whole, (), || format!("{ledger:?}")))
    })
    .await?;
    trial.note("handed over by the process that still runs", millis(struck.elapsed()), "ms");
    trial.must(orphan.lives(), || "the process does not run any more: nothing was shown".into());
    trial.all_busy().await?;
    trial.strike();
    drop(kubelet);
    trial.relay.await_pods(2).await
}

async fn force_deleted_frozen(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.held = 8;
    trial.expect.ends = 1;
    let kubelet = component("kubelet")?.pause()?;
    let pod = a_pod(trial).await?;
    trial.all_busy().await?;
    let stop = trial.strike();
    let frozen = freeze(&pod)?;
    delete(trial, &pod, &["--force", "--grace-period=0"]).await?;
    held_by_vanished(trial).await?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    trial.time("sessions closed after the stop", stop.elapsed(), LEASE + Duration::from_millis(500) + notices(trial));
    withheld(trial).await?;
    withheld_and_the_rest_used(trial, 8, KNOWN).await?;
    trial.strike();
    drop(frozen);
    drop(kubelet);
    trial.relay.await_pods(2).await
}

/// Waits until the condition says that a pod holds slots that the API server does not know any more.
async fn held_by_vanished(trial: &Trial<'_>) -> Result<()> {
    until("SlotsQuarantined because of HeldByVanishedPod", PATIENCE, async || {
        let conditions = trial.relay.object().await?.status.unwrap_or_default().conditions;
        let seen = conditions.iter().find(|one| one.type_ == "SlotsQuarantined");
        let says = seen.is_some_and(|one| one.status == "True" && one.reason == "HeldByVanishedPod");
        Ok(Look::when(says, (), || format!("{seen:?}")))
    })
    .await
    .map(drop)
}

/// Waits until an Event says that slots are withheld.
async fn withheld(trial: &Trial<'_>) -> Result<()> {
    let arguments = ["-n", &trial.relay.namespace, "get", "events", "-o", "jsonpath={.items[*].reason}"];
    until("an Event that says that slots are withheld", PATIENCE, async || {
        let reasons = kubectl(&arguments).await?;
        Ok(Look::when(reasons.split_whitespace().any(|reason| reason == "SlotQuarantined"), (), || reasons))
    })
    .await
    .map(drop)
}

async fn node_rebooted(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.held = 16;
    trial.expect.ends = 1;
    trial.expect.restarts = 1;
    let pods = trial.relay.pods().await?;
    let [gone, neighbour] = &pods[..] else { anyhow::bail!("two pods are expected") };
    // The other pod shall not prove that the node lives: it says that it runs on another one.
    let before = worker_of(uid(neighbour)?)?;
    pretend_boot(before, "11111111-1111-4111-8111-111111111111").await?;
    before.signal(Signal::SIGKILL)?;
    another_process(uid(neighbour)?, before).await?;
    rest_is_used(trial).await?;

    let kubelet = component("kubelet")?.pause()?;
    let real = boot_of_node(trial).await?;
    say_boot("22222222-2222-4222-8222-222222222222").await?;
    trial.moment(0..1_000).await;
    trial.strike();
    first_of(uid(gone)?, "worker")?.signal(Signal::SIGKILL)?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    withheld_and_the_rest_used(trial, 8, KNOWN).await?;
    withheld(trial).await?;
    trial.strike();
    say_boot(&real).await?;
    drop(kubelet);
    trial.relay.await_pods(2).await
}

async fn boot_of_node(trial: &Trial<'_>) -> Result<String> {
    let node = Api::<Node>::all(trial.stage.client.clone()).get(NODE).await?;
    node.status.and_then(|status| status.node_info).map(|info| info.boot_id).context("a node without boot id")
}

/// Lets the node's status name another boot.
async fn say_boot(id: &str) -> Result<()> {
    let patch = json!({"status": {"nodeInfo": {"bootID": id}}}).to_string();
    kubectl(&["patch", "node", NODE, "--subresource=status", "--type=merge", "-p", &patch]).await.map(drop)
}

/// Lets the processes that start in a container from now on find another boot id.
async fn pretend_boot(process: Process, id: &str) -> Result<()> {
    let inside = format!("/proc/{}/root", process.pid);
    let file = format!("{inside}/dev/boot-id");
    std::fs::write(&file, id).with_context(|| format!("cannot write {file}"))?;
    let namespace = format!("--mount=/proc/{}/ns/mnt", process.pid);
    let place = format!("{inside}/proc/sys/kernel/random/boot_id");
    // Our own programs, in the container's view of what is mounted where.
    let arguments = [&namespace, "--root=/", "mount", "--no-canonicalize", "--bind", &file, &place];
    succeed("nsenter", &arguments, "").await.map(drop)
}
