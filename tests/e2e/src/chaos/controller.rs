//! Controllers that die, stop, and lead twice.

use std::{
    net::{IpAddr, SocketAddr},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::{coordination::v1::Lease, core::v1::Pod};
use kube::{Api, api::ListParams};
use nix::sys::signal::Signal;
use testkit::Door;
use tokio::time::{sleep_until, timeout};

use super::{
    Scenario, Trial,
    network::{address, hang_up},
    setup::{Undo, a_pod, followed, two_pods, uid},
    trial::{PATIENCE, millis},
};
use crate::{
    network::{Cut, Diversion, Way},
    process::{Process, component, first_of},
    relay::is_ready,
    stage::SYSTEM,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::alone("controller_killed", "SIGKILL of the leader while pods come and go, 6 times", two_pods, |trial| {
        Box::pin(killed(trial))
    }),
    Scenario::alone(
        "controller_stopped",
        "SIGSTOP of the leader between its look and its write, and on after 30 s",
        two_pods,
        |trial| Box::pin(stopped(trial)),
    ),
    Scenario::alone(
        "controller_two_leaders",
        "one leads without the API server, the other without Redis, for 15 s",
        two_pods,
        |trial| Box::pin(two_leaders(trial)),
    ),
    Scenario::alone("controller_absent", "no controller for 60 s", two_pods, |trial| Box::pin(absent(trial))),
];

/// How soon shares are as planned again, whatever became of the controller.
const FOLLOWED: Duration = Duration::from_secs(10);
/// How soon a leader that was replaced has ended.
const STEPPED_DOWN: Duration = Duration::from_secs(5);
/// How long the leader is stopped.
const STOP: Duration = Duration::from_secs(30);
/// How long two lead.
const BOTH: Duration = Duration::from_secs(15);
/// How long there is no controller, and how long is measured before.
const ABSENT: Duration = Duration::from_secs(60);
const BEFORE: Duration = Duration::from_secs(15);
/// The leader's Lease, as the chart calls it.
const LEASE_NAME: &str = "mailrelay-controller";

/// A replica of the controller.
struct Replica {
    name: String,
    uid: String,
    address: IpAddr,
    process: Process,
}

impl Replica {
    fn of(pod: &Pod) -> Result<Self> {
        let name = pod.metadata.name.clone().context("a pod without a name")?;
        let uid = uid(pod)?.to_owned();
        Ok(Self { name, address: address(pod)?, process: first_of(&uid, "controller")?, uid })
    }
}

/// Both replicas, each running and ready; the leader first.
async fn replicas(trial: &Trial<'_>) -> Result<[Replica; 2]> {
    let pods = Api::<Pod>::namespaced(trial.stage.client.clone(), SYSTEM);
    let (replicas, _) = until("two controllers, one of them leading", PATIENCE, async || {
        let holder = holder(trial).await?;
        let all = pods.list(&ListParams::default().labels("app.kubernetes.io/name=mailrelay")).await?.items;
        let ready = all.iter().filter(|pod| pod.metadata.deletion_timestamp.is_none() && is_ready(pod));
        let mut replicas = ready.map(Replica::of).collect::<Result<Vec<_>>>()?;
        replicas.sort_by_key(|replica| replica.name != holder);
        let names: Vec<_> = replicas.iter().map(|replica| replica.name.clone()).collect();
        let two = <[Replica; 2]>::try_from(replicas).ok().filter(|[leader, _]| leader.name == holder);
        Ok(two.map_or_else(|| Look::NotYet(format!("{names:?} are ready, {holder:?} leads")), Look::Yes))
    })
    .await?;
    Ok(replicas)
}

/// The pod that the Lease names.
async fn holder(trial: &Trial<'_>) -> Result<String> {
    let lease = Api::<Lease>::namespaced(trial.stage.client.clone(), SYSTEM).get(LEASE_NAME).await?;
    let identity = lease.spec.and_then(|spec| spec.holder_identity).unwrap_or_default();
    Ok(identity.split('_').next().unwrap_or_default().to_owned())
}

/// Waits until a replica has another process than this one.
async fn restarted(old: &Replica) -> Result<()> {
    until("a new process of the controller", PATIENCE, async || {
        let now = first_of(&old.uid, "controller")?;
        Ok(Look::when(now.pid != old.process.pid && now.lives(), (), || format!("{now:?}")))
    })
    .await
    .map(drop)
}

/// Waits until a replica that was replaced has ended.
async fn stepped_down(trial: &mut Trial<'_>, old: &Replica, since: Instant) -> Result<()> {
    until("the old leader ends", PATIENCE, async || {
        Ok(Look::when(!old.process.lives(), (), || "it still runs".to_owned()))
    })
    .await?;
    trial.time("the old leader ended", since.elapsed(), STEPPED_DOWN);
    Ok(())
}

/// Waits until the ledger knows a later epoch.
async fn later_epoch(trial: &Trial<'_>, epoch: u64) -> Result<()> {
    until("a ledger of a later epoch", PATIENCE, async || {
        let now = trial.relay.ledger().await?.epoch;
        Ok(Look::when(now > epoch, (), || format!("epoch {now}")))
    })
    .await
    .map(drop)
}

/// How many writes were refused to an older epoch: the ledger's log tells it for longer than the one who tried.
fn refused(trial: &Trial<'_>) -> Result<u64> {
    let log = trial.relay.ledger_key().replace(":ledger", ":log");
    let entries =
        trial.stage.with_redis(|redis| redis.command(&["XRANGE", &log, "-", "+"])).map_err(anyhow::Error::msg)?;
    Ok(u64::try_from(entries.lines().filter(|word| *word == "refused").count())?)
}

async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    for round in 0..6 {
        trial.expect.controller_restarts += 1;
        trial.expect.pods = if round % 2 == 0 { 4 } else { 2 };
        let [leader, _] = replicas(trial).await?;
        trial.all_busy().await?;
        trial.relay.scale(trial.expect.pods).await?;
        trial.moment(0..1_500).await;
        let kill = trial.strike();
        leader.process.signal(Signal::SIGKILL)?;
        let took = followed(trial, trial.expect.pods, kill).await?;
        trial.time("shares in force after the kill, or after the pods", took, FOLLOWED);
        restarted(&leader).await?;
    }
    replicas(trial).await.map(drop)
}

async fn stopped(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.controller_restarts = 1;
    trial.expect.pods = 4;
    let [old, _] = replicas(trial).await?;
    let redis = trial.stage.with_redis(|redis| redis.address());
    let door = Door::open(trial.stage.address, redis).await.context("cannot open a door")?;
    let diversion = Diversion::of(Some(old.address), redis, door.address().port())?;
    hang_up(trial, old.address)?;
    trial.all_busy().await?;
    let epoch = trial.relay.ledger().await?.epoch;
    trial.moment(0..1_000).await;
    // Shares are all that a leader writes with the names of pods in it. It has looked, decided and sent: now it stops.
    let pod = a_pod(trial).await?;
    door.freeze_at(uid(&pod)?);
    trial.relay.scale(4).await?;
    timeout(PATIENCE, door.frozen()).await.context("the leader writes no shares")?;
    let paused = old.process.pause()?;
    let stop = trial.strike();
    later_epoch(trial, epoch).await?;
    trial.time("another one leads", stop.elapsed(), FOLLOWED);
    let took = followed(trial, 4, stop).await?;
    trial.time("shares in force after the stop, or after the pods", took, FOLLOWED);
    // Or it would find out that the stopped one does not answer, and end it.
    let kubelet = component("kubelet")?.pause()?;
    sleep_until((stop + STOP).into()).await;

    let before = trial.relay.ledger().await?;
    let none = refused(trial)?;
    drop(diversion);
    trial.strike();
    door.thaw();
    until("a refused write in the ledger's log", PATIENCE, async || {
        let now = refused(trial)?;
        Ok(Look::when(now > none, (), || format!("{now}")))
    })
    .await?;
    drop(paused);
    let resumed = trial.strike();
    stepped_down(trial, &old, resumed).await?;
    let count = refused(trial)? - none;
    trial.figure("writes of the old leader refused", count, "writes", 1..=u64::MAX);
    let after = trial.relay.ledger().await?;
    let stays = (after.epoch, &after.entitlements) == (before.epoch, &before.entitlements);
    trial.must(stays, || format!("the shares changed: {before:?} became {after:?}"));
    drop(kubelet);
    restarted(&old).await?;
    replicas(trial).await.map(drop)
}

async fn two_leaders(trial: &mut Trial<'_>) -> Result<()> {
    // The one that is replaced; and the other one may give up Redis, too.
    trial.expect.controller_restarts = 2;
    let [old, new] = replicas(trial).await?;
    trial.all_busy().await?;
    let before = trial.relay.ledger().await?;
    let (api, redis) = (SocketAddr::from((trial.stage.address, 443)), trial.stage.with_redis(|redis| redis.address()));
    trial.moment(0..1_000).await;
    let mute = Cut::between(new.address, redis, Way::Both)?;
    let alone = Cut::between(old.address, api, Way::Both)?;
    let struck = trial.strike();
    until("the other one takes the Lease", PATIENCE, async || {
        let holder = holder(trial).await?;
        Ok(Look::when(holder == new.name, (), || holder))
    })
    .await?;
    trial.time("the other one took the Lease", struck.elapsed(), FOLLOWED);
    let both = Instant::now();
    trial.expect.pods = 4;
    trial.relay.scale(4).await?;
    sleep_until((both + BOTH).into()).await;
    let during = trial.relay.ledger().await?;
    ensure!(old.process.lives() && new.process.lives(), "one of the two leaders ended too early");
    trial.must(during.epoch == before.epoch && during.entitlements == before.entitlements, || {
        format!("who wrote shares? {before:?} became {during:?}")
    });
    trial.figure("packets cut", mute.packets()?.min(alone.packets()?), "packets", 1..=u64::MAX);
    trial.strike();
    drop(mute);
    later_epoch(trial, before.epoch).await?;
    let replaced = trial.strike();
    stepped_down(trial, &old, replaced).await?;
    let took = followed(trial, 4, replaced).await?;
    trial.time("shares in force after the later epoch, or after the pods", took, FOLLOWED);
    trial.note("writes of the old leader refused", refused(trial)?, "writes");
    drop(alone);
    trial.strike();
    restarted(&old).await?;
    replicas(trial).await.map(drop)
}

/// Mails that the server accepts in a second, in thousandths.
async fn rate(trial: &Trial<'_>, time: Duration) -> u64 {
    let (before, began) = (trial.relay.server.stats().accepted, Instant::now());
    tokio::time::sleep(time).await;
    (trial.relay.server.stats().accepted - before) * 1_000_000 / millis(began.elapsed()).max(1)
}

async fn absent(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.pods = 3;
    let before = rate(trial, BEFORE).await;
    trial.moment(0..1_000).await;
    // A cluster without controller would be of no use to whoever comes next.
    let _back = Undo::new(|| {
        let arguments = ["-n", SYSTEM, "scale", "deployment/mailrelay", "--replicas=2"];
        if let Err(error) = Command::new("kubectl").args(arguments).output() {
            eprintln!("the controller stays away: {error}");
        }
    });
    trial.stage.scale_controller(0).await?;
    trial.strike();
    let shares = trial.relay.ledger().await?.entitlements;
    let during = rate(trial, ABSENT).await;
    trial.note("mails per 1000 s before", before, "mails");
    trial.figure("delivered meanwhile, of the rate before", during * 100 / before.max(1), "percent", 95..=u64::MAX);
    let kept = trial.relay.ledger().await?.entitlements;
    trial.must(kept == shares, || format!("the shares changed: {shares:?} became {kept:?}"));
    trial.stage.scale_controller(2).await?;
    let back = trial.strike();
    trial.relay.scale(3).await?;
    let took = followed(trial, 3, back).await?;
    trial.time("shares in force after the pods", took, FOLLOWED);
    replicas(trial).await.map(drop)
}
