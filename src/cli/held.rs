//! `mailrelay held`: mail whose final answer was lost.

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    CliError, Output, bulk,
    output::{Table, age},
    relay,
};
use crate::{
    queue::{At, HeldMail, UnixMillis},
    store::StoreOptions,
};

/// What to do with held mail.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    relay: relay::RelayArguments,
}

#[derive(Subcommand)]
enum Command {
    /// List held mail; look for the Message-ID in the server's log
    List(bulk::Selection),
    /// Send held mail again, which may deliver it twice
    Release(bulk::Choice),
    /// Delete held mail that was delivered; its id and key stay taken, so that nobody sends it again
    Discard(bulk::Choice),
}

/// Lists, releases, discards.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let queue = arguments.relay.target(options).await?.queue;
    // Ages are counted by the clock that the mails were parked by.
    let now = queue.ask_time().await?;
    match arguments.command {
        Command::List(selection) => {
            let mails = queue.held_list(&selection.filter(now), selection.limit()).await?;
            output.print(&mails, |mails| table(mails, now))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Release(choice) => {
            let done = queue.held_release(&choice.filter(now), choice.limit(), At::Redis).await?;
            bulk::report(output, done, choice.names_one(), "released")
        }
        Command::Discard(choice) => {
            let done = queue.held_discard(&choice.filter(now), choice.limit(), At::Redis).await?;
            bulk::report(output, done, choice.names_one(), "discarded")
        }
    }
}

fn table(mails: &[HeldMail], now: UnixMillis) -> String {
    let mut table = Table::new(&["ID", "AGE", "REASON", "MESSAGE-ID", "REPLY"]);
    for mail in mails {
        table.row([&mail.id, &age(now.since(mail.at)), &mail.reason, &mail.message_id, &mail.reply]);
    }
    table.render()
}
