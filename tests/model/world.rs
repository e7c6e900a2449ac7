//! The model itself: the first state, and what each step does to a state.

use mailrelay::lease::{Evidence, Ledger, LedgerState, SyncRequest};
use stateright::{Model, Property};

use crate::{
    config::{Scenario, Variant, ghost},
    state::{Process, Recovery, Session, Socket, State},
    step::{Step, is, possible},
};

impl Model for Scenario {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![crate::start::first(self)]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        possible(self, state, steps);
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        state.take(self, step);
        state.settle();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANT, |scenario: &Self, state: &State| {
                state.server.len() <= scenario.budget as usize
            }),
            Property::sometimes(ALL_USED, |scenario: &Self, state: &State| {
                state.server.iter().filter(|session| session.until.is_none()).count() == scenario.budget as usize
            }),
            Property::sometimes(GROWTH, |_: &Self, state: &State| state.recovery == Recovery::Grown),
        ]
    }
}

/// I: sessions counted at the server or open at a client, within the budget.
pub const INVARIANT: &str = "sessions within the budget";
/// The budget can be used up.
pub const ALL_USED: &str = "all slots used";
/// Recovery ends.
pub const GROWTH: &str = "growth after recovery";

impl State {
    fn take(&mut self, scenario: &Scenario, step: Step) {
        match step {
            Step::Tick => self.tick(scenario),
            Step::Sync(pod) => self.sync(scenario, pod),
            Step::Send(pod) => {
                self.left.slow -= 1;
                self.send(pod);
                if scenario.variant == Variant::RaisedBeforeReply {
                    let clock = self.clock();
                    self.process(pod, |process| crate::redis::raise(process, clock));
                }
            }
            Step::Deliver { message, again } => self.deliver(scenario, message, again),
            Step::Reply { message } => self.reply(message),
            Step::TimeOut { pod, late } => self.time_out(pod, late),
            Step::Count(pod) => self.count(pod),
            Step::Connect(pod, slot) => self.connect(pod, slot),
            Step::Close { pod, slot, lost } => self.close(scenario, pod, slot, lost),
            Step::ServerEnds(pod, slot) => self.server_ends(pod, slot),
            Step::GiveUp(pod, slot) => self.give_up(scenario, pod, slot),
            Step::Leave(pod) => {
                self.left.leave -= 1;
                self.process(pod, |process| {
                    process.closing = true;
                    process.holder.close();
                });
            }
            Step::Left(pod) => self.leave(scenario, pod),
            Step::Clear(pod) => self.clear(scenario, pod),
            Step::Switch(pod) => {
                let primary = self.redis.nodes.len() - 1;
                self.process(pod, |process| process.node = primary);
            }
            Step::Pause(pod) => {
                self.left.pause -= 1;
                self.process(pod, |process| process.paused = true);
            }
            Step::Resume(pod) => self.resume(pod),
            Step::Kill(pod) => {
                self.left.kill -= 1;
                self.kill(scenario, pod);
            }
            Step::Restart(pod) => {
                self.left.restart -= 1;
                crate::start::restart(self, scenario, pod);
            }
            Step::End(pod) => {
                self.left.end -= 1;
                let now = self.now;
                self.pods[pod].edit(|pod| pod.over = Some(now));
            }
            Step::Reboot(pod) => self.reboot(scenario, pod),
            Step::Cut(pod) => {
                self.left.cut -= 1;
                let now = self.now;
                self.pods[pod].edit(|pod| pod.cut = Some(now));
            }
            Step::Heal(pod) => self.heal(scenario, pod),
            Step::Copy | Step::Rollback | Step::Wipe | Step::FailOver => self.redis_fault(scenario, step),
            Step::Plan => self.plan(scenario),
            Step::NewLeader { beside } => self.new_leader(scenario, beside),
            Step::Act { leader, decision } => {
                let action = self.leaders[leader].edit(|leader| leader.pending.remove(decision));
                self.act(scenario, leader, action);
            }
        }
    }

    fn tick(&mut self, scenario: &Scenario) {
        self.now += 1;
        let (now, clock) = (self.now, self.clock());
        for pod in 0..self.pods.len() {
            // R6: the kernel kills the process, stopped or not.
            if self.pods[pod].process.as_ref().is_some_and(|process| is_due(scenario, process, clock)) {
                self.kill(scenario, pod);
            }
            if self.pods[pod].process.as_ref().is_some_and(|process| !process.paused) {
                self.process(pod, |process| process.holder.tick(clock));
            }
            self.pods[pod].edit(|pod| {
                if pod.cut.is_none() {
                    pod.renewed.insert(pod.boot, now);
                }
            });
        }
        let over: Vec<Session> = self.server.iter().filter(|s| s.until.is_some_and(|u| u <= now)).copied().collect();
        for session in over {
            self.end(session);
        }
        if scenario.variant == Variant::FreedByTtl {
            self.free_by_ttl();
        }
        self.redis.edit(|redis| {
            if redis.old_ends.is_some_and(|end| end <= now) {
                redis.end_old();
            }
        });
        self.lead(scenario);
    }

    /// The worker of this pod.
    pub fn process<R>(&mut self, pod: usize, change: impl FnOnce(&mut Process) -> R) -> R {
        self.pods[pod].edit(|pod| change(pod.process.as_mut().expect("a step of a live process")))
    }

    fn count(&mut self, pod: usize) {
        let clock = self.clock();
        let slot = self.process(pod, |process| {
            let slot = process.holder.count(clock)?;
            process.sockets.insert(slot, Socket::Checked);
            Some(slot)
        });
        // Without a pause to come, nothing can get between check and connect that a connection would not outlast.
        if let Some(slot) = slot.filter(|_| self.left.pause == 0 && self.pods[pod].cut.is_none()) {
            self.connect(pod, slot);
        }
    }

    fn connect(&mut self, pod: usize, slot: u64) {
        let run = self.process(pod, |process| {
            process.sockets.insert(slot, Socket::Open);
            process.holder.set_connected(slot);
            process.run
        });
        let open = |ledger: &Ledger| ledger.view.as_ref().is_some_and(|view| view.state == LedgerState::Open);
        if self.recovery == Recovery::Begun && self.redis.ledger().is_some_and(open) {
            self.recovery = Recovery::Grown;
        }
        self.server.push(Session { pod: u8::try_from(pod).expect("few pods"), run, slot, until: None, lost: None });
    }

    fn close(&mut self, scenario: &Scenario, pod: usize, slot: u64, lost: bool) {
        self.left.lost_fin -= u8::from(lost);
        let now = self.now;
        let (cut, boot) = (lost || self.pods[pod].cut.is_some(), self.pods[pod].boot);
        let at_ack = scenario.variant == Variant::FreeAtAck && !cut;
        let (run, revoked) = self.process(pod, |process| {
            let revoked = process.holder.is_revoked(slot);
            process.sockets.insert(slot, Socket::Closing(now));
            if at_ack {
                process.holder.release(slot);
                process.sockets.remove(&slot);
            }
            (process.run, revoked)
        });
        if !revoked {
            self.left.close -= 1;
        }
        for session in self.server.iter_mut().filter(|session| is(session, pod, run, slot)) {
            end_by(scenario, session, now, cut, boot);
        }
    }

    fn server_ends(&mut self, pod: usize, slot: u64) {
        let run = self.process(pod, |process| process.run);
        if let Some(session) = self.server.iter().find(|session| is(session, pod, run, slot)).copied() {
            self.end(session);
        }
    }

    /// The server forgets the session; its EOF reaches a worker that waits for it.
    fn end(&mut self, session: Session) {
        self.server.retain(|other| *other != session);
        let pod = usize::from(session.pod);
        if self.pods[pod].cut.is_some() || self.pods[pod].process.as_ref().is_none_or(|p| p.run != session.run) {
            return;
        }
        self.process(pod, |process| {
            if let Some(socket) = process.sockets.get_mut(&session.slot) {
                *socket = Socket::Eof;
                if !process.paused {
                    read_eof(process);
                }
            }
        });
    }

    fn give_up(&mut self, scenario: &Scenario, pod: usize, slot: u64) {
        let clock = self.clock();
        self.process(pod, |process| {
            process.sockets.remove(&slot);
            let _ = process.holder.quarantine(slot, "no-eof", scenario.holds().session_timeout, clock);
        });
    }

    fn resume(&mut self, pod: usize) {
        let clock = self.clock();
        self.process(pod, |process| {
            process.paused = false;
            process.holder.tick(clock);
            read_eof(process);
        });
    }

    /// The process ends; its kernel closes its sockets.
    pub fn kill(&mut self, scenario: &Scenario, pod: usize) {
        let (now, cut, boot) = (self.now, self.pods[pod].cut.is_some(), self.pods[pod].boot);
        let run = self.process(pod, |process| process.run);
        self.pods[pod].edit(|pod| pod.process = None);
        // What it sent may still arrive; the answer has no reader.
        self.net.retain(|envelope| envelope.pod != pod || envelope.reply.is_none());
        for envelope in self.net.iter_mut().filter(|envelope| envelope.pod == pod) {
            envelope.edit(|envelope| envelope.late = true);
        }
        for session in self.server.iter_mut().filter(|s| usize::from(s.pod) == pod && s.run == run) {
            if session.until.is_none() {
                end_by(scenario, session, now, cut, boot);
            }
        }
    }

    fn reboot(&mut self, scenario: &Scenario, pod: usize) {
        self.left.reboot -= 1;
        let boot = self.pods[pod].boot;
        let open: Vec<Session> = self.server.iter().filter(|s| usize::from(s.pod) == pod).copied().collect();
        self.kill(scenario, pod);
        self.pods[pod].edit(|pod| {
            pod.boot += 1;
            pod.cut = None;
        });
        let until = self.now + ghost(scenario.holds().session_timeout);
        for session in self.server.iter_mut().filter(|s| usize::from(s.pod) == pod) {
            let was_open = open.iter().any(|o| o.slot == session.slot && o.run == session.run && o.until.is_none());
            let was_lost = session.lost.is_some_and(|(_, lost)| lost == boot);
            if was_open || was_lost {
                // No kernel is left that could send the FIN again.
                session.until = Some(if was_open { until } else { session.until.unwrap_or(until) });
                session.lost = None;
            }
        }
    }

    fn heal(&mut self, scenario: &Scenario, pod: usize) {
        let now = self.now;
        self.pods[pod].edit(|pod| {
            pod.cut = None;
            pod.renewed.insert(pod.boot, now);
        });
        let boot = self.pods[pod].boot;
        for session in self.server.iter_mut().filter(|s| usize::from(s.pod) == pod) {
            // TCP sends a lost FIN again within as long again as it has been lost.
            if let (Some((since, lost)), Some(until)) = (session.lost, session.until)
                && lost == boot
            {
                session.until = Some(until.min(now + (now - since) + ghost(scenario.holds().close_grace)));
            }
        }
    }

    /// What the API tells a leader.
    pub fn evidence(&self) -> Evidence {
        let mut evidence = Evidence::default();
        for (index, pod) in self.pods.iter().enumerate() {
            for (boot, tick) in &pod.renewed {
                let boot = crate::start::boot_id(index, *boot);
                evidence.nodes.insert(boot.clone(), crate::state::moment(*tick));
                evidence.reached.insert(boot, crate::state::moment(*tick));
            }
            if let Some(over) = pod.over.filter(|_| pod.boot == 0) {
                evidence.dead.insert(crate::start::uid(index));
                evidence.ended.insert(crate::start::uid(index), crate::state::moment(over));
            }
        }
        evidence
    }
}

/// When the server forgets a session whose client end closed now.
fn end_by(scenario: &Scenario, session: &mut Session, now: u64, cut: bool, boot: u8) {
    let hold = if cut { scenario.holds().session_timeout } else { scenario.holds().close_grace };
    session.until = Some(now + ghost(hold));
    session.lost = cut.then_some((now, boot));
}

fn read_eof(process: &mut Process) {
    let over: Vec<u64> = process.sockets.iter().filter(|(_, s)| **s == Socket::Eof).map(|(slot, _)| *slot).collect();
    for slot in over {
        process.sockets.remove(&slot);
        process.holder.release(slot);
    }
}

/// Whether the dead-man switch is armed and its time has come. Production arms it before the check of the limit and
/// keeps it armed while a slot may have a socket.
fn is_due(scenario: &Scenario, process: &Process, now: mailrelay::lease::BootTime) -> bool {
    let armed = match scenario.variant {
        Variant::NoSwitch => false,
        Variant::ArmedAfterConnect => process.sockets.values().any(|socket| *socket != Socket::Checked),
        _ => process.holder.held() > 0,
    };
    armed && process.holder.deadline().is_some_and(|deadline| now >= deadline)
}

/// How a broken variant changes a SYNC on its way to Redis.
pub fn distort(scenario: &Scenario, request: &SyncRequest) -> SyncRequest {
    let mut request = request.clone();
    match scenario.variant {
        Variant::FreedAtOnce => request.hold = std::time::Duration::ZERO,
        Variant::ProofAcrossReboot => {
            let (node, _) = request.boot_id.split_once('.').expect("boot ids are node.boot");
            request.boot_id = format!("{node}.0");
        }
        _ => {}
    }
    request
}
