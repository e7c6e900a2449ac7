//! What a pod's supervisor and its workers write down of connections, and what it proves by the kernel's table (R5a).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mailrelay::{
    lease::{BootTime, Entry, Inheritance, Note},
    worker::{Ends, TcpState, Witness},
};

use crate::{
    config::{Scenario, Variant, timing},
    kernel::{Connection, Kernel, Key},
    start::{process_id, withheld_id},
    state::{Process, State},
};

/// The table, which lives as long as the supervisor.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The runs whose connections are all here, each with the moment at which it was found dead.
    runs: BTreeMap<u8, Option<BootTime>>,
    /// The connections of which nothing is proven yet, each with the time until which its living process withholds it.
    entries: BTreeMap<Entry, (Key, Option<BootTime>)>,
    /// The production machine.
    witness: Witness,
}

impl Table {
    /// Makes a worker known.
    pub fn begin(&mut self, run: u8) {
        self.runs.insert(run, None);
    }

    /// Writes a slot down before it is counted.
    pub fn reserve(&mut self, key: Key) -> Entry {
        let is_free = |line: &u32| self.entries.keys().all(|entry| entry.line != *line);
        let entry = Entry { line: (0..64).find(is_free).expect("few entries"), slot: key.2 };
        self.entries.insert(entry, (key, None));
        entry
    }

    /// Takes in what the holder says of its connections.
    pub fn note(&mut self, scenario: &Scenario, process: &mut Process) {
        for note in process.holder.take_notes() {
            match note {
                Note::Withheld(entry, until) if scenario.variant != Variant::WithheldIsStruck => {
                    self.entries.entry(entry).and_modify(|(_, withheld)| *withheld = Some(until));
                }
                Note::Withheld(entry, _) | Note::Ended(entry) => _ = self.entries.remove(&entry),
            }
        }
    }

    pub fn has(&self, key: Key) -> bool {
        self.entries.values().any(|(other, _)| *other == key)
    }

    /// A worker has died.
    pub fn bury(&mut self, run: u8, now: BootTime) {
        self.runs.entry(run).and_modify(|died| *died = Some(now));
        for (entry, (key, _)) in self.entries.iter().filter(|(_, (key, _))| key.0 == run) {
            self.witness.watch(*entry, ends(*key));
        }
    }

    /// What a new worker learns of the ones before.
    pub fn inheritance(&self, scenario: &Scenario, pod: usize, own: u8, now: BootTime) -> Inheritance {
        let watched = timing().quarantine_watch(scenario.hold());
        let older = |run: &u8| *run != own;
        let accounts: Vec<String> = match scenario.variant {
            Variant::FreedAtOnce | Variant::FreedAfterGrace => return Inheritance::default(),
            Variant::AnyTableIsComplete => (0..own).map(|run| process_id(pod, run).to_string()).collect(),
            _ => self.runs.keys().filter(|run| older(run)).map(|run| process_id(pod, *run).to_string()).collect(),
        };
        let died = |run: &u8| self.runs.get(run).copied().flatten();
        // What died longer ago than any server remembers need not be withheld again by each successor.
        let recent = |key: &Key| older(&key.0) && died(&key.0).is_none_or(|died| now.saturating_since(died) < watched);
        let rest = |until: Option<BootTime>| until.map_or(scenario.hold(), |until| until.saturating_since(now));
        let left = self.entries.values().filter(|(key, until)| recent(key) && !rest(*until).is_zero());
        let unproven = left.map(|(key, until)| (withheld_id(pod, key.0, key.2), rest(*until))).collect();
        Inheritance { accounts, unproven }
    }
}

/// An address that no other connection of the pod has.
fn ends((run, era, slot): Key) -> Ends {
    let port = 1_000 * u16::from(run) + 100 * u16::from(era) + u16::try_from(slot).expect("few slots");
    (SocketAddr::from((Ipv4Addr::LOCALHOST, 1_024 + port)), SocketAddr::from((Ipv4Addr::LOCALHOST, 25)))
}

impl State {
    /// The supervisor looks at the kernel's table: what of dead workers' connections it proves to have ended. It looks so
    /// often, and the kernel remembers for so long, that nothing comes between an end and the proof of it.
    pub fn look_at_kernel(&mut self, scenario: &Scenario, pod: usize) {
        if self.pods[pod].table.witness.is_idle() {
            return;
        }
        let shown = |kernel| match kernel {
            Kernel::FinWait2 if scenario.variant == Variant::AckIsProof => Some(TcpState::ServerEnded),
            Kernel::Established | Kernel::FinWait1 | Kernel::FinWait2 => Some(TcpState::ServerOpen),
            Kernel::Ended => Some(TcpState::ServerEnded),
            Kernel::Vanished if scenario.variant == Variant::VanishedIsProof => Some(TcpState::ServerEnded),
            Kernel::Vanished | Kernel::Gone => None,
        };
        let own = self.connections.iter().filter(|connection| usize::from(connection.pod) == pod);
        let line = |connection: &Connection| Some((ends(connection.key()), shown(connection.kernel)?));
        let kernel: BTreeMap<Ends, TcpState> = own.filter_map(line).collect();
        let now = self.clock();
        self.pods[pod].edit(|it| {
            let alive = it.process.as_ref().map(|process| process.run);
            let used = it.table.entries.values().filter(|(key, _)| Some(key.0) == alive).map(|(key, _)| ends(*key));
            let used: BTreeSet<Ends> = used.collect();
            for entry in it.table.witness.look(&kernel, &used, Duration::ZERO, now) {
                let Some((key, _)) = it.table.entries.remove(&entry) else { continue };
                // The worker that came after it is told, and had withheld the slot unless it was proven before.
                if let Some(process) = &mut it.process {
                    process.holder.prove(&withheld_id(pod, key.0, key.2));
                }
            }
        });
    }
}
