//! What is known of the connections of a pod's workers, also after their deaths.

use std::{fmt, io, net::SocketAddr};

use super::{clock::BootTime, evidence::ProcessId};

/// Where one slot's connection is written down. A line is used again, an entry never is: it names the slot too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Entry {
    /// The number of the line.
    pub line: u32,
    /// The slot's number, which no other slot of its process has.
    pub slot: u64,
}

/// What becomes of a connection that is written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// The server's end was seen, or there never was a connection.
    Ended(Entry),
    /// The slot is withheld, until this moment unless the server's end is seen before. The ledger may be lost meanwhile, so
    /// it stays written down.
    Withheld(Entry, BootTime),
}

/// Where the connections of this pod's workers are written down, so that they can be accounted for after a worker's death
/// (R5a). Calls are quick and wait for nothing: they are made with the lock on the slots held.
pub trait ConnectionTable: fmt::Debug + Send + Sync {
    /// Makes this process known, before it opens anything. Without that, whatever it opens counts as unknown.
    fn begin(&self, process: &ProcessId) -> io::Result<()>;
    /// A slot of `pool` is counted, before its `connect()`. `None`: it can't be written down; the table then knows that
    /// this process is not complete.
    fn reserve(&self, pool: &str, slot: u64) -> Option<Entry>;
    /// The slot's connection stands, between these addresses.
    fn connected(&self, entry: Entry, local: SocketAddr, remote: SocketAddr);
    /// What became of it. A note that comes after the entry's end changes nothing.
    fn note(&self, note: Note);
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
    /// The id under which its slot is withheld, by its process or by a later one: see [`Left::id_of`].
    pub id: String,
    /// The pool of its slot.
    pub pool: String,
    /// Until when its process, still alive, withheld the slot.
    pub until: Option<BootTime>,
}

impl Left {
    /// The id under which a slot of a process is withheld. Whoever withholds it, the ledger counts it once.
    pub fn id_of(process: &str, slot: u64) -> String {
        format!("{process}/{slot}")
    }
}
