//! What may happen next in a state.

use crate::{
    config::{GRACE, Scenario, Variant, ghost},
    kernel::Fate,
    state::{Pod, Process, Socket, State},
};

/// One thing that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A second passes: deadlines, ends of sessions at the server, the leaders' look at the ledger.
    Tick,
    /// A worker's SYNC, there and back in no time; or its failure when there is no way to Redis.
    Sync(usize),
    /// A worker sends a SYNC that takes time.
    Send(usize),
    /// Redis executes a SYNC; `again`: and will once more.
    Deliver { message: usize, again: bool },
    /// The answer reaches the worker.
    Reply { message: usize },
    /// The worker gives up waiting; `late`: its call is still on its way.
    TimeOut { pod: usize, late: bool },
    /// A worker checks the limit and counts a slot (R4).
    Count(usize),
    /// It connects.
    Connect(usize, u64),
    /// It closes.
    Close(usize, u64),
    /// The worker waits for EOF no longer: quarantine.
    GiveUp(usize, u64),
    /// The worker meets the error that its socket has.
    MeetError(usize, u64),
    /// Something happens to a connection at its kernel, on the way, or at the server.
    Meet { connection: usize, fate: Fate },
    /// The worker has nothing to do.
    Rest(usize),
    /// It has something to do again.
    Wake(usize),
    /// The worker is told to end.
    Leave(usize),
    /// Nothing is counted any more: it leaves the ledger and ends, or joins again.
    Left { pod: usize, rejoins: bool },
    /// The worker clears quarantine that is over.
    Clear(usize),
    /// The worker turns to the new primary.
    Switch(usize),
    /// SIGSTOP.
    Pause(usize),
    /// The worker and its supervisor are frozen.
    Freeze(usize),
    /// SIGCONT, or thawed.
    Resume(usize),
    /// SIGKILL.
    Kill(usize),
    /// SIGKILL of the worker and its supervisor.
    KillAll(usize),
    /// The supervisor or the kubelet starts it again.
    Restart(usize),
    /// The pod's process is gone for good and the API says so.
    End(usize),
    /// The node crashes and boots.
    Reboot(usize),
    /// The node's network goes.
    Cut(usize),
    /// The node's network comes back.
    Heal(usize),
    /// A copy of the ledger is made that may come back later.
    Copy,
    /// Redis restarts from the copy.
    Rollback,
    /// The copy is written into the running Redis.
    Restore,
    /// The ledger is deleted.
    Wipe,
    /// The replica becomes primary.
    FailOver,
    /// The leader writes the next policy.
    Plan,
    /// Another leader begins; whether the one before goes on.
    NewLeader { beside: bool },
    /// A leader carries out one of its decisions.
    Act { leader: usize, decision: usize },
}

/// All that may happen in a state.
pub fn possible(scenario: &Scenario, state: &State, steps: &mut Vec<Step>) {
    if state.now < scenario.ticks && state.pods.iter().all(|pod| has_synced(state, pod)) {
        steps.push(Step::Tick);
    }
    for (pod, it) in state.pods.iter().enumerate() {
        on_pod(scenario, state, pod, it, steps);
    }
    for (message, envelope) in state.net.iter().enumerate() {
        let cut = state.pods[envelope.pod].cut.is_some();
        let alive = state.redis.nodes[envelope.node].is_some();
        if envelope.reply.is_none() {
            if alive && (!cut || envelope.late) {
                steps.push(Step::Deliver { message, again: false });
                if state.left.repeat > 0 && !envelope.late {
                    steps.push(Step::Deliver { message, again: true });
                }
            }
        } else if !cut && state.pods[envelope.pod].process.as_ref().is_some_and(|process| !process.paused) {
            steps.push(Step::Reply { message });
        }
    }
    let fates = state.fates(scenario).into_iter();
    steps.extend(fates.map(|(connection, fate)| Step::Meet { connection, fate }));
    on_redis(state, steps);
    on_leaders(scenario, state, steps);
}

fn on_pod(scenario: &Scenario, state: &State, index: usize, pod: &Pod, steps: &mut Vec<Step>) {
    let left = &state.left;
    let victim = index < scenario.victims;
    match &pod.process {
        None if pod.over => {}
        None => {
            if left.restart > 0 {
                steps.push(Step::Restart(index));
            }
            if left.end > 0 && pod.cut.is_none() {
                steps.push(Step::End(index));
            }
        }
        Some(process) if process.paused => steps.push(Step::Resume(index)),
        Some(process) => on_process(scenario, state, index, pod, process, steps),
    }
    // No signal reaches a frozen process.
    if pod.process.as_ref().is_some_and(|process| !process.frozen) && victim {
        if left.kill > 0 {
            steps.push(Step::Kill(index));
        }
        if left.kill_all > 0 {
            steps.push(Step::KillAll(index));
        }
        if left.reboot > 0 {
            steps.push(Step::Reboot(index));
        }
    }
    if left.cut > 0 && pod.cut.is_none() && victim {
        steps.push(Step::Cut(index));
    }
    if pod.cut.is_some() {
        steps.push(Step::Heal(index));
    }
}

fn on_process(scenario: &Scenario, state: &State, index: usize, pod: &Pod, process: &Process, steps: &mut Vec<Step>) {
    let left = &state.left;
    if left.pause > 0 && index < scenario.victims {
        steps.push(Step::Pause(index));
    }
    if left.freeze > 0 && index < scenario.victims {
        steps.push(Step::Freeze(index));
    }
    let node = state.redis.nodes[process.node].as_ref();
    if process.flight.is_none() {
        if may_send(scenario, state.now, process) {
            steps.push(Step::Sync(index));
            if left.slow > 0 && node.is_some() {
                steps.push(Step::Send(index));
            }
        }
        let rests = process.holder.status(state.clock()).resting;
        if left.rest > 0 && !rests && index < scenario.victims {
            steps.push(Step::Rest(index));
        }
        if rests {
            steps.push(Step::Wake(index));
        }
        if left.leave > 0 && !process.closing && index < scenario.victims {
            steps.push(Step::Leave(index));
        }
        if process.closing && process.holder.held() == 0 && node.is_some() && pod.cut.is_none() {
            steps.push(Step::Left { pod: index, rejoins: false });
            if left.rejoin > 0 {
                steps.push(Step::Left { pod: index, rejoins: true });
            }
        }
        if !process.holder.over(state.clock()).is_empty() && node.is_some() && pod.cut.is_none() {
            steps.push(Step::Clear(index));
        }
    } else {
        steps.push(Step::TimeOut { pod: index, late: false });
        if state.net.iter().any(|envelope| envelope.pod == index && !envelope.late && envelope.reply.is_none()) {
            steps.push(Step::TimeOut { pod: index, late: true });
        }
    }
    if process.node + 1 < state.redis.nodes.len() && process.flight.is_none() {
        steps.push(Step::Switch(index));
    }
    // One at a time between check and connect: with more of them only the order of equal things would differ.
    let checked = process.sockets.values().any(|socket| *socket == Socket::Checked);
    if !checked && process.holder.may_count(state.clock()) {
        steps.push(Step::Count(index));
    }
    let mut closed = false;
    for (slot, socket) in &process.sockets {
        if state.has_error(index, process, *slot) {
            steps.push(Step::MeetError(index, *slot));
            continue;
        }
        match socket {
            Socket::Checked if pod.cut.is_none() => steps.push(Step::Connect(index, *slot)),
            Socket::Open if !closed && (left.close > 0 || process.holder.is_revoked(*slot)) => {
                closed = true;
                steps.push(Step::Close(index, *slot));
            }
            Socket::Closing(since) => {
                let over = state.now >= since + ghost(GRACE);
                if over && scenario.variant != Variant::FreeAtAck {
                    steps.push(Step::GiveUp(index, *slot));
                }
            }
            _ => {}
        }
    }
}

/// A worker that runs keeps its heartbeat; whoever may not keep it is stopped, cut off, or waits for an answer, and whoever
/// rests has none.
fn has_synced(state: &State, pod: &Pod) -> bool {
    pod.process.as_ref().is_none_or(|process| {
        let rests = process.holder.is_resting() && !process.holder.is_due();
        process.paused || rests || process.flight.is_some() || (process.sent.0 == state.now && process.sent.1 > 0)
    })
}

/// A heartbeat for each tick, and at once when the holder says so, up to the scenario's bound.
fn may_send(scenario: &Scenario, now: u64, process: &Process) -> bool {
    let (tick, count) = process.sent;
    if process.holder.is_resting() && !process.holder.is_due() {
        return false;
    }
    tick < now || count == 0 || ((process.holder.is_due() || process.failed) && count < scenario.syncs)
}

fn on_redis(state: &State, steps: &mut Vec<Step>) {
    let (left, redis) = (&state.left, &state.redis);
    if left.copy > 0 && redis.ledger().is_some_and(|ledger| ledger.view.is_some()) {
        steps.push(Step::Copy);
    }
    if left.rollback > 0 && redis.copy.is_some() {
        steps.push(Step::Rollback);
    }
    if left.restore > 0 && redis.copy.is_some() {
        steps.push(Step::Restore);
    }
    if left.wipe > 0 {
        steps.push(Step::Wipe);
    }
    if left.failover > 0 {
        steps.push(Step::FailOver);
    }
}

fn on_leaders(scenario: &Scenario, state: &State, steps: &mut Vec<Step>) {
    let newest = state.leaders.len() - 1;
    if state.leaders[newest].plan + 1 < scenario.plans.len() {
        steps.push(Step::Plan);
    }
    if state.left.second_leader > 0 {
        steps.push(Step::NewLeader { beside: true });
    }
    if state.left.new_leader > 0 {
        steps.push(Step::NewLeader { beside: false });
    }
    for (leader, it) in state.leaders.iter().enumerate() {
        for decision in 0..it.pending.len() {
            steps.push(Step::Act { leader, decision });
        }
    }
}
