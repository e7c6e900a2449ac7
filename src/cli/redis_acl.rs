//! `mailrelay redis-acl`: what the Redis logins of controller, workers, producers and people may do.

mod apply;
mod others;
mod roles;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::Subcommand;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use self::{apply::Applied, roles::Relay};
use super::{error::CliError, output::Output, relay};
use crate::{
    api::{BudgetName, Server},
    queue::QueueNames,
    store::{Rules, Store, StoreOptions},
};

/// Whose login, and what to do about it.
#[derive(clap::Args)]
#[command(after_help = "Without --apply the command is printed that gives the user its rules, for redis-cli.\n\
    Example: mailrelay redis-acl worker --relay mail/corporate --password-file worker.password --apply")]
pub struct Arguments {
    #[command(subcommand)]
    role: Role,
    /// The Redis user [default: made of the role and its relay]
    #[arg(long, global = true, value_name = "NAME")]
    user: Option<String>,
    /// File with the user's password, in place of those that it has; only its SHA-256 is printed or sent
    #[arg(long = "password-file", global = true, value_name = "PATH")]
    new_password_file: Option<PathBuf>,
    /// Set the user in Redis, by a login that may (see --redis-url and the like)
    #[arg(long, global = true)]
    apply: bool,
    /// Permit what reaches mail of relays in other namespaces too
    #[arg(long, global = true)]
    allow_overlap: bool,
}

#[derive(Subcommand)]
enum Role {
    /// The controller: all ledgers, records and queues
    Controller,
    /// The workers of a relay: its record, reports, queue, ledgers and rate limits
    Worker(OfRelay),
    /// Programs that put mail into a queue, by LPUSH and by `mailrelay send`; they can't read what waits
    Producer(Producer),
    /// People who look after the mail of a relay with this command line
    Operator(OfRelay),
}

/// A relay whose record says what its keys are called, or who says that here.
#[derive(clap::Args)]
struct OfRelay {
    /// The relay; its record in Redis says what its queue and budgets are called, unless --budget is given
    #[arg(long, value_name = "NAMESPACE/NAME")]
    relay: String,
    /// A budget that it draws on, as spec.servers[].budgetName or the host names it; may be repeated
    #[arg(long = "budget", value_name = "BUDGET")]
    budgets: Vec<BudgetName>,
    /// The list that its mail waits in [default: `mail_queue`]
    #[arg(long, value_name = "LIST", requires = "budgets")]
    queue: Option<String>,
    /// The list that its dead letters are parked in [default: `mail_dead_letter_queue`]
    #[arg(long, value_name = "LIST", requires = "budgets")]
    dead_letter: Option<String>,
    /// Where the JSON of a mail lies when its list holds only the id [default: `mail:`]
    #[arg(long, value_name = "PREFIX", requires = "budgets")]
    payload_prefix: Option<String>,
}

#[derive(clap::Args)]
struct Producer {
    /// The relay whose record in Redis says what the queue is called
    #[arg(long, value_name = "NAMESPACE/NAME", required_unless_present = "queue", conflicts_with_all = ["queue", "dead_letter", "payload_prefix"])]
    relay: Option<String>,
    /// The list to push to
    #[arg(long, value_name = "LIST")]
    queue: Option<String>,
    /// The list of its dead letters, which the script of `mailrelay send` names [default: `mail_dead_letter_queue`]
    #[arg(long, value_name = "LIST")]
    dead_letter: Option<String>,
    /// Where the JSON of a mail lies when the list holds only its id [default: `mail:`]
    #[arg(long, value_name = "PREFIX")]
    payload_prefix: Option<String>,
    /// LPUSH and SET of payloads alone, without the records and counters that `mailrelay send` writes
    #[arg(long)]
    push_only: bool,
}

/// What a relay's keys are called.
struct Target {
    relay: Option<Relay>,
    queue: QueueNames,
    budgets: Vec<String>,
    /// Whether Redis was asked for it.
    recorded: bool,
}

/// The rules for a login.
struct Wanted {
    role: &'static str,
    user: String,
    rules: Rules,
    target: Option<Target>,
}

/// What is printed.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    role: &'static str,
    user: String,
    /// What follows the user's name in `ACL SETUSER`, word by word.
    rules: Vec<String>,
    /// The whole command, for redis-cli.
    command: String,
    /// With `--apply`.
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
    /// What a person should know of it.
    notes: Vec<String>,
}

/// Prints the rules, or sets them.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let store = Store::new(options)?;
    let wanted = arguments.role.wanted(&store).await?;
    let user = checked(arguments.user.unwrap_or(wanted.user))?;
    let password = arguments.new_password_file.as_deref().map(password_rules).transpose()?;
    let mut notes = match &wanted.target {
        Some(target) if target.recorded || arguments.apply => {
            beside(&store, &wanted.rules, target, arguments.allow_overlap).await?
        }
        _ => Vec::new(),
    };
    let has_password = password.is_some();
    let mut rules = wanted.rules.words();
    rules.splice(1..1, password.into_iter().flatten());
    let applied = if arguments.apply { Some(apply::apply(&store, &user, &rules).await?) } else { None };
    if !applied.as_ref().map_or(has_password, |applied| applied.has_password) {
        notes.push(format!(
            "{user} has no password, so that nobody can log in: name a file with one by --password-file"
        ));
    }
    if applied.as_ref().is_some_and(|applied| !applied.saved) {
        notes.push(
            "Redis has no ACL file: a restart forgets the user unless CONFIG REWRITE writes it into redis.conf".into(),
        );
    }
    let command = format!("ACL SETUSER {user} {}", rules.join(" "));
    let login = Login { role: wanted.role, user, rules, command, applied, notes };
    login.tell();
    output.print(&login, Login::text)?;
    Ok(ExitCode::SUCCESS)
}

impl Role {
    async fn wanted(&self, store: &Store) -> Result<Wanted, CliError> {
        match self {
            Self::Controller => {
                let rules = roles::controller();
                Ok(Wanted { role: "controller", user: "mailrelay-controller".into(), rules, target: None })
            }
            Self::Worker(of) => of.wanted(store, "worker", roles::worker).await,
            Self::Operator(of) => of.wanted(store, "operator", roles::operator).await,
            Self::Producer(producer) => {
                let target = producer.target(store).await?;
                let user = match &target.relay {
                    Some(relay) => relay.user("producer"),
                    None => format!("mailrelay-producer:{}", target.queue.queue()),
                };
                let rules = roles::producer(target.relay.as_ref(), &target.queue, producer.push_only);
                Ok(Wanted { role: "producer", user, rules, target: Some(target) })
            }
        }
    }
}

impl OfRelay {
    async fn wanted(
        &self,
        store: &Store,
        role: &'static str,
        rules: fn(&Relay, &QueueNames, &[String]) -> Rules,
    ) -> Result<Wanted, CliError> {
        let relay = named(&self.relay)?;
        let target = if self.budgets.is_empty() {
            recorded(store, relay.clone()).await?
        } else {
            let queue = queue_named([&self.queue, &self.dead_letter, &self.payload_prefix])?;
            let budgets = self.budgets.iter().map(ToString::to_string).collect();
            Target { relay: Some(relay.clone()), queue, budgets, recorded: false }
        };
        let rules = rules(&relay, &target.queue, &target.budgets);
        Ok(Wanted { role, user: relay.user(role), rules, target: Some(target) })
    }
}

impl Producer {
    async fn target(&self, store: &Store) -> Result<Target, CliError> {
        if let Some(text) = &self.relay {
            return recorded(store, named(text)?).await;
        }
        let queue = queue_named([&self.queue, &self.dead_letter, &self.payload_prefix])?;
        Ok(Target { relay: None, queue, budgets: Vec::new(), recorded: false })
    }
}

fn named(text: &str) -> Result<Relay, CliError> {
    Relay::read(text).ok_or_else(|| CliError::Usage(format!("--relay {text}: write NAMESPACE/NAME")))
}

/// The queue of this list, dead-letter list and payload prefix.
fn queue_named(names: [&Option<String>; 3]) -> Result<QueueNames, CliError> {
    let [queue, dead_letter, payload_prefix] = names.map(Option::as_deref);
    Ok(QueueNames::from_spec(&relay::named(queue, dead_letter, payload_prefix)?))
}

/// What the controller published of a relay.
async fn recorded(store: &Store, relay: Relay) -> Result<Target, CliError> {
    let record = relay::record(store, &relay.to_string()).await?;
    if let Some(why) = record.stalled {
        return Err(CliError::Failed(format!(
            "the relay {relay} is stalled, and its spec may name what belongs to another: {why}\nmend its spec first"
        )));
    }
    let mut budgets: Vec<String> = record.spec.servers.iter().map(Server::pool).collect();
    budgets.sort();
    budgets.dedup();
    Ok(Target { relay: Some(relay), queue: QueueNames::from_spec(&record.spec.queue), budgets, recorded: true })
}

/// Looks at the other relays; what a person should know of them.
async fn beside(store: &Store, rules: &Rules, target: &Target, allow: bool) -> Result<Vec<String>, CliError> {
    let Some(own) = &target.relay else { return Ok(Vec::new()) };
    let others = others::all_but(store, own).await?;
    let overlaps = others::overlaps(rules, own, &others);
    if !overlaps.is_empty() && !allow {
        return Err(CliError::Failed(format!(
            "this login would reach {}\ngive each relay lists and a spec.queue.payloadPrefix of its own (none may begin with \
             another's), or say --allow-overlap",
            overlaps.join(", and ")
        )));
    }
    let overlaps = overlaps.into_iter().map(|overlap| format!("this login reaches {overlap}"));
    Ok(overlaps.chain(others::sharers(&target.budgets, &others)).collect())
}

/// A name that Redis takes, and that is not everybody's.
fn checked(user: String) -> Result<String, CliError> {
    if user == "default" {
        let why = "it is the login of all who name none: choose another";
        return Err(CliError::Usage(format!("--user default: {why}")));
    }
    if user.is_empty() || user.chars().any(|letter| letter.is_whitespace() || letter.is_control()) {
        return Err(CliError::Usage(format!("--user {user:?}: a name has no spaces, and at least one letter")));
    }
    Ok(user)
}

/// The rules that replace a user's passwords by the one in a file.
fn password_rules(path: &Path) -> Result<[String; 2], CliError> {
    let read = std::fs::read_to_string(path);
    let text = read.map_err(|error| CliError::Failed(format!("--password-file {}: {error}", path.display())))?;
    let password = text.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        return Err(CliError::Failed(format!("--password-file {}: there is no password in it", path.display())));
    }
    let digest = Sha256::digest(password.as_bytes());
    Ok(["resetpass".to_owned(), digest.iter().fold("#".to_owned(), |text, byte| format!("{text}{byte:02x}"))])
}

impl Login {
    fn text(&self) -> String {
        match &self.applied {
            None => format!("{}\n", self.command),
            Some(applied) => format!("user {}: {}\n", self.user, applied.outcome),
        }
    }

    fn tell(&self) {
        for note in &self.notes {
            // Standard error may be gone.
            let _ = writeln!(std::io::stderr(), "note: {note}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_told_by_its_digest_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("password");
        std::fs::write(&path, "pw\n").expect("written");
        let rules = password_rules(&path).expect("read");
        // printf %s pw | sha256sum
        assert_eq!(rules, ["resetpass", "#30c952fab122c3f9759f02a6d95c3758b246b4fee239957b2d4fee46e26170c4"]);
        std::fs::write(&path, "\n").expect("written");
        assert!(password_rules(&path).is_err(), "an empty password is none");
    }

    #[test]
    fn a_user_is_one_word_and_not_the_default() {
        for name in ["default", "", "two words", "tab\there"] {
            assert!(checked(name.into()).is_err(), "{name:?}");
        }
        assert!(checked("mailrelay-producer:{q}:mail".into()).is_ok());
    }
}
