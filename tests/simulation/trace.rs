//! What happened, in order: a digest of all of it, to compare two runs of a seed, and the last of it, to read.

use std::{
    collections::VecDeque,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Arc, Mutex},
};

use tracing_subscriber::{
    EnvFilter,
    fmt::{format::Writer, time::FormatTime},
};

use crate::process::{current, now};

/// How many lines are kept.
const KEPT: usize = 4_000;

#[derive(Debug, Default)]
struct Inner {
    digest: u64,
    count: u64,
    lines: VecDeque<String>,
    print: bool,
    closed: bool,
}

/// The trace of a world; clones are the same.
#[derive(Clone, Debug, Default)]
pub struct Trace(Arc<Mutex<Inner>>);

impl Trace {
    /// `print`: says each line at once.
    pub fn new(print: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner { print, ..Inner::default() })))
    }

    /// Adds a line.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let mut inner = self.0.lock().expect("no panic inside");
        if inner.closed {
            return;
        }
        let line = format!("{:>9.3} {}", now().as_secs_f64(), line());
        // Each with its own keys, the same in every process.
        let mut hasher = DefaultHasher::new();
        (inner.digest, &line).hash(&mut hasher);
        inner.digest = hasher.finish();
        inner.count += 1;
        if inner.print {
            eprintln!("{line}");
        }
        if inner.lines.len() == KEPT {
            inner.lines.pop_front();
        }
        inner.lines.push_back(line);
    }

    /// Adds nothing any more.
    pub fn close(&self) {
        self.0.lock().expect("no panic inside").closed = true;
    }

    /// The digest of all lines.
    pub fn digest(&self) -> u64 {
        self.0.lock().expect("no panic inside").digest
    }

    /// The last lines.
    pub fn tail(&self, count: usize) -> Vec<String> {
        let inner = self.0.lock().expect("no panic inside");
        inner.lines.iter().skip(inner.lines.len().saturating_sub(count)).cloned().collect()
    }
}

/// The logs of the processes, as RUST_LOG asks for them.
pub fn log() {
    struct Clock;
    impl FormatTime for Clock {
        fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
            let name = current().map(|process| process.name.clone()).unwrap_or_default();
            write!(writer, "{:>9.3} {name}", now().as_secs_f64())
        }
    }
    let filter = EnvFilter::from_default_env();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_timer(Clock).with_ansi(false);
    // Another test of this program may have been first.
    let _ = log.with_writer(std::io::stderr).try_init();
}
