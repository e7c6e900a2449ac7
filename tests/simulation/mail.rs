//! The mail server: counts sessions from accept until it has closed them, knows what it took, and misbehaves as the seed
//! says.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    sync::Notify,
    time::{sleep, timeout},
};

use crate::{
    net::{Port, Stream},
    process::{Time, now},
    trace::Trace,
};

/// What the server is like in this seed. The chances are per thousand.
#[derive(Clone, Debug)]
pub struct Habits {
    /// What it takes by itself; more are told so and sent away.
    pub own_limit: u32,
    /// A process for each session, counted until it is collected, so long after its end.
    pub process_ms: Option<(u64, u64)>,
    /// Bytes of a mail that it reads in a second.
    pub rate: Option<usize>,
    /// How much its kernel takes unread.
    pub room: usize,
    /// How long it keeps a session without a word.
    pub patience: Duration,
    /// How late it may notice the end of a session.
    pub late_eof: Duration,
    /// How long a command may take.
    pub slow_ms: u64,
    /// How long taking a mail may take.
    pub mail_ms: u64,
    /// 4xx to a recipient or to a mail.
    pub defers: u32,
    /// 5xx.
    pub refuses: u32,
    /// The same to single recipients, on top.
    pub defers_some: u32,
    pub refuses_some: u32,
    /// 421 and the end.
    pub quits: u32,
    /// The connection breaks, before or after the mail was taken.
    pub breaks: u32,
    /// Offers PIPELINING, CHUNKING.
    pub pipelining: bool,
    pub chunking: bool,
}

/// What the server said of a mail for one recipient.
#[derive(Clone, Debug, Default)]
pub struct Recipient {
    /// When it took the mail, and under which Message-ID.
    pub taken: Vec<(Time, String)>,
    /// How often it refused it for good.
    pub refused: u32,
    /// How often it said later.
    pub deferred: u32,
}

/// What the server saw.
#[derive(Debug, Default)]
pub struct Seen {
    pub open: u32,
    pub peak: u32,
    /// Its processes, when it counts those.
    pub processes: u32,
    pub sessions: u64,
    pub sent_away: u64,
    /// By address.
    pub recipients: BTreeMap<String, Recipient>,
    /// How often it said later before it knew for whom.
    pub deferred: u32,
    pub violations: Vec<String>,
}

struct Inner {
    budget: u32,
    habits: Habits,
    seen: Seen,
    chance: SmallRng,
    trace: Trace,
    /// From now on it behaves.
    healed: bool,
}

/// The server; clones are the same.
#[derive(Clone)]
pub struct MailServer {
    inner: Arc<Mutex<Inner>>,
    crash: Arc<Notify>,
}

/// A process that is counted while this lives.
struct Counting(MailServer);

impl Drop for Counting {
    fn drop(&mut self) {
        self.0.inner().seen.processes -= 1;
    }
}

/// A session that is counted while this lives.
struct Counted {
    server: MailServer,
    serial: u64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut inner = self.server.inner();
        inner.seen.open -= 1;
        let open = inner.seen.open;
        inner.trace.note(|| format!("mail: session {} is over, {open} open", self.serial));
    }
}

/// How a session ends.
enum Over {
    /// The client's end was read.
    Eof,
    /// We end it.
    Ours,
    /// The connection is gone.
    Broken,
}

impl From<std::io::Error> for Over {
    fn from(_: std::io::Error) -> Self {
        Self::Broken
    }
}

impl MailServer {
    pub fn new(budget: u32, habits: Habits, seed: u64, trace: Trace) -> Self {
        let inner = Inner {
            budget,
            habits,
            seen: Seen::default(),
            chance: SmallRng::seed_from_u64(seed),
            trace,
            healed: false,
        };
        Self { inner: Arc::new(Mutex::new(inner)), crash: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic inside")
    }

    /// Looks at what it saw.
    pub fn seen<R>(&self, look: impl FnOnce(&Seen) -> R) -> R {
        look(&self.inner().seen)
    }

    /// Ends its misbehaviour.
    pub fn heal(&self) {
        self.inner().healed = true;
    }

    /// Ends all sessions at once, as a restart of the server does.
    pub fn crash(&self) {
        self.crash.notify_waiters();
    }

    /// Serves until dropped.
    pub async fn serve(self, port: Port) {
        loop {
            let (stream, from) = port.accept().await;
            let server = self.clone();
            tokio::spawn(async move { server.session(stream, from).await });
        }
    }

    /// The budget is another one. What was open may stay: it is judged by the largest that there was.
    pub fn raise_budget(&self, budget: u32) {
        let mut inner = self.inner();
        inner.budget = inner.budget.max(budget);
    }

    fn count(&self, from: u32) -> (Counted, Option<Counting>) {
        let mut inner = self.inner();
        let Inner { seen, budget, habits, trace, healed, .. } = &mut *inner;
        seen.open += 1;
        seen.sessions += 1;
        seen.peak = seen.peak.max(seen.open);
        let (serial, open) = (seen.sessions, seen.open);
        trace.note(|| format!("mail: session {serial} from {from}, {open} open"));
        if seen.open > *budget {
            seen.violations.push(format!("O1: {open} sessions of {budget} at {:?}", now()));
        }
        let counts = match habits.process_ms {
            Some(_) => seen.processes + 1,
            None => seen.open,
        };
        let too_many = !*healed && counts > habits.own_limit;
        seen.sent_away += u64::from(too_many);
        if !too_many {
            seen.processes += 1;
            // Those that end sooner than a settled slot is used again. Of a server whose processes take longer the product
            // learns that by being refused.
            if habits.process_ms.is_some_and(|(_, most)| most < 500) && seen.processes > *budget {
                let processes = seen.processes;
                seen.violations.push(format!("O1: {processes} processes for {budget} sessions at {:?}", now()));
            }
        }
        (Counted { server: self.clone(), serial }, (!too_many).then(|| Counting(self.clone())))
    }

    /// What it says of a recipient.
    fn tell(&self, address: &str, habits: &Habits) -> Result<(), &'static str> {
        let (greylists, busy) = (self.happens(habits.defers), self.happens(habits.defers_some));
        let defers = greylists || busy;
        let refuses = !defers && (self.happens(habits.refuses) || self.happens(habits.refuses_some));
        let mut inner = self.inner();
        let recipient = inner.seen.recipients.entry(address.to_owned()).or_default();
        (recipient.deferred, recipient.refused) =
            (recipient.deferred + u32::from(defers), recipient.refused + u32::from(refuses));
        match (greylists, busy, refuses) {
            (true, ..) => Err("450 4.2.0 greylisted"),
            (_, true, _) => Err("450 4.2.1 mailbox busy"),
            (.., true) => Err("550 5.1.1 no such user"),
            _ => Ok(()),
        }
    }

    /// Notes something of all recipients of a mail.
    fn note(&self, recipients: &[String], note: impl Fn(&mut Recipient)) {
        let mut inner = self.inner();
        for address in recipients {
            note(inner.seen.recipients.entry(address.clone()).or_default());
        }
    }

    /// Whether something happens that happens so often in a thousand.
    fn happens(&self, per_mille: u32) -> bool {
        let mut inner = self.inner();
        !inner.healed && inner.chance.random_range(0..1000) < per_mille
    }

    async fn dawdle(&self, up_to_ms: u64) {
        let wait = self.inner().chance.random_range(0..=up_to_ms);
        if wait > 0 {
            sleep(Duration::from_millis(wait)).await;
        }
    }

    async fn session(self, stream: Stream, from: u32) {
        let (counted, process) = self.count(from);
        let Habits { rate, process_ms, .. } = self.inner().habits.clone();
        let mut stream = BufReader::with_capacity(if rate.is_some() { 256 } else { 8_192 }, stream);
        let ended = tokio::select! {
            biased;
            ended = self.converse(&mut stream, process.is_none()) => ended,
            () = self.crash.notified() => Err(Over::Broken),
        };
        match ended {
            // Busy elsewhere: the end is noticed late.
            Ok(()) | Err(Over::Eof) => {
                let late = u64::try_from(self.inner().habits.late_eof.as_millis()).expect("short");
                self.dawdle(late).await;
                drop(counted);
                drop(stream);
            }
            Err(Over::Ours | Over::Broken) => {
                let _ = stream.get_mut().shutdown().await;
                drop(counted);
                drop(stream);
            }
        }
        if let (Some(_), Some((least, most))) = (&process, process_ms) {
            let collected = self.inner().chance.random_range(least..=most);
            sleep(Duration::from_millis(collected)).await;
        }
    }

    /// Reads as slowly as it does.
    async fn digest(&self, bytes: &mut usize) {
        let Some(rate) = self.inner().habits.rate else { return };
        if *bytes >= rate / 5 {
            let read = u32::try_from(*bytes).unwrap_or(u32::MAX);
            sleep(Duration::from_secs(1) * read / u32::try_from(rate).unwrap_or(u32::MAX)).await;
            *bytes = 0;
        }
    }

    #[expect(clippy::too_many_lines, reason = "one arm for each command")]
    async fn converse(&self, stream: &mut BufReader<Stream>, too_many: bool) -> Result<(), Over> {
        let habits = self.inner().habits.clone();
        if too_many {
            say(stream, "421 4.7.0 mx.test Error: too many connections from your side").await?;
            return Err(Over::Ours);
        }
        self.dawdle(habits.slow_ms).await;
        if self.happens(habits.quits) {
            say(stream, "421 4.3.2 mx.test not now").await?;
            return Err(Over::Ours);
        }
        say(stream, "220 mx.test ESMTP").await?;
        // None without a mail that they could be of.
        let mut recipients: Option<Vec<String>> = None;
        let mut chunks = Vec::new();
        loop {
            let line = self.line(stream, habits.patience).await?;
            let upper = line.to_ascii_uppercase();
            self.dawdle(habits.slow_ms).await;
            if self.happens(habits.breaks / 4) {
                return Err(Over::Broken);
            }
            if upper.starts_with("EHLO") {
                let mut lines = vec!["250-mx.test", "250-SIZE 1000000"];
                lines.extend(habits.pipelining.then_some("250-PIPELINING"));
                lines.extend(habits.chunking.then_some("250-CHUNKING"));
                lines.extend(["250-8BITMIME", "250 SMTPUTF8"]);
                say(stream, &lines.join("\r\n")).await?;
            } else if upper.starts_with("MAIL") {
                if self.happens(habits.quits) {
                    say(stream, "421 4.3.2 mx.test going down").await?;
                    return Err(Over::Ours);
                }
                let defers = self.happens(habits.defers);
                say(stream, if defers { "451 4.3.0 try again" } else { "250 2.1.0 Ok" }).await?;
                self.inner().seen.deferred += u32::from(defers);
                recipients = (!defers).then(Vec::new);
            } else if upper.starts_with("RCPT") {
                let Some(recipients) = &mut recipients else {
                    say(stream, "503 5.5.1 MAIL first").await?;
                    continue;
                };
                let address = line.split(['<', '>']).nth(1).unwrap_or_default();
                let said = self.tell(address, &habits);
                if said.is_ok() {
                    recipients.push(address.to_owned());
                }
                say(stream, said.err().unwrap_or("250 2.1.5 Ok")).await?;
            } else if upper.starts_with("DATA") {
                let Some(recipients) = recipients.take().filter(|some| !some.is_empty()) else {
                    say(stream, "554 5.5.1 no valid recipients").await?;
                    continue;
                };
                say(stream, "354 go on").await?;
                let (mut content, mut undigested) = (Vec::new(), 0);
                while !content.ends_with(b"\r\n.\r\n") {
                    let read = timeout(habits.patience, stream.read_until(b'\n', &mut content)).await;
                    match read {
                        Err(_) => return Err(Over::Ours),
                        Ok(read) => match read? {
                            0 => return Err(Over::Eof),
                            read => undigested += read,
                        },
                    }
                    self.digest(&mut undigested).await;
                }
                self.take(stream, &habits, &recipients, &content).await?;
            } else if let Some(arguments) = upper.strip_prefix("BDAT ") {
                let size: usize = arguments.split(' ').next().and_then(|size| size.parse().ok()).unwrap_or(0);
                let (mut start, mut undigested) = (chunks.len(), 0);
                chunks.resize(start + size, 0);
                while start < chunks.len() {
                    let until = chunks.len().min(start + 256);
                    match timeout(habits.patience, stream.read(&mut chunks[start..until])).await {
                        Err(_) => return Err(Over::Ours),
                        Ok(read) => match read? {
                            0 => return Err(Over::Eof),
                            read => (start, undigested) = (start + read, undigested + read),
                        },
                    }
                    self.digest(&mut undigested).await;
                }
                if recipients.as_ref().is_none_or(Vec::is_empty) {
                    chunks.clear();
                    say(stream, "554 5.5.1 no valid recipients").await?;
                } else if arguments.ends_with("LAST") {
                    let (content, to) = (std::mem::take(&mut chunks), recipients.take().unwrap_or_default());
                    self.take(stream, &habits, &to, &content).await?;
                } else {
                    say(stream, "250 2.0.0 more").await?;
                }
            } else if upper.starts_with("RSET") || upper.starts_with("NOOP") {
                recipients = None;
                say(stream, "250 2.0.0 Ok").await?;
            } else if upper.starts_with("QUIT") {
                say(stream, "221 2.0.0 Bye").await?;
                return Err(Over::Ours);
            } else {
                say(stream, "500 5.5.2 what?").await?;
            }
        }
    }

    async fn line(&self, stream: &mut BufReader<Stream>, patience: Duration) -> Result<String, Over> {
        let mut line = String::new();
        match timeout(patience, stream.read_line(&mut line)).await {
            Err(_) => Err(Over::Ours),
            Ok(read) => {
                if read? == 0 {
                    Err(Over::Eof)
                } else {
                    Ok(line.trim_end().to_owned())
                }
            }
        }
    }

    /// The whole message is here: takes it for all these, or does not, and says so, or does not.
    async fn take(
        &self,
        stream: &mut BufReader<Stream>,
        habits: &Habits,
        recipients: &[String],
        content: &[u8],
    ) -> Result<(), Over> {
        self.dawdle(habits.mail_ms).await;
        let id = message_id(content);
        if self.happens(habits.breaks) {
            return Err(Over::Broken);
        }
        if self.happens(habits.defers) {
            self.note(recipients, |recipient| recipient.deferred += 1);
            say(stream, "451 4.3.0 try again later").await?;
            return Ok(());
        }
        if self.happens(habits.refuses) {
            self.note(recipients, |recipient| recipient.refused += 1);
            say(stream, "554 5.7.1 not this one").await?;
            return Ok(());
        }
        self.note(recipients, |recipient| recipient.taken.push((now(), id.clone())));
        self.inner().trace.note(|| format!("mail: took {id} for {}", recipients.join(" ")));
        if self.happens(habits.breaks) {
            return Err(Over::Broken);
        }
        self.dawdle(habits.slow_ms).await;
        say(stream, "250 2.0.0 Ok: queued").await
    }
}

async fn say(stream: &mut BufReader<Stream>, line: &str) -> Result<(), Over> {
    Ok(stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await?)
}

fn message_id(content: &[u8]) -> String {
    let text = String::from_utf8_lossy(content);
    let header = text.lines().find(|line| line.len() > 11 && line[..11].eq_ignore_ascii_case("message-id:"));
    header.map_or_else(|| "none".to_owned(), |line| line[11..].trim().to_owned())
}
