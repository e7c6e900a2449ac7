//! `mailrelay send`: puts mail into the queue.

mod lines;
mod sent;

use std::{
    io::Read,
    path::{Path, PathBuf},
    process::ExitCode,
};

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Map, Value, json};

use self::sent::Sent;
use super::{error::CliError, output::Output, relay};
use crate::{
    api,
    queue::{At, BatchName, EnqueueLimits},
    store::StoreOptions,
};

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
    /// Give the mails of --lines this name together, for `mailrelay progress`: their ids are made of it and of their number,
    /// so the same input under the same name can be sent again, and each mail is queued once
    #[arg(long, value_name = "NAME", requires = "lines")]
    batch: Option<BatchName>,
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
        return lines::send(&target.queue, limits, open(path)?, arguments.batch, output).await;
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
