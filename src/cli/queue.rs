//! `mailrelay queue`: how much waits, and what is in flight where.

use std::process::ExitCode;

use serde::Serialize;

use super::{
    error::CliError,
    output::{Output, Table, age},
    relay::{self, Named},
};
use crate::{
    mail::UnixMillis,
    queue::{At, Depths, InFlight},
    store::StoreOptions,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview {
    #[serde(flatten)]
    queue: Named,
    #[serde(flatten)]
    depths: Depths,
    processes: Vec<InFlight>,
}

/// Prints depths and what is in flight.
pub async fn run(
    arguments: relay::RelayArguments,
    options: &StoreOptions,
    output: Output,
) -> Result<ExitCode, CliError> {
    let target = arguments.target(options).await?;
    let depths = target.queue.depths(At::Redis).await?;
    let now = depths.at;
    let processes = target.queue.in_flight().await?;
    output.print(&Overview { queue: target.named(), depths, processes }, |overview| table(overview, now))?;
    Ok(ExitCode::SUCCESS)
}

fn table(overview: &Overview, now: UnixMillis) -> String {
    let mut text = depths(&overview.queue, &overview.depths);
    if !overview.processes.is_empty() {
        let mut table = Table::new(&["POD", "PROCESS", "STAGE", "MAILS", "OLDEST"]);
        for process in &overview.processes {
            let oldest = process.oldest.map(|oldest| age(now.since(oldest))).unwrap_or_default();
            for (stage, count) in &process.stages {
                table.row([&process.pod, &process.process, stage.as_str(), &count.to_string(), &oldest]);
            }
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}

/// One line of figures.
pub fn depths(queue: &Named, depths: &Depths) -> String {
    let mut table = Table::new(&["QUEUE", "PENDING", "DELAYED", "IN FLIGHT", "HELD", "DEAD", "OLDEST"]);
    let oldest = depths.oldest.map(|oldest| age(depths.at.since(oldest))).unwrap_or_default();
    let figures = [depths.pending, depths.delayed, depths.in_flight, depths.held, depths.dead].map(|n| n.to_string());
    table.row(std::iter::once(queue.queue.clone()).chain(figures).chain([oldest]));
    table.render()
}
