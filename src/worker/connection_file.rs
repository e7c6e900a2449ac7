//! The connections of a pod's workers, in memory that outlives each of them.
//!
//! The supervisor makes the file (a `memfd`: it needs no disk and no right to write one) and hands it down to every worker
//! that it starts. A worker writes down each slot before it calls `connect()`, and the connection's two ends as soon as
//! they are known; it takes the line out when the server's end was seen. When the worker has died, its lines are the
//! supervisor's: those whose end the kernel proves are taken out ([`super::witness`]), the others stay, and the next
//! worker has them withheld. A worker whose lines may be incomplete counts as one of which nothing is known.
//!
//! Lines have a fixed length, and each is written at once, so that a kill cannot leave half of one: first
//! [`PROCESSES`] lines for processes, then those for connections.

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

use super::kernel_sockets::{Ends, canonical, network_namespace};
use crate::lease::{BootTime, ConnectionTable, Entry, Left, Note, Predecessor, ProcessId};

/// Where a worker finds the file that its supervisor made: the number of a file descriptor.
pub const CONNECTIONS_FD: &str = "MAILRELAY_CONNECTIONS_FD";

/// The length of a line; a divisor of the page size, so that none lies on two pages.
const LINE: usize = 512;
/// Lines for processes. A worker that dies in a loop is started once a second; the oldest are forgotten then.
const PROCESSES: u32 = 256;
/// Lines for connections: more than a budget can be, several times over.
const MOST: u32 = 8192;

/// Stands for no moment.
const NEVER: &str = "-";

/// After this time no server remembers a connection: the longest `sessionTimeout` is a day.
const LONGEST_MEMORY: Duration = Duration::from_secs(25 * 3_600);

/// What a line is about; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Free,
    /// A process all of whose connections are here.
    Complete,
    /// A process that could not write one of them down.
    Incomplete,
    /// A slot without a connection, or whose ends are not known.
    Reserved,
    /// A connection with both ends.
    Connected,
}

impl Kind {
    const fn byte(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Complete => b'P',
            Self::Incomplete => b'I',
            Self::Reserved => b'R',
            Self::Connected => b'C',
        }
    }

    fn of(byte: u8) -> Self {
        [Self::Complete, Self::Incomplete, Self::Reserved, Self::Connected]
            .into_iter()
            .find(|kind| kind.byte() == byte)
            .unwrap_or(Self::Free)
    }
}

/// A line: its kind and its words. For a process: id, network namespace, and when it died. For a connection: process, slot,
/// pool, until when the slot is withheld or [`NEVER`], ends. Moments are milliseconds after boot.
#[derive(Clone, Debug)]
struct Line {
    kind: Kind,
    words: Vec<String>,
}

/// One connection, or slot of which no connection is known.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    /// The process that opened it.
    process: String,
    /// The number of its slot.
    slot: u64,
    /// The budget whose slot it is.
    pool: String,
    /// Until when its process, alive, withholds the slot, if it does.
    until: Option<BootTime>,
    /// Its ends, once known.
    ends: Option<Ends>,
}

impl Written {
    /// The line for it.
    fn words(&self) -> (Kind, String) {
        let until = self.until.map_or_else(|| NEVER.to_owned(), moment);
        let (kind, ends) = match self.ends {
            Some((local, remote)) => (Kind::Connected, format!(" {local} {remote}")),
            None => (Kind::Reserved, String::new()),
        };
        (kind, format!("{} {} {} {until}{ends}", self.process, self.slot, self.pool))
    }
}

fn moment(at: BootTime) -> String {
    at.since_boot().as_millis().to_string()
}

fn parse_moment(word: &str) -> Option<BootTime> {
    word.parse().ok().map(Duration::from_millis).map(BootTime::after_boot)
}

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

/// A process that is written down.
struct Process {
    index: u32,
    kind: Kind,
    id: String,
    namespace: String,
    died: Option<BootTime>,
}

fn processes(lines: &[Line]) -> Vec<Process> {
    let known = (0..PROCESSES).zip(lines).filter(|(_, line)| matches!(line.kind, Kind::Complete | Kind::Incomplete));
    known
        .filter_map(|(index, line)| {
            let [id, namespace, died @ ..] = &line.words[..] else { return None };
            let died = died.first().and_then(|died| parse_moment(died));
            Some(Process { index, kind: line.kind, id: id.clone(), namespace: namespace.clone(), died })
        })
        .collect()
}

fn written(lines: &[Line]) -> Vec<(Entry, Written)> {
    let connections = lines.iter().enumerate().skip(PROCESSES as usize);
    connections
        .filter_map(|(index, line)| {
            if !matches!(line.kind, Kind::Reserved | Kind::Connected) {
                return None;
            }
            let [process, slot, pool, until, ends @ ..] = &line.words[..] else { return None };
            let ends = match ends {
                [local, remote] => local.parse().ok().zip(remote.parse().ok()),
                _ => None,
            };
            let entry = Entry { line: u32::try_from(index).ok()? - PROCESSES, slot: slot.parse().ok()? };
            let (process, pool, until) = (process.clone(), pool.clone(), parse_moment(until));
            Some((entry, Written { process, slot: entry.slot, pool, until, ends }))
        })
        .collect()
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
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use super::*;

    /// One file as two processes have it open, and its descriptor.
    fn pair() -> (ConnectionFile, ConnectionFile, OwnedFd) {
        let (supervisor, descriptor) = ConnectionFile::create().unwrap();
        let worker = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
        (supervisor, worker, descriptor)
    }

    fn ends(port: u16) -> Ends {
        (format!("10.0.0.1:{port}").parse().unwrap(), "[2001:db8::25]:25".parse().unwrap())
    }

    #[test]
    fn what_a_worker_wrote_is_there_after_its_death_and_what_it_ended_is_not() {
        let (supervisor, worker, _descriptor) = pair();
        let process = ProcessId::random();
        worker.begin(&process).unwrap();
        let entries: Vec<Entry> = (0..3).map(|slot| worker.reserve("mx.example.org", slot).unwrap()).collect();
        worker.connected(entries[0], ends(1).0, ends(1).1);
        worker.connected(entries[1], ends(2).0, ends(2).1);
        worker.note(Note::Ended(entries[1]));
        assert_eq!(supervisor.bury(BootTime::now()).unwrap(), [(entries[0], ends(1))], "the third has no ends");
        let [predecessor] = &supervisor.predecessors().unwrap()[..] else { panic!("one process") };
        assert_eq!((&*predecessor.process, predecessor.complete), (process.as_str(), true));
        assert!(predecessor.died.is_some());
        assert_eq!(predecessor.connections.len(), 2, "{predecessor:?}");
        assert!(predecessor.connections.iter().all(|left| left.pool == "mx.example.org"));
        supervisor.strike(entries[0]).unwrap();
        assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 1);
    }

    #[test]
    fn only_the_living_use_their_ends() {
        let (supervisor, first, descriptor) = pair();
        first.begin(&ProcessId::random()).unwrap();
        let entry = first.reserve("a", 1).unwrap();
        first.connected(entry, ends(1).0, ends(1).1);
        supervisor.bury(BootTime::now()).unwrap();
        let second = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
        second.begin(&ProcessId::random()).unwrap();
        let entry = second.reserve("a", 1).unwrap();
        second.connected(entry, ends(2).0, ends(2).1);
        assert_eq!(supervisor.in_use().unwrap(), BTreeSet::from([ends(2)]));
    }

    #[test]
    fn a_successor_sees_its_predecessors_and_neither_its_own_nor_an_id_twice() {
        let (_supervisor, first, descriptor) = pair();
        first.begin(&ProcessId::random()).unwrap();
        first.reserve("a", 1).unwrap();
        first.reserve("b", 2).unwrap();
        let second = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
        second.begin(&ProcessId::random()).unwrap();
        let reused = second.reserve("a", 1).unwrap();
        second.note(Note::Ended(reused));
        let entry = second.reserve("a", 2).unwrap();
        assert_eq!(entry.line, reused.line);
        second.note(Note::Ended(reused));
        second.note(Note::Withheld(reused, BootTime::now()));
        assert_eq!(written(&second.lines().unwrap()).len(), 3, "a late note of the slot before changes nothing");
        let predecessors = second.predecessors().unwrap();
        assert_eq!(predecessors.len(), 1);
        let mut ids: Vec<&str> = predecessors[0].connections.iter().map(|left| &*left.id).collect();
        ids.sort_unstable();
        let process = &predecessors[0].process;
        assert_eq!(ids, [Left::id_of(process, 1), Left::id_of(process, 2)]);
    }

    #[test]
    fn what_is_withheld_stays_written_down_until_its_time_is_over() {
        let (supervisor, worker, _descriptor) = pair();
        worker.begin(&ProcessId::random()).unwrap();
        let (early, late) = (BootTime::now(), BootTime::now() + Duration::from_secs(300));
        let over = worker.reserve("a", 1).unwrap();
        worker.connected(over, ends(1).0, ends(1).1);
        worker.note(Note::Withheld(over, early));
        let lasts = worker.reserve("a", 2).unwrap();
        worker.note(Note::Withheld(lasts, late));
        let until = |predecessors: &[Predecessor]| -> Vec<_> {
            predecessors[0].connections.iter().map(|left| left.until.map(moment)).collect()
        };
        assert_eq!(until(&supervisor.predecessors().unwrap()), [Some(moment(early)), Some(moment(late))]);
        // All other lines are taken: the one whose time is over makes room, though nobody struck it out.
        let room = (3..u64::from(MOST) + 2).filter(|slot| worker.reserve("a", *slot).is_some()).count();
        assert_eq!(room, MOST as usize - 1);
        assert_eq!(worker.reserve("a", 0), None);
        assert!(until(&supervisor.predecessors().unwrap()).contains(&Some(moment(late))));
        assert_eq!(supervisor.bury(BootTime::now()).unwrap(), [], "its line is another slot's, which has no ends");
    }

    #[test]
    fn a_connection_that_cannot_be_written_down_makes_its_process_incomplete() {
        let (supervisor, worker, _descriptor) = pair();
        assert_eq!(worker.reserve("a", 1), None, "a process that is not known");
        worker.begin(&ProcessId::random()).unwrap();
        assert_eq!(worker.reserve(&"x".repeat(LINE), 1), None);
        assert!(!supervisor.predecessors().unwrap()[0].complete);
        assert!(worker.reserve("a", 2).is_some());
        assert!(!supervisor.predecessors().unwrap()[0].complete, "once incomplete, always incomplete");
    }

    #[test]
    fn what_no_server_remembers_any_more_is_struck_out() {
        let (supervisor, worker, _descriptor) = pair();
        worker.begin(&ProcessId::random()).unwrap();
        worker.reserve("a", 1).unwrap();
        let died = BootTime::now();
        assert!(supervisor.bury(died).unwrap().is_empty(), "it has no ends");
        supervisor.bury(died + Duration::from_secs(24 * 3_600)).unwrap();
        assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 1);
        supervisor.bury(died + Duration::from_secs(26 * 3_600)).unwrap();
        assert_eq!(supervisor.predecessors().unwrap()[0].connections.len(), 0);
    }

    #[test]
    fn more_processes_than_lines_make_the_oldest_unknown_and_not_accounted_for() {
        let (supervisor, worker, descriptor) = pair();
        let first = ProcessId::random();
        worker.begin(&first).unwrap();
        for _ in 0..PROCESSES {
            let next = ConnectionFile::over(File::from(descriptor.try_clone().unwrap()));
            next.begin(&ProcessId::random()).unwrap();
        }
        let known = supervisor.predecessors().unwrap();
        assert_eq!(known.len(), PROCESSES as usize);
        assert!(known.iter().all(|predecessor| predecessor.process != first.as_str()));
    }
}
