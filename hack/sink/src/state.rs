//! The counters and the journal: what the tests judge the product by.

use std::{
    collections::HashMap,
    fs::{File, OpenOptions},
    io::{self, BufRead, BufReader, Write},
    net::SocketAddr,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{Behaviour, Failure, FailureStage};

/// What has happened so far.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
pub struct Stats {
    /// Sessions allowed at once.
    pub limit: usize,
    /// Sessions open now; those that were refused do not count.
    pub open: usize,
    /// The most that were open at once.
    pub peak: usize,
    /// The most that were open or being refused at once.
    pub peak_attempted: usize,
    /// Connections refused since `limit` was reached.
    pub rejected: usize,
    /// Sessions that were let in.
    pub sessions: u64,
    /// Sessions that a scripted failure keeps waiting now.
    pub silent: usize,
    /// Messages taken.
    pub accepted: u64,
    /// Different Message-IDs among them.
    pub unique_message_ids: usize,
    /// How often a message was taken again for a recipient that had it already.
    pub duplicates: u64,
    /// How often the sink had said something and then waited for the client.
    pub turnarounds: u64,
}

/// One message taken.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct JournalEntry {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    /// The session, numbered from 1.
    pub session: u64,
    /// The client.
    pub peer: SocketAddr,
    /// Without angle brackets; empty when there is none.
    pub message_id: String,
    /// The reverse-path.
    pub from: String,
    /// Accepted recipients.
    pub to: Vec<String>,
    /// Bytes of the message.
    pub size: usize,
    /// How often the sink waited for the client since the message before, or since the greeting.
    pub turnarounds: u64,
}

#[derive(Default)]
struct Inner {
    stats: Stats,
    refusing: usize,
    behaviour: Behaviour,
    journal: Vec<JournalEntry>,
    messages: Vec<Vec<u8>>,
    keep_messages: bool,
    seen: HashMap<String, HashMap<String, u64>>,
    file: Option<File>,
}

/// A session that says nothing until this is dropped, however its task ends.
pub(crate) struct Silent(State);

impl Drop for Silent {
    fn drop(&mut self) {
        self.0.change(|inner| inner.stats.silent -= 1);
    }
}

/// Shared by all sessions.
#[derive(Clone)]
pub(crate) struct State {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<()>,
}

impl State {
    pub fn new(limit: usize, behaviour: Behaviour, keep_messages: bool, journal: Option<&Path>) -> io::Result<Self> {
        let mut inner = Inner { behaviour, keep_messages, ..Inner::default() };
        inner.stats.limit = limit;
        if let Some(path) = journal {
            if let Ok(file) = File::open(path) {
                for line in BufReader::new(file).lines() {
                    // The last line of a sink that was killed may be half of one.
                    if let Ok(entry) = serde_json::from_str(&line?) {
                        inner.count(entry);
                    }
                }
            }
            inner.file = Some(OpenOptions::new().create(true).append(true).open(path)?);
        }
        Ok(Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(()) })
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> T {
        let result = change(&mut self.lock());
        self.changed.send_replace(());
        result
    }

    pub fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub fn stats(&self) -> Stats {
        let inner = self.lock();
        Stats { limit: inner.limit(), ..inner.stats.clone() }
    }

    /// Whether no connection is open, not even to be refused.
    pub fn is_empty(&self) -> bool {
        let inner = self.lock();
        inner.stats.open == 0 && inner.refusing == 0
    }

    pub fn journal(&self) -> Vec<JournalEntry> {
        self.lock().journal.clone()
    }

    pub fn messages(&self) -> Vec<Vec<u8>> {
        self.lock().messages.clone()
    }

    pub fn behaviour(&self) -> Behaviour {
        self.lock().behaviour.clone()
    }

    pub fn set_behaviour(&self, behaviour: Behaviour) {
        self.change(|inner| inner.behaviour = behaviour);
    }

    pub fn fail(&self, stage: FailureStage, recipient: Option<&str>) -> Option<Failure> {
        self.lock().behaviour.fail(stage, recipient)
    }

    /// Counts a session as silent until the value returned is dropped.
    pub fn fall_silent(&self) -> Silent {
        self.change(|inner| inner.stats.silent += 1);
        Silent(self.clone())
    }

    pub fn turnaround(&self) {
        self.lock().stats.turnarounds += 1;
    }

    /// Counts a connection that was just accepted: its number, or `None` when it is one too many.
    pub fn enter(&self) -> Option<u64> {
        self.change(|inner| {
            let attempted = inner.stats.open + inner.refusing + 1;
            inner.stats.peak_attempted = inner.stats.peak_attempted.max(attempted);
            if inner.stats.open >= inner.limit() {
                inner.stats.rejected += 1;
                inner.refusing += 1;
                return None;
            }
            inner.stats.open += 1;
            inner.stats.peak = inner.stats.peak.max(inner.stats.open);
            inner.stats.sessions += 1;
            Some(inner.stats.sessions)
        })
    }

    /// Closes a connection and takes it off the count, as one step: who sees the end and connects again is counted
    /// after this.
    pub fn leave<T>(&self, let_in: bool, connection: T) {
        self.change(|inner| {
            drop(connection);
            if let_in {
                inner.stats.open -= 1;
            } else {
                inner.refusing -= 1;
            }
        });
    }

    pub fn take(&self, mut entry: JournalEntry, message: Vec<u8>) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        entry.at_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
        self.change(|inner| {
            if let Some(file) = &mut inner.file
                && let Ok(mut line) = serde_json::to_vec(&entry)
            {
                line.push(b'\n');
                if let Err(error) = file.write_all(&line) {
                    eprintln!("mailsink: cannot write the journal: {error}");
                }
            }
            if inner.keep_messages {
                inner.messages.push(message);
            }
            inner.count(entry);
        });
    }
}

impl Inner {
    fn limit(&self) -> usize {
        self.behaviour.limit.unwrap_or(self.stats.limit)
    }

    fn count(&mut self, entry: JournalEntry) {
        self.stats.accepted += 1;
        let recipients = self.seen.entry(entry.message_id.clone()).or_default();
        for recipient in &entry.to {
            let times = recipients.entry(recipient.clone()).or_default();
            if *times > 0 {
                self.stats.duplicates += 1;
            }
            *times += 1;
        }
        self.stats.unique_message_ids = self.seen.len();
        self.journal.push(entry);
    }
}
