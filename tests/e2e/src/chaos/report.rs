//! What a run leaves behind: a table for people, `target/chaos/report.json` for machines.

use std::{fmt::Write as _, fs, path::PathBuf, time::Duration};

use anyhow::{Context, Result};
use serde::Serialize;

use super::{Case, oracles::Seen, trial::Figure};
use crate::command::repository;

/// Where reports and the logs of failed scenarios go.
pub(crate) fn folder() -> PathBuf {
    repository().join("target/chaos")
}

/// `target/chaos/report.json`.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// The seed that repeats this run: `make chaos SEED=...`.
    pub seed: u64,
    /// How long it took.
    pub seconds: u64,
    /// One entry for each scenario.
    pub scenarios: Vec<Entry>,
    /// Over all of them.
    pub total: Total,
}

/// All runs of one scenario.
#[derive(Debug, Serialize)]
pub(crate) struct Entry {
    pub name: String,
    pub fault: &'static str,
    pub runs: usize,
    /// Seed of each run, made from the run's seed, the name and the number of the run.
    pub seeds: Vec<u64>,
    pub budget: u32,
    /// The most sessions that were open at once at the server, refused ones included.
    pub peak_sessions: usize,
    /// The same of each run.
    pub peaks: Vec<usize>,
    /// The longest time for which a server that tells it counted more than the budget.
    pub above_ms: u64,
    pub rejected: usize,
    pub accepted: usize,
    pub delivered: usize,
    /// Accepted, and neither delivered nor accounted for.
    pub lost: usize,
    /// The same where the fault takes the whole store away.
    pub lost_by_store: usize,
    pub duplicates: usize,
    /// The same where the fault takes the store back to an older state, which knows nothing of what was delivered since.
    pub duplicates_by_store: usize,
    /// How many of the duplicates the policy allows.
    pub duplicates_allowed: usize,
    pub held: usize,
    pub dead: usize,
    /// The longest time from the last harm, or its end, until the shares were as planned and nothing was withheld.
    pub recover_ms: u64,
    pub figures: Vec<Figure>,
    /// What was broken; empty when all was well.
    pub violations: Vec<String>,
}

/// Sums over all scenarios.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Total {
    pub scenarios: usize,
    pub runs: usize,
    pub accepted: usize,
    pub delivered: usize,
    pub lost: usize,
    pub lost_by_store: usize,
    pub duplicates: usize,
    pub duplicates_by_store: usize,
    pub duplicates_allowed: usize,
    pub held: usize,
    /// Runs in which a server counted more than the budget.
    pub runs_above_budget: usize,
    pub violations: usize,
}

impl Entry {
    pub fn new(case: Case, budget: u32) -> Self {
        Self {
            name: case.name(),
            fault: case.scenario.fault,
            runs: 0,
            seeds: Vec::new(),
            budget,
            peak_sessions: 0,
            peaks: Vec::new(),
            above_ms: 0,
            rejected: 0,
            accepted: 0,
            delivered: 0,
            lost: 0,
            lost_by_store: 0,
            duplicates: 0,
            duplicates_by_store: 0,
            duplicates_allowed: 0,
            held: 0,
            dead: 0,
            recover_ms: 0,
            figures: Vec::new(),
            violations: Vec::new(),
        }
    }

    /// Adds one run.
    pub fn add(&mut self, seed: u64, allowed: usize, figures: &[Figure], found: &Seen) {
        self.runs += 1;
        self.seeds.push(seed);
        self.peak_sessions = self.peak_sessions.max(found.peak);
        self.peaks.push(found.peak);
        self.above_ms = self.above_ms.max(found.above_ms);
        self.rejected += found.rejected;
        self.accepted += found.accepted;
        self.delivered += found.delivered;
        self.lost += found.lost;
        self.lost_by_store += found.lost_by_store;
        self.duplicates += found.duplicates;
        self.duplicates_allowed += allowed.min(found.duplicates);
        self.held += found.held;
        self.dead += found.dead;
        self.recover_ms = self.recover_ms.max(found.recover_ms);
        self.figures.extend_from_slice(figures);
        self.violations.extend(found.violations.iter().map(|text| format!("seed {seed}: {text}")));
    }

    fn verdict(&self) -> String {
        match self.violations.len() {
            0 => "ok".into(),
            count => format!("{count} VIOLATED"),
        }
    }
}

impl Report {
    pub fn new(seed: u64, seconds: u64, scenarios: Vec<Entry>) -> Self {
        let mut total = Total { scenarios: scenarios.len(), ..Total::default() };
        for entry in &scenarios {
            total.runs += entry.runs;
            total.accepted += entry.accepted;
            total.delivered += entry.delivered;
            total.lost += entry.lost;
            total.lost_by_store += entry.lost_by_store;
            total.duplicates += entry.duplicates;
            total.duplicates_by_store += entry.duplicates_by_store;
            total.duplicates_allowed += entry.duplicates_allowed;
            total.held += entry.held;
            let budget = usize::try_from(entry.budget).unwrap_or(usize::MAX);
            total.runs_above_budget += entry.peaks.iter().filter(|peak| **peak > budget).count();
            total.violations += entry.violations.len();
        }
        Self { seed, seconds, scenarios, total }
    }

    /// Whether nothing was violated, and anything was run at all.
    pub fn is_good(&self) -> bool {
        self.total.runs > 0 && self.total.violations == 0
    }

    /// Writes `report.json`; returns where.
    pub fn write(&self) -> Result<PathBuf> {
        let path = folder().join("report.json");
        fs::create_dir_all(folder()).context("cannot make target/chaos")?;
        let text = serde_json::to_string_pretty(self)?;
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let width = self.scenarios.iter().map(|entry| entry.name.len()).max().unwrap_or(0).max(8);
        let _ = writeln!(
            text,
            "{:<width$} {:>4} {:>7} {:>8} {:>9} {:>4} {:>10} {:>4} {:>9}  {:<10} FAULT",
            "SCENARIO", "RUNS", "PEAK", "ACCEPTED", "DELIVERED", "LOST", "DUPLICATES", "HELD", "RECOVERED", "VERDICT"
        );
        for entry in &self.scenarios {
            let peak = format!("{}/{}", entry.peak_sessions, entry.budget);
            let recovered = format!("{:.1?}", Duration::from_millis(entry.recover_ms));
            let _ = writeln!(
                text,
                "{:<width$} {:>4} {peak:>7} {:>8} {:>9} {:>4} {:>10} {:>4} {recovered:>9}  {:<10} {}",
                entry.name,
                entry.runs,
                entry.accepted,
                entry.delivered,
                entry.lost,
                entry.duplicates,
                entry.held,
                entry.verdict(),
                entry.fault
            );
        }
        let _ = writeln!(text, "\nFIGURES");
        for entry in &self.scenarios {
            if entry.above_ms > 0 {
                let _ = writeln!(text, "{:<width$} above the budget for {} ms", entry.name, entry.above_ms);
            }
            for figure in &entry.figures {
                let _ = writeln!(text, "{:<width$} {}", entry.name, figure.describe());
            }
            let (lost, again) = (entry.lost_by_store, entry.duplicates_by_store);
            if lost + again > 0 {
                let _ =
                    writeln!(text, "{:<width$} by the store: {lost} mails lost, {again} delivered again", entry.name);
            }
        }
        let violated = self.scenarios.iter().flat_map(|entry| entry.violations.iter().map(move |v| (&entry.name, v)));
        for (name, violation) in violated {
            let _ = writeln!(text, "VIOLATED {name}: {violation}");
        }
        let total = &self.total;
        let _ = writeln!(
            text,
            "\n{} runs of {} scenarios in {} s, seed {}: the server counted more than the budget in {}; {} mails accepted, {} delivered, {} held, {} lost, {} delivered \
             again ({} by policy); by lost stores {} lost, {} delivered again; {} violations",
            total.runs,
            total.scenarios,
            self.seconds,
            self.seed,
            total.runs_above_budget,
            total.accepted,
            total.delivered,
            total.held,
            total.lost,
            total.duplicates,
            total.duplicates_allowed,
            total.lost_by_store,
            total.duplicates_by_store,
            total.violations
        );
        text
    }
}

impl Figure {
    fn describe(&self) -> String {
        let bounds = match (self.at_least, self.at_most) {
            (None, None) => String::new(),
            (None, Some(most)) => format!(" (at most {most})"),
            (Some(least), None) => format!(" (at least {least})"),
            (Some(least), Some(most)) => format!(" ({least} to {most})"),
        };
        format!("{}: {} {}{bounds}", self.name, self.value, self.unit)
    }
}
