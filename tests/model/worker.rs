//! What workers do, and what is done to their processes.

use crate::{
    config::{Scenario, Variant},
    kernel::{Connection, Count, Kernel},
    state::{Process, Recovery, Socket, State},
    table::Table,
};
use mailrelay::lease::{BootTime, Ledger, LedgerState};

impl State {
    /// The worker of this pod.
    pub fn process<R>(&mut self, pod: usize, change: impl FnOnce(&mut Process) -> R) -> R {
        self.pods[pod].edit(|pod| change(pod.process.as_mut().expect("a step of a live process")))
    }

    pub fn count(&mut self, pod: usize) {
        let clock = self.clock();
        let supervised = self.supervised();
        let slot = self.pods[pod].edit(|pod| {
            let process = pod.process.as_mut().expect("a step of a live process");
            let slot = process.holder.count(clock)?;
            process.sockets.insert(slot, Socket::Checked);
            if supervised {
                process.holder.set_entry(slot, pod.table.reserve((process.run, process.era, slot)));
            }
            Some(slot)
        });
        // Without a pause to come, nothing can get between check and connect that a connection would not outlast.
        let stops = self.left.pause + self.left.freeze > 0;
        if let Some(slot) = slot.filter(|_| !stops && self.pods[pod].cut.is_none()) {
            self.connect(pod, slot);
        }
    }

    pub fn connect(&mut self, pod: usize, slot: u64) {
        let (run, era) = self.process(pod, |process| {
            process.sockets.insert(slot, Socket::Open);
            process.holder.set_connected(slot);
            (process.run, process.era)
        });
        let open = |ledger: &Ledger| ledger.view.as_ref().is_some_and(|view| view.state == LedgerState::Open);
        if self.recovery == Recovery::Begun && self.redis.ledger().is_some_and(open) {
            self.recovery = Recovery::Grown;
        }
        let pod = u8::try_from(pod).expect("few pods");
        let (kernel, server) = (Kernel::Established, Count::Counted);
        self.connections.push(Connection { pod, run, era, slot, kernel, server });
    }

    /// The worker ends the session and waits for EOF.
    pub fn close(&mut self, scenario: &Scenario, pod: usize, slot: u64) {
        let now = self.now;
        let at_ack = scenario.variant == Variant::FreeAtAck && self.pods[pod].cut.is_none();
        let Self { pods, connections, left, .. } = self;
        pods[pod].edit(|it| {
            let process = it.process.as_mut().expect("a step of a live process");
            if !process.holder.is_revoked(slot) {
                left.close -= 1;
            }
            for connection in connections.iter_mut().filter(|c| c.is(pod, process, slot)) {
                connection.close(scenario, now);
            }
            process.sockets.insert(slot, Socket::Closing(now));
            if at_ack {
                process.holder.release(slot);
                process.sockets.remove(&slot);
                it.table.note(scenario, process);
            }
        });
    }

    /// EOF did not come in time: the slot is withheld, and the socket is read on in the background.
    pub fn give_up(&mut self, scenario: &Scenario, pod: usize, slot: u64) {
        let clock = self.clock();
        self.process(pod, |process| {
            process.holder.quarantine(slot, "no-eof", scenario.hold(), clock);
            if scenario.lingers {
                process.sockets.insert(slot, Socket::Lingering);
            } else {
                process.sockets.remove(&slot);
            }
        });
    }

    pub fn pause(&mut self, scenario: &Scenario, pod: usize, frozen: bool) {
        let now = self.now;
        self.process(pod, |process| (process.paused, process.frozen) = (true, frozen));
        if frozen {
            for connection in self.connections.iter_mut().filter(|c| usize::from(c.pod) == pod) {
                connection.falls_silent(scenario, now);
            }
        }
    }

    /// A stopped process goes on, unless its dead-man switch has struck while no signal reached it.
    pub fn resume(&mut self, scenario: &Scenario, pod: usize) {
        let clock = self.clock();
        if self.pods[pod].process.as_ref().is_some_and(|process| is_due(scenario, process, clock)) {
            self.kill(scenario, pod);
            return;
        }
        let Self { pods, connections, .. } = self;
        pods[pod].edit(|it| {
            let process = it.process.as_mut().expect("a step of a live process");
            (process.paused, process.frozen) = (false, false);
            process.holder.tick(clock);
            let run = process.run;
            let open = |c: &&mut Connection| {
                usize::from(c.pod) == pod && c.run == run && c.is_counted() && c.kernel == Kernel::Established
            };
            connections.iter_mut().filter(open).for_each(|connection| connection.server = Count::Counted);
        });
        self.read_ends(scenario, pod);
    }

    /// The process ends; its kernel closes its sockets. What the server learns of that comes later.
    pub fn kill(&mut self, scenario: &Scenario, pod: usize) {
        let (now, clock) = (self.now, self.clock());
        let supervised = self.supervised();
        let run = self.process(pod, |process| process.run);
        self.pods[pod].edit(|pod| {
            pod.process = None;
            if supervised {
                pod.table.bury(run, clock);
            } else {
                pod.table = Table::default();
            }
        });
        // What it sent may still arrive; the answer has no reader.
        self.net.retain(|envelope| envelope.pod != pod || envelope.reply.is_none());
        for envelope in self.net.iter_mut().filter(|envelope| envelope.pod == pod) {
            envelope.edit(|envelope| envelope.late = true);
        }
        for connection in self.connections.iter_mut().filter(|c| usize::from(c.pod) == pod && c.run == run) {
            connection.close(scenario, now);
        }
        self.look_at_kernel(scenario, pod);
    }

    /// Whether a supervisor will start another worker, and so needs to know what became of this one's connections.
    fn supervised(&self) -> bool {
        self.left.restart > 0
    }
}

/// Whether the dead-man switch is armed and its time has come. Production arms it before the check of the limit and
/// keeps it armed while a slot may have a socket.
pub fn is_due(scenario: &Scenario, process: &Process, now: BootTime) -> bool {
    let armed = match scenario.variant {
        Variant::NoSwitch => false,
        Variant::ArmedAfterConnect => process.sockets.values().any(|socket| *socket != Socket::Checked),
        _ => process.holder.held() > 0,
    };
    armed && process.holder.deadline().is_some_and(|deadline| now >= deadline)
}
