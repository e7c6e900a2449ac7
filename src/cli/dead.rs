//! `mailrelay dead`: mail that needs a person.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    CliError, Output, bulk,
    output::{Pages, Table, age, excerpt},
    relay,
};
use crate::{
    queue::{At, DeadLetter, UnixMillis},
    store::StoreOptions,
};

/// What to do with dead letters.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    relay: relay::RelayArguments,
}

#[derive(Subcommand)]
enum Command {
    /// List dead letters, oldest first
    List(bulk::Selection),
    /// Show one dead letter with everything known about it
    Show {
        /// Its id
        id: String,
    },
    /// Put dead letters back into the queue, as new tries
    Requeue(bulk::Choice),
    /// Delete dead letters for good
    Discard(bulk::Choice),
}

/// Lists, shows, requeues, discards.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let queue = arguments.relay.target(options).await?.queue;
    // Ages are counted by the clock that the letters were parked by.
    let now = queue.ask_time().await?;
    match arguments.command {
        Command::List(selection) => {
            let mut pages = Pages::new(output);
            let (filter, limit) = (selection.filter(now), selection.limit());
            queue.dead_pages(&filter, limit, |page| pages.print(&page, |letters| table(letters, now))).await?;
            pages.end(&table(&[], now))?;
        }
        Command::Show { id } => {
            let Some(letter) = queue.dead_show(&id).await? else {
                return Err(CliError::Failed(format!("no dead letter has the id {id}; see `mailrelay dead list`")));
            };
            output.print(&letter, details)?;
        }
        Command::Requeue(choice) => {
            let done = queue.dead_requeue(&choice.filter(now), choice.limit(), At::Redis).await?;
            return bulk::report(output, done, choice.names_one(), "requeued");
        }
        Command::Discard(choice) => {
            let done = queue.dead_discard(&choice.filter(now), choice.limit(), At::Redis).await?;
            return bulk::report(output, done, choice.names_one(), "discarded");
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn table(letters: &[DeadLetter], now: UnixMillis) -> Table {
    let mut table = Table::new(&["ID", "AGE", "REASON", "TRIES", "REPLY"]);
    for letter in letters {
        let tries = letter.tries.len().to_string();
        table.row([&letter.id, &age(now.since(letter.at)), &letter.reason, &tries, &letter.reply]);
    }
    table
}

fn details(letter: &DeadLetter) -> String {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    table.row(["id", &letter.id]);
    table.row(["since", &letter.at.to_string()]);
    table.row(["reason", &letter.reason]);
    table.row(["stage", letter.stage.map_or("", |stage| stage.as_str())]);
    table.row(["reply", &letter.reply]);
    for tried in &letter.tries {
        table.row(["try", &format!("{} {} {}", tried.at, tried.reason, tried.reply)]);
    }
    for refused in &letter.refused {
        table.row(["refused", &format!("{}: {}", refused.recipient, refused.reply)]);
    }
    table.row(["payload", &excerpt(letter.payload.as_deref().unwrap_or("payload missing"))]);
    table.render()
}
