//! The connections of a pod's workers, in memory that outlives each of them.
//!
//! The supervisor makes the file (a `memfd`: it needs no disk and no right to write one) and hands it down to every worker
//! that it starts. A worker writes down each slot before it calls `connect()`, and the connection's two ends as soon as
//! they are known; it takes the line out when the server's end was seen. When the worker has died, its lines are the
//! supervisor's: those whose end the kernel proves are taken out ([`super::witness`]), the others stay, and the next
//! worker has them withheld. A worker whose lines may be incomplete counts as one of which nothing is known.
//!
//! Lines have a fixed length, and each is written at once, so that a kill cannot leave half of one: first
//! `PROCESSES` lines for processes, then those for connections.

mod line;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    io,
    net::SocketAddr,
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::sys::memfd::{MFdFlags, memfd_create};

use self::line::{Kind, LINE, Line, MOST, PROCESSES, Process, Written, moment, processes, written};
use super::kernel_sockets::{Ends, canonical, network_namespace};
use crate::lease::{BootTime, ConnectionTable, Entry, Left, Note, Predecessor, ProcessId};

/// Where a worker finds the file that its supervisor made: the number of a file descriptor.
pub const CONNECTIONS_FD: &str = "MAILRELAY_CONNECTIONS_FD";

/// After this time no server remembers a connection: the longest `sessionTimeout` is a day.
const LONGEST_MEMORY: Duration = Duration::from_secs(25 * 3_600);

/// The file.
#[derive(Debug)]
pub struct ConnectionFile {
    file: File,
    own: Mutex<Own>,
}

/// What the living process remembers of its own lines.
#[derive(Debug, Default)]
struct Own {
    process: Option<(u32, String)>,
    /// Connection lines that were free at the last search.
    free: Vec<u32>,
    /// What stands in its connection lines.
    written: BTreeMap<u32, Written>,
}

impl ConnectionFile {
    /// A new, empty one, and the descriptor to hand down.
    pub fn create() -> io::Result<(Self, OwnedFd)> {
        // Without close-on-exec: it is there to be inherited.
        let descriptor = memfd_create("mailrelay-connections", MFdFlags::empty())?;
        let file = File::from(descriptor.try_clone()?);
        Ok((Self::over(file), descriptor))
    }

    /// The one that the supervisor handed down; `None` without a supervisor.
    pub fn inherited() -> io::Result<Option<Self>> {
        let Some(number) = std::env::var_os(CONNECTIONS_FD) else { return Ok(None) };
        let path = Path::new("/proc/self/fd").join(number);
        Ok(Some(Self::over(File::options().read(true).write(true).open(path)?)))
    }

    /// What to put into the environment of a child that inherits `descriptor`.
    pub fn environment(descriptor: &OwnedFd) -> (&'static str, String) {
        (CONNECTIONS_FD, descriptor.as_raw_fd().to_string())
    }

    fn over(file: File) -> Self {
        Self { file, own: Mutex::default() }
    }

    fn write(&self, index: u32, kind: Kind, words: &str) -> io::Result<()> {
        let mut line = vec![kind.byte()];
        line.extend(words.bytes());
        if line.len() >= LINE {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a name is too long to be written down"));
        }
        line.resize(LINE, b'\n');
        self.file.write_all_at(&line, u64::from(index) * LINE as u64)
    }

    /// All lines up to the last that was ever written.
    fn lines(&self) -> io::Result<Vec<Line>> {
        let length = usize::try_from(self.file.metadata()?.len()).unwrap_or(usize::MAX);
        let mut bytes = vec![0; length.min((PROCESSES + MOST) as usize * LINE)];
        self.file.read_exact_at(&mut bytes, 0)?;
        let line = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(&bytes[1..]);
            let words = text.trim_end_matches(['\n', '\0']).split(' ').map(str::to_owned).collect();
            Line { kind: Kind::of(bytes[0]), words }
        };
        Ok(bytes.chunks_exact(LINE).map(line).collect())
    }

    /// The ends of the living worker's connections.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn in_use(&self) -> io::Result<BTreeSet<Ends>> {
        let lines = self.lines()?;
        let dead = processes(&lines).into_iter().filter(|process| process.died.is_some());
        let dead: BTreeSet<String> = dead.map(|process| process.id).collect();
        let living = written(&lines).into_iter().filter(|(_, written)| !dead.contains(&written.process));
        Ok(living.filter_map(|(_, written)| written.ends).collect())
    }

    /// Every process but those that died: dead from now on. Returns the connections that they left; those without ends can
    /// never be proven to have ended, nor can those in another network namespace, of which this kernel's table says nothing.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn bury(&self, now: BootTime) -> io::Result<Vec<(Entry, Ends)>> {
        let here = network_namespace()?;
        let lines = self.lines()?;
        let connections = written(&lines);
        let mut left = Vec::new();
        for process in processes(&lines) {
            let mine = connections.iter().filter(|(_, written)| written.process == process.id);
            if let Some(died) = process.died {
                if now.saturating_since(died) > LONGEST_MEMORY {
                    mine.map(|(entry, _)| *entry).try_for_each(|entry| self.strike(entry))?;
                }
                continue;
            }
            let words = format!("{} {} {}", process.id, process.namespace, moment(now));
            self.write(process.index, process.kind, &words)?;
            if process.namespace == here {
                left.extend(mine.filter_map(|(entry, written)| Some((*entry, written.ends?))));
            }
        }
        Ok(left)
    }

    /// Takes a line out: its connection has ended, or its process is long forgotten by every server.
    pub fn strike(&self, entry: Entry) -> io::Result<()> {
        self.file.write_all_at(&[Kind::Free.byte()], (u64::from(PROCESSES) + u64::from(entry.line)) * LINE as u64)
    }

    fn find_room(&self, own: &mut Own, now: BootTime) -> Option<u32> {
        if own.free.is_empty() {
            let lines = self.lines().ok()?;
            // Whoever withheld these may have left its pool, and strikes nothing out any more.
            own.written.retain(|_, written| written.until.is_none_or(|until| now < until));
            let process = own.process.as_ref().map(|(_, id)| id);
            let is_taken = |(entry, written): &(Entry, Written)| {
                Some(&written.process) != process || own.written.contains_key(&entry.line)
            };
            let taken: BTreeSet<u32> =
                written(&lines).iter().filter(|line| is_taken(line)).map(|(e, _)| e.line).collect();
            own.free = (0..MOST).rev().filter(|index| !taken.contains(index)).collect();
        }
        own.free.pop()
    }

    fn try_reserve(&self, own: &mut Own, pool: &str, slot: u64, now: BootTime) -> Option<Entry> {
        let process = own.process.as_ref()?.1.clone();
        let line = self.find_room(own, now)?;
        let written = Written { process, slot, pool: pool.to_owned(), until: None, ends: None };
        let (kind, words) = written.words();
        self.write(PROCESSES + line, kind, &words).ok()?;
        own.written.insert(line, written);
        Some(Entry { line, slot })
    }

    /// Writes a connection's line anew. Where that fails the older one stays, which says less and frees nothing.
    fn rewrite(&self, entry: Entry, change: impl FnOnce(&mut Written)) {
        let mut own = self.own();
        let Some(written) = own.written.get_mut(&entry.line).filter(|written| written.slot == entry.slot) else {
            return;
        };
        change(written);
        let (kind, words) = written.words();
        if let Err(error) = self.write(PROCESSES + entry.line, kind, &words) {
            tracing::debug!(%error, "what became of a connection could not be written down");
        }
    }

    fn own(&self) -> MutexGuard<'_, Own> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionTable for ConnectionFile {
    fn begin(&self, process: &ProcessId) -> io::Result<()> {
        let mut own = self.own();
        let lines = self.lines()?;
        let is_free = |index: &u32| lines.get(*index as usize).is_none_or(|line| line.kind == Kind::Free);
        // Whoever is forgotten for want of room counts as unknown from now on.
        let index = (0..PROCESSES).find(is_free).unwrap_or(0);
        self.write(index, Kind::Complete, &format!("{} {}", process.as_str(), network_namespace()?))?;
        own.process = Some((index, process.as_str().to_owned()));
        Ok(())
    }

    fn reserve(&self, pool: &str, slot: u64) -> Option<Entry> {
        let mut own = self.own();
        let entry = self.try_reserve(&mut own, pool, slot, BootTime::now());
        if let (None, Some((index, _))) = (entry, &own.process) {
            let kind = [Kind::Incomplete.byte()];
            if self.file.write_all_at(&kind, u64::from(*index) * LINE as u64).is_err() {
                tracing::error!("a connection could not be written down, nor that it is missing");
            }
        }
        entry
    }

    fn connected(&self, entry: Entry, local: SocketAddr, remote: SocketAddr) {
        self.rewrite(entry, |written| written.ends = Some((canonical(local), canonical(remote))));
    }

    fn note(&self, note: Note) {
        let entry = match note {
            Note::Withheld(entry, until) => return self.rewrite(entry, |written| written.until = Some(until)),
            Note::Ended(entry) => entry,
        };
        let mut own = self.own();
        if own.written.get(&entry.line).is_none_or(|written| written.slot != entry.slot) {
            return;
        }
        own.written.remove(&entry.line);
        match self.strike(entry) {
            Ok(()) => own.free.push(entry.line),
            Err(error) => tracing::debug!(%error, "the end of a connection could not be written down"),
        }
    }

    fn predecessors(&self) -> io::Result<Vec<Predecessor>> {
        let lines = self.lines()?;
        let connections = written(&lines);
        let own = self.own().process.clone().map(|(_, id)| id);
        let older = processes(&lines).into_iter().filter(|process| Some(&process.id) != own.as_ref());
        let predecessor = |Process { id: process, kind, died, .. }: Process| {
            let mine = connections.iter().filter(|(_, written)| written.process == process);
            let left = |(_, written): &(Entry, Written)| Left {
                id: Left::id_of(&process, written.slot),
                pool: written.pool.clone(),
                until: written.until,
            };
            let connections = mine.map(left).collect();
            Predecessor { process, complete: kind == Kind::Complete, died, connections }
        };
        Ok(older.map(predecessor).collect())
    }
}

#[cfg(test)]
mod tests;
