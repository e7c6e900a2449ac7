//! Workers that stop and die.

use std::time::Duration;

use anyhow::Result;
use mailsink::{Behaviour, Failure, FailureStage};
use nix::sys::signal::Signal;
use serde_json::json;

use super::{
    COUNTING, Scenario, Trial,
    setup::{
        LEASE, SLOW_MS, a_pod, another_process, notices, rest_is_used, slow, two_pods, uid, withheld_and_the_rest_used,
    },
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions,
    command::{kubectl, succeed},
    process::{first_of, worker_of},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own("worker_stopped", "SIGSTOP of a worker process that holds 8 busy sessions", two_pods, |trial| {
        Box::pin(stopped(trial))
    })
    .against(COUNTING)
    .in_slice(),
    Scenario::own("worker_killed", "SIGKILL of a worker process under its supervisor, twice", two_pods, |trial| {
        Box::pin(killed(trial))
    })
    .against(COUNTING)
    .in_slice(),
    Scenario::own("worker_container_killed", "SIGKILL of supervisor and worker; kubelet restarts", two_pods, |trial| {
        Box::pin(container_killed(trial))
    })
    .against(COUNTING),
    Scenario::own("worker_rolled", "rolling update of all workers (SIGTERM)", two_pods, |trial| {
        Box::pin(rolled(trial))
    })
    .against(COUNTING),
    Scenario::own("worker_out_of_files", "no file descriptor left for a new session", short_sessions, |trial| {
        Box::pin(out_of_files(trial))
    }),
    Scenario::own("worker_killed_at_connect", "SIGKILL before the greeting came", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Greeting))
    }),
    Scenario::own("worker_killed_at_ehlo", "SIGKILL between EHLO and its reply", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Ehlo))
    }),
    Scenario::own("worker_killed_at_tls", "SIGKILL between STARTTLS and its reply", secure_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Starttls))
    }),
    Scenario::own("worker_killed_at_auth", "SIGKILL between AUTH and its reply", secure_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Auth))
    }),
    Scenario::own("worker_killed_at_mail", "SIGKILL between MAIL and its reply", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Mail))
    }),
    Scenario::own("worker_killed_at_rcpt", "SIGKILL between RCPT and its reply", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Rcpt))
    }),
    Scenario::own("worker_killed_at_data", "SIGKILL between DATA and its reply", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Data))
    }),
    Scenario::own("worker_killed_at_body", "SIGKILL while the server reads the content", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Body))
    }),
    Scenario::own("worker_killed_at_dot", "SIGKILL between the final dot and its reply", short_sessions, |trial| {
        Box::pin(killed_at(trial, FailureStage::Dot))
    })
    .in_slice(),
    Scenario::alone(
        "worker_killed_at_settle",
        "SIGKILL before the dot and after 250: Redis is silent",
        two_pods,
        |trial| Box::pin(killed_at_settle(trial)),
    )
    .against(COUNTING),
];

/// How long the server is silent at the stage at which a worker is killed.
const SILENCE: Duration = Duration::from_secs(4);
/// How soon the mail of a dead worker is delivered by others.
const TAKEN_OVER: Duration = Duration::from_secs(15);

/// Two workers whose sessions end after a few mails, and a server that may notice their end late.
fn short_sessions(name: &str) -> RelayOptions {
    let server = json!({"maxMessagesPerConnection": 4, "closeGrace": "6s", "sessionTimeout": "5s"});
    RelayOptions { server, behaviour: by_data(), ..two_pods(name) }
}

/// The same behind TLS and a login.
fn secure_sessions(name: &str) -> RelayOptions {
    RelayOptions { secure: true, ..short_sessions(name) }
}

/// A slow server that takes mail by DATA only.
fn by_data() -> Behaviour {
    Behaviour { hide: vec!["CHUNKING".into()], ..slow() }
}

async fn stopped(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.held = 8;
    trial.expect.ends = 1;
    trial.moment(0..1_000).await;
    let pod = a_pod(trial).await?;
    let worker = worker_of(uid(&pod)?)?;
    trial.all_busy().await?;
    let stop = trial.strike();
    let _paused = worker.pause()?;
    trial.sink_until("the stopped worker's sessions are closed", |stats| stats.open <= 8).await?;
    trial.time("sessions closed after the stop", stop.elapsed(), LEASE + Duration::from_millis(500) + notices(trial));
    another_process(uid(&pod)?, worker).await?;
    // Unread replies at its death make its kernel send resets, of which nothing can be seen afterwards.
    withheld_and_the_rest_used(trial, 1, PATIENCE).await
}

async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    trial.all_busy().await?;
    trial.expect.withheld = true;
    for _ in 0..2 {
        trial.expect.held += 8;
        trial.expect.ends += 1;
        trial.moment(0..1_000).await;
        let pod = a_pod(trial).await?;
        let worker = worker_of(uid(&pod)?)?;
        let kill = trial.strike();
        worker.signal(Signal::SIGKILL)?;
        another_process(uid(&pod)?, worker).await?;
        let withheld = rest_is_used(trial).await?;
        trial.note("slots but the withheld ones used again after the kill", millis(kill.elapsed()), "ms");
        // A server that still worked on a mail is not seen to end its session; one that waited is.
        trial.note("withheld", withheld.into(), "slots");
    }
    Ok(())
}

async fn container_killed(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.held = 8;
    trial.expect.restarts = 1;
    trial.moment(0..1_000).await;
    let pod = a_pod(trial).await?;
    let (supervisor, worker) = (first_of(uid(&pod)?, "worker")?, worker_of(uid(&pod)?)?);
    trial.all_busy().await?;
    trial.strike();
    // The kernel ends all of the container's processes with its first one.
    supervisor.signal(Signal::SIGKILL)?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    another_process(uid(&pod)?, worker).await?;
    // Nobody has seen what became of its connections.
    withheld_and_the_rest_used(trial, 8, PATIENCE).await
}

async fn rolled(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let namespace = trial.relay.namespace.clone();
    let roll = trial.strike();
    kubectl(&["-n", &namespace, "rollout", "restart", "deployment/web"]).await?;
    kubectl(&["-n", &namespace, "rollout", "status", "deployment/web", "--timeout=90s"]).await?;
    trial.relay.await_pods(2).await?;
    trial.note("rolled over", millis(roll.elapsed()), "ms");
    // Whoever was asked to end leaves nothing behind.
    let ledger = trial.relay.ledger().await?;
    trial.must(ledger.quarantine.is_empty(), || format!("slots are withheld after clean ends: {ledger:?}"));
    Ok(())
}

async fn out_of_files(trial: &mut Trial<'_>) -> Result<()> {
    let pod = a_pod(trial).await?;
    let worker = worker_of(uid(&pod)?)?;
    let pid = worker.pid.to_string();
    trial.moment(0..1_000).await;
    trial.strike();
    // Fewer than it has open: each session that ends is the last one for now.
    limit_files(&pid, 10).await?;
    trial.sink_until("its sessions have ended", |stats| stats.open <= 8).await?;
    trial.moment(1_000..4_000).await;
    let accepted = trial.relay.server.stats().accepted;
    trial.sink_until("the other goes on", |stats| stats.accepted > accepted + 40).await?;
    limit_files(&pid, 1024).await?;
    let healed = trial.strike();
    trial.all_busy().await?;
    trial.note("all sessions open again", millis(healed.elapsed()), "ms");
    trial.must(worker.lives(), || "the worker process ended".into());
    Ok(())
}

/// Sets how many files a worker may have open; as its own user, since root in a container may not be allowed to.
async fn limit_files(pid: &str, files: u32) -> Result<()> {
    let limit = format!("--nofile={files}:");
    let arguments = ["--reuid=65532", "--regid=65532", "--clear-groups", "prlimit", "--pid", pid, &limit];
    succeed("setpriv", &arguments, "").await.map(drop)
}

/// Kills one of two workers while all sessions are at the same stage.
async fn killed_at(trial: &mut Trial<'_>, stage: FailureStage) -> Result<()> {
    // From the final dot on only the server knows; `committing` is recorded before the content goes out.
    let is_unknown = matches!(stage, FailureStage::Body | FailureStage::Dot);
    trial.expect.held = if is_unknown { 8 } else { 0 };
    trial.expect.ends = 1;
    let silence = match stage {
        FailureStage::Dot => Failure::reply(stage, "250 2.0.0 ok").accepting().after(SILENCE),
        _ => Failure::silence(stage, SILENCE),
    };
    let failures = vec![silence.times(16)];
    let pod = a_pod(trial).await?;
    let worker = worker_of(uid(&pod)?)?;
    trial.relay.server.set_behaviour(Behaviour { failures, ..by_data() });
    trial.sink_until("all sessions are at this stage", |stats| stats.silent == 16).await?;
    let (before, kill) = (trial.load.accepted(), trial.strike());
    worker.signal(Signal::SIGKILL)?;
    trial.settled_until(before, TAKEN_OVER).await?;
    trial.time("all mail accepted before is settled", kill.elapsed(), TAKEN_OVER);
    trial.relay.server.set_behaviour(by_data());
    another_process(uid(&pod)?, worker).await?;
    let held = trial.relay.parked().await?.0.len() as u64;
    trial.figure("held", held, "mails", if is_unknown { 1..=8 } else { 0..=0 });
    trial.expect.withheld = true;
    rest_is_used(trial).await.map(drop)
}

/// Kills one of two workers while Redis answers nobody: their mails are either about to be completed or already taken.
async fn killed_at_settle(trial: &mut Trial<'_>) -> Result<()> {
    trial.all_busy().await?;
    trial.expect.withheld = true;
    for _ in 0..3 {
        trial.expect.held += 8;
        trial.expect.ends += 1;
        let pod = a_pod(trial).await?;
        let worker = worker_of(uid(&pod)?)?;
        let paused = trial.stage.redis_process()?.pause()?;
        trial.moment(2 * SLOW_MS..1_500).await;
        trial.strike();
        worker.signal(Signal::SIGKILL)?;
        drop(paused);
        another_process(uid(&pod)?, worker).await?;
        rest_is_used(trial).await?;
    }
    Ok(())
}
