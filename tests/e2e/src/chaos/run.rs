//! Which scenarios run, and how each is set up, harmed, judged and taken away.

use std::{
    fs,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, StreamExt};
use tokio::time::timeout;

use super::{
    Reach, Scenario,
    logs::Logs,
    oracles::{Before, Seen, judge},
    report::{Entry, Report, folder},
    scenarios,
    trial::{Figure, Trial},
};
use crate::{Stage, command::run as command, is_local, stage::SYSTEM};

/// How long one run of a scenario may take, from the first object to the last oracle.
const LONGEST: Duration = Duration::from_secs(600);
/// How long the clean-up may take when it was interrupted.
const CLEAN_UP: Duration = Duration::from_secs(90);

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Choice {
    /// Only the scenarios with one of these names, or with one of these in their name; none: all.
    pub only: Vec<String>,
    /// Only the slice.
    pub slice: bool,
    /// What decides all moments and choices.
    pub seed: u64,
    /// How often each scenario runs.
    pub runs: usize,
    /// How many scenarios may run beside each other, where they disturb only themselves.
    pub jobs: usize,
}

/// One run of one scenario.
struct Run {
    scenario: &'static Scenario,
    number: usize,
    seed: u64,
}

/// What came of it.
struct Outcome {
    run: Run,
    budget: u32,
    allowed: usize,
    figures: Vec<Figure>,
    seen: Seen,
}

impl Choice {
    /// The scenarios that are to be run.
    pub fn scenarios(&self) -> Vec<&'static Scenario> {
        let is_meant = |name: &str, only: &String| {
            let whole = scenarios().any(|one| one.name == only);
            if whole { name == only } else { name.contains(only.as_str()) }
        };
        scenarios()
            .filter(|one| !self.slice || one.slice)
            .filter(|one| self.only.is_empty() || self.only.iter().any(|only| is_meant(one.name, only)))
            .collect()
    }
}

/// Runs what was chosen on the local cluster, prints the table and writes the report; whether nothing was violated.
/// `interrupted` ends it early, with what is known by then.
pub async fn run(choice: &Choice, interrupted: impl Future<Output = ()>) -> Result<bool> {
    ensure!(is_local(), "chaos breaks the cluster on purpose: it runs on the local one only");
    let chosen = choice.scenarios();
    ensure!(!chosen.is_empty(), "no scenario is called like {:?}; LIST=1 lists them", choice.only);
    fs::create_dir_all(folder()).context("cannot make target/chaos")?;
    let began = Instant::now();
    println!("chaos: {} scenarios, seed {}", chosen.len(), choice.seed);
    let stage = Stage::raise().await?;
    let logs = Logs::start(stage.log_folder(), stage.canaries());
    let mut done = Vec::new();
    // Boxed, since the compiler gives up on a type as deep as all that runs in here.
    let all = run_all(choice, &chosen, &stage, &logs, &mut done).boxed_local();
    let ended = tokio::select! {
        () = all => Ok(()),
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    let report = Report::new(choice.seed, began.elapsed().as_secs(), entries(&chosen, done));
    println!("\n{}", report.table());
    println!("written to {}", report.write()?.display());
    drop(logs);
    let lowered = timeout(CLEAN_UP, stage.lower()).await.context("the clean-up takes too long");
    ended?;
    lowered??;
    Ok(report.is_good())
}

async fn run_all(choice: &Choice, chosen: &[&'static Scenario], stage: &Stage, logs: &Logs, done: &mut Vec<Outcome>) {
    let runs = |reach| {
        chosen.iter().filter(move |one| one.reach == reach).flat_map(|scenario| {
            (0..choice.runs).map(|number| {
                let seed = seed_of(choice.seed, scenario.name, number);
                run_one(Run { scenario, number, seed }, stage, logs)
            })
        })
    };
    let mut beside = futures::stream::iter(runs(Reach::Own)).buffer_unordered(choice.jobs.max(1));
    while let Some(result) = beside.next().await {
        done.push(result);
    }
    drop(beside);
    for alone in runs(Reach::All) {
        done.push(alone.await);
    }
}

async fn run_one(run: Run, stage: &Stage, logs: &Logs) -> Outcome {
    let name = format!("{}-{}", run.scenario.name.replace('_', "-"), run.number);
    println!("{name}: {} (seed {})", run.scenario.fault, run.seed);
    let began = Instant::now();
    let budget = (run.scenario.relay)(&name).budget;
    let mut result = Outcome { run, budget, allowed: 0, figures: Vec::new(), seen: Seen::default() };
    // A tool that panics ends its scenario and not the run: what was set up must be taken away.
    // Boxed here and in the steps: the compiler gives up on a type as deep as all of them together.
    let attempt = AssertUnwindSafe(attempt(&mut result, stage, logs, &name).boxed_local()).catch_unwind();
    let failed = match timeout(LONGEST, attempt).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(format!("the scenario could not go on: {error:#}")),
        Ok(Err(_)) => Some("it panicked".into()),
        Err(_) => Some(format!("it had not ended after {LONGEST:?}")),
    };
    result.seen.violations.extend(failed);
    for violation in &result.seen.violations {
        println!("{name}: VIOLATED: {violation}");
    }
    if !result.seen.violations.is_empty() {
        save(&name, logs).await;
    }
    if let Err(error) = stage.delete_namespace(&name).await {
        println!("{name}: cannot clean up: {error:#}");
    }
    println!(
        "{name}: {} after {:.0?}",
        if result.seen.violations.is_empty() { "ok" } else { "FAILED" },
        began.elapsed()
    );
    result
}

async fn attempt(result: &mut Outcome, stage: &Stage, logs: &Logs, name: &str) -> Result<()> {
    let before = Before::now(logs);
    let scenario = result.run.scenario;
    let mut trial = Trial::raise(stage, logs, scenario, name, result.run.seed).boxed_local().await?;
    let acted = (scenario.act)(&mut trial).await;
    result.seen = judge(&mut trial, before).boxed_local().await;
    result.seen.violations.append(&mut trial.record.violations);
    result.figures = trial.record.figures;
    result.allowed = trial.expect.duplicates;
    acted
}

/// Keeps what helps to find out why.
async fn save(name: &str, logs: &Logs) {
    let mut text = String::new();
    for arguments in [
        ["-n", name, "get", "pods", "-o", "wide"],
        ["-n", name, "get", "mailrelays", "-o", "yaml"],
        ["-n", name, "get", "events", "-o", "wide"],
    ] {
        if let Ok(output) = command("kubectl", &arguments, "").await {
            text.push_str(&output.stdout);
        }
    }
    text.push_str(&logs.text(name));
    text.push_str(&logs.text(SYSTEM));
    let path = folder().join(format!("{name}.log"));
    match fs::write(&path, text) {
        Ok(()) => println!("{name}: see {}", path.display()),
        Err(error) => println!("{name}: cannot write {}: {error}", path.display()),
    }
}

fn entries(chosen: &[&'static Scenario], done: Vec<Outcome>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = chosen.iter().map(|scenario| Entry::new(scenario, 0)).collect();
    for result in done {
        let Some(entry) = entries.iter_mut().find(|entry| entry.name == result.run.scenario.name) else { continue };
        entry.budget = result.budget;
        entry.add(result.run.seed, result.allowed, result.figures, &result.seen);
    }
    entries.retain(|entry| entry.runs > 0);
    entries
}

/// FNV-1a over the seed, the name and the number: the same in every version of everything.
fn seed_of(seed: u64, name: &str, number: usize) -> u64 {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let bytes = seed.to_le_bytes().into_iter().chain(name.bytes()).chain(number.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
