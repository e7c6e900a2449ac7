//! What a pod's supervisor and its workers write down of connections, and what it proves by the kernel's table (R5a).

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use mailrelay::{
    lease::{BootTime, Entry, Inheritance},
    worker::{Ends, TcpState, Witness},
};

use crate::{
    config::{Scenario, Variant, timing},
    kernel::{Connection, Kernel, Key},
    start::process_id,
    state::{Process, State},
};

/// The table, which lives as long as the supervisor.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The runs whose connections are all here, each with the moment at which it was found dead.
    runs: BTreeMap<u8, Option<BootTime>>,
    /// The connections of which nothing is proven yet, and which no ledger is known to withhold.
    entries: BTreeMap<Entry, Key>,
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
        let entry = (0..64).map(Entry::new).find(|entry| !self.entries.contains_key(entry)).expect("few entries");
        self.entries.insert(entry, key);
        entry
    }

    /// Strikes out what the holder says need not be written down any more.
    pub fn free(&mut self, process: &mut Process) {
        for entry in process.holder.take_freed() {
            self.entries.remove(&entry);
        }
    }

    pub fn has(&self, key: Key) -> bool {
        self.entries.values().any(|other| *other == key)
    }

    /// A worker has died.
    pub fn bury(&mut self, run: u8, now: BootTime) {
        self.runs.entry(run).and_modify(|died| *died = Some(now));
        for (entry, key) in self.entries.iter().filter(|(_, key)| key.0 == run) {
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
        let recent = |key: &&Key| older(&key.0) && died(&key.0).is_none_or(|died| now.saturating_since(died) < watched);
        let unproven = self.entries.values().filter(recent).map(|key| (left_id(pod, *key), "inherited")).collect();
        Inheritance { accounts, unproven }
    }
}

/// The id of a connection that a dead worker left.
fn left_id(pod: usize, (run, _, slot): Key) -> String {
    format!("{}/c{slot}", process_id(pod, run))
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
            let used = it.table.entries.values().filter(|key| Some(key.0) == alive).map(|key| ends(*key));
            let used: BTreeSet<Ends> = used.collect();
            for entry in it.table.witness.look(&kernel, &used, Duration::ZERO, now) {
                let Some(key) = it.table.entries.remove(&entry) else { continue };
                // The worker that came after it is told, and had withheld the slot unless it was proven before.
                if let Some(process) = &mut it.process {
                    process.holder.prove(&left_id(pod, key));
                }
            }
        });
    }
}
