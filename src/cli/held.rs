//! `mailrelay held`: mail whose final answer was lost. `held resolve` is in [`super::resolve`].

use std::process::ExitCode;

use clap::Subcommand;

use super::{
    bulk,
    error::CliError,
    output::{Output, Table, age, excerpt},
    relay, resolve,
};
use crate::{
    mail::UnixMillis,
    queue::{At, HeldDetails, HeldMail},
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
    /// List held mail
    List(bulk::Selection),
    /// Show one held mail with everything known about it
    Show {
        /// Its id
        id: String,
    },
    /// Settle held mail by what the mail server's log says of its Message-ID: what the server took is delivered, what it
    /// refused is a dead letter, and what is missing in logs that cover the time is sent again
    Resolve(resolve::Arguments),
    /// Send held mail again, which may deliver it twice
    Release(bulk::Choice),
    /// Delete held mail that was delivered; its id and key stay taken, so that nobody sends it again
    Discard(bulk::Choice),
}

/// Lists, releases, discards.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let target = arguments.relay.target(options).await?;
    let queue = &target.queue;
    // Ages are counted by the clock that the mails were parked by.
    let now = queue.ask_time().await?;
    match arguments.command {
        Command::List(selection) => {
            let mails = queue.held_list(&selection.filter(now), selection.limit()).await?;
            output.print(&mails, |mails| table(mails, now))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Show { id } => {
            let Some(held) = queue.held_show(&id).await? else {
                return Err(CliError::Failed(format!("no held mail has the id {id}; see `mailrelay held list`")));
            };
            output.print(&held, details)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Resolve(arguments) => resolve::run(arguments, &target, output).await,
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

fn details(held: &HeldDetails) -> String {
    let mut table = Table::new(&["FIELD", "VALUE"]);
    let HeldDetails { mail, tries, refused, remaining, payload } = held;
    table.row(["id", &mail.id]);
    table.row(["message-id", &mail.message_id]);
    table.row(["since", &mail.at.to_string()]);
    table.row(["first seen", &mail.first_seen.to_string()]);
    table.row(["reason", &mail.reason]);
    table.row(["stage", mail.stage.map_or("", |stage| stage.as_str())]);
    table.row(["process", &mail.process]);
    table.row(["reply", &mail.reply]);
    for tried in tries {
        table.row(["try", &format!("{} {} {}", tried.at, tried.reason, tried.reply)]);
    }
    for refusal in refused {
        table.row(["refused", &format!("{}: {}", refusal.recipient, refusal.reply)]);
    }
    if let Some(remaining) = remaining {
        table.row(["remaining", &remaining.join(", ")]);
    }
    table.row(["payload", &excerpt(payload)]);
    table.render()
}
