//! `mailrelay status [ID]`: the state of one mail, or of a relay as Redis knows it.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{
    error::CliError,
    leases,
    output::{Output, Table},
    queue,
    relay::{self, ANSWER_LIMIT, Named, Target},
};
use crate::{
    api::{WorkerReport, reports_key},
    queue::{At, Depths, MailStatus, Outcome},
    store::StoreOptions,
};

/// What to show.
#[derive(clap::Args)]
pub struct Arguments {
    /// The id of a mail
    id: Option<String>,
    #[command(flatten)]
    relay: relay::RelayArguments,
}

/// How many outcomes of a mail are shown: one that waited through a long outage has more than anybody reads.
const HISTORY: usize = 100;

/// One mail: where it is, and what became of it until now.
#[derive(Serialize)]
struct Told {
    #[serde(flatten)]
    status: MailStatus,
    /// Oldest first; the newest of them when there are many.
    history: Vec<Outcome>,
}

/// A relay as Redis knows it.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Overview {
    #[serde(flatten)]
    queue: Named,
    suspended: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    stalled: Option<String>,
    depths: Depths,
    budgets: Vec<leases::PoolLeases>,
    workers: Vec<WorkerReport>,
}

/// Prints one mail's state, or the relay's.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let target = arguments.relay.target(options).await?;
    let Some(id) = arguments.id else {
        let overview = overview(&target, &arguments.relay).await?;
        output.print(&overview, table)?;
        return Ok(ExitCode::SUCCESS);
    };
    let Some((status, history)) = target.queue.status_and_history(&id, HISTORY).await? else {
        return Err(CliError::Failed(format!(
            "no mail with the id {id} is known: it was never taken in, was pushed by plain LPUSH and not claimed yet, or its record has expired"
        )));
    };
    output.print(&Told { status, history }, mail)?;
    Ok(ExitCode::SUCCESS)
}

async fn overview(target: &Target, arguments: &relay::RelayArguments) -> Result<Overview, CliError> {
    let depths = target.queue.depths(At::Redis).await?;
    let mut budgets = Vec::new();
    let mut workers = Vec::new();
    if let Some(record) = &target.record {
        let mut names: Vec<String> = record.spec.servers.iter().map(crate::api::Server::pool).collect();
        names.sort();
        names.dedup();
        for name in names {
            budgets.push(leases::read(&target.store, &name).await?);
        }
        workers = reports(target, arguments).await?;
    }
    Ok(Overview {
        queue: target.named(),
        suspended: target.record.as_ref().is_some_and(|record| record.spec.suspend),
        stalled: target.record.as_ref().and_then(|record| record.stalled.clone()),
        depths,
        budgets,
        workers,
    })
}

/// What the relay's workers told last. A report of another version that cannot be read is left out.
async fn reports(target: &Target, arguments: &relay::RelayArguments) -> Result<Vec<WorkerReport>, CliError> {
    let Some((namespace, name)) = arguments.names() else { return Ok(Vec::new()) };
    let mut command = redis::cmd("HVALS");
    command.arg(reports_key(namespace, name));
    let texts: Vec<Vec<u8>> = target.store.query(&command, ANSWER_LIMIT).await?;
    let mut reports: Vec<WorkerReport> = texts.iter().filter_map(|text| serde_json::from_slice(text).ok()).collect();
    reports.sort_by(|a, b| a.pod.cmp(&b.pod));
    Ok(reports)
}

fn table(overview: &Overview) -> String {
    let mut text = queue::depths(&overview.queue, &overview.depths);
    if overview.suspended {
        text.push_str("suspended: mail is accepted and not sent\n");
    }
    if let Some(reason) = &overview.stalled {
        let _ = writeln!(text, "stalled: {reason}");
    }
    for budget in &overview.budgets {
        text.push('\n');
        text.push_str(&leases::text(budget));
    }
    for worker in &overview.workers {
        for server in &worker.servers {
            if let Some(unavailable) = &server.unavailable {
                let _ = writeln!(
                    text,
                    "server {} as seen by {}: {}: {}",
                    server.name, worker.pod, unavailable.reason, unavailable.message
                );
            }
        }
    }
    text
}

fn mail(Told { status, history }: &Told) -> String {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    table.row(["id", &status.id]);
    table.row(["state", &status.state]);
    table.row(["since", &status.at.to_string()]);
    let optional = [
        ("message-id", status.message_id.clone()),
        ("due", status.due.map(|due| due.to_string())),
        ("reason", status.reason.clone()),
        ("reply", status.reply.clone()),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            table.row([name, &value]);
        }
    }
    let mut text = table.render();
    if !history.is_empty() {
        let mut table = Table::new(&["TIME", "OUTCOME", "REASON", "REPLY"]);
        for event in history {
            table.row([&event.at.to_string(), &event.outcome, &event.reason, &event.reply]);
        }
        text.push('\n');
        text.push_str(&table.render());
    }
    text
}
