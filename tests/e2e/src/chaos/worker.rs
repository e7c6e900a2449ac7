//! Workers that stop and die.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{
    Reach, Scenario, Trial,
    setup::{CLOSE_GRACE, LEASE, a_pod, two_pods, uid},
    trial::PATIENCE,
};
use crate::{
    process::{Process, worker_of},
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "worker_stopped",
        fault: "SIGSTOP of a worker process that holds 8 busy sessions",
        reach: Reach::Own,
        slice: true,
        relay: two_pods,
        act: |trial| Box::pin(stopped(trial)),
    },
    Scenario {
        name: "worker_killed",
        fault: "SIGKILL of a worker process under its supervisor",
        reach: Reach::Own,
        slice: true,
        relay: two_pods,
        act: |trial| Box::pin(killed(trial)),
    },
];

/// Waits until a pod has another worker process than this one.
async fn another_process(pod_uid: &str, old: Process) -> Result<()> {
    let (new, _) = until("a new worker process in the pod", PATIENCE, async || {
        let now = worker_of(pod_uid)?;
        Ok(Look::when(now.pid != old.pid, now, || format!("{now:?}")))
    })
    .await?;
    anyhow::ensure!(new.lives(), "the new process does not live");
    Ok(())
}

async fn stopped(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let pod = a_pod(trial).await?;
    let worker = worker_of(uid(&pod)?)?;
    trial.all_busy().await?;
    let stop = trial.strike();
    let paused = worker.pause()?;
    trial.sink_until("the stopped worker's sessions are closed", |stats| stats.open <= 8).await?;
    trial.time("sessions closed after the stop", stop.elapsed(), LEASE + Duration::from_millis(500));
    trial.all_busy().await?;
    trial.time("slots used again after the stop", stop.elapsed(), Duration::from_secs(10));
    another_process(uid(&pod)?, worker).await?;
    drop(paused);
    trial.expect.held = 8;
    trial.expect.ends = 1;
    Ok(())
}

async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    for _ in 0..3 {
        trial.moment(0..1_000).await;
        let pod = a_pod(trial).await?;
        let worker = worker_of(uid(&pod)?)?;
        trial.all_busy().await?;
        let kill = trial.strike();
        worker.signal(Signal::SIGKILL)?;
        trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
        trial.all_busy().await?;
        trial.time("slots used again after the kill", kill.elapsed(), CLOSE_GRACE + Duration::from_secs(1));
        another_process(uid(&pod)?, worker).await?;
        trial.expect.held += 8;
        trial.expect.ends += 1;
    }
    Ok(())
}
