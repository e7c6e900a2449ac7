//! `mailrelay send`: puts mail into the queue.

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::{CliError, Output, relay};
use crate::{
    api,
    queue::{At, EnqueueError, EnqueueLimits, Enqueued, Queue},
    store::StoreOptions,
};

/// How many mails are on their way to Redis at once when many are sent; they stay in order.
const AT_ONCE: usize = 64;

/// What to send.
#[derive(clap::Args)]
#[command(
    after_help = "Without content flags, one mail as JSON is read from --file or standard input; with --lines, one a line.\n\
    Example: mailrelay send --from app@example.com --to a@example.org --subject Hello --text 'Hello, world'"
)]
pub struct Arguments {
    #[command(flatten)]
    relay: relay::RelayArguments,
    #[command(flatten)]
    content: Content,
    /// Read JSON from this file instead of standard input (`-`)
    #[arg(short, long, value_name = "PATH", conflicts_with = "Content")]
    file: Option<PathBuf>,
    /// Read many mails, each the JSON on one line; those that are refused are reported, the others are sent
    #[arg(long, conflicts_with = "Content")]
    lines: bool,
}

#[derive(clap::Args)]
#[group(multiple = true)]
struct Content {
    /// The sender
    #[arg(long, value_name = "ADDRESS", requires = "to")]
    from: Option<String>,
    /// A recipient; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    to: Vec<String>,
    /// A recipient of a copy; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    cc: Vec<String>,
    /// A recipient that the others do not see; may be repeated
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    bcc: Vec<String>,
    /// Where answers go
    #[arg(long, value_name = "ADDRESS", requires = "from")]
    reply_to: Option<String>,
    /// The subject
    #[arg(long, requires = "from")]
    subject: Option<String>,
    /// The text; `-` reads it from standard input
    #[arg(long, requires = "from")]
    text: Option<String>,
    /// The same as HTML
    #[arg(long, requires = "from")]
    html: Option<String>,
    /// A file to attach; may be repeated; with its media type as PATH:TYPE/SUBTYPE
    #[arg(long, value_name = "PATH", requires = "from")]
    attach: Vec<String>,
    /// A header of your own, as `Name: value`; may be repeated
    #[arg(long, value_name = "HEADER", requires = "from")]
    header: Vec<String>,
    /// A complete RFC 5322 message, instead of subject, text and the like
    #[arg(long, value_name = "PATH", requires = "from", conflicts_with_all = ["subject", "text", "html", "attach", "header"])]
    raw: Option<PathBuf>,
    /// The id to give the mail [default: made up]
    #[arg(long, requires = "from")]
    id: Option<String>,
    /// Mails with the same key are sent once
    #[arg(long, value_name = "KEY", requires = "from")]
    idempotency_key: Option<String>,
    /// Which mails go first
    #[arg(long, value_parser = ["high", "normal", "low"], requires = "from")]
    priority: Option<String>,
    /// Send at this time or later (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "from")]
    not_before: Option<String>,
    /// Do not send after this time (RFC 3339)
    #[arg(long, value_name = "TIME", requires = "from")]
    expires_at: Option<String>,
}

/// One accepted mail.
#[derive(Serialize)]
struct Sent {
    /// Of the earlier mail when this one is a duplicate.
    id: String,
    duplicate: bool,
    /// The earlier mail has other recipients or another content.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    differs: bool,
}

/// What became of one line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    line: usize,
    #[serde(flatten)]
    result: LineResult,
}

#[derive(Serialize)]
#[serde(untagged)]
enum LineResult {
    Sent(Sent),
    Refused {
        error: String,
    },
    /// Whether it was queued is not known; with this id it may be sent again.
    Unknown {
        id: String,
        error: String,
    },
}

/// What the relay's spec allows, or its defaults.
fn limits(spec: &api::Queue) -> EnqueueLimits {
    EnqueueLimits { max_length: u64::try_from(spec.max_length).unwrap_or(0), max_bytes: 0 }
}

/// Sends one mail or many.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let target = arguments.relay.target(options).await?;
    let limits = limits(&target.spec);
    if arguments.lines {
        let path = arguments.file.as_deref().unwrap_or(Path::new("-"));
        return many(&target.queue, limits, lines(open(path)?), output).await;
    }
    let mail = match arguments.content.into_json()? {
        Some(mail) => mail.to_string().into_bytes(),
        None => read(arguments.file.as_deref().unwrap_or(Path::new("-")))?,
    };
    let sent = Sent::from(target.queue.enqueue(&mail, limits, At::Redis).await?);
    sent.warn(None);
    output.print(&sent, |sent| format!("{}\n", sent.id))?;
    Ok(ExitCode::SUCCESS)
}

/// Sends what the lines say, in order. Mails that are refused do not stop the others; Redis failing does, once it is
/// known or told of every line that was begun.
async fn many(
    queue: &Queue,
    limits: EnqueueLimits,
    mut lines: mpsc::Receiver<NumberedLine>,
    output: Output,
) -> Result<ExitCode, CliError> {
    let mut results = Vec::new();
    // The first goes alone: the others then share its connection.
    let first = lines.recv().await;
    let failed = Cell::new(false);
    let enqueue = async |line: NumberedLine| -> Result<Line, CliError> {
        let (line, mail) = line.inspect_err(|_| failed.set(true))?;
        let result = match queue.enqueue(&mail, limits, At::Redis).await {
            Ok(enqueued) => LineResult::Sent(Sent::from(enqueued)),
            Err(EnqueueError::Store { source, id }) => {
                failed.set(true);
                let error = source.to_string();
                if source.is_definite() { LineResult::Refused { error } } else { LineResult::Unknown { id, error } }
            }
            Err(refused) => LineResult::Refused { error: refused.to_string() },
        };
        Ok(Line { line, result })
    };
    let mut failure = None;
    if let Some(first) = first {
        match enqueue(first).await {
            Ok(line) => results.push(line),
            Err(error) => failure = Some(error),
        }
    }
    let rest = received(lines).take_while(|_| std::future::ready(!failed.get()));
    let mut rest = std::pin::pin!(rest.map(enqueue).buffered(AT_ONCE));
    while let Some(line) = rest.next().await {
        match line {
            Ok(line) => results.push(line),
            Err(error) => failure = Some(error),
        }
    }
    report(&results, output)?;
    match failure.or_else(|| failed.get().then(|| stopped(&results))) {
        Some(error) => Err(error),
        None if results.iter().any(|line| matches!(line.result, LineResult::Refused { .. })) => Ok(ExitCode::FAILURE),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Ids in order to standard output, refusals to standard error.
fn report(results: &[Line], output: Output) -> Result<(), CliError> {
    output.print(&results, |results| {
        let mut ids = String::new();
        for line in *results {
            match &line.result {
                LineResult::Sent(sent) => {
                    sent.warn(Some(line.line));
                    ids.push_str(&sent.id);
                    ids.push('\n');
                }
                LineResult::Refused { error } => tracing::error!(line = line.line, %error, "the mail was refused"),
                LineResult::Unknown { id, error } => tracing::error!(
                    line = line.line,
                    mail.id = id,
                    %error,
                    "whether the mail was queued is not known; send it again with this id in its JSON: it is queued once"
                ),
            }
        }
        ids
    })
}

/// Redis failed: which lines are to be sent again, and how.
fn stopped(results: &[Line]) -> CliError {
    let unknown: Vec<String> = results
        .iter()
        .filter_map(|line| match &line.result {
            LineResult::Unknown { id, .. } => Some(format!("line {}: {id}", line.line)),
            _ => None,
        })
        .collect();
    let last = results.last().map_or(0, |line| line.line);
    CliError::Failed(format!(
        "redis failed; lines after {last} were not sent, and whether these were queued is not known: send each again with this \"id\" in its JSON, and it is queued once\n{}\n{}",
        unknown.join("\n"),
        super::WHERE
    ))
}

/// A line that is not empty, with its number; or why there are no more.
type NumberedLine = Result<(usize, Vec<u8>), CliError>;

/// Reads lines in a thread of its own: standard input cannot be waited for otherwise. The thread ends with the input, or
/// with the process.
fn lines(input: Box<dyn Read + Send>) -> mpsc::Receiver<NumberedLine> {
    let (sender, receiver) = mpsc::channel(AT_ONCE);
    std::thread::spawn(move || {
        for (index, line) in BufReader::new(input).split(b'\n').enumerate() {
            let number = index + 1;
            let line = match line {
                Ok(line) if line.trim_ascii().is_empty() => continue,
                Ok(line) => Ok((number, line.trim_ascii().to_vec())),
                Err(error) => Err(CliError::Failed(format!("cannot read line {number}: {error}"))),
            };
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn received(lines: mpsc::Receiver<NumberedLine>) -> impl Stream<Item = NumberedLine> {
    stream::unfold(lines, async |mut lines| lines.recv().await.map(|line| (line, lines)))
}

impl From<Enqueued> for Sent {
    fn from(enqueued: Enqueued) -> Self {
        Self { id: enqueued.id, duplicate: enqueued.duplicate, differs: enqueued.differs }
    }
}

impl Sent {
    /// Says so when the mail was dropped though the earlier one is another.
    fn warn(&self, line: Option<usize>) {
        if self.differs {
            tracing::warn!(
                line,
                mail.first = self.id,
                "the mail was dropped as a duplicate of an earlier one with its id or key, but it is another mail: its recipients or its content differ"
            );
        }
    }
}

impl Content {
    /// The mail that the flags describe; `None` without any.
    fn into_json(self) -> Result<Option<Value>, CliError> {
        let Some(from) = self.from else { return Ok(None) };
        let mut mail = Map::new();
        mail.insert("from".into(), json!(from));
        mail.insert("to".into(), json!(self.to));
        let text = match self.text.as_deref() {
            Some("-") => Some(
                String::from_utf8(read(Path::new("-"))?)
                    .map_err(|_| CliError::Failed("the text on standard input is not UTF-8".into()))?,
            ),
            _ => self.text,
        };
        let optional = [
            ("replyTo", self.reply_to),
            ("subject", self.subject),
            ("text", text),
            ("html", self.html),
            ("id", self.id),
            ("idempotencyKey", self.idempotency_key),
            ("priority", self.priority),
            ("notBefore", self.not_before),
            ("expiresAt", self.expires_at),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                mail.insert(name.into(), value.into());
            }
        }
        for (name, values) in [("cc", self.cc), ("bcc", self.bcc)] {
            if !values.is_empty() {
                mail.insert(name.into(), values.into());
            }
        }
        if let Some(path) = self.raw {
            mail.insert("raw".into(), BASE64.encode(read(&path)?).into());
        }
        if !self.header.is_empty() {
            mail.insert("headers".into(), headers(&self.header)?.into());
        }
        if !self.attach.is_empty() {
            let attachments = self.attach.iter().map(|text| attachment(text)).collect::<Result<Vec<_>, _>>()?;
            mail.insert("attachments".into(), attachments.into());
        }
        Ok(Some(mail.into()))
    }
}

fn headers(lines: &[String]) -> Result<Map<String, Value>, CliError> {
    lines
        .iter()
        .map(|line| match line.split_once(':') {
            Some((name, value)) => Ok((name.trim().to_owned(), value.trim().into())),
            None => Err(CliError::Usage(format!("--header {line:?}: write 'Name: value'"))),
        })
        .collect()
}

/// `PATH` or `PATH:TYPE/SUBTYPE`.
fn attachment(text: &str) -> Result<Value, CliError> {
    let (path, media_type) = match text.rsplit_once(':') {
        Some((path, media_type)) if media_type.contains('/') && !Path::new(text).exists() => (path, media_type),
        _ => (text, "application/octet-stream"),
    };
    let path = Path::new(path);
    let content = read(path)?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    let Some(name) = name else {
        return Err(CliError::Usage(format!("--attach {text}: name a file")));
    };
    Ok(json!({ "filename": name, "contentType": media_type, "content": BASE64.encode(content) }))
}

fn open(path: &Path) -> Result<Box<dyn Read + Send>, CliError> {
    if path == Path::new("-") {
        return Ok(Box::new(std::io::stdin()));
    }
    match std::fs::File::open(path) {
        Ok(file) => Ok(Box::new(file)),
        Err(error) => Err(unreadable(path, &error)),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let mut bytes = Vec::new();
    open(path)?.read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> CliError {
    let path = if path == Path::new("-") { "standard input".into() } else { path.display().to_string() };
    CliError::Failed(format!("cannot read {path}: {error}"))
}
