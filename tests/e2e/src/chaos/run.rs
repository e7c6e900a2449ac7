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
    Case, Reach, cases,
    logs::Logs,
    oracles::{Before, Seen, judge},
    orderly::endurance,
    report::{Entry, Report, folder},
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
    /// Again and again until so much time has passed.
    pub soak: Option<Duration>,
}

/// One run of one scenario.
struct Run {
    case: Case,
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
    /// The scenarios that are to be run, each with its server.
    pub fn cases(&self) -> Vec<Case> {
        let all: Vec<String> = cases().flat_map(|case| [case.name(), case.scenario.name.to_owned()]).collect();
        let is_meant = |case: &Case, only: &String| {
            let (name, scenario) = (case.name(), case.scenario.name);
            if all.contains(only) { name == *only || scenario == *only } else { name.contains(only.as_str()) }
        };
        cases()
            .filter(|case| !self.slice || case.scenario.slice == Some(case.side))
            .filter(|case| self.only.is_empty() || self.only.iter().any(|only| is_meant(case, only)))
            .collect()
    }
}

/// Runs what was chosen on the local cluster, prints the table and writes the report; whether nothing was violated.
/// `interrupted` ends it early, with what is known by then.
pub async fn run(choice: &Choice, interrupted: impl Future<Output = ()>) -> Result<bool> {
    ensure!(is_local(), "chaos breaks the cluster on purpose: it runs on the local one only");
    let chosen = choice.cases();
    ensure!(!chosen.is_empty(), "no scenario is called like {:?}; LIST=1 lists them", choice.only);
    fs::create_dir_all(folder()).context("cannot make target/chaos")?;
    let began = Instant::now();
    println!("chaos: {} scenarios, seed {}", chosen.len(), choice.seed);
    let stage = Stage::raise().await?;
    let logs = Logs::start(stage.log_folder(), stage.canaries());
    let mut done = Vec::new();
    // Boxed, since the compiler gives up on a type as deep as all that runs in here.
    let all = run_all(choice, &chosen, &stage, &logs, &mut done, began).boxed_local();
    let ended = tokio::select! {
        () = all => Ok(()),
        () = interrupted => Err(anyhow::anyhow!("interrupted")),
    };
    let report = Report::new(choice.seed, began.elapsed().as_secs(), entries(&chosen, &done));
    println!("\n{}", report.table());
    println!("written to {}", report.write()?.display());
    drop(logs);
    let lowered = timeout(CLEAN_UP, stage.lower()).await.context("the clean-up takes too long");
    ended?;
    lowered??;
    Ok(report.is_good())
}

/// Runs each as often as it shall; a soak goes on in rounds until its time is over, and writes its report after each.
async fn run_all(
    choice: &Choice,
    chosen: &[Case],
    stage: &Stage,
    logs: &Logs,
    done: &mut Vec<Outcome>,
    began: Instant,
) {
    let runs = choice.runs.max(1);
    let goes_on = || choice.soak.is_none_or(|time| began.elapsed() < time);
    for round in 0.. {
        for reach in [Reach::Own, Reach::All] {
            let cases = chosen.iter().filter(|case| case.scenario.reach == reach);
            let all = cases.flat_map(|&case| (round * runs..(round + 1) * runs).map(move |number| (case, number)));
            let futures = all.take_while(|_| goes_on()).map(|(case, number)| {
                let seed = seed_of(choice.seed, &case.name(), number);
                run_one(Run { case, number, seed }, stage, logs)
            });
            let jobs = if reach == Reach::Own { choice.jobs.max(1) } else { 1 };
            let mut beside = futures::stream::iter(futures).buffer_unordered(jobs);
            while let Some(result) = beside.next().await {
                done.push(result);
            }
        }
        if choice.soak.is_none() || !goes_on() {
            return;
        }
        let report = Report::new(choice.seed, began.elapsed().as_secs(), entries(chosen, done));
        println!("round {}: {} runs so far", round + 1, done.len());
        if let Err(error) = report.write() {
            println!("cannot write the report: {error:#}");
        }
    }
}

async fn run_one(run: Run, stage: &Stage, logs: &Logs) -> Outcome {
    let name = run.case.namespace(run.number);
    println!("{name}: {} (seed {})", run.case.scenario.fault, run.seed);
    let began = Instant::now();
    let budget = run.case.relay(&name).budget;
    let mut result = Outcome { run, budget, allowed: 0, figures: Vec::new(), seen: Seen::default() };
    // A tool that panics ends its scenario and not the run: what was set up must be taken away.
    // Boxed here and in the steps: the compiler gives up on a type as deep as all of them together.
    let attempt = AssertUnwindSafe(attempt(&mut result, stage, logs, &name).boxed_local()).catch_unwind();
    let longest = LONGEST + endurance();
    let failed = match timeout(longest, attempt).await {
        Ok(Ok(Ok(()))) => None,
        Ok(Ok(Err(error))) => Some(format!("the scenario could not go on: {error:#}")),
        Ok(Err(_)) => Some("it panicked".into()),
        Err(_) => Some(format!("it had not ended after {longest:?}")),
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
    logs.forget(&name);
    println!(
        "{name}: {} after {:.0?}, peak {}/{budget}",
        if result.seen.violations.is_empty() { "ok" } else { "FAILED" },
        began.elapsed(),
        result.seen.peak
    );
    result
}

async fn attempt(result: &mut Outcome, stage: &Stage, logs: &Logs, name: &str) -> Result<()> {
    let before = Before::now(logs);
    let case = result.run.case;
    let mut trial = Trial::raise(stage, logs, case, name, result.run.seed).boxed_local().await?;
    let acted = (case.scenario.act)(&mut trial).await;
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

fn entries(chosen: &[Case], done: &[Outcome]) -> Vec<Entry> {
    let mut entries: Vec<Entry> = chosen.iter().map(|&case| Entry::new(case, 0)).collect();
    for result in done {
        let name = result.run.case.name();
        let Some(entry) = entries.iter_mut().find(|entry| entry.name == name) else { continue };
        entry.budget = result.budget;
        entry.add(result.run.seed, result.allowed, &result.figures, &result.seen);
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
