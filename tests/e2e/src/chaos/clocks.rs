//! Wall clocks that jump. Nothing may come of it: leases, quarantine, silence and retries are timed by clocks that nobody
//! can set.
//!
//! The product runs from the image `localhost/mailrelay:clock` here: the same program, linked dynamically, with a library
//! loaded first that moves its wall clock (hack/image/build-clock, tests/support/clock.c).

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use mailrelay::lease::LedgerState;
use testkit::{ClockLibrary, RedisServer, WallClock};

use super::{
    Reach, SINK, Scenario, Trial,
    redis::{flowing, no_session_closed},
    setup::{LEASE, Undo, a_pod, lasting, uid},
    trial::PATIENCE,
};
use crate::{
    RelayOptions, Stage,
    command::{kubectl, succeed},
    process::processes_of,
    stage::SYSTEM,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "clock_redis",
        fault: "Redis' wall clock jumps by an hour either way, by 120 s and -720 s, and runs at twice its rate",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(redis(trial)),
    },
    Scenario {
        name: "clock_worker",
        fault: "the wall clock of one worker and its supervisor does the same",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: movable,
        act: |trial| Box::pin(worker(trial)),
    },
    Scenario {
        name: "clock_controller",
        fault: "the wall clock of the controller that leads does the same, then that of the other one",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(controller(trial)),
    },
];

const HOUR: i64 = 3_600;
/// How often a clock that runs at twice its rate is moved on.
const STEP: Duration = Duration::from_millis(100);
const IMAGE: &str = "localhost/mailrelay:clock";

/// Two workers whose wall clocks can be moved.
fn movable(name: &str) -> RelayOptions {
    RelayOptions { image: IMAGE.into(), ..lasting(name) }
}

/// The whole row of jumps, each for as long as a lease, and nothing happens: no session ends, nobody else leads, no
/// ledger is lost, mail flows.
async fn jump(trial: &mut Trial<'_>, clocks: &[WallClock]) -> Result<()> {
    // What leads to other figures here is not the clock: let all of it be over.
    until("an open ledger without quarantine", PATIENCE, async || {
        let ledger = trial.relay.ledger().await?;
        let open = ledger.state == LedgerState::Open && ledger.quarantine.is_empty();
        Ok(Look::when(open, (), || format!("{ledger:?}")))
    })
    .await?;
    trial.moment(0..1_000).await;
    let before = trial.all_busy().await?;
    let ledger = trial.relay.ledger().await?;
    for seconds in [HOUR, -HOUR, 120, -720, 0] {
        trial.strike();
        for clock in clocks {
            clock.move_to(seconds).context("the clock cannot be moved")?;
        }
        // That nothing happens shows only after as long as anything could take.
        tokio::time::sleep(LEASE).await;
        flowing(trial).await?;
    }
    trial.strike();
    let began = tokio::time::Instant::now();
    let mut steps = tokio::time::interval(STEP);
    while began.elapsed() < LEASE {
        let now = steps.tick().await;
        for clock in clocks {
            clock.move_by(now - began).context("the clock cannot be moved")?;
        }
    }
    for clock in clocks {
        clock.move_to(0).context("the clock cannot be moved")?;
    }
    flowing(trial).await?;
    let after = trial.all_busy().await?;
    no_session_closed(trial, &before, &after);
    let now = trial.relay.ledger().await?;
    let same = (now.token == ledger.token, now.epoch == ledger.epoch, now.revision == ledger.revision);
    trial.must(same == (true, true, true), || format!("the ledger went through something: {ledger:?}, {now:?}"));
    Ok(())
}

async fn redis(trial: &mut Trial<'_>) -> Result<()> {
    let library = ClockLibrary::build();
    let stage = trial.stage;
    let _back = Undo::new(|| stage.with_redis(RedisServer::give_clock_back));
    stage.with_redis(|redis| redis.take_clock(&library));
    let pid = stage.with_redis(|redis| redis.pid()).context("Redis does not run")?;
    let clock = WallClock::of(pid).context("Redis' clock")?;
    jump(trial, &[clock]).await
}

async fn worker(trial: &mut Trial<'_>) -> Result<()> {
    let pod = a_pod(trial).await?;
    let clocks = clocks_of(&pod, "worker")?;
    ensure!(clocks.len() >= 2, "a supervisor and a worker, not {} processes", clocks.len());
    jump(trial, &clocks).await
}

async fn controller(trial: &mut Trial<'_>) -> Result<()> {
    // It is another image from here on, and the old one in the end.
    let _back = Undo::new(|| {
        let _ = std::process::Command::new("kubectl").args(set_image("localhost/mailrelay:dev")).status();
        let _ = std::process::Command::new("kubectl").args(ROLLED_OUT).status();
    });
    succeed("kubectl", &set_image(IMAGE), "").await?;
    kubectl(&ROLLED_OUT).await?;
    let leader = leader(trial.stage).await?;
    let (leading, standing_by): (Vec<Pod>, Vec<Pod>) =
        controllers(trial.stage).await?.into_iter().partition(|pod| pod.metadata.name.as_deref() == Some(&*leader));
    for pods in [leading, standing_by] {
        let pod = pods.first().context("a controller that leads and one that stands by")?;
        jump(trial, &clocks_of(pod, "controller")?).await?;
    }
    let now = self::leader(trial.stage).await?;
    trial.must(now == leader, || format!("{now} leads instead of {leader}"));
    Ok(())
}

/// The clocks of a pod's processes that run a command of the product.
fn clocks_of(pod: &Pod, command: &str) -> Result<Vec<WallClock>> {
    let processes = processes_of(uid(pod)?, Some(command))?;
    ensure!(!processes.is_empty(), "no process with mailrelay {command} in {:?}", pod.metadata.name);
    processes
        .into_iter()
        .map(|process| WallClock::of(process.pid).with_context(|| format!("the clock of process {}", process.pid)))
        .collect()
}

const ROLLED_OUT: [&str; 6] = ["-n", SYSTEM, "rollout", "status", "deployment/mailrelay", "--timeout=90s"];

fn set_image(image: &str) -> Vec<String> {
    let image = format!("controller={image}");
    ["-n", SYSTEM, "set", "image", "deployment/mailrelay", &image].map(String::from).into()
}

async fn controllers(stage: &Stage) -> Result<Vec<Pod>> {
    let api: Api<Pod> = Api::namespaced(stage.client.clone(), SYSTEM);
    let pods = api.list(&ListParams::default()).await?.items;
    Ok(pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none()).collect())
}

/// The name of the pod that leads, one of those that are there.
async fn leader(stage: &Stage) -> Result<String> {
    let (name, _) = until("a controller that leads", PATIENCE, async || {
        let api: Api<Lease> = Api::namespaced(stage.client.clone(), SYSTEM);
        let leases = api.list(&ListParams::default()).await?.items;
        let holders: Vec<String> = leases
            .into_iter()
            .filter_map(|lease| lease.spec?.holder_identity)
            .filter(|name| !name.is_empty())
            .collect();
        let pods = controllers(stage).await?;
        let names = pods.into_iter().filter_map(|pod| pod.metadata.name);
        let leads = names.into_iter().find(|name| holders.iter().any(|holder| holder.contains(name.as_str())));
        Ok(leads.map_or_else(|| Look::NotYet(format!("{holders:?}")), Look::Yes))
    })
    .await?;
    Ok(name)
}
