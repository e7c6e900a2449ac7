//! The command line: one file for each command.
//!
//! Exit codes: 0 done, 1 failed, 2 wrong usage. Results go to standard output, everything else to standard error.
//! Linked as `kubectl-mailrelay` the binary is a kubectl plugin.

mod audit;
mod bulk;
mod controller;
mod crd;
mod dead;
mod dev;
mod error;
mod held;
mod leases;
mod output;
mod progress;
mod queue;
mod rate;
mod redis_acl;
mod relay;
mod resolve;
mod runtime;
mod send;
mod status;
mod worker;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use self::error::CliError;
use self::{output::Output, runtime::runtime};
use crate::{controller::ControllerOptions, store::StoreOptions, telemetry::log};

/// Shares a mail server's connection budget among the pods of a Kubernetes cluster.
#[derive(Parser)]
#[command(name = "mailrelay", version, about, propagate_version = true)]
pub struct Cli {
    /// How results are printed
    #[arg(short = 'o', long, global = true, value_enum, default_value_t = Output::Table)]
    output: Output,
    /// How log lines are written to standard error; the variable `MAILRELAY_LOG` selects which
    #[arg(long, global = true, env = "MAILRELAY_LOG_FORMAT", value_enum, default_value_t = log::Format::Text)]
    log_format: log::Format,
    #[command(flatten)]
    store: StoreOptions,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the controller: watch relays and pods, divide the budgets
    Controller(Box<ControllerOptions>),
    /// Run a worker: send mail through this pod's share of the budget
    Worker(worker::Arguments),
    /// Run relays from files without Kubernetes, to try out and to test: leads, gives shares, shows how things stand
    Dev(dev::Arguments),
    /// Arm the dead-man switch and die of it: what a worker tries out at its start
    #[command(name = crate::lease::TRIAL, hide = true)]
    TrySwitch,
    /// Print the custom resource definition as YAML
    Crd,
    /// Put mail into the queue, from flags, a file or standard input; prints the ids
    Send(Box<send::Arguments>),
    /// Show the state of one mail, or of the whole relay
    Status(status::Arguments),
    /// Show how far the mails of a batch are, which `send --lines --batch` gave a name
    Progress(progress::Arguments),
    /// Show how much mail waits, and what is in flight where
    Queue(relay::RelayArguments),
    /// Show who holds which share of a server's budget
    Leases(leases::Arguments),
    /// Look after the dead letters: mail that needs a person
    Dead(dead::Arguments),
    /// Look after held mail: mail whose final answer was lost
    Held(held::Arguments),
    /// Check that every accepted mail is accounted for
    Audit(audit::Arguments),
    /// Print, or set, what the Redis logins of controller, workers, producers and people may do
    RedisAcl(redis_acl::Arguments),
}

/// Parses the command line, runs the command, reports a failure.
pub fn main() -> ExitCode {
    // A signal mask or an exit code of clap's own: 2 for wrong usage, 0 for help.
    let cli = Cli::parse();
    let is_shown = matches!(cli.command, Command::Dev(_));
    log::init(cli.log_format, if is_shown { log::QUIET } else { log::USUAL });
    match run(cli) {
        Ok(code) => code,
        Err(error) => {
            // Standard error may be gone; there is nobody left to tell.
            let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("error: {error}\n").as_bytes());
            ExitCode::from(if matches!(error, CliError::Usage(_)) { 2 } else { 1 })
        }
    }
}

fn run(cli: Cli) -> Result<ExitCode, CliError> {
    let Cli { output, store, command, .. } = cli;
    match command {
        Command::Controller(options) => controller::run(*options),
        Command::Worker(arguments) => worker::run(arguments, store),
        Command::Dev(arguments) => dev::run(arguments, store, output),
        Command::TrySwitch => {
            crate::lease::trial();
            Ok(ExitCode::FAILURE)
        }
        Command::Crd => crd::run(),
        Command::Send(arguments) => short(send::run(*arguments, &store, output)),
        Command::Status(arguments) => short(status::run(arguments, &store, output)),
        Command::Progress(arguments) => short(progress::run(arguments, &store, output)),
        Command::Queue(arguments) => short(queue::run(arguments, &store, output)),
        Command::Leases(arguments) => short(leases::run(arguments, &store, output)),
        Command::Dead(arguments) => short(dead::run(arguments, &store, output)),
        Command::Held(arguments) => short(held::run(arguments, &store, output)),
        Command::Audit(arguments) => short(audit::run(arguments, &store, output)),
        Command::RedisAcl(arguments) => short(redis_acl::run(arguments, &store, output)),
    }
}

/// Runs a command that ends by itself.
fn short(command: impl Future<Output = Result<ExitCode, CliError>>) -> Result<ExitCode, CliError> {
    runtime(tokio::runtime::Builder::new_current_thread())?.block_on(command)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_tree_is_consistent() {
        Cli::command().debug_assert();
    }
}
