//! O1 to O6, judged from outside after every scenario.

use std::{
    collections::HashSet,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use kube::{Api, api::ListParams};
use mailrelay::lease::LedgerState;
use mailsink::Stats;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    load::Sent,
    logs::Logs,
    setup::rest_is_used,
    trial::{Trial, millis},
};
use crate::{
    Stage,
    command::kubectl,
    mails::id_of,
    stage::SYSTEM,
    wait::{Look, until},
};

/// How long after its scenario a relay may take to converge: quarantine included, and the restart back-off of kubelet.
const CONVERGED: Duration = Duration::from_secs(120);
/// How long all mail may take to be settled after that.
const SETTLED: Duration = Duration::from_secs(60);
/// For how long nothing may be written once it is quiet, and until when it must be.
const QUIET: Duration = Duration::from_secs(3);
const QUIET_WITHIN: Duration = Duration::from_secs(45);
/// The controller's `ConfigMap`, as the chart calls it, and the annotation with the epoch.
const EPOCH_MAP: &str = "mailrelay-controller-epoch";
const EPOCH: &str = "mailrelay.dev/epoch";
/// How long a pod may take to show its metrics.
const METRICS: Duration = Duration::from_secs(5);

/// What the oracles saw.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub peak: usize,
    pub above_ms: u64,
    pub rejected: usize,
    pub accepted: usize,
    pub delivered: usize,
    pub lost: usize,
    pub lost_by_store: usize,
    pub duplicates: usize,
    pub duplicates_by_store: usize,
    pub held: usize,
    pub dead: usize,
    pub recover_ms: u64,
    pub violations: Vec<String>,
}

/// What the controller's logs had shown when the scenario began.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Before {
    restarts: usize,
    panics: usize,
    secrets: usize,
}

impl Before {
    pub fn now(logs: &Logs) -> Self {
        let figures = logs.figures(SYSTEM);
        Self { restarts: figures.restarts, panics: figures.panics.len(), secrets: figures.secrets.len() }
    }
}

/// Waits for convergence, ends the load, and judges everything. What can't be asked is a violation too.
pub(crate) async fn judge(trial: &mut Trial<'_>, before: Before) -> Seen {
    let mut seen = Seen::default();
    let recovered = converged(trial).await;
    seen.recover_ms = note(&mut seen, "O4", recovered).flatten().map(millis).unwrap_or_default();
    trial.load.stop();
    trial.relay.server.hurry();
    note(&mut seen, "O4", trial.relay.await_settled(SETTLED).await.map(drop));
    if !trial.expect.withheld {
        note(&mut seen, "O4", quiet(trial).await);
    }
    sessions(trial, &mut seen);
    let mails = mails(trial, &mut seen).await;
    note(&mut seen, "O2", mails);
    processes(trial, before, &mut seen);
    let secrets = secrets(trial).await;
    note(&mut seen, "O6", secrets);
    seen
}

/// Notes a failure as a violation of the oracle given.
fn note<T>(seen: &mut Seen, oracle: &str, outcome: Result<T>) -> Option<T> {
    outcome.map_err(|error| seen.violations.push(format!("{oracle}: {error:#}"))).ok()
}

fn must(seen: &mut Seen, holds: bool, otherwise: impl FnOnce() -> String) {
    if !holds {
        seen.violations.push(otherwise());
    }
}

/// Waits, under load, until the shares are what the plan says, the ledger is open and nothing is withheld; how long that
/// took from the last harm.
async fn converged(trial: &Trial<'_>) -> Result<Option<Duration>> {
    let (pods, budget) = (trial.expect.pods, trial.expect.budget);
    if trial.expect.withheld {
        rest_is_used(trial).await?;
        return Ok(trial.record.since.map(|since| since.elapsed()));
    }
    until("an open ledger without quarantine", CONVERGED, async || {
        let ledger = trial.relay.ledger().await?;
        let open = ledger.state == LedgerState::Open && ledger.quarantine.is_empty() && ledger.budget == budget;
        Ok(Look::when(open, (), || format!("{ledger:?}")))
    })
    .await?;
    trial.relay.await_shares(pods, budget).await?;
    Ok(trial.record.since.map(|since| since.elapsed()))
}

/// O4: the status says that all is well, and then nothing is written but heartbeats.
async fn quiet(trial: &Trial<'_>) -> Result<()> {
    trial.relay.await_quiet_status(CONVERGED).await?;
    let began = Instant::now();
    let mut last = written(trial).await?;
    let mut since = Instant::now();
    while since.elapsed() < QUIET {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = written(trial).await?;
        if now != last {
            ensure!(began.elapsed() < QUIET_WITHIN, "not quiet after {QUIET_WITHIN:?}: {last} became {now}");
            (last, since) = (now, Instant::now());
        }
    }
    Ok(())
}

/// What changes when something is written: relay, epoch, ledger without what SYNC renews.
async fn written(trial: &Trial<'_>) -> Result<String> {
    let object = trial.relay.object().await?;
    let ledger = trial.relay.ledger().await?;
    let maps: Api<ConfigMap> = Api::namespaced(trial.stage.client.clone(), SYSTEM);
    let epoch = maps.get(EPOCH_MAP).await?.metadata.annotations.unwrap_or_default().remove(EPOCH);
    Ok(format!(
        "relay {:?}, epoch {epoch:?}, ledger {} {} {} {:?} {:?} {:?}",
        object.metadata.resource_version,
        ledger.epoch,
        ledger.revision,
        ledger.token,
        ledger.state,
        ledger.entitlements,
        ledger.quarantine
    ))
}

/// O1, and whether the run could have broken it at all.
fn sessions(trial: &Trial<'_>, seen: &mut Seen) {
    let stats: Stats = trial.relay.server.stats();
    let budget = usize::try_from(trial.relay.budget).unwrap_or(usize::MAX);
    (seen.peak, seen.rejected) = (stats.peak_attempted, stats.rejected);
    let capped = stats.peak_attempted <= budget && stats.rejected <= trial.expect.rejected;
    must(seen, capped, || format!("O1: more than {budget}: {stats:?}"));
    let least = trial.expect.peak;
    must(seen, stats.peak >= least, || format!("O1: nothing was shown, {least} sessions were never open: {stats:?}"));
    seen.above_ms = trial.relay.server.above().map(millis).unwrap_or_default();
}

/// O2 and O3.
async fn mails(trial: &Trial<'_>, seen: &mut Seen) -> Result<()> {
    let Sent { accepted, uncertain } = trial.load.sent();
    let taken = trial.relay.server.taken();
    let mut found: HashSet<&str> = HashSet::new();
    let mut again = 0;
    for id in &taken {
        again += usize::from(!found.insert(id_of(id).unwrap_or(id)));
    }
    seen.delivered = found.len();
    seen.accepted = accepted.len();
    let (held, dead) = trial.relay.parked().await?;
    (seen.held, seen.dead) = (held.len(), dead.len());
    found.extend(held.iter().chain(&dead).map(String::as_str));
    let lost = accepted.iter().filter(|id| !found.contains(id.as_str())).count();
    let expect = &trial.expect;
    if expect.store_lost {
        (seen.lost_by_store, seen.duplicates_by_store) = (lost, again);
        return Ok(());
    }
    (seen.lost, seen.duplicates) = (lost, again);
    must(seen, lost == 0, || format!("O2: {lost} of {} accepted mails are nowhere", accepted.len()));
    let audit = trial.relay.audit().await?;
    let most = accepted.len() + uncertain.len();
    let counted = usize::try_from(audit.accepted)?;
    let adds_up = audit.difference == 0 && (accepted.len()..=most).contains(&counted);
    must(seen, adds_up, || format!("O2: the audit does not add up to {} to {most}: {audit:?}", accepted.len()));
    must(seen, again <= expect.duplicates, || {
        format!("O3: {again} mails were delivered again, {} allowed", expect.duplicates)
    });
    must(seen, held.len() <= expect.held, || format!("O3: {} mails are held, {} allowed", held.len(), expect.held));
    must(seen, dead.len() <= expect.dead, || {
        format!("O3: {} mails are dead letters, {} allowed", dead.len(), expect.dead)
    });
    Ok(())
}

/// O5.
fn processes(trial: &Trial<'_>, before: Before, seen: &mut Seen) {
    let expect = &trial.expect;
    let (worker, controller) = (trial.logs.figures(&trial.relay.namespace), trial.logs.figures(SYSTEM));
    let panics = worker.panics.iter().chain(controller.panics.iter().skip(before.panics));
    seen.violations.extend(panics.map(|line| format!("O5: panic: {line}")));
    let secrets = worker.secrets.iter().chain(controller.secrets.iter().skip(before.secrets));
    seen.violations.extend(secrets.map(|line| format!("O6: a secret in a log: {line}")));
    let restarts = controller.restarts - before.restarts;
    let rows = [
        ("ends of worker processes", worker.ends, expect.ends),
        ("restarts of the relay's containers", worker.restarts, expect.restarts),
        ("restarts of the controller", restarts, expect.controller_restarts),
    ];
    for (what, count, allowed) in rows {
        must(seen, count <= allowed, || format!("O5: {count} {what}, {allowed} allowed"));
    }
}

/// O6: what the API server shows, what the metrics show, what Redis has on its disk.
async fn secrets(trial: &Trial<'_>) -> Result<()> {
    let canaries = trial.stage.canaries();
    let clean = |what: &str, text: &[u8]| {
        let text = String::from_utf8_lossy(text);
        ensure!(!canaries.iter().any(|canary| text.contains(canary.as_str())), "a secret in {what}");
        Ok(())
    };
    for namespace in [&*trial.relay.namespace, SYSTEM] {
        let kinds = "mailrelays,events,pods,configmaps,leases";
        let objects = kubectl(&["-n", namespace, "get", kinds, "-o", "json"]).await?;
        clean(&format!("the objects of {namespace}"), objects.as_bytes())?;
        for (pod, address) in addresses(trial.stage, namespace).await? {
            let port = if namespace == SYSTEM { CONTROLLER_PORT } else { WORKER_PORT };
            let metrics = metrics(&address, port).await.with_context(|| format!("the metrics of {pod}"))?;
            clean(&format!("the metrics of {pod}"), &metrics)?;
        }
    }
    for (name, bytes) in trial.stage.with_redis(|redis| dumps(redis.folder())) {
        clean(&format!("Redis' file {name}"), &bytes)?;
    }
    Ok(())
}

/// The running pods of a namespace, with their addresses.
async fn addresses(stage: &Stage, namespace: &str) -> Result<Vec<(String, String)>> {
    let api: Api<Pod> = Api::namespaced(stage.client.clone(), namespace);
    let pods = api.list(&ListParams::default()).await?.items;
    let running = pods.into_iter().filter(|pod| pod.metadata.deletion_timestamp.is_none());
    Ok(running
        .filter_map(|pod| {
            let status = pod.status.filter(|status| status.phase.as_deref() == Some("Running"))?;
            Some((pod.metadata.name?, status.pod_ip?))
        })
        .collect())
}

/// Where a controller and a worker show their metrics.
const CONTROLLER_PORT: u16 = 8080;
const WORKER_PORT: u16 = 9425;

/// What `/metrics` of a pod says.
async fn metrics(address: &str, port: u16) -> Result<Vec<u8>> {
    let mut answer = Vec::new();
    let asking = async {
        let mut stream = TcpStream::connect((address, port)).await?;
        stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await?;
        stream.read_to_end(&mut answer).await
    };
    timeout(METRICS, asking).await.context("no answer")??;
    Ok(answer)
}

/// AOF and RDB files, in whatever folder.
fn dumps(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() {
            found.extend(dumps(&path));
        } else if [".aof", ".rdb", ".log"].iter().any(|end| name.ends_with(end)) {
            found.push((name, fs::read(&path).unwrap_or_default()));
        }
    }
    found
}
