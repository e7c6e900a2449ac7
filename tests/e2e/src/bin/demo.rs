//! `make demo`: the main job on a real cluster, told step by step. Writes `target/demo/report.json`.

use std::{env, fs, process::ExitCode, time::Duration};

use anyhow::{Context, Result};
use e2e::{
    Rebalance, Relay, RelayOptions, Stage, Tenants,
    command::{kubectl, repository},
    interrupted,
    wait::{Look, until},
};
use mailsink::Behaviour;
use serde::Serialize;

/// What is sent, each batch at once.
const BATCHES: [(&str, usize); 3] = [("burst", 200), ("scaled", 600), ("killed", 200)];
/// How long the sink takes for a mail, so that there is something to watch.
const MAIL_DELAY_MS: u64 = 150;
/// How long anything in here may take.
const LIMIT: Duration = Duration::from_secs(60);

/// `target/demo/report.json`. Delivered, duplicated, sessions: as counted by the mail server.
#[derive(Debug, Serialize)]
struct Report {
    accepted: usize,
    delivered: usize,
    held: u64,
    dead: u64,
    lost: usize,
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
        () = interrupted() => Err(anyhow::anyhow!("interrupted")),
    };
    if outcome.is_err() {
        eprintln!("{}", stage.controller_log().await.unwrap_or_default());
    }
    heading("Clean up");
    stage.lower().await?;
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
    let mut rebalances: Vec<Rebalance> = relay.raised.iter().cloned().collect();
    rebalances.iter().for_each(tell_rebalance);

    let [burst, scaled, killed] = BATCHES;
    heading(&format!("{} mails at once: at most 16 are being sent, the others wait", burst.1));
    relay.send(burst.0, burst.1).await?;
    watch(&relay).await?;

    heading(&format!("{} more, and the pods are scaled while mail flows: 4, then 3", scaled.1));
    relay.send(scaled.0, scaled.1).await?;
    for pods in [4, 3] {
        let rebalance = relay.rebalance(pods).await?;
        tell_rebalance(&rebalance);
        rebalances.push(rebalance);
    }
    watch(&relay).await?;

    heading(&format!("{} more, and one worker is killed (SIGKILL) while mail flows", killed.1));
    let before = relay.server.stats().unique_message_ids;
    relay.send(killed.0, killed.1).await?;
    relay.await_delivered(before + 40, LIMIT).await?;
    println!("killed the worker of pod {}; its supervisor starts another", relay.kill_a_worker().await?);
    watch(&relay).await?;
    // What the dead process had in the server's hands is withheld; everything else is in use.
    relay.await_all_but_withheld(3, 16).await?;
    let withheld = relay.ledger().await?.quarantined();
    if withheld > 0 {
        println!(
            "{withheld} of its connections were in the server's hands, which may still count them: their slots are withheld \
             until sessionTimeout and 30 s are over. See `mailrelay leases`."
        );
    }

    let report = conclude(&relay, rebalances).await?;
    let verdict = match verdict(&report) {
        Ok(()) => borrow(stage).await,
        broken => broken,
    };
    if env::var_os("KEEP").is_some_and(|keep| !keep.is_empty()) {
        keep(stage).await;
    }
    verdict
}

/// The last act: a server that the platform owns, and two namespaces that borrow from it.
async fn borrow(stage: &Stage) -> Result<()> {
    heading("A MailServer that the platform owns: team-a and team-b borrow its 16 connections, three to one");
    let behaviour = Behaviour { mail_delay_ms: MAIL_DELAY_MS, ..Behaviour::default() };
    let tenants = Tenants::raise(stage, "team", behaviour).await?;
    tenants.await_parts((0, 0), LIMIT).await?;
    let (heavy, light) = (("orders", 1_200), ("alerts", 60));
    println!("team-a sends {} mails, and team-b has none", heavy.1);
    tenants.heavy.send(heavy.0, heavy.1).await?;
    let took = tenants.await_parts((16, 0), LIMIT).await?;
    println!("after {} ms team-a has all 16: what team-b does not use is lent", took.as_millis());
    tenants.light.send(light.0, light.1).await?;
    let took = tenants.await_parts((12, 4), LIMIT).await?;
    println!("team-b sends {}: {} ms later it has its 4, and team-a 12", light.1, took.as_millis());
    tenants.light.await_settled(LIMIT).await?;
    println!("team-b's mail is sent while {} of team-a's wait", tenants.heavy.depths().await?.pending);
    println!("{}", kubectl(&["get", "mail", "--all-namespaces"]).await?);
    tenants.heavy.await_settled(LIMIT).await?;
    let stats = tenants.check(heavy, light).await?;
    println!(
        "{} mails were delivered, none was lost or sent twice, and at most {} connections were open at once.",
        stats.unique_message_ids, stats.peak
    );
    tenants.lower().await
}

/// Prints what is going on until every mail is settled.
async fn watch(relay: &Relay<'_>) -> Result<()> {
    println!("{:>7}  {:<16} {:>5} {:>8} {:>9} {:>10}", "SECONDS", "SHARES", "OPEN", "QUEUED", "INFLIGHT", "DELIVERED");
    let start = tokio::time::Instant::now();
    let mut next = start;
    until("all mail settled", LIMIT, async || {
        let (stats, depths) = (relay.server.stats(), relay.depths().await?);
        let delivered = stats.unique_message_ids as u64;
        let settled = depths.pending + depths.delayed + depths.in_flight == 0;
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

fn tell_rebalance(rebalance: &Rebalance) {
    println!(
        "{} pods hold {:?} of 16 connections, {} ms after the pods were there or gone ({} ms after they were asked for)",
        rebalance.pods, rebalance.shares, rebalance.milliseconds, rebalance.milliseconds_since_asked
    );
}

async fn conclude(relay: &Relay<'_>, rebalances: Vec<Rebalance>) -> Result<Report> {
    heading("kubectl get mailrelay, describe, and the audit");
    relay.await_quiet_status(LIMIT).await?;
    println!("{}", kubectl(&["-n", &relay.namespace, "get", "mailrelay", "-o", "wide"]).await?);
    println!("{}", kubectl(&["-n", &relay.namespace, "describe", "mailrelay"]).await?);
    let target = format!("{}/corporate", relay.namespace);
    println!("{}", relay.mailrelay(&["audit", "--relay", &target], "").await?.stdout);
    let (stats, depths) = (relay.server.stats(), relay.depths().await?);
    let report = Report {
        accepted: BATCHES.iter().map(|(_, count)| count).sum(),
        delivered: stats.unique_message_ids,
        held: depths.held,
        dead: depths.dead,
        lost: relay.lost(&BATCHES).await?.len(),
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
        "{} mails were accepted. The mail server received {}, {} of them more than once.",
        report.accepted, report.delivered, report.duplicated
    );
    if report.held > 0 {
        let settled = report.accepted as u64 - report.held - report.dead;
        println!(
            "{} are held for a person to look at: their worker was killed after it had sent the last byte and before the \
             answer arrived, so that mailrelay cannot know whether the server took them (this one took {}), and it never \
             sends such a mail again by itself. See `mailrelay held list`.",
            report.held,
            (report.delivered as u64).saturating_sub(settled)
        );
    }
    println!(
        "{} were lost. At most {} connections were open at once (16 are allowed), and {} were refused.",
        report.lost, report.peak_sessions, report.rejected
    );
    for step in &report.rebalances {
        println!("{} pods shared the connections as {:?}.", step.pods, step.shares);
    }
    println!("Written to target/demo/report.json.");
    let kept = report.lost == 0 && report.duplicated == 0 && report.rejected == 0 && report.peak_sessions == 16;
    let prompt = report.rebalances.iter().all(|step| step.milliseconds <= 2_000);
    anyhow::ensure!(kept && prompt, "a promise was broken: {report:?}");
    Ok(())
}

/// Leaves everything running until the user has seen enough.
async fn keep(stage: &Stage) {
    heading("KEEP=1: everything goes on until you press Ctrl-C");
    println!("In another terminal:\n  make cluster-kubectl ARGS='-n mail get mailrelay,pods'");
    println!("  make cluster-kubectl ARGS='-n mail describe mailrelay corporate'");
    for (name, value) in stage.cli_environment() {
        println!("  export {name}={value}");
    }
    println!("  hack/cluster/run target/*/release/mailrelay leases");
    interrupted().await;
}

fn heading(text: &str) {
    println!("\n== {text}");
}
