//! `mailrelay held resolve`: held mail is settled by what the mail server's own log says of it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use jiff::{Timestamp, tz::TimeZone};
use serde::Serialize;

use super::{
    error::CliError,
    output::{Output, Table},
    relay::Target,
};
use crate::{
    api::RelayRecord,
    delivery_log::{DeliveryLog, Finding},
    mail::UnixMillis,
    queue::{At, Filter, HeldMail, Settlement},
};

/// Clocks of the mail server and of Redis may differ by so much.
const SKEW: Duration = Duration::from_secs(300);
/// How long after a mail was held the server may still take it: longer than it keeps a session whose client is gone.
const LATEST: Duration = Duration::from_secs(900);

/// Which logs, and what may follow from them.
#[derive(clap::Args)]
pub struct Arguments {
    /// A log of the mail server: Postfix, Exim (main or reject log), or JSON with one object on each line; `-` is standard
    /// input. To be given once for each file; what was rotated may come in any order
    #[arg(long = "log", required = true, value_name = "FILE")]
    logs: Vec<PathBuf>,
    /// The zone of times that name none, such as `UTC`, `Europe/Berlin` or `+01:00`. Without it such a log shows what the
    /// server took or refused, but not that a mail is missing
    #[arg(long, value_name = "ZONE", value_parser = zone)]
    log_zone: Option<TimeZone>,
    /// Send mails again that the logs do not name though they cover the time; say so only when these are the logs of every
    /// server of the relay. With --relay and one server that goes without saying
    #[arg(long)]
    release_missing: bool,
    /// Say what would be done, and do nothing
    #[arg(long)]
    dry_run: bool,
}

fn zone(text: &str) -> Result<TimeZone, String> {
    if let Ok(zone) = TimeZone::get(text) {
        return Ok(zone);
    }
    let fixed = jiff::fmt::temporal::DateTimeParser::new().parse_time_zone(text);
    fixed
        .map_err(|_| "not a time zone: write UTC, a name such as Europe/Berlin, or an offset such as +01:00".to_owned())
}

/// What follows for one mail.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Decision {
    /// The server has it.
    Delivered,
    /// The server refused it for good, in these words.
    Dead(String),
    /// The server never took it.
    Release,
    /// Nothing: why.
    Leave(String),
}

/// What was found and done; one row of the result.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Resolved {
    id: String,
    message_id: String,
    /// `delivered`, `dead`, `released`, or `held` when it stays as it is.
    outcome: &'static str,
    why: String,
}

/// From when to when the server may have written of a mail.
fn window(held: &HeldMail) -> (Timestamp, Timestamp) {
    (timestamp(held.first_seen, Duration::ZERO), timestamp(held.at, SKEW + LATEST))
}

fn timestamp(at: UnixMillis, more: Duration) -> Timestamp {
    let at = i64::try_from(at.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()).unwrap_or(Timestamp::MAX);
    at.saturating_add(more).unwrap_or(Timestamp::MAX)
}

/// `is_shared`: another held mail has the same Message-ID. `covered`: the logs cover the time. `may_release`: they are those
/// of every server.
fn decide(held: &HeldMail, finding: Option<&Finding>, is_shared: bool, covered: bool, may_release: bool) -> Decision {
    let leave = |why: &str| Decision::Leave(why.to_owned());
    if !held.is_identified() {
        return leave("it has no Message-ID that is known to be its own");
    }
    if is_shared {
        return leave("another held mail has the same Message-ID");
    }
    match finding {
        Some(Finding::Taken) => Decision::Delivered,
        Some(Finding::Refused(words)) => Decision::Dead(words.clone()),
        Some(Finding::Unclear(words)) => Decision::Leave(format!("what the log says is not clear: {words}")),
        Some(Finding::Seen) | None if !covered => {
            let (from, to) = window(held);
            Decision::Leave(format!("the server took it neither in these logs, which do not reach from {from} to {to}"))
        }
        Some(Finding::Seen) | None if !may_release => {
            leave("the server did not take it; with --release-missing it is sent again")
        }
        Some(Finding::Seen) | None => Decision::Release,
    }
}

/// Reads the logs and settles what they tell of.
pub async fn run(arguments: Arguments, target: &Target, output: Output) -> Result<ExitCode, CliError> {
    let queue = &target.queue;
    let held = queue.held_list(&Filter::default(), usize::MAX).await?;
    if held.is_empty() {
        output.print(&Vec::<Resolved>::new(), |_| "no mail is held\n".to_owned())?;
        return Ok(ExitCode::SUCCESS);
    }
    let since =
        |held: &HeldMail| timestamp(held.first_seen, Duration::ZERO).saturating_sub(SKEW).unwrap_or(Timestamp::MIN);
    let wanted = held.iter().map(|held| (&*held.message_id, since(held)));
    let mut log = DeliveryLog::new(wanted, arguments.log_zone, timestamp(queue.ask_time().await?, Duration::ZERO));
    for path in &arguments.logs {
        read(path, &mut log).map_err(|error| CliError::Failed(format!("cannot read {}: {error}", path.display())))?;
    }
    if log.understood() == 0 {
        return Err(CliError::Failed(
            "no line is of a log of Postfix or Exim or a JSON object; nothing was changed".to_owned(),
        ));
    }
    let may_release = arguments.release_missing || target.record.as_ref().is_some_and(has_one_server);
    let mut bearers: BTreeMap<&str, usize> = BTreeMap::new();
    for mail in &held {
        *bearers.entry(&mail.message_id).or_default() += 1;
    }
    let mut rows = Vec::new();
    for mail in &held {
        let (from, to) = window(mail);
        let covered = log.covers(from.saturating_sub(SKEW).unwrap_or(from), to);
        let is_shared = bearers.get(&*mail.message_id).is_some_and(|bearers| *bearers > 1);
        let decision = decide(mail, log.finding(&mail.message_id), is_shared, covered, may_release);
        let (outcome, why) = carry_out(target, mail, decision, arguments.dry_run).await?;
        rows.push(Resolved { id: mail.id.clone(), message_id: mail.message_id.clone(), outcome, why });
    }
    output.print(&rows, |rows| table(rows, arguments.dry_run))?;
    Ok(ExitCode::SUCCESS)
}

fn has_one_server(record: &RelayRecord) -> bool {
    record.spec.servers.len() == 1
}

/// Does it, unless nothing is to be done; the outcome and why.
async fn carry_out(
    target: &Target,
    held: &HeldMail,
    decision: Decision,
    dry_run: bool,
) -> Result<(&'static str, String), CliError> {
    const FOUND: &str = "the server's log says that it took it";
    let (outcome, why) = match &decision {
        Decision::Delivered => ("delivered", FOUND.to_owned()),
        Decision::Dead(words) => ("dead", format!("the server refused it: {words}")),
        Decision::Release => ("released", "the server did not take it".to_owned()),
        Decision::Leave(why) => return Ok(("held", why.clone())),
    };
    if dry_run {
        return Ok((outcome, why));
    }
    let queue = &target.queue;
    let done = match decision {
        Decision::Delivered => {
            queue.held_settle(held, &Settlement::Delivered { reply: FOUND.to_owned() }, At::Redis).await?
        }
        Decision::Dead(reply) => {
            let refused = Settlement::Dead { reason: "RefusedByLog".to_owned(), reply };
            queue.held_settle(held, &refused, At::Redis).await?
        }
        Decision::Release => queue.held_release(&Filter::id(&*held.claim_id), 1, At::Redis).await?.done == 1,
        Decision::Leave(_) => false,
    };
    Ok(if done { (outcome, why) } else { ("held", "it was settled meanwhile, or its payload is gone".to_owned()) })
}

/// Lines may be of any length and hold bytes that are no UTF-8; only one is in memory.
fn read(path: &Path, log: &mut DeliveryLog) -> io::Result<()> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    let mut source = BufReader::new(source);
    let mut line = Vec::new();
    log.begin();
    while source.read_until(b'\n', &mut line)? > 0 {
        log.line(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        line.clear();
    }
    Ok(())
}

fn table(rows: &[Resolved], dry_run: bool) -> String {
    let mut table = Table::new(&["ID", "MESSAGE-ID", if dry_run { "WOULD BE" } else { "NOW" }, "WHY"]);
    for row in rows {
        table.row([&*row.id, &row.message_id, row.outcome, &row.why]);
    }
    table.render()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::Stage;

    fn held() -> HeldMail {
        let mut held = HeldMail::default();
        (held.message_id, held.stage) = ("<a@x>".into(), Some(Stage::Committing));
        (held.first_seen, held.at) = (UnixMillis(1_000_000), UnixMillis(2_000_000));
        held
    }

    #[test]
    fn what_the_log_says_decides_and_silence_only_when_it_would_have_spoken() {
        let (taken, refused) = (Finding::Taken, Finding::Refused("5.7.1 no".into()));
        let unclear = Finding::Unclear("hold".into());
        for covered in [false, true] {
            let decide = |finding| decide(&held(), finding, false, covered, covered);
            assert_eq!(decide(Some(&taken)), Decision::Delivered);
            assert_eq!(decide(Some(&refused)), Decision::Dead("5.7.1 no".into()));
            assert!(matches!(decide(Some(&unclear)), Decision::Leave(_)));
            for silent in [None, Some(&Finding::Seen)] {
                assert_eq!(decide(silent) == Decision::Release, covered);
            }
        }
        assert!(matches!(decide(&held(), None, false, true, false), Decision::Leave(_)), "not of every server");
    }

    #[test]
    fn a_mail_that_cannot_be_told_from_others_is_left_alone() {
        assert!(matches!(decide(&held(), Some(&Finding::Taken), true, true, true), Decision::Leave(_)));
        for (stage, message_id) in [(Some(Stage::Taken), "<a@x>"), (None, "<a@x>"), (Some(Stage::Committing), "")] {
            let mut mail = held();
            (mail.stage, mail.message_id) = (stage, message_id.into());
            assert!(matches!(decide(&mail, Some(&Finding::Taken), false, true, true), Decision::Leave(_)));
        }
    }

    #[test]
    fn zones_are_names_or_offsets() {
        for text in ["UTC", "+01:00", "-0530"] {
            assert!(zone(text).is_ok(), "{text}");
        }
        assert!(zone("somewhere").is_err());
    }
}
