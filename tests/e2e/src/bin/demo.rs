//! `make demo`: the main job on a real cluster, told step by step. Writes `target/demo/report.json`.

use std::{env, fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use e2e::{
    Rebalance, Relay, RelayOptions, Stage,
    command::{kubectl, repository},
    wait::{Look, until},
};
use mailsink::Behaviour;
use serde::Serialize;

/// Mails sent at once, at each of the two bursts.
const BURST: usize = 200;
/// How long the sink takes for a mail, so that there is something to watch.
const MAIL_DELAY_MS: u64 = 150;
/// How long anything in here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `target/demo/report.json`. Delivered, duplicated, sessions: as counted by the mail server.
#[derive(Debug, Serialize)]
struct Report {
    accepted: u64,
    delivered: u64,
    held: u64,
    dead: u64,
    lost: u64,
    duplicated: u64,
    peak_sessions: usize,
    rejected: usize,
    rebalances: Vec<Rebalance>,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nthe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<()> {
    heading("Install: Redis (AOF always, RDB), the mail server, and mailrelay by Helm");
    let stage = Stage::raise().await?;
    println!("{}", kubectl(&["-n", "mailrelay-system", "get", "pods"]).await?);
    let outcome = tokio::select! {
        outcome = tell(&stage) => outcome,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    if outcome.is_err() {
        eprintln!("{}", stage.controller_log().await.unwrap_or_default());
    }
    if env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()) {
        keep(&stage, &outcome).await;
    } else {
        heading("Clean up");
        stage.lower().await?;
    }
    outcome
}

async fn tell(stage: &Stage) -> Result<()> {
    heading("A mail server that takes 16 connections, and 2 pods that share them");
    let options = RelayOptions {
        queue: "mail_queue".into(),
        behaviour: Behaviour { mail_delay_ms: MAIL_DELAY_MS, ..Behaviour::default() },
        ..RelayOptions::new("mail", 2)
    };
    let relay = Relay::raise(stage, options).await?;
    let mut rebalances = vec![Rebalance { pods: 2, shares: relay.shares().await?, milliseconds: 0 }];
    println!("2 pods hold {:?} of 16 connections", rebalances[0].shares);

    heading(&format!("{BURST} mails at once: at most 16 are being sent, the others wait"));
    relay.send("burst", BURST).await?;
    watch(&relay, BURST).await?;

    heading(&format!("{BURST} more, and the pods are scaled while mail flows: 4, then 3"));
    relay.send("scaled", BURST).await?;
    for pods in [4, 3] {
        let rebalance = relay.rebalance(pods).await?;
        println!(
            "{pods} pods hold {:?}, in force {} ms after the pods were there or gone",
            rebalance.shares, rebalance.milliseconds
        );
        rebalances.push(rebalance);
    }
    watch(&relay, 2 * BURST).await?;

    heading(&format!("{BURST} more, and one worker is killed (SIGKILL) while mail flows"));
    relay.send("killed", BURST).await?;
    relay.await_delivered(2 * BURST + 40, LIMIT).await?;
    println!("killed the worker of pod {}; its supervisor starts another", relay.kill_a_worker().await?);
    watch(&relay, 3 * BURST).await?;

    let report = conclude(&relay, rebalances).await?;
    if env::var_os("KEEP").is_none_or(|keep| keep.is_empty()) {
        relay.lower().await?;
    }
    verdict(&report)
}

/// Prints what is going on until every mail is settled.
async fn watch(relay: &Relay<'_>, accepted: usize) -> Result<()> {
    println!("{:>7}  {:<16} {:>5} {:>8} {:>9} {:>10}", "SECONDS", "SHARES", "OPEN", "QUEUED", "INFLIGHT", "DELIVERED");
    let start = tokio::time::Instant::now();
    let mut next = start;
    until("all mail settled", LIMIT, async || {
        let (stats, depths) = (relay.sink.stats(), relay.depths().await?);
        let delivered = stats.unique_message_ids as u64;
        let settled =
            delivered + depths.held >= accepted as u64 && depths.pending + depths.delayed + depths.in_flight == 0;
        if settled || tokio::time::Instant::now() >= next {
            next += Duration::from_millis(500);
            let shares = format!("{:?}", relay.shares().await?);
            let seconds = start.elapsed().as_secs_f32();
            println!(
                "{seconds:>7.1}  {shares:<16} {:>5} {:>8} {:>9} {:>10}",
                stats.open, depths.pending, depths.in_flight, delivered
            );
        }
        Ok(Look::when(settled, (), || format!("{stats:?}, {depths:?}")))
    })
    .await
    .map(drop)
}

async fn conclude(relay: &Relay<'_>, rebalances: Vec<Rebalance>) -> Result<Report> {
    heading("kubectl get mailrelay, describe, and the audit");
    println!("{}", kubectl(&["-n", &relay.namespace, "get", "mailrelay", "-o", "wide"]).await?);
    println!("{}", kubectl(&["-n", &relay.namespace, "describe", "mailrelay"]).await?);
    let target = format!("{}/corporate", relay.namespace);
    println!("{}", relay.mailrelay(&["audit", "--relay", &target], "").await?.stdout);
    let (stats, depths) = (relay.sink.stats(), relay.depths().await?);
    let (accepted, delivered) = (3 * BURST as u64, stats.unique_message_ids as u64);
    let found = delivered + depths.held + depths.dead + depths.pending + depths.delayed + depths.in_flight;
    let report = Report {
        accepted,
        delivered,
        held: depths.held,
        dead: depths.dead,
        lost: accepted.saturating_sub(found),
        duplicated: stats.duplicates,
        peak_sessions: stats.peak,
        rejected: stats.rejected,
        rebalances,
    };
    let folder = repository().join("target/demo");
    fs::create_dir_all(&folder).context("cannot make target/demo")?;
    let path = folder.join("report.json");
    fs::write(&path, serde_json::to_string_pretty(&report)?)
        .with_context(|| format!("cannot write {}", path.display()))?;
    Ok(report)
}

/// Says in plain words what happened, and fails when a promise was broken.
fn verdict(report: &Report) -> Result<()> {
    heading("What happened");
    println!(
        "{} mails were accepted; the mail server received {} of them, none twice: {}.",
        report.accepted,
        report.delivered,
        if report.duplicated == 0 { "true" } else { "FALSE" }
    );
    if report.held > 0 {
        println!(
            "{} are held: the worker died after it had sent the last byte and before the server's answer arrived, so \
             only the server knows. mailrelay never sends such a mail again by itself: `mailrelay held list`.",
            report.held
        );
    }
    println!(
        "{} were lost. The server saw {} connections at most (it allows 16) and refused {}.",
        report.lost, report.peak_sessions, report.rejected
    );
    for step in &report.rebalances {
        println!("With {} pods the shares were {:?} ({} ms).", step.pods, step.shares, step.milliseconds);
    }
    println!("Written to target/demo/report.json.");
    let kept = report.lost == 0 && report.duplicated == 0 && report.rejected == 0 && report.peak_sessions == 16;
    let prompt = report.rebalances.iter().all(|step| step.milliseconds <= 2_000);
    anyhow::ensure!(kept && prompt, "a promise was broken: {report:?}");
    Ok(())
}

/// Leaves everything running until the user has seen enough.
async fn keep(stage: &Stage, outcome: &Result<()>) {
    if let Err(error) = outcome {
        eprintln!("the demo failed: {error:#}");
    }
    heading("KEEP=1: everything goes on until you press Ctrl-C");
    println!("In another terminal:\n  make cluster-kubectl ARGS='-n mail get mailrelay,pods'");
    println!("  make cluster-kubectl ARGS='-n mail describe mailrelay corporate'");
    for (name, value) in stage.cli_environment() {
        println!("  export {name}={value}");
    }
    println!("  hack/cluster/run target/*/release/mailrelay leases\nAfterwards: make cluster-down");
    // Without a terminal to press it on, this ends with SIGTERM like any process.
    let _ = tokio::signal::ctrl_c().await;
}

fn heading(text: &str) {
    println!("\n== {text}");
}
