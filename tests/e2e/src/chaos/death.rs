//! What is dead, cut off or frozen while the mail server counts on: proof that a process is dead is no proof that the server
//! knows.
//!
//! The servers here count from `accept` to EOF, reset or their own time-out, and none of them refuses. What is not
//! withheld must be in use all the while; whether slots are withheld, or proven free by their very connections, is the product's to
//! know, and O1 says whether it was right.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::Pod;
use nix::sys::signal::Signal;
use rand::RngExt;

use super::{
    Scenario, Trial,
    network::address,
    setup::{DRAIN_MARGIN, Undo, a_pod, another_process, claimed, rest_is_used, three_pods, uid, withheld},
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions, Side,
    command::kubectl,
    network::{Cut, Way},
    process::{Process, worker_of},
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own(
        "pod_cut",
        "what a pod sends to Redis and the mail server is lost for 45 s; its neighbours are well",
        three_pods,
        |trial| Box::pin(pod_cut(trial)),
    )
    .against(&[Side::Plain, Side::Processes, Side::Postfix, Side::Exim]),
    Scenario::own(
        "deleted_in_mid_mail",
        "a pod is deleted with a second of grace in mid-mail, and no packet is lost",
        three_pods,
        |trial| Box::pin(deleted_in_mid_mail(trial)),
    )
    .against(&[Side::Slow, Side::Deep, Side::Long, Side::Processes, Side::Exim])
    .in_slice_with(Side::Slow),
    Scenario::own(
        "deleted_with_fin_lost",
        "a pod is deleted with a second of grace, and the first FIN of each connection is lost",
        busy_for_long,
        |trial| Box::pin(deleted_with_fin_lost(trial)),
    )
    .against(&[Side::Plain, Side::Processes, Side::Postfix, Side::Exim]),
    Scenario::own(
        "reset_lost",
        "a worker is stopped until its dead-man switch kills it, and the resets for its unread replies are lost",
        three_pods,
        |trial| Box::pin(reset_lost(trial)),
    )
    .against(&[Side::Plain, Side::Processes, Side::Exim]),
    Scenario::own("killed_in_mid_mail", "SIGKILL of a worker in the middle of its mails", three_pods, |trial| {
        Box::pin(killed_and_measured(trial))
    })
    .against(&[Side::Slow, Side::Deep, Side::Plain, Side::Processes, Side::Postfix, Side::Exim]),
    Scenario::own(
        "killed_while_server_works",
        "SIGKILL of a worker while the server works on its mails",
        busy_for_long,
        |trial| Box::pin(killed(trial)),
    )
    .against(&[Side::Long, Side::Processes, Side::Postfix, Side::Exim])
    .in_slice_with(Side::Long),
    // Alone, since it is a matter of milliseconds.
    Scenario::alone("killed_at_rest", "SIGKILL of a worker whose sessions are at rest", three_pods, |trial| {
        Box::pin(killed_at_rest(trial))
    })
    .against(&[Side::Plain, Side::Processes, Side::Postfix, Side::Exim]),
    Scenario::own("redis_cut_in_mid_mail", "a pod loses Redis alone, for 40 s, in mid-mail", three_pods, |trial| {
        Box::pin(redis_cut_in_mid_mail(trial))
    })
    .against(&[Side::Slow, Side::Deep, Side::Long, Side::Exim]),
    Scenario::own("frozen", "the cgroup of a worker is frozen for 45 s (version 1: no SIGKILL)", three_pods, |trial| {
        Box::pin(frozen(trial))
    })
    .against(&[Side::Plain, Side::Processes, Side::Exim]),
    Scenario::own("frozen_v2", "the same with version 2, which lets a SIGKILL through", three_pods, |trial| {
        Box::pin(frozen_v2(trial))
    })
    .against(&[Side::Plain, Side::Processes, Side::Exim]),
];

/// How long a path is cut, or a process frozen: longer than a lease, silence and all that is waited for after them.
const AWAY: Duration = Duration::from_secs(45);
/// How long after a death a slot that is used too early would show in the server's count.
const SHOWS: Duration = Duration::from_secs(25);
/// How soon the slots of a worker that is gone are known to be withheld or free: two of kubelet's rounds, or silence.
const KNOWN: Duration = Duration::from_secs(40);
/// For how long mails are counted to compare rates.
const RATE: Duration = Duration::from_secs(8);
/// How soon the slots of a killed worker at a server at rest are free, its supervisor being alive.
const PROVEN: Duration = Duration::from_millis(300);

/// Mails on which the server works for long.
fn busy_for_long(name: &str) -> RelayOptions {
    RelayOptions { pause: Duration::from_secs(8), ..three_pods(name) }
}

/// The pod that a scenario harms.
pub(super) struct Victim {
    pub(super) pod: Pod,
    uid: String,
    worker: Process,
    /// Slots that it claimed.
    pub(super) share: u32,
}

impl Victim {
    /// One of the pods, at a moment at which all sessions are busy.
    pub(super) async fn choose(trial: &mut Trial<'_>) -> Result<Self> {
        // Mails and their unsent bytes shall be under way everywhere.
        trial.moment(2_000..4_000).await;
        trial.all_busy().await?;
        let pod = a_pod(trial).await?;
        let uid = uid(&pod)?.to_owned();
        let share = claimed(trial, &uid).await?;
        ensure!(share > 0, "the pod has no share");
        // What it was about is of unknown outcome, wherever it was between the last byte and the reply.
        trial.expect.held += usize::try_from(share)?;
        trial.expect.ends += 1;
        trial.expect.withheld = true;
        Ok(Self { worker: worker_of(&uid)?, pod, uid, share })
    }

    async fn delete(&self, trial: &Trial<'_>) -> Result<()> {
        let name = self.pod.metadata.name.as_deref().context("a pod without a name")?;
        kubectl(&["-n", &trial.relay.namespace, "delete", "pod", name, "--grace-period=1", "--wait=false"]).await?;
        Ok(())
    }

    async fn dies(&self) -> Result<Instant> {
        until("the worker process ends", PATIENCE, async || {
            Ok(Look::when(!self.worker.lives(), (), || "it lives".into()))
        })
        .await?;
        Ok(Instant::now())
    }
}

fn redis(trial: &Trial<'_>) -> SocketAddr {
    trial.stage.with_redis(|redis| redis.address())
}

/// Looks on until then: how many slots were withheld at most.
pub(super) async fn look_on(trial: &mut Trial<'_>, end: Instant) -> Result<u32> {
    let mut most = 0;
    while Instant::now() < end {
        // A ledger that is not in force is asked again.
        most = most.max(withheld(trial).await.unwrap_or(0));
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(most)
}

/// Notes what was withheld, and for how long at least the product says it will be.
pub(super) async fn note_withheld(trial: &mut Trial<'_>, most: u32) -> Result<()> {
    trial.note("slots withheld at most", most.into(), "slots");
    let now = rest_is_used(trial).await?;
    trial.note("slots withheld at the end", now.into(), "slots");
    Ok(())
}

/// All slots of a victim must be withheld, for as long as the server may count them.
async fn all_withheld(trial: &mut Trial<'_>, victim: &Victim, since: Instant) -> Result<()> {
    let hold = super::setup::TIMEOUT + DRAIN_MARGIN;
    let (seconds, _) = until("the slots of the pod are withheld", KNOWN, async || {
        let ledger = trial.relay.ledger().await?;
        let slots: u32 = ledger.quarantine.iter().map(|entry| entry.slots).sum();
        let shortest = ledger.quarantine.iter().map(|entry| entry.seconds).min().unwrap_or(0);
        let all = slots >= victim.share;
        Ok(Look::when(all, shortest, || format!("{slots} of {}: {:?}", victim.share, ledger.quarantine)))
    })
    .await?;
    trial.note("its slots are withheld after", millis(since.elapsed()), "ms");
    trial.figure("withheld for", seconds, "s", hold.as_secs()..=u64::MAX);
    Ok(())
}

/// The worker closes in time, and its FINs are lost; nothing on the node or in the cluster can know whether they came.
async fn pod_cut(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let address = address(&victim.pod)?;
    let way = if trial.random.random_bool(0.5) { Way::FromPod } else { Way::Both };
    let struck = trial.strike();
    let cuts = [Cut::between(address, redis(trial), way)?, Cut::between(address, trial.relay.server.smtp(), way)?];
    all_withheld(trial, &victim, struck).await?;
    rest_is_used(trial).await?;
    let most = look_on(trial, struck + AWAY).await?;
    drop(cuts);
    trial.strike();
    note_withheld(trial, most).await
}

/// The killed worker's unsent bytes and its FIN are in its kernel's queue, and the pod's network goes a moment later.
async fn deleted_in_mid_mail(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    trial.strike();
    victim.delete(trial).await?;
    let dead = victim.dies().await?;
    let most = look_on(trial, dead + SHOWS).await?;
    trial.relay.await_pods(3).await?;
    note_withheld(trial, most).await
}

/// The pod's network is gone before TCP sends a FIN again, 200 ms later at the earliest.
async fn deleted_with_fin_lost(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    trial.strike();
    let cut = Cut::of_fins(address(&victim.pod)?, trial.relay.server.smtp())?;
    victim.delete(trial).await?;
    let dead = victim.dies().await?;
    let some = trial.random.random_range(20..120);
    tokio::time::sleep(Duration::from_millis(some)).await;
    trial.note("packets lost", cut.packets()?, "packets");
    drop(cut);
    let most = look_on(trial, dead + SHOWS).await?;
    trial.relay.await_pods(3).await?;
    note_withheld(trial, most).await
}

/// With unread replies its kernel sends resets, which TCP never sends again and which leave nothing behind.
async fn reset_lost(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let stop = trial.strike();
    let _paused = victim.worker.pause()?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let cut = Cut::between(address(&victim.pod)?, trial.relay.server.smtp(), Way::FromPod)?;
    let dead = victim.dies().await?;
    trial.note("the dead-man switch killed it after", millis(stop.elapsed()), "ms");
    tokio::time::sleep(Duration::from_secs(1)).await;
    trial.figure("packets lost", cut.packets()?, "packets", 1..=u64::MAX);
    drop(cut);
    let most = look_on(trial, dead + SHOWS).await?;
    another_process(&victim.uid, victim.worker).await?;
    note_withheld(trial, most).await
}

/// What still waits in its kernel is seen there (`FIN_WAIT1`); what waits in the server's is not (`FIN_WAIT2`).
async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let kill = trial.strike();
    victim.worker.signal(Signal::SIGKILL)?;
    another_process(&victim.uid, victim.worker).await?;
    let most = look_on(trial, kill + SHOWS).await?;
    note_withheld(trial, most).await
}

/// The same, with what the slots that are left do meanwhile.
async fn killed_and_measured(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(2_000..4_000).await;
    trial.all_busy().await?;
    let before = taken_in(trial, RATE).await;
    killed(trial).await?;
    let withheld = withheld(trial).await?;
    if withheld > 0 && before > 0 {
        let now = taken_in(trial, RATE).await;
        trial.note("slots left", u64::from(trial.expect.budget - withheld) * 100 / u64::from(trial.expect.budget), "%");
        trial.note("throughput left", now * 100 / before, "%");
    }
    Ok(())
}

/// How many mails the server takes in a time.
async fn taken_in(trial: &Trial<'_>, time: Duration) -> u64 {
    let before = trial.relay.server.stats().accepted;
    tokio::time::sleep(time).await;
    trial.relay.server.stats().accepted.saturating_sub(before)
}

/// With a server that waits for commands the proof takes a round trip, and nothing is withheld. Not with Exim: when a client
/// goes without QUIT, it says so ("421 lost input connection"), which the dead client's kernel answers by a reset, and
/// nothing is left to be seen.
async fn killed_at_rest(trial: &mut Trial<'_>) -> Result<()> {
    if trial.side == Side::Exim {
        return killed(trial).await;
    }
    for _ in 0..3 {
        let victim = Victim::choose(trial).await?;
        trial.load.rest(true);
        trial.relay.await_settled(PATIENCE).await?;
        let kill = trial.strike();
        victim.worker.signal(Signal::SIGKILL)?;
        let incarnation = |ledger: &mailrelay::lease::LedgerView| {
            let of_victim = ledger.holders_of(&victim.uid).map(|holder| holder.inc.clone()).collect::<Vec<_>>();
            let slots: u32 = ledger.quarantine.iter().map(|entry| entry.slots).sum();
            (of_victim, slots)
        };
        let (old, _) = incarnation(&trial.relay.ledger().await?);
        until("another incarnation of the pod", PATIENCE, async || {
            let (now, withheld) = incarnation(&trial.relay.ledger().await?);
            let other = now.iter().any(|id| !old.contains(id)) && !now.iter().any(|id| old.contains(id));
            Ok(Look::when(other && withheld == 0, (), || format!("{now:?}, {withheld} withheld")))
        })
        .await?;
        trial.time("its slots are free after the kill", kill.elapsed(), PROVEN);
        trial.load.rest(false);
        trial.all_busy().await?;
        another_process(&victim.uid, victim.worker).await?;
    }
    trial.expect.withheld = false;
    Ok(())
}

/// The worker ends its sessions in time, but the FIN waits in its kernel behind what the server has not read yet.
async fn redis_cut_in_mid_mail(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let struck = trial.strike();
    let cut = Cut::between(address(&victim.pod)?, redis(trial), Way::FromPod)?;
    let most = look_on(trial, struck + Duration::from_secs(40)).await?;
    drop(cut);
    trial.strike();
    note_withheld(trial, most).await
}

async fn frozen(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let path = format!("/proc/{}/cgroup", victim.worker.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let state = text.lines().find_map(|line| line.split_once(":freezer:")).map(|(_, folder)| {
        PathBuf::from("/sys/fs/cgroup/freezer").join(folder.trim_start_matches('/')).join("freezer.state")
    });
    let Some(state) = state else {
        // Machines with cgroup version 2 only have nothing that no SIGKILL reaches.
        trial.note("no freezer of version 1 on this machine", 1, "machine");
        return Ok(());
    };
    let thaw = || fs::write(&state, "THAWED");
    let _thawed = Undo::new(|| drop(thaw()));
    let struck = trial.strike();
    fs::write(&state, "FROZEN").with_context(|| format!("cannot write {}", state.display()))?;
    trial.expect.restarts += 1;
    let most = look_on(trial, struck + AWAY).await?;
    thaw().context("cannot thaw")?;
    trial.strike();
    note_withheld(trial, most).await
}

async fn frozen_v2(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    let mounts = fs::read_to_string("/proc/mounts").context("cannot read /proc/mounts")?;
    let mounted = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words[2] == "cgroup2");
    let Some(mounted) = mounted else {
        trial.note("no cgroup of version 2 on this machine", 1, "machine");
        return Ok(());
    };
    let root = PathBuf::from(mounted[1]);
    let folder = root.join(format!("mailrelay-frozen-{}", victim.worker.pid));
    let home = root.join(unified(victim.worker)?.trim_start_matches('/'));
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let back = || {
        let _ = fs::write(folder.join("cgroup.freeze"), "0");
        let _ = fs::write(home.join("cgroup.procs"), victim.worker.pid.to_string());
        let _ = fs::remove_dir(&folder);
    };
    let _back = Undo::new(back);
    fs::write(folder.join("cgroup.procs"), victim.worker.pid.to_string()).context("cannot move the worker")?;
    let struck = trial.strike();
    fs::write(folder.join("cgroup.freeze"), "1").context("cannot freeze")?;
    let most = look_on(trial, struck + AWAY).await?;
    back();
    trial.strike();
    note_withheld(trial, most).await
}

/// The folder of a process in the hierarchy of version 2.
fn unified(process: Process) -> Result<String> {
    let path = format!("/proc/{}/cgroup", process.pid);
    let text = fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned).context("no cgroup of version 2")
}
