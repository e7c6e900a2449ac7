//! Many mails, one a line: read, sent and told of as they come, so that there may be more of them than memory.

use std::{
    cell::Cell,
    io::{BufRead, BufReader, Read},
    process::ExitCode,
    sync::Arc,
};

use futures::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::sent::Sent;
use crate::{
    cli::{
        error::{CliError, WHERE},
        output::{Output, Pages, Table, print},
    },
    mail::MAX_PAYLOAD,
    queue::{At, BatchName, BatchSent, EnqueueError, EnqueueLimits, Queue},
};

/// How many mails are on their way to Redis at once; they stay in order.
const AT_ONCE: usize = 64;
/// How many bytes of lines are in memory at once: two of the longest.
const ROOM: usize = 2 * (MAX_PAYLOAD + 1);
/// After how many lines the batch is told how far it is.
const TELL_EVERY: u64 = 1_000;

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

/// One mail of the input.
struct Input {
    line: usize,
    /// Which of the mails it is, from 1.
    number: u64,
    /// What the line holds, or why it cannot be a mail.
    mail: Result<Vec<u8>, String>,
    /// Its place in memory.
    room: OwnedSemaphorePermit,
}

/// A mail, or why there are no more.
type Next = Result<Input, CliError>;

/// Sends what the lines say, in order. Mails that are refused do not stop the others; Redis failing does, once it is known
/// or told of every line that was begun.
pub(super) async fn send(
    queue: &Queue,
    limits: EnqueueLimits,
    input: Box<dyn Read + Send>,
    batch: Option<BatchName>,
    output: Output,
) -> Result<ExitCode, CliError> {
    if let Some(batch) = &batch {
        queue.batch_sent(batch, BatchSent::default()).await?;
    }
    let mut lines = read(input);
    // The first goes alone: the others then share its connection.
    let first = lines.recv().await;
    let mut report = Report {
        pages: Pages::new(output),
        output,
        batch: batch.clone(),
        sent: BatchSent::default(),
        last: 0,
        unknown: Vec::new(),
    };
    let batch = batch.as_ref();
    let sender = Sender { queue, limits, batch, failed: Cell::new(false) };
    let mut failure = None;
    if let Some(first) = first {
        match sender.enqueue(first).await {
            Ok(line) => report.tell(&line)?,
            Err(error) => failure = Some(error),
        }
    }
    let rest = received(lines).take_while(|_| std::future::ready(!sender.failed.get()));
    let mut rest = std::pin::pin!(rest.map(|next| sender.enqueue(next)).buffered(AT_ONCE));
    while let Some(line) = rest.next().await {
        match line {
            Ok(line) => report.tell(&line)?,
            Err(error) => failure = Some(error),
        }
        if let Some(batch) = batch.filter(|_| report.sent.mails.is_multiple_of(TELL_EVERY)) {
            queue.batch_sent(batch, report.sent).await?;
        }
    }
    let failure = failure.or_else(|| sender.failed.get().then(|| report.stopped()));
    let (refused, sent) = (report.sent.refused > 0, BatchSent { is_whole: failure.is_none(), ..report.sent });
    if let Output::Json = output {
        report.pages.end(&Table::new(&[]))?;
    }
    match (failure, batch) {
        (Some(error), _) => Err(error),
        (None, batch) => {
            if let Some(batch) = batch {
                queue.batch_sent(batch, sent).await?;
            }
            Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
        }
    }
}

/// Hands mails to the queue.
struct Sender<'a> {
    queue: &'a Queue,
    limits: EnqueueLimits,
    batch: Option<&'a BatchName>,
    /// Redis failed, or the input did: no more is begun.
    failed: Cell<bool>,
}

impl Sender<'_> {
    /// What becomes of a line.
    async fn enqueue(&self, next: Next) -> Result<Line, CliError> {
        let Input { line, number, mail, room } = next.inspect_err(|_| self.failed.set(true))?;
        let mail = mail.and_then(|mail| match self.batch {
            Some(batch) => with_id(mail, &batch.id(number)),
            None => Ok(mail),
        });
        let result = match mail {
            Err(error) => LineResult::Refused { error },
            Ok(mail) => self.queued(&mail).await,
        };
        drop(room);
        Ok(Line { line, result })
    }

    async fn queued(&self, mail: &[u8]) -> LineResult {
        match self.queue.enqueue(mail, self.limits, At::Redis).await {
            Ok(enqueued) => LineResult::Sent(Sent::from(enqueued)),
            Err(EnqueueError::Store { source, id }) => {
                self.failed.set(true);
                let error = source.to_string();
                if source.is_definite() { LineResult::Refused { error } } else { LineResult::Unknown { id, error } }
            }
            Err(refused) => LineResult::Refused { error: refused.to_string() },
        }
    }
}

/// What was told, and what is to be told at the end.
struct Report {
    pages: Pages,
    output: Output,
    batch: Option<BatchName>,
    sent: BatchSent,
    /// The last line that was told of.
    last: usize,
    /// Lines and ids of those of which nobody knows.
    unknown: Vec<String>,
}

impl Report {
    /// Its id to standard output, a refusal to standard error.
    fn tell(&mut self, line: &Line) -> Result<(), CliError> {
        self.last = line.line;
        self.sent.mails += 1;
        match &line.result {
            LineResult::Sent(sent) => {
                sent.warn(Some(line.line));
                let own = self.batch.as_ref().map(|batch| batch.id(self.sent.mails));
                self.sent.duplicates += u64::from(own.is_some_and(|own| own != sent.id));
            }
            LineResult::Refused { error } => {
                self.sent.refused += 1;
                if self.output == Output::Table {
                    tracing::error!(line = line.line, %error, "the mail was refused");
                }
            }
            LineResult::Unknown { id, error } => {
                self.unknown.push(format!("line {}: {id}", line.line));
                if self.output == Output::Table {
                    tracing::error!(
                        line = line.line,
                        mail.id = id,
                        %error,
                        "whether the mail was queued is not known; send it again with this id in its JSON: it is queued once"
                    );
                }
            }
        }
        match (self.output, &line.result) {
            (Output::Json, _) => self.pages.print(std::slice::from_ref(line), |_| Table::new(&[])),
            (Output::Table, LineResult::Sent(sent)) => print(&format!("{}\n", sent.id)),
            (Output::Table, _) => Ok(()),
        }
    }

    /// Redis failed: which lines are to be sent again, and how.
    fn stopped(&self) -> CliError {
        CliError::Failed(format!(
            "redis failed; lines after {} were not sent, and whether these were queued is not known: send each again with this \"id\" in its JSON, and it is queued once\n{}\n{WHERE}",
            self.last,
            self.unknown.join("\n"),
        ))
    }
}

/// Gives a mail of a batch its id. The rest of it stays as it is, to the byte.
fn with_id(mail: Vec<u8>, id: &str) -> Result<Vec<u8>, String> {
    #[derive(Deserialize)]
    struct Own {
        id: Option<IgnoredAny>,
    }
    // A list would be read as one, too.
    if !mail.starts_with(b"{") {
        return Ok(mail);
    }
    match serde_json::from_slice::<Own>(&mail) {
        Ok(Own { id: Some(_) }) => {
            Err("it has an id of its own; the ids of a batch are made of its name: leave out one or the other".into())
        }
        Ok(Own { id: None }) if !mail[1..].trim_ascii_start().starts_with(b"}") => {
            Ok([format!("{{\"id\":\"{id}\",").as_bytes(), &mail[1..]].concat())
        }
        // The queue says what is wrong with it.
        _ => Ok(mail),
    }
}

/// Reads lines in a thread of its own: standard input cannot be waited for otherwise. The thread ends with the input, or
/// with the process.
fn read(input: Box<dyn Read + Send>) -> mpsc::Receiver<Next> {
    let (sender, receiver) = mpsc::channel(AT_ONCE);
    let all = Arc::new(Semaphore::new(ROOM));
    std::thread::spawn(move || {
        let mut input = BufReader::new(input);
        let mut number = 0;
        for line in 1.. {
            let next = match read_line(&mut input) {
                Ok(None) => return,
                Ok(Some(Ok(mail))) if mail.is_empty() => continue,
                Ok(Some(mail)) => {
                    number += 1;
                    let bytes = mail.as_ref().map_or(0, Vec::len);
                    let Some(room) = wait_for(&all, bytes) else { return };
                    Ok(Input { line, number, mail, room })
                }
                Err(error) => Err(CliError::Failed(format!("cannot read line {line}: {error}"))),
            };
            let is_end = next.is_err();
            if sender.blocking_send(next).is_err() || is_end {
                return;
            }
        }
    });
    receiver
}

fn wait_for(all: &Arc<Semaphore>, bytes: usize) -> Option<OwnedSemaphorePermit> {
    let bytes = u32::try_from(bytes).ok()?;
    futures::executor::block_on(Arc::clone(all).acquire_many_owned(bytes)).ok()
}

/// The next line, without spaces around it; none at the end. Of one that is longer than any mail the rest is passed over.
fn read_line(input: &mut impl BufRead) -> std::io::Result<Option<Result<Vec<u8>, String>>> {
    let mut line = Vec::new();
    let most = MAX_PAYLOAD as u64 + 1;
    if input.by_ref().take(most).read_until(b'\n', &mut line)? == 0 {
        return Ok(None);
    }
    if line.len() as u64 == most && line.last() != Some(&b'\n') {
        drop(line);
        input.skip_until(b'\n')?;
        return Ok(Some(Err(format!("it has more than {MAX_PAYLOAD} bytes"))));
    }
    let spaces = line.iter().take_while(|byte| byte.is_ascii_whitespace()).count();
    line.drain(..spaces);
    line.truncate(line.trim_ascii_end().len());
    Ok(Some(Ok(line)))
}

fn received(lines: mpsc::Receiver<Next>) -> impl Stream<Item = Next> {
    stream::unfold(lines, async |mut lines| lines.recv().await.map(|line| (line, lines)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_longer_than_any_mail_is_passed_over() {
        let long = "x".repeat(MAX_PAYLOAD + 100);
        let text = format!("  {{}} \n{long}\n\n{{\"a\":1}}");
        let mut input = BufReader::new(text.as_bytes());
        let mut lines = Vec::new();
        while let Some(line) = read_line(&mut input).expect("read") {
            lines.push(line.map_err(|_| ()));
        }
        assert_eq!(lines, [Ok(b"{}".to_vec()), Err(()), Ok(Vec::new()), Ok(b"{\"a\":1}".to_vec())]);
    }

    #[test]
    fn a_mail_of_a_batch_gets_its_id_and_keeps_every_other_byte() {
        let mail = br#"{"from": "a", "n": 12345678901234567890}"#.to_vec();
        let expected = br#"{"id":"b-7","from": "a", "n": 12345678901234567890}"#.to_vec();
        assert_eq!(with_id(mail, "b-7"), Ok(expected));
        assert!(with_id(br#"{"x":{"id":1},"id":"own"}"#.to_vec(), "b-7").is_err());
        for odd in [&b"{}"[..], b"nonsense", b"[1]", b"{ }"] {
            assert_eq!(with_id(odd.to_vec(), "b-7").as_deref(), Ok(odd));
        }
    }
}
