//! The model itself: the first state, and what each step does to a state.

use mailrelay::lease::{Evidence, SyncRequest};
use stateright::{Model, Property};

use crate::{
    config::{GRACE, Scenario, Variant},
    kernel::Count,
    state::{Process, Recovery, State},
    step::{Step, possible},
    table::Table,
    worker::is_due,
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
                state.connections.iter().filter(|c| c.is_counted()).count() <= scenario.budget as usize
            }),
            Property::sometimes(ALL_USED, |scenario: &Self, state: &State| {
                state.connections.iter().filter(|c| c.server == Count::Counted).count() == scenario.budget as usize
            }),
            Property::sometimes(GROWTH, |_: &Self, state: &State| state.recovery == Recovery::Grown),
        ]
    }
}

/// I: the sessions that the server counts are within the budget.
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
            Step::Reply { message } => self.reply(scenario, message),
            Step::TimeOut { pod, late } => self.time_out(pod, late),
            Step::Count(pod) => self.count(pod),
            Step::Connect(pod, slot) => self.connect(pod, slot),
            Step::Close(pod, slot) => self.close(scenario, pod, slot),
            Step::GiveUp(pod, slot) => self.give_up(scenario, pod, slot),
            Step::MeetError(pod, slot) => self.meet_error(scenario, pod, slot),
            Step::Meet { connection, fate } => self.meet(scenario, connection, fate),
            Step::Rest(pod) => {
                self.left.rest -= 1;
                self.process(pod, |process| process.holder.rest());
            }
            Step::Wake(pod) => self.process(pod, |process| process.holder.wake()),
            Step::Leave(pod) => {
                self.left.leave -= 1;
                self.process(pod, |process| {
                    process.closing = true;
                    process.holder.close();
                });
            }
            Step::Left { pod, rejoins } => self.leave(scenario, pod, rejoins),
            Step::Clear(pod) => self.clear(scenario, pod),
            Step::Switch(pod) => {
                let primary = self.redis.nodes.len() - 1;
                self.process(pod, |process| process.node = primary);
            }
            Step::Pause(pod) => {
                self.left.pause -= 1;
                self.pause(scenario, pod, false);
            }
            Step::Freeze(pod) => {
                self.left.freeze -= 1;
                self.pause(scenario, pod, true);
            }
            Step::Resume(pod) => self.resume(scenario, pod),
            Step::Kill(pod) => {
                self.left.kill -= 1;
                self.kill(scenario, pod);
            }
            Step::KillAll(pod) => {
                self.left.kill_all -= 1;
                self.kill(scenario, pod);
                self.pods[pod].edit(|pod| pod.table = Table::default());
            }
            Step::Restart(pod) => {
                self.left.restart -= 1;
                crate::start::restart(self, scenario, pod);
            }
            Step::End(pod) => {
                self.left.end -= 1;
                self.pods[pod].edit(|pod| pod.over = true);
                self.end_kernel(scenario, pod);
            }
            Step::Reboot(pod) => self.reboot(scenario, pod),
            Step::Cut(pod) => {
                self.left.cut -= 1;
                let now = self.now;
                self.pods[pod].edit(|pod| pod.cut = Some(now));
            }
            Step::Heal(pod) => self.pods[pod].edit(|pod| pod.cut = None),
            Step::Copy | Step::Rollback | Step::Restore | Step::Wipe | Step::FailOver => {
                self.redis_fault(scenario, step);
            }
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
            let struck = |process: &Process| !process.frozen && is_due(scenario, process, clock);
            if self.pods[pod].process.as_ref().is_some_and(struck) {
                self.kill(scenario, pod);
            }
            if self.pods[pod].process.as_ref().is_some_and(|process| !process.paused) {
                self.process(pod, |process| process.holder.tick(clock));
            }
        }
        self.server_times_out(scenario);
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

    fn reboot(&mut self, scenario: &Scenario, pod: usize) {
        self.left.reboot -= 1;
        self.kill(scenario, pod);
        self.end_kernel(scenario, pod);
        self.pods[pod].edit(|pod| {
            pod.boot += 1;
            pod.cut = None;
        });
    }

    /// What the API tells a leader.
    pub fn evidence(&self) -> Evidence {
        let over = self.pods.iter().enumerate().filter(|(_, pod)| pod.over);
        Evidence { dead: over.map(|(index, _)| crate::start::uid(index)).collect(), ..Evidence::default() }
    }
}

/// How a broken variant changes a SYNC on its way to Redis.
pub fn distort(scenario: &Scenario, request: &SyncRequest) -> SyncRequest {
    let mut request = request.clone();
    match scenario.variant {
        Variant::FreedAtOnce => request.hold = std::time::Duration::ZERO,
        Variant::FreedAfterGrace => request.hold = GRACE,
        Variant::NoVersion => request.seen = 0,
        _ => {}
    }
    request
}
