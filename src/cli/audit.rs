//! `mailrelay audit`: is every accepted mail accounted for?

use std::{fmt::Write as _, process::ExitCode};

use super::{
    CliError, Output,
    output::Table,
    relay::{self, Named},
};
use crate::{queue::Audit, store::StoreOptions};

#[derive(serde::Serialize)]
struct Outcome {
    #[serde(flatten)]
    queue: Named,
    #[serde(flatten)]
    audit: Audit,
}

/// Prints both sides of the sum; fails when they differ, or when something could not be verified.
pub async fn run(
    arguments: relay::RelayArguments,
    options: &StoreOptions,
    output: Output,
) -> Result<ExitCode, CliError> {
    let target = arguments.target(options).await?;
    let audit = target.queue.audit().await?;
    let sound = audit.difference == 0 && audit.unverified.is_empty();
    output.print(&Outcome { queue: target.named(), audit }, |result| table(&result.audit))?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(audit: &Audit) -> String {
    let mut table = Table::new(&["MAILS", "COUNT"]);
    let rows = [
        ("delivered", audit.delivered),
        ("duplicates", audit.duplicates),
        ("expired", audit.expired),
        ("discarded", audit.discarded),
        ("queued", audit.queued),
        ("delayed", audit.delayed),
        ("in flight", audit.in_flight),
        ("held", audit.held),
        ("dead", audit.dead),
        ("accounted for", audit.accounted()),
        ("accepted", audit.accepted),
    ];
    for (name, count) in rows {
        table.row([name.to_owned(), count.to_string()]);
    }
    table.row(["difference".to_owned(), audit.difference.to_string()]);
    let mut text = table.render();
    if let Some(since) = audit.since {
        let _ = writeln!(text, "counted since {since}");
    }
    for sentence in &audit.unverified {
        let _ = writeln!(text, "not verified: {sentence}");
    }
    if audit.raw_waiting > 0 {
        let _ = writeln!(
            text,
            "{} of the queued mails came by plain LPUSH: they are on both sides, nobody counts them independently",
            audit.raw_waiting
        );
    }
    text
}
