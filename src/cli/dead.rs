//! `mailrelay dead`: mail that needs a person.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    bulk,
    error::CliError,
    output::{Output, Pages, Table, age, excerpt},
    rate::{Pace, Rate},
    relay,
};
use crate::{
    mail::UnixMillis,
    queue::{Action, At, DeadLetter, Queue},
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
    /// Put dead letters that lie there now back into the queue, as new tries, oldest first; what dies again meanwhile is not
    /// taken again
    Requeue {
        #[command(flatten)]
        choice: bulk::Choice,
        /// How many at most in a time: a number, then /s, /m or /h; or `max`. Slower than the mail server takes mail, so that
        /// new mail does not wait behind them
        #[arg(long, default_value = "100/s")]
        rate: Rate,
    },
    /// Delete dead letters that lie there now for good, oldest first
    Discard {
        #[command(flatten)]
        choice: bulk::Choice,
        /// How many at most in a time: a number, then /s, /m or /h; or `max`
        #[arg(long, default_value = "max")]
        rate: Rate,
    },
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
        Command::Requeue { choice, rate } => return decide(&queue, Action::Requeue, &choice, rate, output).await,
        Command::Discard { choice, rate } => return decide(&queue, Action::Discard, &choice, rate, output).await,
    }
    Ok(ExitCode::SUCCESS)
}

/// Decides on what was chosen, and tells how far it is; Ctrl-C ends it between two letters.
async fn decide(
    queue: &Queue,
    action: Action,
    choice: &bulk::Choice,
    rate: Rate,
    output: Output,
) -> Result<ExitCode, CliError> {
    let filter = choice.filter(queue.ask_time().await?);
    let verb = match action {
        Action::Requeue => "requeued",
        Action::Discard => "discarded",
    };
    let mut pace = Pace::new(rate, verb)?;
    let done = queue.dead_decide(action, &filter, choice.limit(), At::Redis, async |done| pace.next(done).await).await;
    pace.clear();
    match done {
        Ok(done) if pace.is_stopped() => bulk::stopped(output, done, verb),
        Ok(done) => bulk::report(output, done, choice.names_one(), verb),
        // What went before is not undone.
        Err(error) => Err(CliError::Failed(format!("{}; {}", CliError::from(error), pace.told()))),
    }
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
