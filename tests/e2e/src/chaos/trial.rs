//! What a scenario works with.

use std::{
    collections::HashSet,
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mailsink::Stats;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde::Serialize;

use super::{Case, load::Load, logs::Logs};
use crate::{
    Relay, Side, Stage,
    mails::id_of,
    wait::{Look, until},
};

/// How long the sessions may take to be all busy at the start, and anything else that is not a bound.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One run of a scenario: its relay, under load.
pub struct Trial<'s> {
    /// The installation.
    pub stage: &'s Stage,
    /// All logs.
    pub logs: &'s Logs,
    /// What its mail server is.
    pub side: Side,
    /// The relay under test.
    pub relay: Relay<'s>,
    /// The producer.
    pub load: Load,
    /// Choices that the seed decides.
    pub random: StdRng,
    /// What the fault excuses, and how things must stand at the end.
    pub expect: Expectation,
    pub(crate) record: Record,
}

/// What the fault excuses, and how things must stand at the end.
#[derive(Clone, Debug)]
pub struct Expectation {
    /// Pods that share the budget at the end.
    pub pods: u32,
    /// The budget at the end.
    pub budget: u32,
    /// Connections that the server may refuse, its limit being below the budget.
    pub rejected: usize,
    /// Mails that may be held, their outcome being unknown: the sessions that were ended unclean.
    pub held: usize,
    /// Times that a mail may be delivered again: where the policy resends what is unknown.
    pub duplicates: usize,
    /// Mails that may be dead letters.
    pub dead: usize,
    /// Ends of worker processes that the fault causes.
    pub ends: usize,
    /// Restarts of containers of the relay that the fault causes.
    pub restarts: usize,
    /// Restarts of the controller that the fault causes.
    pub controller_restarts: usize,
    /// The fault loses or rolls back the whole store: O2 and O3 are reported apart.
    pub store_lost: bool,
    /// The scenario ends while slots are withheld: all but these must be in use, and nothing else is waited for.
    pub withheld: bool,
    /// The most sessions at once that must have been seen, or nothing was shown.
    pub peak: usize,
}

/// A figure of a scenario.
#[derive(Clone, Debug, Serialize)]
pub struct Figure {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: u64,
    /// Of what: `ms`, `mails`, `slots`, `writes`.
    pub unit: &'static str,
    /// The most that is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_most: Option<u64>,
    /// The least that is allowed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at_least: Option<u64>,
}

/// What became known while the scenario ran.
#[derive(Clone, Debug, Default)]
pub(crate) struct Record {
    pub figures: Vec<Figure>,
    pub violations: Vec<String>,
    /// When harm was done last, or undone last.
    pub since: Option<Instant>,
}

impl<'s> Trial<'s> {
    /// Raises the relay and its load, and waits until all sessions are busy.
    pub(crate) async fn raise(stage: &'s Stage, logs: &'s Logs, case: Case, name: &str, seed: u64) -> Result<Self> {
        let options = case.relay(name);
        let expect = Expectation {
            pods: options.replicas,
            budget: options.budget,
            rejected: 0,
            held: 0,
            duplicates: 0,
            dead: 0,
            ends: 0,
            restarts: 0,
            controller_restarts: 0,
            store_lost: false,
            withheld: false,
            peak: if options.hectic { 1 } else { usize::try_from(options.budget)? },
        };
        let (queue, size, hectic) = (options.queue.clone(), options.side.mail_size(), options.hectic);
        let takes_long = size.is_some() || options.side.pause(options.pause) > Duration::from_secs(2);
        let relay = Relay::raise(stage, options).await?;
        let load = Load::start(stage.store.clone(), queue, name.to_owned(), size, takes_long);
        let trial = Self {
            stage,
            logs,
            side: case.side,
            relay,
            load,
            random: StdRng::seed_from_u64(seed),
            expect,
            record: Record::default(),
        };
        if hectic {
            let some = trial.sink_until("mail flows", |stats| stats.accepted > 0).await;
            some.context("before any harm was done")?;
        } else {
            trial.all_busy().await.context("before any harm was done")?;
        }
        Ok(trial)
    }

    /// Waits until as many sessions are open as the budget allows.
    pub async fn all_busy(&self) -> Result<Stats> {
        let budget = usize::try_from(self.expect.budget)?;
        self.sink_until(&format!("{budget} open sessions"), |stats| stats.open == budget).await
    }

    /// Waits until the sink's figures fit.
    pub async fn sink_until(&self, what: &str, fits: impl Fn(&Stats) -> bool) -> Result<Stats> {
        let seen = self.relay.server.wait_for(PATIENCE, fits).await;
        seen.map_err(|last| anyhow::anyhow!("waited {PATIENCE:?} for {what}; the sink says {last:?}"))
    }

    /// Waits until of the mails accepted first, `count` of them, each is delivered or held.
    pub async fn settled_until(&self, count: usize, limit: Duration) -> Result<()> {
        let mut accepted = self.load.sent().accepted;
        accepted.truncate(count);
        until("all mail accepted before is settled", limit + PATIENCE, async || {
            let held = self.relay.parked().await?.0;
            let taken = self.relay.server.taken();
            let found: HashSet<&str> =
                taken.iter().filter_map(|id| id_of(id)).chain(held.iter().map(String::as_str)).collect();
            let missing = accepted.iter().filter(|id| !found.contains(id.as_str())).count();
            Ok(Look::when(missing == 0, (), || format!("{missing} are not")))
        })
        .await
        .map(drop)
    }

    /// Lets a time of the seed's choice pass, so that the fault strikes at another moment each time.
    pub async fn moment(&mut self, milliseconds: Range<u64>) {
        let moment = self.random.random_range(milliseconds);
        tokio::time::sleep(Duration::from_millis(moment)).await;
    }

    /// Harm is done, or undone, at this very moment: convergence is timed from the last of these.
    pub fn strike(&mut self) -> Instant {
        let now = Instant::now();
        self.record.since = Some(now);
        now
    }

    /// Notes a figure without a bound.
    pub fn note(&mut self, name: &str, value: u64, unit: &'static str) {
        self.figure(name, value, unit, 0..=u64::MAX);
    }

    /// Notes a time and holds it to a bound.
    pub fn time(&mut self, name: &str, took: Duration, at_most: Duration) {
        self.figure(name, millis(took), "ms", 0..=millis(at_most));
    }

    /// Notes a figure and holds it to bounds; `0` and `u64::MAX` are none.
    pub fn figure(&mut self, name: &str, value: u64, unit: &'static str, bounds: std::ops::RangeInclusive<u64>) {
        if !bounds.contains(&value) {
            self.violation(format!("{name}: {value} {unit}, allowed are {} to {}", bounds.start(), bounds.end()));
        }
        let at_most = (*bounds.end() != u64::MAX).then_some(*bounds.end());
        let at_least = (*bounds.start() != 0).then_some(*bounds.start());
        self.record.figures.push(Figure { name: name.to_owned(), value, unit, at_most, at_least });
    }

    /// Notes a violation unless something holds; the scenario goes on.
    pub fn must(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.violation(otherwise());
        }
    }

    fn violation(&mut self, text: String) {
        self.record.violations.push(text);
    }
}

/// Whole milliseconds.
pub(crate) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
