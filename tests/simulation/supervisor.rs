//! The supervisor of a pod's workers: what they write down of their connections, and what the kernel shows of those of the
//! dead ones. It ends with its container, and is frozen with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use mailrelay::{
    lease::{BootTime, ConnectionTable, Entry, Left, Note, Predecessor, ProcessId, Timing},
    worker::{Ends, TcpState, Witness},
};

use crate::{
    broken::Broken,
    net::Tcp,
    process::{Time, UPTIME},
};

/// How often it looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Process {
    id: String,
    complete: bool,
    died: Option<BootTime>,
}

#[derive(Debug)]
struct Connection {
    process: String,
    pool: String,
    until: Option<BootTime>,
    ends: Option<Ends>,
}

#[derive(Debug, Default)]
struct Inner {
    processes: Vec<Process>,
    connections: BTreeMap<Entry, Connection>,
    witness: Witness,
    living: Option<String>,
    entries: u32,
    next_look: Time,
    /// The table is full: what comes cannot be written down.
    most: usize,
}

/// A supervisor and its table; clones are the same.
#[derive(Clone, Debug)]
pub struct Supervisor {
    inner: Arc<Mutex<Inner>>,
    broken: Broken,
}

impl Supervisor {
    /// `most`: how many connections it can write down.
    pub fn new(most: usize, broken: Broken) -> Self {
        Self { inner: Arc::new(Mutex::new(Inner { most, ..Inner::default() })), broken }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic inside")
    }

    /// The worker has died, and its kernel has closed what it had.
    pub fn bury(&self, now: Time, kernel: &[(SocketAddr, SocketAddr, Tcp, bool)]) {
        {
            let mut inner = self.inner();
            let died = boot(now);
            inner.living = None;
            let dead: Vec<String> = inner
                .processes
                .iter()
                .filter(|process| process.died.is_none())
                .map(|process| process.id.clone())
                .collect();
            for process in &mut inner.processes {
                process.died.get_or_insert(died);
            }
            let Inner { connections, witness, .. } = &mut *inner;
            for (entry, connection) in connections {
                if let Some(ends) = connection.ends.filter(|_| dead.contains(&connection.process)) {
                    witness.watch(*entry, ends);
                }
            }
        }
        self.look(now, kernel);
    }

    /// Looks at the kernel's table when it is time.
    pub fn step(&self, now: Time, kernel: impl FnOnce() -> Vec<(SocketAddr, SocketAddr, Tcp, bool)>) {
        let due = {
            let inner = self.inner();
            !inner.witness.is_idle() && now >= inner.next_look
        };
        if due {
            self.look(now, &kernel());
        }
    }

    fn look(&self, now: Time, kernel: &[(SocketAddr, SocketAddr, Tcp, bool)]) {
        let mut inner = self.inner();
        inner.next_look = now + LOOK_EVERY;
        let broken = self.broken;
        let state = |tcp: Tcp| match tcp {
            Tcp::TimeWait => TcpState::ServerEnded,
            Tcp::FinWait2 if broken == Broken::FinWaitProves => TcpState::ServerEnded,
            _ => TcpState::ServerOpen,
        };
        let mut shown: BTreeMap<Ends, TcpState> =
            kernel.iter().map(|(local, remote, tcp, _)| ((*local, *remote), state(*tcp))).collect();
        let used: BTreeSet<Ends> = inner
            .connections
            .values()
            .filter(|connection| Some(&connection.process) == inner.living.as_ref())
            .filter_map(|connection| connection.ends)
            .collect();
        if broken == Broken::VanishedProves {
            for ends in inner.connections.values().filter_map(|connection| connection.ends) {
                shown.entry(ends).or_insert(TcpState::ServerEnded);
            }
        }
        let settle = Timing::default().settle;
        for entry in inner.witness.look(&shown, &used, settle, boot(now)) {
            inner.connections.remove(&entry);
        }
    }
}

fn boot(now: Time) -> BootTime {
    BootTime::after_boot(UPTIME + now)
}

impl ConnectionTable for Supervisor {
    fn begin(&self, process: &ProcessId) -> io::Result<()> {
        let mut inner = self.inner();
        let id = process.as_str().to_owned();
        inner.processes.push(Process { id: id.clone(), complete: true, died: None });
        inner.living = Some(id);
        Ok(())
    }

    fn reserve(&self, pool: &str, slot: u64) -> Option<Entry> {
        let mut inner = self.inner();
        let process = inner.living.clone()?;
        if inner.connections.len() >= inner.most {
            if let Some(own) = inner.processes.iter_mut().find(|other| other.id == process) {
                own.complete = self.broken == Broken::IncompleteAccounts;
            }
            return None;
        }
        inner.entries += 1;
        let entry = Entry { line: inner.entries, slot };
        inner.connections.insert(entry, Connection { process, pool: pool.to_owned(), until: None, ends: None });
        Some(entry)
    }

    fn connected(&self, entry: Entry, local: SocketAddr, remote: SocketAddr) {
        if let Some(connection) = self.inner().connections.get_mut(&entry) {
            connection.ends = Some((local, remote));
        }
    }

    fn note(&self, note: Note) {
        let mut inner = self.inner();
        let (Note::Ended(entry) | Note::Withheld(entry, _)) = note;
        let own = inner.living.clone();
        let Some(connection) = inner.connections.get_mut(&entry) else { return };
        if Some(&connection.process) != own.as_ref() {
            return;
        }
        match note {
            Note::Withheld(_, until) => connection.until = Some(until),
            Note::Ended(_) => drop(inner.connections.remove(&entry)),
        }
    }

    fn predecessors(&self) -> io::Result<Vec<Predecessor>> {
        let inner = self.inner();
        let older = inner.processes.iter().filter(|process| Some(&process.id) != inner.living.as_ref());
        Ok(older
            .map(|process| Predecessor {
                process: process.id.clone(),
                complete: process.complete,
                died: process.died,
                connections: inner
                    .connections
                    .iter()
                    .filter(|(_, connection)| connection.process == process.id)
                    .map(|(entry, connection)| Left {
                        id: Left::id_of(&connection.process, entry.slot),
                        pool: connection.pool.clone(),
                        until: connection.until,
                    })
                    .collect(),
            })
            .collect())
    }
}
