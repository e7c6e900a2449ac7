//! Cuts between worker, Redis and mail server.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use mailsink::Behaviour;
use nix::sys::signal::Signal;
use serde_json::json;
use testkit::Door;

use super::{
    COUNTING, Reach, SINK, Scenario, Trial,
    redis::{flowing, no_session_closed},
    setup::{
        DRAIN_MARGIN, LEASE, SHORT_TIMEOUT, SLOW_MS, a_pod, lasting, notices, ports_to, rest_is_used, uid,
        withheld_and_the_rest_used,
    },
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions, Side,
    network::{Cut, Diversion, Way},
    process::worker_of,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "network_redis_cut",
        fault: "one pod cut from Redis until the other uses its slots",
        reach: Reach::Own,
        sides: COUNTING,
        slice: Some(Side::Sink),
        relay: lasting,
        act: |trial| Box::pin(redis_cut(trial, Way::Both)),
    },
    Scenario {
        name: "network_redis_deaf",
        fault: "the same, one way: Redis does not hear it",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(redis_cut(trial, Way::FromPod)),
    },
    Scenario {
        name: "network_redis_mute",
        fault: "the same, one way: what it asks for is done, the answers are lost",
        reach: Reach::Own,
        sides: COUNTING,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(redis_cut(trial, Way::ToPod)),
    },
    Scenario {
        name: "network_server_cut",
        fault: "one pod cut from the mail server for 20 s",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(server_cut(trial, Way::Both)),
    },
    Scenario {
        name: "network_server_deaf",
        fault: "the mail server does not hear one pod for 20 s, one way",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(server_cut(trial, Way::FromPod)),
    },
    Scenario {
        name: "network_server_mute",
        fault: "one pod does not hear the mail server for 20 s, one way",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(server_cut(trial, Way::ToPod)),
    },
    Scenario {
        name: "network_fin_lost",
        fault: "SIGKILL of a worker whose connections were cut: the server never hears of it",
        reach: Reach::Own,
        sides: SINK,
        slice: Some(Side::Sink),
        relay: short_timeout,
        act: |trial| Box::pin(fin_lost(trial)),
    },
    Scenario {
        name: "network_redis_slow",
        fault: "200 ms and then 2 s between one pod and Redis",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(redis_slow(trial)),
    },
    Scenario {
        name: "network_server_slow",
        fault: "2 s between all pods and the mail server, and a SIGKILL meanwhile",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(server_slow(trial)),
    },
];

/// How soon the slots of a worker that cannot renew its lease are withheld.
const SILENCE: Duration = Duration::from_secs(25);
/// How long a path is cut: longer than a lease and all that the ledger waits for.
const CUT: Duration = Duration::from_secs(20);

/// A server that ends a session whose client has been silent for 4 s, and a relay that knows of 5.
fn short_timeout(name: &str) -> RelayOptions {
    let behaviour = Behaviour { mail_delay_ms: SLOW_MS, idle_limit_ms: Some(4_000), ..Behaviour::default() };
    let server = json!({"sessionTimeout": "5s", "maxMessagesPerConnection": 10_000});
    RelayOptions { behaviour, server, ..RelayOptions::new(name, 2) }
}

pub(super) fn address(pod: &Pod) -> Result<IpAddr> {
    let ip = pod.status.as_ref().and_then(|status| status.pod_ip.as_deref()).context("a pod without address")?;
    ip.parse().with_context(|| format!("{ip} is not an address"))
}

fn redis(trial: &Trial<'_>) -> SocketAddr {
    trial.stage.with_redis(|redis| redis.address())
}

/// Without Redis a worker closes its sessions by its deadline. Nobody else knows whether the server has heard of that, so its
/// slots are withheld, and the other worker goes on with its own.
async fn redis_cut(trial: &mut Trial<'_>, way: Way) -> Result<()> {
    let pod = a_pod(trial).await?;
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let struck = trial.strike();
    let cut = Cut::between(address(&pod)?, redis(trial), way)?;
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    trial.time("sessions closed after the cut", struck.elapsed(), LEASE + notices(trial));
    withheld_and_the_rest_used(trial, 8, SILENCE).await?;
    trial.figure("packets cut", cut.packets()?, "packets", 1..=u64::MAX);
    drop(cut);
    // Its mail was resolved by stage while it could not say what had become of it.
    trial.expect.held = 8;
    back_again(trial).await
}

/// Waits until a worker that was away has whatever is not withheld.
async fn back_again(trial: &mut Trial<'_>) -> Result<()> {
    let healed = trial.strike();
    let withheld = rest_is_used(trial).await?;
    trial.note("all but the withheld in use after its return", millis(healed.elapsed()), "ms");
    trial.note("withheld", withheld.into(), "slots");
    Ok(())
}

/// What a worker cannot reach it still holds: its sessions stay counted, and go on when the path is there again.
async fn server_cut(trial: &mut Trial<'_>, way: Way) -> Result<()> {
    let pod = a_pod(trial).await?;
    trial.moment(0..1_000).await;
    let before = trial.all_busy().await?;
    let struck = trial.strike();
    let cut = Cut::between(address(&pod)?, trial.relay.server.smtp(), way)?;
    tokio::time::sleep_until((struck + CUT).into()).await;
    trial.figure("packets cut", cut.packets()?, "packets", 1..=u64::MAX);
    let during = trial.relay.server.stats();
    trial.figure("sessions opened meanwhile", during.sessions - before.sessions, "sessions", 0..=0);
    drop(cut);
    trial.strike();
    trial.all_busy().await?;
    flowing(trial).await
}

async fn fin_lost(trial: &mut Trial<'_>) -> Result<()> {
    let pod = a_pod(trial).await?;
    let worker = worker_of(uid(&pod)?)?;
    trial.moment(0..1_000).await;
    let before = trial.all_busy().await?;
    let server = trial.relay.server.smtp();
    let ports = ports_to(worker, server)?;
    ensure!(ports.len() == 8, "8 connections of the worker to the server, not {ports:?}");
    let cut = Cut::of(address(&pod)?, &ports, server)?;
    let struck = trial.strike();
    worker.signal(Signal::SIGKILL)?;
    let hold = SHORT_TIMEOUT + DRAIN_MARGIN;
    until("the slots in quarantine", PATIENCE, async || {
        let ledger = trial.relay.ledger().await?;
        let lasting = ledger.quarantine.iter().filter(|entry| entry.seconds >= hold.as_secs());
        let slots: u32 = lasting.map(|entry| entry.slots).sum();
        Ok(Look::when(slots == 8, (), || format!("{:?}", ledger.quarantine)))
    })
    .await?;
    trial.time("slots in quarantine after the kill", struck.elapsed(), Duration::from_secs(3));
    // The server still counts eight sessions that nobody holds: whoever opens one more now breaks the cap.
    let ghosts = trial.relay.server.stats();
    trial.figure("sessions that the server still counts", u64::try_from(ghosts.open)?, "sessions", 16..=16);
    trial.figure("sessions opened meanwhile", ghosts.sessions - before.sessions, "sessions", 0..=0);
    trial.sink_until("the server ends its silent sessions", |stats| stats.open == 8).await?;
    trial.note("the server ended them after", super::trial::millis(struck.elapsed()), "ms");
    trial.all_busy().await?;
    let withheld = super::trial::millis(struck.elapsed());
    let longest = hold + Duration::from_secs(5);
    trial.figure("slots withheld for", withheld, "ms", super::trial::millis(hold)..=super::trial::millis(longest));
    trial.figure("packets cut", cut.packets()?, "packets", 1..=u64::MAX);
    (trial.expect.held, trial.expect.ends) = (8, 1);
    Ok(())
}

async fn redis_slow(trial: &mut Trial<'_>) -> Result<()> {
    let pod = a_pod(trial).await?;
    let (redis, address) = (redis(trial), address(&pod)?);
    let door = Door::open(trial.stage.address, redis).await.context("cannot open a door to Redis")?;
    door.delay(Duration::from_millis(100));
    trial.moment(0..1_000).await;
    let before = trial.all_busy().await?;
    let diversion = Diversion::of(Some(address), redis, door.address().port())?;
    trial.strike();
    hang_up(trial, address)?;
    flowing(trial).await?;
    // That no session is closed shows only after a lease.
    tokio::time::sleep(LEASE).await;
    let after = trial.all_busy().await?;
    no_session_closed(trial, &before, &after);
    door.delay(Duration::from_secs(1));
    let slow = trial.strike();
    trial.sink_until("its sessions are closed", |stats| stats.open <= 8).await?;
    // A renewal that was under way when it became slow may have been answered in time.
    trial.time("sessions closed after 2 s began", slow.elapsed(), LEASE + Duration::from_secs(2));
    withheld_and_the_rest_used(trial, 8, SILENCE).await?;
    drop(diversion);
    trial.strike();
    drop(door);
    trial.expect.held = 8;
    back_again(trial).await
}

/// Ends a pod's connections to Redis, so that it has to make new ones.
pub(super) fn hang_up(trial: &Trial<'_>, pod: IpAddr) -> Result<()> {
    let pod = format!("addr={pod}:");
    trial.stage.with_redis(|redis| {
        let list = redis.command(&["CLIENT", "LIST"]).map_err(anyhow::Error::msg)?;
        let theirs = list.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with(&pod)));
        for client in theirs.filter_map(|word| word.strip_prefix("addr=")) {
            redis.command(&["CLIENT", "KILL", "ADDR", client]).map_err(anyhow::Error::msg)?;
        }
        Ok(())
    })
}

async fn server_slow(trial: &mut Trial<'_>) -> Result<()> {
    let door = Door::open(trial.stage.address, trial.relay.server.smtp()).await.context("cannot open a door")?;
    lead_to(trial, door.address()).await?;
    trial.moment(0..1_000).await;
    trial.strike();
    door.delay(Duration::from_secs(1));
    flowing(trial).await?;
    let pod = a_pod(trial).await?;
    worker_of(uid(&pod)?)?.signal(Signal::SIGKILL)?;
    trial.strike();
    (trial.expect.held, trial.expect.ends) = (8, 1);
    flowing(trial).await?;
    rest_is_used(trial).await?;
    door.delay(Duration::ZERO);
    trial.strike();
    flowing(trial).await?;
    lead_to(trial, trial.relay.server.smtp()).await
}

/// Changes the server's port in the spec, and waits until all sessions go there.
async fn lead_to(trial: &Trial<'_>, server: SocketAddr) -> Result<()> {
    let mut servers = serde_json::to_value(&trial.relay.object().await?.spec.servers)?;
    servers[0]["port"] = json!(server.port());
    let before = trial.relay.server.stats().sessions;
    trial.relay.patch(json!({"servers": servers})).await?;
    trial.sink_until("sixteen new sessions", |stats| stats.sessions >= before + 16 && stats.open == 16).await.map(drop)
}
