//! Boxes on the way that reset the client's side of a connection, of which the server hears nothing.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rand::RngExt;
use serde_json::json;
use testkit::ForgetfulBox;

use super::{
    Scenario, Trial,
    death::{Victim, look_on, note_withheld},
    network::address,
    setup::{a_pod, ports_to, rest_is_used, three_pods, uid},
    trial::PATIENCE,
};
use crate::{
    RelayOptions, Side,
    network::{Amnesia, Diversion},
    process::worker_of,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own(
        "reset_on_the_way",
        "a box on the way forgets connections and resets the client; the server does not know",
        three_pods,
        |trial| Box::pin(reset_on_the_way(trial)),
    )
    .against(&[Side::Plain, Side::HalfClose, Side::Processes, Side::Exim])
    .in_slice_with(Side::Plain),
    Scenario::own(
        "reset_by_a_proxy",
        "a proxy resets its client's side, at rest or between a reply and the next mail, and keeps the server's",
        brief_sessions,
        |trial| Box::pin(reset_by_a_proxy(trial)),
    )
    .against(&[Side::Plain, Side::HalfClose, Side::Processes, Side::Exim]),
];

/// Sessions that end soon, so that new ones take another way.
fn brief_sessions(name: &str) -> RelayOptions {
    let options = three_pods(name);
    let mut server = options.server.clone();
    server["maxMessagesPerConnection"] = json!(5);
    RelayOptions { server, ..options }
}

async fn reset_on_the_way(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.relay.server.smtp();
    let mut forgotten = 0;
    for _ in 0..3 {
        trial.moment(500..1_500).await;
        let pod = a_pod(trial).await?;
        let mut ports = ports_to(worker_of(uid(&pod)?)?, server)?;
        if ports.is_empty() {
            continue;
        }
        let first = trial.random.random_range(0..ports.len());
        ports.rotate_left(first);
        ports.truncate(2);
        trial.strike();
        let amnesia = Amnesia::of(address(&pod)?, &ports, server)?;
        // Each of them sends something within the time of a mail; then nobody sends on it again.
        let wanted = u64::try_from(ports.len())?;
        until("each connection was reset on the way", PATIENCE, async || {
            let packets = amnesia.packets()?;
            Ok(Look::when(packets >= wanted, (), || format!("{packets} packets")))
        })
        .await?;
        tokio::time::sleep(Duration::from_secs(1)).await;
        forgotten += u32::try_from(ports.len())?;
        trial.expect.held += ports.len();
        rest_is_used(trial).await?;
    }
    trial.expect.withheld = true;
    let since = Instant::now();
    let most = look_on(trial, since + Duration::from_secs(5)).await?;
    let exactly = u64::from(forgotten);
    trial.figure("slots withheld for connections that were reset", most.into(), "slots", exactly..=exactly);
    note_withheld(trial, most).await
}

async fn reset_by_a_proxy(trial: &mut Trial<'_>) -> Result<()> {
    let victim = Victim::choose(trial).await?;
    (trial.expect.held, trial.expect.ends) = (usize::try_from(victim.share)?, 0);
    let server = trial.relay.server.smtp();
    let on_the_way = ForgetfulBox::open_on(trial.stage.address, server).await.context("cannot open a proxy")?;
    let _diversion = Diversion::of(Some(address(&victim.pod)?), server, on_the_way.address().port())?;
    // Sessions that began before go on as they did; those of the proxy come from this machine.
    let wanted = usize::try_from(victim.share)?;
    until("the pod's sessions pass through the proxy", PATIENCE, async || {
        let through = sessions_from(trial.stage.address, server)?;
        Ok(Look::when(through == wanted, (), || format!("{through} of {wanted}")))
    })
    .await?;
    let at_rest = trial.random.random_bool(0.5);
    if at_rest {
        trial.load.rest(true);
        trial.relay.await_settled(PATIENCE).await?;
    } else {
        trial.moment(0..1_000).await;
    }
    trial.strike();
    // Some may have come to their own end by then.
    let before = on_the_way.forgotten();
    let _ = tokio::time::timeout(PATIENCE, on_the_way.forget(wanted.saturating_sub(1).max(1))).await;
    trial.load.rest(false);
    let struck = Instant::now();
    let most = look_on(trial, struck + Duration::from_secs(20)).await?;
    let forgotten = u64::try_from(on_the_way.forgotten() - before)?;
    trial.note(if at_rest { "connections reset at rest" } else { "connections reset" }, forgotten, "connections");
    trial.figure("slots withheld for them", most.into(), "slots", forgotten..=u64::from(victim.share));
    note_withheld(trial, most).await
}

/// Connections of an address to a server, as this network namespace sees them.
fn sessions_from(address: IpAddr, server: SocketAddr) -> Result<usize> {
    let table = fs::read_to_string("/proc/self/net/tcp").context("cannot read /proc/self/net/tcp")?;
    let IpAddr::V4(address) = address else { anyhow::bail!("an IPv4 address is expected") };
    let (from, to) = (format!("{:08X}:", u32::from_le_bytes(address.octets())), format!(":{:04X}", server.port()));
    let ours = table.lines().skip(1).filter(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        columns.len() > 3 && columns[1].starts_with(&from) && columns[2].ends_with(&to) && columns[3] == "01"
    });
    Ok(ours.count())
}
