//! `mailrelay dev`

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::Instant,
};

use super::{
    error::{CliError, chain},
    output::{Output, Table, print},
    runtime::{raise_file_limit, runtime},
};
use crate::{
    api::MailRelayStatus,
    controller::dev::{Audience, DevError, DevOptions, News, Objects, Said, run as run_dev},
    store::StoreOptions,
    system,
};

/// How often the table is drawn anew at most.
const DRAW: Duration = Duration::from_millis(500);

/// What to run without Kubernetes.
#[derive(clap::Args)]
pub struct Arguments {
    /// File with relays, mail servers and namespaces; it is followed, and what would be refused is said. May be repeated
    #[arg(short = 'f', long = "filename", value_name = "FILE", required = true)]
    files: Vec<PathBuf>,
    /// How many workers to run here for each relay; others may be started by hand with `mailrelay worker`
    #[arg(long, default_value_t = 0)]
    workers: usize,
    /// Have all mail go to this server instead, without TLS and login: a sink that takes and drops it
    #[arg(long, value_name = "HOST:PORT", value_parser = address)]
    to: Option<(String, u16)>,
    /// Folder with SERVER/{username,password,token,ca.crt,allowed-hosts} for the workers that run here
    #[arg(long, env = "MAILRELAY_CREDENTIALS_DIR", value_name = "PATH")]
    credentials_dir: Option<PathBuf>,
}

fn address(text: &str) -> Result<(String, u16), String> {
    let parsed = text.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let (host, port) = parsed.filter(|(host, _)| !host.is_empty()).ok_or("write HOST:PORT, such as 127.0.0.1:2525")?;
    Ok((host.trim_start_matches('[').trim_end_matches(']').to_owned(), port))
}

/// Leads, and runs workers, until a signal ends it.
pub fn run(arguments: Arguments, store: StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    raise_file_limit();
    let Arguments { files, workers, to, credentials_dir } = arguments;
    let options = DevOptions { store, files, to, workers, credentials: credentials_dir };
    let runtime = runtime(tokio::runtime::Builder::new_multi_thread())?;
    let outcome = runtime.block_on(async {
        let failed = |error: std::io::Error| CliError::Failed(format!("cannot listen for signals: {error}"));
        let stop = system::asked_to_end().map_err(failed)?;
        let mut impatient = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut screen = Screen::new(output);
        tokio::select! {
            ended = Box::pin(run_dev(options, stop, &mut screen)) => ended.map_err(|error| match error {
                DevError::Store(source) => source.into(),
                other => CliError::Failed(chain(&other)),
            }),
            // The workers end with this process.
            () = async { impatient.recv().await; impatient.recv().await; } => Err(CliError::Failed(
                "ended at once; what its workers were sending is resolved by its stage".into(),
            )),
        }
    });
    // Tasks that wait for nobody must not hold up the end.
    runtime.shutdown_timeout(Duration::from_millis(100));
    outcome.map(|()| ExitCode::SUCCESS)
}

/// What is on standard output: on a terminal one table that is drawn anew, elsewhere a table whenever it changed.
struct Screen {
    output: Output,
    is_terminal: bool,
    /// How many lines of the last table stand on the terminal.
    lines: usize,
    last: String,
    drawn: Option<Instant>,
}

impl Screen {
    fn new(output: Output) -> Self {
        let is_terminal = std::io::stdout().is_terminal();
        Self { output, is_terminal, lines: 0, last: String::new(), drawn: None }
    }

    /// Takes the table off the terminal.
    fn wipe(&mut self) -> Result<(), String> {
        match std::mem::take(&mut self.lines) {
            0 => Ok(()),
            lines => print(&format!("\x1b[{lines}A\x1b[J")).map_err(|error| error.to_string()),
        }
    }
}

impl Audience for Screen {
    /// News go to standard error, above the table.
    fn tell(&mut self, news: &News) -> Result<(), String> {
        self.wipe()?;
        let text = match news {
            News::Following(said) => following(said),
            News::NotFollowed(why) => format!("not followed: {why}; what the files said before holds\n"),
            News::Event(event) => happened(event),
        };
        self.last.clear();
        // Standard error may be gone; there is nobody left to tell.
        let _ = std::io::stderr().write_all(text.as_bytes());
        Ok(())
    }

    fn show(&mut self, objects: &Objects) -> Result<(), String> {
        if self.drawn.is_some_and(|drawn| drawn.elapsed() < DRAW) {
            return Ok(());
        }
        let text = match self.output {
            Output::Table => tables(objects),
            Output::Json => lines(objects),
        };
        if text == self.last {
            return Ok(());
        }
        self.wipe()?;
        print(&text).map_err(|error| error.to_string())?;
        self.lines = if self.is_terminal && self.output == Output::Table { text.lines().count() } else { 0 };
        (self.last, self.drawn) = (text, Some(Instant::now()));
        Ok(())
    }
}

fn following(said: &Said) -> String {
    let mut text = String::new();
    for ((_, key), object) in &said.objects {
        let _ = writeln!(text, "following {} {}", word(&object["kind"]), key.trim_start_matches('/'));
    }
    for other in &said.others {
        let _ = writeln!(text, "passing over {other}: only MailRelay, MailServer and Namespace count here");
    }
    text
}

/// An Event, as `kubectl events` shows it.
fn happened(event: &Value) -> String {
    let about = &event["regarding"];
    let (kind, name) = (word(&about["kind"]), word(&about["name"]));
    format!("{:7} {:20} {kind} {name}: {}\n", word(&event["type"]), word(&event["reason"]), word(&event["note"]))
}

/// The relays, as `kubectl get mailrelay -A -o wide` shows them, and under them who has which share.
fn tables(objects: &Objects) -> String {
    let headings =
        ["NAMESPACE", "NAME", "READY", "REASON", "BUDGET", "OPEN", "WORKERS", "QUEUED", "DELAYED", "HELD", "DEAD"];
    let (mut relays, mut workers) = (Table::new(&headings), Table::new(&["NAMESPACE", "WORKER", "SHARE", "OPEN"]));
    for (key, relay) in objects.all("mailrelays") {
        let (namespace, name) = key.split_once('/').unwrap_or_default();
        let status: MailRelayStatus = serde_json::from_value(relay["status"].clone()).unwrap_or_default();
        let ready = status.conditions.iter().find(|condition| condition.type_ == "Ready");
        let (budget, queue) = (status.budget.unwrap_or_default(), status.queue.unwrap_or_default());
        relays.row([
            namespace.to_owned(),
            name.to_owned(),
            ready.map(|ready| ready.status.clone()).unwrap_or_default(),
            ready.map(|ready| ready.reason.clone()).unwrap_or_default(),
            budget.effective.to_string(),
            budget.open.to_string(),
            status.ready_workers.unwrap_or_default().to_string(),
            queue.pending.to_string(),
            queue.delayed.to_string(),
            queue.held.to_string(),
            queue.dead_letters.to_string(),
        ]);
        for worker in status.workers {
            workers.row([namespace.to_owned(), worker.pod, worker.share.to_string(), worker.open.to_string()]);
        }
    }
    let mut text = relays.render();
    if !workers.is_empty() {
        text.push('\n');
        text.push_str(&workers.render());
    }
    text
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// The statuses, one JSON document a line.
fn lines(objects: &Objects) -> String {
    let objects = ["mailservers", "mailrelays"].into_iter().flat_map(|of| objects.all(of).into_values());
    objects.fold(String::new(), |text, object| text + &object.to_string() + "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_table_shows_what_the_status_says() {
        let objects = Objects::default();
        objects.put(
            "mailrelays",
            "mail/corporate",
            json!({
                "metadata": { "name": "corporate" },
                "status": {
                    "conditions": [{
                        "type": "Ready", "status": "True", "reason": "Serving", "message": "",
                        "lastTransitionTime": "2026-11-30T12:00:00Z",
                    }],
                    "budget": { "total": 16, "effective": 16, "leased": 16, "open": 3 }, "readyWorkers": 2,
                    "queue": { "pending": 7, "delayed": 0, "inFlight": 3, "held": 0, "deadLetters": 1 },
                    "workers": [{ "pod": "corporate-1", "share": 16, "open": 3 }],
                },
            }),
        );
        let text = tables(&objects);
        let row = text.lines().nth(1).expect("a row");
        let cells: Vec<&str> = row.split_whitespace().collect();
        assert_eq!(cells, ["mail", "corporate", "True", "Serving", "16", "3", "2", "7", "0", "0", "1"]);
        assert!(text.ends_with("mail       corporate-1  16     3\n"), "{text}");
    }

    #[test]
    fn a_server_is_named_by_host_and_port() {
        assert_eq!(address("127.0.0.1:2525"), Ok(("127.0.0.1".to_owned(), 2525)));
        assert_eq!(address("[::1]:25"), Ok(("::1".to_owned(), 25)));
        for text in ["127.0.0.1", ":25", "mx:", "mx:70000"] {
            assert!(address(text).is_err(), "{text}");
        }
    }
}
