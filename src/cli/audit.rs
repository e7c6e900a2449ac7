//! `mailrelay audit`: is every accepted mail accounted for?

use std::{fmt::Write as _, process::ExitCode};

use super::{
    error::CliError,
    output::{Output, Table},
    relay::{self, Named},
};
use crate::{
    queue::{Acceptance, At, Audit, Correction},
    store::StoreOptions,
};

/// How many accepted differences are shown.
const SHOWN: usize = 10;

/// Which queue, and what is accepted of it.
#[derive(clap::Args)]
pub struct Arguments {
    /// Accept this difference, as the audit shows it: it was looked into, and the audit starts from here. It is written down
    /// with who and when; a difference that is another one by now is not accepted
    #[arg(long, value_name = "DIFFERENCE", allow_negative_numbers = true)]
    accept: Option<i64>,
    /// Who accepts it
    #[arg(long, value_name = "NAME", env = "USER")]
    by: Option<String>,
    #[command(flatten)]
    relay: relay::RelayArguments,
}

#[derive(serde::Serialize)]
struct Outcome {
    #[serde(flatten)]
    queue: Named,
    #[serde(flatten)]
    audit: Audit,
    /// Differences that were accepted, newest first.
    corrections: Vec<Correction>,
}

/// Prints both sides of the sum; fails when they differ, or when something could not be verified.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let target = arguments.relay.target(options).await?;
    if let Some(difference) = arguments.accept {
        let Some(by) = arguments.by.filter(|by| !by.is_empty()) else {
            return Err(CliError::Usage("--accept: say who accepts it, with --by".into()));
        };
        match target.queue.audit_accept(difference, &by, At::Redis).await? {
            Acceptance::Accepted(_) => {}
            Acceptance::Nothing => return Err(CliError::Failed("there is no difference to accept".into())),
            Acceptance::Differs(now) => {
                return Err(CliError::Failed(format!(
                    "the difference is {now} and not {difference}; nothing was accepted: look at it again"
                )));
            }
        }
    }
    let audit = target.queue.audit().await?;
    let corrections = target.queue.audit_corrections(SHOWN).await?;
    let sound = audit.difference == 0 && audit.unverified.is_empty();
    output.print(&Outcome { queue: target.named(), audit, corrections }, table)?;
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(Outcome { audit, corrections, .. }: &Outcome) -> String {
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
    for Correction { at, by, difference, .. } in corrections {
        // What people write must not drive the terminal.
        let by: String = by.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
        let _ = writeln!(text, "a difference of {difference} was accepted by {by} on {at}");
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
