//! An API server that is away or restarted.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::signal::Signal;

use super::{
    Scenario, Trial,
    redis::flowing,
    setup::{Undo, followed, two_pods},
};
use crate::{
    command::{repository, succeed},
    process::component,
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::alone(
        "api_stopped",
        "SIGSTOP of the API server for 25 s: half-open watches; pods are scaled before and after",
        two_pods,
        |trial| Box::pin(stopped(trial)),
    ),
    Scenario::alone(
        "api_killed",
        "SIGKILL of the API server, started again after 10 s; pods are scaled before and after",
        two_pods,
        |trial| Box::pin(killed(trial)),
    ),
];

/// How long the API server is stopped.
const STOP: Duration = Duration::from_secs(25);
/// How long it is dead before it is started again.
const DEAD: Duration = Duration::from_secs(10);
/// How soon shares follow the pods once it is back.
const FOLLOWED: Duration = Duration::from_secs(30);
/// How long whoever already knew of a new pod may take to act on it.
const KNOWN: Duration = Duration::from_secs(1);
/// How often the shares are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(100);

async fn stopped(trial: &mut Trial<'_>) -> Result<()> {
    scale(trial).await?;
    let paused = component("kube-apiserver")?.pause()?;
    let stop = trial.strike();
    unchanged(trial, stop + STOP).await?;
    flowing(trial).await?;
    drop(paused);
    back(trial).await
}

async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    scale(trial).await?;
    let server = component("kube-apiserver")?;
    let up = repository().join("hack/cluster/up");
    let _back = Undo::new(|| {
        // Nothing of this run can be taken away without an API server.
        if component("kube-apiserver").is_ok_and(|server| server.lives()) {
            return;
        }
        if let Err(error) = Command::new(&up).output() {
            eprintln!("the API server stays away: {error}");
        }
    });
    server.signal(Signal::SIGKILL)?;
    let kill = trial.strike();
    unchanged(trial, kill + DEAD).await?;
    flowing(trial).await?;
    succeed::<&str>(&up, &[], "").await?;
    back(trial).await
}

/// Asks for four pods; how many of them anybody hears of, the seed decides.
async fn scale(trial: &mut Trial<'_>) -> Result<()> {
    // Whoever leads may not have renewed in time, as the other sees it.
    trial.expect.controller_restarts = 2;
    trial.all_busy().await?;
    trial.relay.scale(4).await?;
    trial.moment(0..600).await;
    Ok(())
}

/// Looks on until then: no share changes.
async fn unchanged(trial: &mut Trial<'_>, end: Instant) -> Result<()> {
    tokio::time::sleep(KNOWN).await;
    let shares = trial.relay.ledger().await?.entitlements;
    let mut changes = 0;
    while Instant::now() < end {
        tokio::time::sleep(LOOK).await;
        changes += u64::from(trial.relay.ledger().await?.entitlements != shares);
    }
    trial.figure("looks that saw other shares", changes, "looks", 0..=0);
    Ok(())
}

/// The API server is there again: what was asked for before is followed, and so is what is asked for now.
async fn back(trial: &mut Trial<'_>) -> Result<()> {
    let back = trial.strike();
    let took = followed(trial, 4, back).await?;
    trial.time("shares of 4 pods in force after its return, or after the pods", took, FOLLOWED);
    trial.expect.pods = 3;
    let back = Instant::now();
    trial.relay.scale(3).await?;
    let took = followed(trial, 3, back).await?;
    trial.time("shares of 3 pods in force after the pods", took, FOLLOWED);
    Ok(())
}
