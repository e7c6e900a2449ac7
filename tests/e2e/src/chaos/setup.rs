//! What scenarios have in common: relays to ask for, times, pods to choose from.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use mailrelay::lease::LedgerState;
use mailsink::Behaviour;
use rand::RngExt;
use serde_json::json;

use super::{
    Trial,
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions,
    process::{Process, worker_of},
    wait::{Look, until},
};

/// How long the sink takes for a mail, so that all sessions stay busy.
pub(super) const SLOW_MS: u64 = 200;
/// The lease, as the product has it by default.
pub(super) const LEASE: Duration = Duration::from_secs(6);
/// `sessionTimeout` where a death is to cost little time: what is withheld then is withheld for this and the margin.
pub(super) const SHORT_TIMEOUT: Duration = Duration::from_secs(5);

/// What is withheld beyond `sessionTimeout`, for bytes that a kernel still had (`lease::Timing`).
pub(super) const DRAIN_MARGIN: Duration = Duration::from_secs(30);
/// The time-out of a server on which a death shows: long enough for whoever takes the slots back too early.
pub(super) const TIMEOUT: Duration = Duration::from_secs(40);

/// Three workers that share 16 sessions at a server with a time-out of its own, and a relay that knows of it.
pub(super) fn three_pods(name: &str) -> RelayOptions {
    let server = json!({"sessionTimeout": format!("{}s", TIMEOUT.as_secs())});
    RelayOptions { server, timeout: TIMEOUT, ..RelayOptions::new(name, 3) }
}

/// Two workers with 8 sessions each.
pub(super) fn two_pods(name: &str) -> RelayOptions {
    pods(name, 2)
}

/// The same, and no session is closed for the mails that it has sent: whatever else closes one shows in the sink's count.
pub(super) fn lasting(name: &str) -> RelayOptions {
    let server = json!({"maxMessagesPerConnection": 10_000, "sessionTimeout": "5s"});
    // Nothing but the product shall end a session, however long its store is away.
    RelayOptions { server, timeout: Duration::from_secs(60), ..two_pods(name) }
}

/// So many workers that share 16 sessions, and mails that take a while.
pub(super) fn pods(name: &str, replicas: u32) -> RelayOptions {
    let server = json!({"sessionTimeout": format!("{}s", SHORT_TIMEOUT.as_secs())});
    RelayOptions { behaviour: slow(), server, timeout: SHORT_TIMEOUT, ..RelayOptions::new(name, replicas) }
}

/// A server that takes its time for each mail.
pub(super) fn slow() -> Behaviour {
    Behaviour { mail_delay_ms: SLOW_MS, ..Behaviour::default() }
}

/// One of the pods, as the seed decides.
pub(super) async fn a_pod(trial: &mut Trial<'_>) -> Result<Pod> {
    let mut pods = trial.relay.pods().await?;
    pods.retain(|pod| pod.metadata.deletion_timestamp.is_none());
    pods.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
    anyhow::ensure!(!pods.is_empty(), "no worker pod");
    Ok(pods.swap_remove(trial.random.random_range(0..pods.len())))
}

/// The UID of a pod.
pub(super) fn uid(pod: &Pod) -> Result<&str> {
    pod.metadata.uid.as_deref().context("a pod without UID")
}

/// Undoes something when it is dropped, however the scenario ends.
pub(super) struct Undo<F: FnMut()>(F);

impl<F: FnMut()> Undo<F> {
    pub(super) fn new(undo: F) -> Self {
        Self(undo)
    }
}

impl<F: FnMut()> Drop for Undo<F> {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Waits until a pod has another worker process than this one.
pub(super) async fn another_process(pod_uid: &str, old: Process) -> Result<()> {
    until("a new worker process in the pod", PATIENCE, async || {
        let now = worker_of(pod_uid)?;
        Ok(Look::when(now.pid != old.pid && now.lives(), (), || format!("{now:?}")))
    })
    .await
    .map(drop)
}

/// Waits until so many pods are Ready and their shares in force; how long that took from `since`, or from the pods being
/// there if that was later: how long Kubernetes takes is not ours.
pub(super) async fn followed(trial: &Trial<'_>, pods: u32, since: Instant) -> Result<Duration> {
    let there = async {
        trial.relay.await_pods(pods).await?;
        anyhow::Ok(Instant::now())
    };
    let in_force = async {
        trial.relay.await_shares(pods, trial.expect.budget).await?;
        anyhow::Ok(Instant::now())
    };
    let (there, in_force) = tokio::try_join!(there, in_force)?;
    Ok(in_force.saturating_duration_since(there.max(since)))
}

/// How much later than its client a server may notice an end: one that works on a mail does so when it is done.
pub(super) fn notices(trial: &Trial<'_>) -> Duration {
    if trial.relay.server.is_sink() { Duration::ZERO } else { Duration::from_millis(1_500) }
}

/// The slots that are withheld now.
pub(super) async fn withheld(trial: &Trial<'_>) -> Result<u32> {
    Ok(trial.relay.ledger().await?.quarantine.iter().map(|entry| entry.slots).sum())
}

/// The slots that a pod claims now.
pub(super) async fn claimed(trial: &Trial<'_>, pod_uid: &str) -> Result<u32> {
    Ok(trial.relay.ledger().await?.holders_of(pod_uid).map(|holder| holder.claim).sum())
}

/// Slots must be withheld now or soon, so many at least and as long as a server with [`SHORT_TIMEOUT`] may count them, while
/// all others are in use; the scenario may end while they are.
pub(super) async fn withheld_and_the_rest_used(trial: &mut Trial<'_>, slots: u32, within: Duration) -> Result<()> {
    let hold = SHORT_TIMEOUT + DRAIN_MARGIN;
    let (shortest, took) = until(&format!("{slots} withheld slots"), within, async || {
        let ledger = trial.relay.ledger().await?;
        let sum: u32 = ledger.quarantine.iter().map(|entry| entry.slots).sum();
        let shortest = ledger.quarantine.iter().map(|entry| entry.seconds).min().unwrap_or(0);
        Ok(Look::when(sum >= slots, shortest, || format!("{sum}: {:?}", ledger.quarantine)))
    })
    .await?;
    trial.note("slots withheld after another", millis(took), "ms");
    trial.figure("withheld for", shortest, "s", hold.as_secs()..=u64::MAX);
    rest_is_used(trial).await?;
    trial.expect.withheld = true;
    Ok(())
}

/// Waits until all slots that are not withheld are claimed and in use, and mail flows; how many are withheld.
pub(super) async fn rest_is_used(trial: &Trial<'_>) -> Result<u32> {
    let budget = trial.expect.budget;
    let before = trial.relay.server.stats().accepted;
    let (withheld, _) = until("all slots but the withheld ones in use", REST, async || {
        let ledger = trial.relay.ledger().await?;
        let withheld: u32 = ledger.quarantine.iter().map(|entry| entry.slots).sum();
        let claims: u32 = ledger.holders.iter().map(|holder| holder.claim).sum();
        let stats = trial.relay.server.stats();
        let open = u32::try_from(stats.open)?;
        let used = claims + withheld == budget && (trial.expect.peak == 1 || open >= claims);
        let flows = claims == 0 || stats.accepted > before;
        let seen = || format!("{claims} claimed, {withheld} withheld, {open} open: {:?}", ledger.quarantine);
        Ok(Look::when(used && flows && ledger.state == LedgerState::Open, withheld, seen))
    })
    .await?;
    Ok(withheld)
}

/// The local ports of a process's connections to a server, from `/proc/PID/net/tcp`: those of its pod.
pub(super) fn ports_to(process: Process, server: SocketAddr) -> Result<Vec<u16>> {
    let path = format!("/proc/{}/net/tcp", process.pid);
    let table = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // Columns: number, local address:port, remote address:port, state (01 is ESTABLISHED), all in hexadecimal.
    let port = |column: &str| u16::from_str_radix(column.rsplit(':').next().unwrap_or(""), 16).ok();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    Ok(rows
        .filter(|row| row.len() > 3 && row[3] == "01" && port(row[2]) == Some(server.port()))
        .filter_map(|row| port(row[1]))
        .collect())
}

/// How long the slots that nobody withholds may take to be in use: a new pod included, and what large mails are under way.
const REST: Duration = Duration::from_secs(60);
