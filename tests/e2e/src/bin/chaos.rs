//! `make chaos`: breaks an installation in every way that the design names, and judges what comes of it from outside.

use std::{
    process::ExitCode,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Parser;
use e2e::{
    chaos::{Choice, Reach, run},
    interrupted,
};

/// The fault matrix on the local cluster; writes target/chaos/report.json.
#[derive(Parser)]
struct Arguments {
    /// Say which scenarios there are, and end
    #[arg(long)]
    list: bool,
    /// Only the scenario of this name, or those whose names contain it; several with commas between them
    #[arg(long, env = "ONLY", default_value = "")]
    only: String,
    /// Only the slice that `make test` runs
    #[arg(long, env = "SLICE", default_value = "")]
    slice: String,
    /// Decides all moments and choices; empty: the clock [the slice: 1]
    #[arg(long, env = "SEED", default_value = "")]
    seed: String,
    /// How often each scenario runs
    #[arg(long, env = "RUNS", default_value_t = 1)]
    runs: usize,
    /// Everything chosen again and again, for so many hours
    #[arg(long, env = "HOURS", default_value = "")]
    hours: String,
    /// How many scenarios run beside each other where they disturb only themselves
    #[arg(long, env = "JOBS", default_value_t = 3)]
    jobs: usize,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let slice = !arguments.slice.is_empty();
    let seed = match (arguments.seed.parse(), slice) {
        (Ok(seed), _) => seed,
        (Err(_), true) => 1,
        (Err(_), false) => SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    };
    let hours: f64 = arguments.hours.parse().unwrap_or(0.0);
    let soak = (hours > 0.0).then(|| Duration::from_secs_f64(hours * 3_600.0));
    let only = arguments.only.split(',').filter(|only| !only.is_empty()).map(str::to_owned).collect();
    let choice = Choice { only, slice, seed, runs: arguments.runs, jobs: arguments.jobs, soak };
    if arguments.list {
        for case in choice.cases() {
            let slice = if case.scenario.slice == Some(case.side) { "slice" } else { "" };
            let alone = if case.scenario.reach == Reach::All { "alone" } else { "" };
            println!("{:<44} {slice:<5} {alone:<5} {}", case.name(), case.scenario.fault);
        }
        return ExitCode::SUCCESS;
    }
    match Box::pin(run(&choice, interrupted())).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}
