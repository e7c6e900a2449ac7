//! Which parked mails a command is about.

use std::process::ExitCode;

use serde::Serialize;

use super::{error::CliError, output::Output};
use crate::{
    api::DurationText,
    mail::UnixMillis,
    queue::{Bulk, Filter},
};

/// Which to list.
#[derive(clap::Args)]
pub struct Selection {
    #[command(flatten)]
    filter: FilterArguments,
    /// How many at most
    #[arg(long, default_value_t = 100)]
    limit: usize,
}

/// Which to act on: it must be said.
#[derive(clap::Args)]
pub struct Choice {
    /// The mail with this id
    #[arg(required_unless_present_any = ["reason", "older_than", "text", "all"], conflicts_with = "all")]
    id: Option<String>,
    #[command(flatten)]
    filter: FilterArguments,
    /// All of them
    #[arg(long, conflicts_with_all = ["reason", "older_than", "text"])]
    all: bool,
    /// How many at most [default: no limit]
    #[arg(long)]
    limit: Option<usize>,
}

#[derive(clap::Args)]
struct FilterArguments {
    /// Only those parked for this reason
    #[arg(long)]
    reason: Option<String>,
    /// Only those parked for longer than this, such as 24h
    #[arg(long, value_name = "DURATION")]
    older_than: Option<DurationText>,
    /// Only those that hold this text in their id, Message-ID, recipients that were refused, or in what the server said, in
    /// whatever case; the content of the mail is not looked at
    #[arg(long)]
    text: Option<String>,
}

impl FilterArguments {
    fn filter(&self, id: Option<String>, now: UnixMillis) -> Filter {
        let before = self.older_than.map(|age| UnixMillis(now.0.saturating_sub(age.as_millis())));
        Filter { id, reason: self.reason.clone(), before, text: self.text.clone() }
    }
}

impl Selection {
    /// As the queue understands it.
    pub fn filter(&self, now: UnixMillis) -> Filter {
        self.filter.filter(None, now)
    }

    /// How many at most.
    pub fn limit(&self) -> usize {
        self.limit
    }
}

impl Choice {
    /// As the queue understands it.
    pub fn filter(&self, now: UnixMillis) -> Filter {
        self.filter.filter(self.id.clone(), now)
    }

    /// How many at most.
    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    /// Whether one mail was named.
    pub fn names_one(&self) -> bool {
        self.id.is_some()
    }
}

/// Says how many were acted on. An id that fits nothing is a failure.
pub fn report(output: Output, done: Bulk, names_one: bool, verb: &str) -> Result<ExitCode, CliError> {
    if names_one && done.done == 0 {
        return Err(CliError::Failed(format!("nothing was {verb}: no parked mail has this id; see the list")));
    }
    output.print(&done, |done| format!("{}\n", summary(*done, verb)))?;
    Ok(ExitCode::SUCCESS)
}

/// Says how many were acted on before Ctrl-C, which is a failure: not all was done.
pub fn stopped(output: Output, done: Bulk, verb: &str) -> Result<ExitCode, CliError> {
    output.print(&Stopped { done, stopped: true }, |_| {
        format!("stopped: {}; the others lie where they were\n", summary(done, verb))
    })?;
    Ok(ExitCode::FAILURE)
}

#[derive(Serialize)]
struct Stopped {
    #[serde(flatten)]
    done: Bulk,
    stopped: bool,
}

/// How many were acted on, in words.
pub fn summary(done: Bulk, verb: &str) -> String {
    match done.skipped {
        0 => format!("{} {verb}", done.done),
        skipped => format!("{} {verb}, {skipped} skipped: they were gone or are no mails of ours", done.done),
    }
}
