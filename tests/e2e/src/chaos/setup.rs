//! What scenarios have in common: relays to ask for, times, pods to choose from.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Pod;
use mailsink::Behaviour;
use rand::RngExt;
use serde_json::json;

use super::{Trial, trial::PATIENCE};
use crate::{
    RelayOptions,
    process::{Process, worker_of},
    wait::{Look, until},
};

/// How long the sink takes for a mail, so that all sessions stay busy.
pub(super) const SLOW_MS: u64 = 200;
/// The lease, as the product has it by default.
pub(super) const LEASE: Duration = Duration::from_secs(6);
/// `closeGrace`, as the API has it by default.
pub(super) const CLOSE_GRACE: Duration = Duration::from_secs(2);

/// Two workers with 8 sessions each.
pub(super) fn two_pods(name: &str) -> RelayOptions {
    pods(name, 2)
}

/// The same, and no session is closed for the mails that it has sent: whatever else closes one shows in the sink's count.
pub(super) fn lasting(name: &str) -> RelayOptions {
    RelayOptions { server: json!({"maxMessagesPerConnection": 10_000}), ..two_pods(name) }
}

/// So many workers that share 16 sessions, and mails that take a while.
pub(super) fn pods(name: &str, replicas: u32) -> RelayOptions {
    RelayOptions { behaviour: slow(), ..RelayOptions::new(name, replicas) }
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
