//! What is known of the connections of a pod's workers, also after their deaths.

use std::{fmt, io, net::SocketAddr};

use super::{clock::BootTime, evidence::ProcessId};

/// Where one slot's connection is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry(u32);

impl Entry {
    /// The entry with this number.
    pub const fn new(number: u32) -> Self {
        Self(number)
    }

    /// Its number.
    pub const fn get(self) -> u32 {
        self.0
    }
}

/// Where the connections of this pod's workers are written down, so that they can be accounted for after a worker's death
/// (R5a). Calls are quick and wait for nothing: they are made with the lock on the slots held.
pub trait ConnectionTable: fmt::Debug + Send + Sync {
    /// Makes this process known, before it opens anything. Without that, whatever it opens counts as unknown.
    fn begin(&self, process: &ProcessId) -> io::Result<()>;
    /// A slot of `pool` is about to be counted, before its `connect()`. `None`: it can't be written down; the table then
    /// knows that this process is not complete.
    fn reserve(&self, pool: &str) -> Option<Entry>;
    /// The slot's connection stands, between these addresses.
    fn connected(&self, entry: Entry, local: SocketAddr, remote: SocketAddr);
    /// The server's end was seen, or there never was a connection, or the ledger is known to withhold the slot.
    fn free(&self, entry: Entry);
    /// The older processes of this pod, each with what is left of its connections.
    ///
    /// # Errors
    /// When that can't be read: then nothing is known of them.
    fn predecessors(&self) -> io::Result<Vec<Predecessor>>;
}

/// An older process of this pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Predecessor {
    /// Its id.
    pub process: String,
    /// Whether all its connections are listed.
    pub complete: bool,
    /// When it was found dead, on the clock of this boot.
    pub died: Option<BootTime>,
    /// Its connections that are not proven to have ended.
    pub connections: Vec<Left>,
}

/// A connection that a server may still count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Its id: that of its process, a slash, and something that no other one of the process ever has.
    pub id: String,
    /// The pool of its slot.
    pub pool: String,
}
