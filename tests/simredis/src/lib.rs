//! A Redis in memory, for simulations: it speaks RESP2 over any stream, runs mailrelay's own Lua scripts, and answers as
//! Redis 7.0 does as far as the product and its tests go (`tests/differential` compares the two byte by byte).
//!
//! - Time is tokio's, so that a paused clock works; the wall clock (TIME, ids of streams) is an argument.
//! - Nothing is random and nothing depends on addresses or on the order of hashing: the same commands give the same answers.
//!   Ids of runs come from the seed.
//! - [`SimRedis`] is a cheap handle: clone it, connect to it, do to it what befalls a real one.
//!
//! # What is different from a real one
//! - Hashes keep the order in which their fields came; a real one forgets it when a hash is large.
//! - A stream with `MAXLEN ~ n` is cut to exactly `n`.
//! - An unknown option of a known command is a syntax error, though a real Redis may know it; INFO and CONFIG know the
//!   fields and settings that mailrelay reads; `cjson` has `decode` only, and words its errors differently.
//! - Replication is explicit: a replica has what [`SimRedis::sync_from`] last brought.

mod commands;
mod config;
mod connection;
mod failure;
mod fate;
mod faults;
mod glob;
mod keyspace;
mod look;
mod node;
mod number;
mod resp;
mod scripts;
mod server;
mod session;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::Instant,
};

pub use fate::Fate;
pub use faults::Snapshot;
pub use look::StreamEntry;
pub use node::WallClock;
pub use server::SimRedisServer;

use crate::{config::Config, keyspace::Keyspace, node::Node, scripts::Scripts};

/// How many bytes a pipe of [`SimRedis::connect`] holds each way.
const PIPE: usize = 64 * 1024;

/// The wall clock of a Redis that was given none, when it is made: some day in 2026, in milliseconds.
const EPOCH: u64 = 1_790_000_000_000;

/// A handle on one simulated Redis; clones are the same one. It lives as long as a handle or a connection does.
#[derive(Clone)]
pub struct SimRedis {
    shared: Arc<Shared>,
}

/// All of it. Locks are taken in the order `scripts`, `ids`, `node`, and never across an await; `scripts` is held for a whole
/// command or fault, so that one happens at a time.
struct Shared {
    scripts: Mutex<Scripts>,
    ids: Mutex<Ids>,
    node: Arc<Mutex<Node>>,
    power: watch::Sender<Power>,
}

/// Whether the process runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Power {
    /// Grows with each start; connections belong to one run.
    run: u64,
    is_frozen: bool,
    is_down: bool,
}

/// Ids of runs and of replications, from a seed: splitmix64.
struct Ids(u64);

impl Ids {
    fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 40 hexadecimal digits.
    fn id(&mut self) -> String {
        format!("{:016x}{:016x}{:08x}", self.number(), self.number(), self.number() >> 32)
    }
}

impl SimRedis {
    /// An empty Redis that runs. Its wall clock begins at a fixed time and goes as tokio's does.
    pub fn new(seed: u64) -> Self {
        let start = Instant::now();
        let wall = move || EPOCH + u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX - EPOCH);
        Self::with_wall_clock(seed, Arc::new(wall))
    }

    /// The same with a wall clock of its own, which may jump as it likes.
    pub fn with_wall_clock(seed: u64, wall: WallClock) -> Self {
        let mut ids = Ids(seed);
        let started = wall();
        let node = Node {
            keys: Keyspace::default(),
            config: Config::default(),
            run_id: ids.id(),
            replication_id: ids.id(),
            former_replication_id: "0".repeat(40),
            is_replica: false,
            replicas: 0,
            denied: BTreeSet::new(),
            wall,
            now: Instant::now(),
            started,
            channels: BTreeMap::new(),
            waiters: Vec::new(),
            grown: VecDeque::new(),
            clients: BTreeSet::new(),
            next_client: 0,
        };
        let node = Arc::new(Mutex::new(node));
        let scripts = Mutex::new(Scripts::new(node.clone()));
        let (power, _) = watch::channel(Power::default());
        Self { shared: Arc::new(Shared { scripts, ids: Mutex::new(ids), node, power }) }
    }

    /// Serves one client on a stream until the client goes, or this Redis crashes; the stream is closed then. Dropping the
    /// future is the same as a client that goes.
    pub async fn serve(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        self.serve_by(stream, |_| Fate::Prompt).await;
    }

    /// The same for a client whose commands meet a fate on their way: `fates` is asked for each, its words given.
    pub async fn serve_by(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        fates: impl FnMut(&[Bytes]) -> Fate + Send,
    ) {
        connection::serve(self.shared.clone(), stream, Box::new(fates)).await;
    }

    /// A new connection, served by a task of the current runtime; a frozen Redis takes it and says nothing.
    ///
    /// # Errors
    /// `ConnectionRefused` while it is down.
    pub fn connect(&self) -> io::Result<DuplexStream> {
        if self.shared.power.borrow().is_down {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let redis = self.clone();
        tokio::spawn(async move { redis.serve(ours).await });
        Ok(theirs)
    }

    /// Serves all who connect to a listener, until this future is dropped.
    ///
    /// # Errors
    /// Of the listener.
    pub async fn listen(&self, listener: TcpListener) -> io::Result<()> {
        let mut clients = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let redis = self.clone();
            clients.spawn(async move { redis.serve(stream).await });
            while clients.try_join_next().is_some() {}
        }
    }
}

/// A lock that a panic of a test elsewhere does not spoil.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
