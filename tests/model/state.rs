//! The state of the world at one moment.

use std::{
    collections::{BTreeMap, hash_map::DefaultHasher},
    fmt::{self, Debug, Write},
    hash::{Hash, Hasher},
    ops::Deref,
    sync::{Arc, OnceLock},
};

use mailrelay::lease::{BootTime, Holder, Ledger, LedgerView, SyncReply, SyncRequest, Watch};

use crate::{
    config::{Faults, TICK},
    kernel::Connection,
    table::Table,
};

/// A part of the state, shared between the states in which it is the same, with its fingerprint.
///
/// The production types have no `Hash`; their derived `Debug` shows every field, so its text is hashed instead.
#[derive(Clone)]
pub struct Shared<T> {
    value: Arc<T>,
    print: OnceLock<u64>,
}

struct Print(DefaultHasher);

impl Write for Print {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

impl<T: Clone + Debug> Shared<T> {
    pub fn new(value: T) -> Self {
        Self { value: Arc::new(value), print: OnceLock::new() }
    }

    /// Changes it, for this state alone.
    pub fn edit<R>(&mut self, change: impl FnOnce(&mut T) -> R) -> R {
        self.print = OnceLock::new();
        change(Arc::make_mut(&mut self.value))
    }
}

impl<T: Debug> Shared<T> {
    fn print(&self) -> u64 {
        *self.print.get_or_init(|| {
            let mut print = Print(DefaultHasher::new());
            write!(print, "{:?}", self.value).expect("hashing does not fail");
            print.0.finish()
        })
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: Debug> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, hasher: &mut H) {
        self.print().hash(hasher);
    }
}

impl<T: Debug> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.value, &other.value) || self.print() == other.print()
    }
}

impl<T: Debug> Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

/// The client's end of a connection, as the worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Socket {
    /// The limit was checked and the slot counted; `connect()` comes next.
    Checked,
    /// Connected.
    Open,
    /// Our end is closed; EOF is awaited since that tick.
    Closing(u64),
    /// Its slot is withheld; EOF is still read if it comes.
    Lingering,
}

/// One run of a worker.
#[derive(Clone, Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of the process, independent of the others")]
pub struct Process {
    /// Which run of the pod.
    pub run: u8,
    /// How often it had joined the pool before.
    pub era: u8,
    /// The production machine.
    pub holder: Holder,
    /// Stopped by SIGSTOP, or frozen.
    pub paused: bool,
    /// Frozen: no signal reaches it, not even SIGKILL.
    pub frozen: bool,
    /// Which Redis it talks to.
    pub node: usize,
    /// The SYNC it awaits the answer of.
    pub flight: Option<SyncRequest>,
    /// Tick of its last SYNC, and how many it sent in that tick.
    pub sent: (u64, u8),
    /// It was told to end.
    pub closing: bool,
    /// It had no answer to the last one.
    pub failed: bool,
    /// Its sockets by slot.
    pub sockets: BTreeMap<u64, Socket>,
}

/// One pod on a node of its own.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The worker, when one runs.
    pub process: Option<Process>,
    /// How many runs there were.
    pub runs: u8,
    /// The boot of its node.
    pub boot: u8,
    /// Since when the node's network is cut.
    pub cut: Option<u64>,
    /// Whether the pod is over, as the API says.
    pub over: bool,
    /// What its supervisor knows of its workers' connections.
    pub table: Table,
}

/// A SYNC on its way, or its answer on the way back.
#[derive(Clone, Debug)]
pub struct Envelope {
    pub pod: usize,
    pub node: usize,
    pub request: SyncRequest,
    pub reply: Option<SyncReply>,
    /// Its caller has given up.
    pub late: bool,
}

/// Redis: the primary, and the one that was primary before and does not know it yet.
#[derive(Clone, Debug)]
pub struct Redis {
    /// The nodes; `None` is dead.
    pub nodes: Vec<Option<Ledger>>,
    /// When the old primary stops at the latest.
    pub old_ends: Option<u64>,
    /// A copy that may come back.
    pub copy: Option<LedgerView>,
    /// For each incarnation the tick of its last SYNC; kept for [`crate::config::Variant::FreedByTtl`] alone.
    pub touched: BTreeMap<String, u64>,
    /// How many tokens were given.
    pub tokens: u64,
}

/// One controller that believes it leads.
#[derive(Clone, Debug)]
pub struct Leader {
    pub epoch: u64,
    pub revision: u64,
    pub plan: usize,
    /// The production machine.
    pub watch: Watch,
    /// What it decided and did not do yet.
    pub pending: Vec<mailrelay::lease::Action>,
}

/// How far recovery came in a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recovery {
    /// None was needed.
    Never,
    /// The ledger was initialised again.
    Begun,
    /// A session was opened after it opened.
    Grown,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    pub now: u64,
    pub pods: Vec<Shared<Pod>>,
    pub net: Vec<Shared<Envelope>>,
    pub redis: Shared<Redis>,
    pub leaders: Vec<Shared<Leader>>,
    pub connections: Vec<Connection>,
    pub left: Faults,
    /// How far recovery came.
    pub recovery: Recovery,
}

impl State {
    /// The common clock of the model.
    pub fn clock(&self) -> BootTime {
        moment(self.now)
    }

    /// Sorts what has no order of its own, so that equal states are equal.
    pub fn settle(&mut self) {
        self.settle_connections();
        self.net.sort_by_key(Shared::print);
    }
}

/// The moment of a tick on every clock, some time after boot.
pub fn moment(tick: u64) -> BootTime {
    BootTime::after_boot(TICK * 100) + TICK * u32::try_from(tick).expect("few ticks")
}
