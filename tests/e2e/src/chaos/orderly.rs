//! What must cost nothing: updates, scaling, drains, and sessions that come and go. Nothing is ever withheld here, and no
//! server ever refuses.

use std::{
    collections::HashSet,
    env,
    process::Command,
    time::{Duration, Instant},
};

use anyhow::Result;
use nix::sys::signal::Signal;
use rand::RngExt;
use serde_json::json;

use super::{
    Scenario, Trial,
    network::address,
    redis::flowing,
    setup::{SHORT_TIMEOUT, Undo, a_pod, another_process, three_pods, uid},
    trial::{PATIENCE, millis},
};
use crate::{RelayOptions, Side, command::kubectl, network::Cut, process::worker_of};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own("churn", "a session for each mail, for 20 s", one_mail_each, |trial| Box::pin(churn(trial)))
        .against(&[Side::Plain, Side::Processes, Side::HalfClose, Side::Postfix, Side::Exim])
        .in_slice_with(Side::Processes),
    Scenario::own(
        "own_fin_lost",
        "a session for each mail, and four times no FIN of a pod arrives for a second",
        one_mail_each,
        |trial| Box::pin(own_fin_lost(trial)),
    )
    .against(&[Side::HalfClose, Side::Plain, Side::Processes])
    .in_slice_with(Side::HalfClose),
    // Alone, and so is whatever else has as many pods: the node has no room for more.
    Scenario::alone(
        "rolling_update",
        "rolling updates of 16 pods under full load (UPDATES=1)",
        sixteen_pods,
        |trial| Box::pin(rolled(trial)),
    )
    .against(&[Side::Plain, Side::Processes, Side::Postfix, Side::Exim]),
    Scenario::own("scaled_down", "8 pods become 2, then 8, then 1, under full load", eight_pods, |trial| {
        Box::pin(scaled_down(trial))
    })
    .against(&[Side::Plain, Side::Processes, Side::HalfClose, Side::Exim]),
    Scenario::alone("node_drained", "the node is drained under full load", quick_pods, |trial| {
        Box::pin(drained(trial))
    })
    .against(&[Side::Plain, Side::Processes, Side::Exim]),
    Scenario::own(
        "real_server_endures",
        "kills at rest, scaling, updates and a session for each mail, in any order (MINUTES=2)",
        enduring,
        |trial| Box::pin(endures(trial)),
    )
    .against(&[Side::Postfix, Side::Exim]),
];

/// How long sessions come and go.
const CHURN: Duration = Duration::from_secs(20);
/// The one node of the local cluster (hack/cluster).
const NODE: &str = "mailrelay-node";

/// Three pods, and a server that takes mails as fast as they come, one in each session.
fn one_mail_each(name: &str) -> RelayOptions {
    let options = three_pods(name);
    let mut server = options.server.clone();
    server["maxMessagesPerConnection"] = json!(1);
    let pause = Duration::from_millis(20);
    RelayOptions { server, pause, hectic: true, ..options }
}

/// The same with a time-out that lets withheld slots come back.
fn enduring(name: &str) -> RelayOptions {
    let options = one_mail_each(name);
    let mut server = options.server.clone();
    server["sessionTimeout"] = json!(format!("{}s", SHORT_TIMEOUT.as_secs()));
    RelayOptions { server, timeout: SHORT_TIMEOUT, ..options }
}

fn quick_pods(name: &str) -> RelayOptions {
    RelayOptions { pause: Duration::from_millis(200), ..three_pods(name) }
}

fn sixteen_pods(name: &str) -> RelayOptions {
    RelayOptions { replicas: 16, ..quick_pods(name) }
}

fn eight_pods(name: &str) -> RelayOptions {
    RelayOptions { replicas: 8, ..quick_pods(name) }
}

/// Quarantine ids that were seen, one for each time that something was withheld: each stays for longer than a look takes.
#[derive(Default)]
struct Seen(HashSet<String>);

impl Seen {
    /// Does something and looks on meanwhile.
    async fn during(&mut self, trial: &Trial<'_>, act: impl Future<Output = Result<()>>) -> Result<()> {
        let looking = async {
            loop {
                self.look(trial).await;
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        tokio::select! {
            done = act => done?,
            () = looking => {}
        }
        self.look(trial).await;
        Ok(())
    }

    async fn look(&mut self, trial: &Trial<'_>) {
        let Ok(ledger) = trial.relay.ledger().await else { return };
        for entry in ledger.quarantine {
            if self.0.insert(entry.id.clone()) {
                println!("{}: withheld: {entry:?}", trial.relay.namespace);
            }
        }
    }

    fn note(self, trial: &mut Trial<'_>) {
        let count = u64::try_from(self.0.len()).unwrap_or(u64::MAX);
        trial.figure("times that slots were withheld", count, "times", 0..=0);
    }
}

async fn churn(trial: &mut Trial<'_>) -> Result<()> {
    let (before, began) = (trial.relay.server.stats().sessions, trial.strike());
    let mut seen = Seen::default();
    let wait = async {
        tokio::time::sleep_until((began + CHURN).into()).await;
        Ok(())
    };
    seen.during(trial, wait).await?;
    let sessions = trial.relay.server.stats().sessions - before;
    trial.figure("sessions", sessions, "sessions", 200..=u64::MAX);
    seen.note(trial);
    Ok(())
}

/// A server that ends one direction at a time counts until it has our FIN, which comes late here and in time.
async fn own_fin_lost(trial: &mut Trial<'_>) -> Result<()> {
    let server = trial.relay.server.smtp();
    let (mut seen, mut lost) = (Seen::default(), 0);
    for _ in 0..4 {
        trial.moment(500..1_500).await;
        let pod = address(&a_pod(trial).await?)?;
        let began = trial.strike();
        let cut = Cut::of_fins(pod, server)?;
        let wait = async {
            tokio::time::sleep_until((began + Duration::from_secs(1)).into()).await;
            Ok(())
        };
        seen.during(trial, wait).await?;
        lost += cut.packets()?;
    }
    trial.figure("FINs lost", lost, "packets", 4..=u64::MAX);
    seen.note(trial);
    Ok(())
}

async fn roll(trial: &Trial<'_>) -> Result<()> {
    let namespace = trial.relay.namespace.as_str();
    kubectl(&["-n", namespace, "rollout", "restart", "deployment/web"]).await?;
    kubectl(&["-n", namespace, "rollout", "status", "deployment/web", "--timeout=240s"]).await?;
    trial.relay.await_pods(trial.expect.pods).await
}

async fn rolled(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    let mut seen = Seen::default();
    for _ in 0..wanted("UPDATES", 1) {
        let roll_began = trial.strike();
        seen.during(trial, roll(trial)).await?;
        trial.note("rolled over after", millis(roll_began.elapsed()), "ms");
        trial.all_busy().await?;
    }
    seen.note(trial);
    Ok(())
}

/// A number from the environment.
fn wanted(name: &str, otherwise: u64) -> u64 {
    env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

async fn scaled_down(trial: &mut Trial<'_>) -> Result<()> {
    let mut seen = Seen::default();
    for pods in [2, 8, 1] {
        trial.moment(0..1_000).await;
        trial.expect.pods = pods;
        trial.strike();
        let mut took = 0;
        let scaling = async {
            took = trial.relay.rebalance(pods).await?.milliseconds;
            Ok(())
        };
        seen.during(trial, scaling).await?;
        trial.figure(&format!("shares of {pods} pods in force after the pods"), took, "ms", 0..=2_000);
        trial.all_busy().await?;
    }
    seen.note(trial);
    Ok(())
}

async fn drained(trial: &mut Trial<'_>) -> Result<()> {
    let back = || {
        if let Err(error) = Command::new("kubectl").args(["uncordon", NODE]).output() {
            eprintln!("the node takes no pods any more: {error}");
        }
    };
    let _back = Undo::new(back);
    trial.moment(0..1_000).await;
    let struck = trial.strike();
    let mut seen = Seen::default();
    let drain = async {
        let words = ["drain", NODE, "--pod-selector=app=web", "--ignore-daemonsets", "--delete-emptydir-data"];
        kubectl(&[&words[..], &["--timeout=90s"]].concat()).await.map(drop)
    };
    seen.during(trial, drain).await?;
    trial.note("drained after", millis(struck.elapsed()), "ms");
    back();
    seen.during(trial, trial.relay.await_pods(3)).await?;
    trial.all_busy().await?;
    seen.note(trial);
    Ok(())
}

/// How long a real server is tried.
pub(super) fn endurance() -> Duration {
    Duration::from_secs(60 * wanted("MINUTES", 2))
}

/// What a real server must not even notice, for as long as wanted.
async fn endures(trial: &mut Trial<'_>) -> Result<()> {
    let end = Instant::now() + endurance();
    let mut seen = Seen::default();
    let mut done = [0_u64; 4];
    trial.expect.held = usize::MAX;
    trial.expect.ends = usize::MAX;
    while Instant::now() < end {
        trial.strike();
        let what = trial.random.random_range(0..4);
        done[what] += 1;
        match what {
            0 => {
                let pause = Duration::from_secs(trial.random.random_range(5..20));
                let resting = async {
                    tokio::time::sleep(pause).await;
                    Ok(())
                };
                seen.during(trial, resting).await?;
            }
            1 => {
                trial.load.rest(true);
                trial.relay.await_settled(PATIENCE).await?;
                let pod = a_pod(trial).await?;
                let worker = worker_of(uid(&pod)?)?;
                worker.signal(Signal::SIGKILL)?;
                another_process(uid(&pod)?, worker).await?;
                trial.load.rest(false);
            }
            2 => {
                trial.expect.pods = trial.random.random_range(1..=6);
                seen.during(trial, async { trial.relay.rebalance(trial.expect.pods).await.map(drop) }).await?;
            }
            _ => seen.during(trial, roll(trial)).await?,
        }
        flowing(trial).await?;
    }
    for (name, count) in ["quiet times", "kills at rest", "scalings", "updates"].into_iter().zip(done) {
        trial.note(name, count, "times");
    }
    let sessions = trial.relay.server.stats().sessions;
    trial.note("sessions", sessions, "sessions");
    trial.note("times that slots were withheld", u64::try_from(seen.0.len())?, "times");
    Ok(())
}
