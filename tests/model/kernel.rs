//! Connections as three see them: the worker that owns one, its kernel, and the server, which counts.
//!
//! That a process is dead and that the server knows are two facts here. A death, and a close, only changes the kernel's
//! state; what the server's process learns of it, and when, are steps of their own, and so is what the kernel learns of
//! the server's end. The supervisor, which outlives its worker, sees nothing but the kernel's state.

use crate::{
    config::{Scenario, Variant, ghost},
    start::withheld_id,
    state::{Pod, Process, Socket, State},
    table::Table,
};

/// What the client's kernel has of a connection, by the names that it shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kernel {
    /// ESTABLISHED. A process has it open, be it frozen.
    Established,
    /// `FIN_WAIT1`: our FIN waits behind unsent data, or was lost, with whatever was lost before it, and is to be sent again.
    FinWait1,
    /// `FIN_WAIT2`: the server's kernel has our FIN, its process has not read so far.
    FinWait2,
    /// `TIME_WAIT`: the server's FIN came, and it has ours; who lives can read the one and ask for the other.
    Ended,
    /// There is no such socket, and there was no `TIME_WAIT`: a box on the way reset our side, or our own reset was sent,
    /// since bytes were left unread, or the kernel gave up sending our FIN.
    Vanished,
    /// There is no such kernel or network namespace any more. Also: nobody will look.
    Gone,
}

/// A connection, for as long as the server counts it or someone may learn of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection {
    pub pod: u8,
    pub run: u8,
    /// How often its process had joined the pool before.
    pub era: u8,
    pub slot: u64,
    pub kernel: Kernel,
    pub server: Count,
}

/// Run, era and slot: what tells the connections of a pod apart.
pub type Key = (u8, u8, u64);

/// Whether the server counts a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Count {
    /// It does, and bytes go on coming.
    Counted,
    /// It does, until this tick at the latest, when its own time-out after the last byte is over.
    Until(u64),
    /// It read EOF or a reset, or its time-out was over.
    Over,
}

impl Connection {
    /// Whether it is the one of that slot of the process.
    pub fn is(&self, pod: usize, process: &Process, slot: u64) -> bool {
        usize::from(self.pod) == pod && (self.run, self.era, self.slot) == (process.run, process.era, slot)
    }

    pub fn is_counted(&self) -> bool {
        self.server != Count::Over
    }

    pub fn key(&self) -> Key {
        (self.run, self.era, self.slot)
    }

    /// No byte comes after this tick but what the kernel still has.
    pub fn falls_silent(&mut self, scenario: &Scenario, now: u64) {
        if self.server == Count::Counted {
            self.server = Count::Until(now + ghost(scenario.hold()));
        }
    }

    /// The client's end is closed, by its process or by the kernel after the process's death.
    pub fn close(&mut self, scenario: &Scenario, now: u64) {
        self.falls_silent(scenario, now);
        if self.kernel == Kernel::Established {
            self.kernel = Kernel::FinWait1;
        }
    }
}

/// What happens to a connection without its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The server's kernel gets our FIN.
    FinArrives,
    /// The server reads all there is and EOF, ends, and its FIN comes back.
    ServerReads,
    /// A dead process's kernel sends a reset for what was left unread, which is lost; or it gives up sending its FIN.
    Vanishes,
    /// A box on the way forgets the connection and resets the client's side; the server's stands.
    BoxResets,
}

impl State {
    /// What may happen to each connection.
    ///
    /// Those that a dead process left in the same state are alike, so the first of them is the one that meets it.
    pub fn fates(&self, scenario: &Scenario) -> Vec<(usize, Fate)> {
        let mut fates = Vec::new();
        for (index, it) in self.connections.iter().enumerate() {
            let twin = self.connections[..index].last();
            if twin.is_some_and(|twin| Connection { slot: it.slot, ..*twin } == *it && self.is_of_the_dead(it)) {
                continue;
            }
            let pod = &self.pods[usize::from(it.pod)];
            let dead = self.is_of_the_dead(it);
            match it.kernel {
                // Slots are alike, so the first one is the one that meets it.
                Kernel::Established
                    if self.left.box_reset > 0
                        && !dead
                        && usize::from(it.pod) < scenario.victims
                        && pod.is_first(it) =>
                {
                    fates.push((index, Fate::BoxResets));
                }
                Kernel::FinWait1 | Kernel::FinWait2 if pod.cut.is_none() => {
                    if it.kernel == Kernel::FinWait1 && scenario.acks {
                        fates.push((index, Fate::FinArrives));
                    }
                    if it.is_counted() {
                        fates.push((index, Fate::ServerReads));
                    }
                }
                _ => {}
            }
            if it.kernel == Kernel::FinWait1 && dead && self.left.vanish > 0 {
                fates.push((index, Fate::Vanishes));
            }
        }
        fates
    }

    pub fn meet(&mut self, scenario: &Scenario, connection: usize, fate: Fate) {
        let now = self.now;
        let it = &mut self.connections[connection];
        let pod = usize::from(it.pod);
        match fate {
            Fate::FinArrives => it.kernel = Kernel::FinWait2,
            Fate::ServerReads => {
                it.server = Count::Over;
                self.server_fin(scenario, connection);
            }
            Fate::Vanishes => {
                self.left.vanish -= 1;
                it.kernel = Kernel::Vanished;
            }
            Fate::BoxResets => {
                self.left.box_reset -= 1;
                it.falls_silent(scenario, now);
                it.kernel = Kernel::Vanished;
            }
        }
        self.look_at_kernel(scenario, pod);
    }

    /// The server's end is closed; its FIN comes, unless there is no way or no socket for it.
    fn server_fin(&mut self, scenario: &Scenario, connection: usize) {
        let it = &mut self.connections[connection];
        let (pod, key) = (usize::from(it.pod), it.key());
        if self.pods[pod].cut.is_some() || matches!(it.kernel, Kernel::Vanished | Kernel::Gone) {
            return;
        }
        it.kernel = Kernel::Ended;
        let reads = |process: &Process| !process.paused && (process.run, process.era) == (key.0, key.1);
        if self.pods[pod].process.as_ref().is_some_and(reads) {
            self.read_ends(scenario, pod);
        }
    }

    /// The server's own time-outs.
    pub fn server_times_out(&mut self, scenario: &Scenario) {
        for connection in 0..self.connections.len() {
            let it = &mut self.connections[connection];
            if matches!(it.server, Count::Until(until) if until <= self.now) {
                it.server = Count::Over;
                self.server_fin(scenario, connection);
                self.look_at_kernel(scenario, usize::from(self.connections[connection].pod));
            }
        }
    }

    /// A worker that runs reads EOF where it is the first thing that the socket says.
    pub fn read_ends(&mut self, scenario: &Scenario, pod: usize) {
        let Self { pods, connections, .. } = self;
        pods[pod].edit(|it| {
            let process = it.process.as_mut().expect("a step of a live process");
            let ended = |slot: u64| connections.iter().any(|c| c.is(pod, process, slot) && c.kernel == Kernel::Ended);
            let over: Vec<u64> = process.sockets.keys().copied().filter(|slot| ended(*slot)).collect();
            for slot in over {
                if process.sockets.remove(&slot) == Some(Socket::Lingering) {
                    process.holder.prove(&withheld_id(pod, process.run, slot));
                } else {
                    process.holder.release(slot);
                }
            }
            it.table.note(scenario, process);
        });
    }

    /// The worker meets the error that its socket has: whatever it reads after that, nothing proves an end.
    pub fn meet_error(&mut self, scenario: &Scenario, pod: usize, slot: u64) {
        let clock = self.clock();
        self.pods[pod].edit(|pod| {
            let process = pod.process.as_mut().expect("a step of a live process");
            let was = process.sockets.remove(&slot);
            if scenario.variant == Variant::EofAfterError {
                process.holder.release(slot);
            } else if was != Some(Socket::Lingering) {
                process.holder.quarantine(slot, "reset", scenario.hold(), clock);
            }
            pod.table.note(scenario, process);
        });
    }

    /// Whether the worker of the pod has an error to meet on this slot.
    pub fn has_error(&self, pod: usize, process: &Process, slot: u64) -> bool {
        self.connections.iter().any(|c| c.is(pod, process, slot) && c.kernel == Kernel::Vanished)
    }

    fn is_of_the_dead(&self, connection: &Connection) -> bool {
        self.pods[usize::from(connection.pod)].process.as_ref().is_none_or(|process| process.run != connection.run)
    }

    /// Ends what the pod's kernel has, with the kernel or with the namespace.
    pub fn end_kernel(&mut self, scenario: &Scenario, pod: usize) {
        let now = self.now;
        self.pods[pod].edit(|pod| pod.table = Table::default());
        for connection in self.connections.iter_mut().filter(|c| usize::from(c.pod) == pod) {
            connection.falls_silent(scenario, now);
            connection.kernel = Kernel::Gone;
        }
    }

    /// Forgets what nobody can learn any more, so that equal states are equal.
    pub fn settle_connections(&mut self) {
        let pods = &self.pods;
        for connection in &mut self.connections {
            let pod = &pods[usize::from(connection.pod)];
            let has_socket = |process: &Process| {
                connection.is(usize::from(connection.pod), process, connection.slot)
                    && process.sockets.contains_key(&connection.slot)
            };
            if !pod.process.as_ref().is_some_and(has_socket) && !pod.table.has(connection.key()) {
                connection.kernel = Kernel::Gone;
            }
        }
        self.connections.retain(|c| c.is_counted() || c.kernel != Kernel::Gone);
        self.connections.sort_unstable();
    }
}

impl Pod {
    fn is_first(&self, connection: &Connection) -> bool {
        let open = |process: &Process| process.sockets.iter().find(|(_, s)| **s == Socket::Open).map(|(slot, _)| *slot);
        self.process.as_ref().and_then(open) == Some(connection.slot)
    }
}
