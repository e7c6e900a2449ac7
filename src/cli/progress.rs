//! `mailrelay progress`: how far a batch is.

use std::{process::ExitCode, time::Duration};

use tokio::time::Instant;

use super::{
    error::CliError,
    output::{Output, Table},
    relay,
};
use crate::{
    queue::{BatchName, BatchProgress},
    store::StoreOptions,
};

/// The least time between two looks.
const EVERY: Duration = Duration::from_secs(1);

/// Which batch.
#[derive(clap::Args)]
pub struct Arguments {
    /// The name that `mailrelay send --lines --batch` gave it
    batch: BatchName,
    /// Wait until no mail of it is on its way any more; fails unless all were delivered
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    relay: relay::RelayArguments,
}

/// Prints how many mails of a batch are in which state.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let queue = arguments.relay.target(options).await?.queue;
    let progress = loop {
        let began = Instant::now();
        let Some(progress) = queue.batch_progress(&arguments.batch).await? else {
            return Err(CliError::Failed(format!(
                "no batch is called {}; `mailrelay send --lines --batch` names one, and it is known for 30 days",
                arguments.batch
            )));
        };
        if !arguments.wait || progress.is_over() {
            break progress;
        }
        // A large one is not asked for all the time.
        tokio::time::sleep(EVERY.max(4 * began.elapsed())).await;
    };
    let failed = arguments.wait && !progress.is_delivered();
    output.print(&progress, table)?;
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn table(progress: &BatchProgress) -> String {
    let mut table = Table::new(&["MAILS", "COUNT"]);
    for (state, count) in &progress.states {
        table.row([(*state).to_owned(), count.to_string()]);
    }
    let sent = progress.sent;
    for (name, count) in [("refused", sent.refused), ("other's key", sent.duplicates), ("not known", progress.unknown)]
    {
        if count > 0 {
            table.row([name.to_owned(), count.to_string()]);
        }
    }
    table.row(["sent".to_owned(), sent.mails.to_string()]);
    let mut text = table.render();
    if !sent.is_whole {
        text.push_str("more may come: whoever sends it has not said that this is all\n");
    }
    text
}
