//! Redis and the way to it: SYNCs with late, lost and repeated messages, and the ways in which a store forgets.

use mailrelay::lease::{
    BootTime, ClearReply, Granted, LeaveReply, Leaving, Ledger, LedgerState, LedgerView, SyncReply,
};

use crate::{
    config::{Scenario, Variant, timing},
    state::{Envelope, Process, Redis, Shared, State},
    step::Step,
    world::distort,
};

impl Redis {
    /// The ledger on the primary.
    pub fn ledger(&self) -> Option<&Ledger> {
        self.nodes.last().and_then(Option::as_ref)
    }

    /// A node that starts: another fence than ever before.
    fn start(&mut self, view: Option<LedgerView>) -> Ledger {
        self.tokens += 1;
        let mut ledger = Ledger::new(format!("run-{}", self.tokens));
        ledger.view = view;
        ledger
    }

    /// The old primary stops.
    pub fn end_old(&mut self) {
        let old = self.nodes.len().saturating_sub(2);
        self.nodes[old] = None;
        self.old_ends = None;
    }
}

impl State {
    pub fn send(&mut self, pod: usize) {
        let (now, clock) = (self.now, self.clock());
        let sent = self.process(pod, |process| {
            let request = process.holder.request(clock)?;
            let count = if process.sent.0 == now { process.sent.1 + 1 } else { 1 };
            process.sent = (now, count);
            process.failed = false;
            process.flight = Some(request.clone());
            Some((request, process.node))
        });
        if let Some((request, node)) = sent {
            self.net.push(Shared::new(Envelope { pod, node, request, reply: None, late: false }));
        }
    }

    /// A SYNC in no time, or its failure when there is no way to Redis.
    pub fn sync(&mut self, scenario: &Scenario, pod: usize) {
        let before = self.net.len();
        self.send(pod);
        if self.net.len() == before {
            return;
        }
        let node = self.net[before].node;
        if self.pods[pod].cut.is_some() || self.redis.nodes[node].is_none() {
            self.time_out(pod, false);
            return;
        }
        self.deliver(scenario, before, false);
        self.reply(scenario, self.net.len() - 1);
    }

    pub fn deliver(&mut self, scenario: &Scenario, message: usize, again: bool) {
        let envelope = self.net.remove(message);
        if again {
            self.left.repeat -= 1;
            let mut copy = envelope.clone();
            copy.edit(|copy| copy.late = true);
            self.net.push(copy);
        }
        let now = self.now;
        let request = distort(scenario, &envelope.request);
        let reply = self.on_ledger(scenario, envelope.node, |ledger, touched| {
            if scenario.variant == Variant::NoSequence
                && let Some(holder) =
                    ledger.view.as_mut().and_then(|v| v.holders.iter_mut().find(|h| h.inc == request.inc))
            {
                holder.seq = request.seq - 1;
            }
            let mut reply = ledger.sync(&request);
            if let SyncReply::Ok(granted) = &mut reply
                && !scenario.versions()
            {
                granted.version = 0;
            }
            if matches!(reply, SyncReply::Ok(_)) && scenario.variant == Variant::FreedByTtl {
                touched.insert(request.inc.clone(), now);
            }
            reply
        });
        if !envelope.late {
            let mut back = envelope;
            back.edit(|back| back.reply = reply);
            self.net.push(back);
        }
    }

    /// Executes something on a node; what it publishes reaches every worker that runs and is connected to the node.
    pub fn on_ledger<R>(
        &mut self,
        scenario: &Scenario,
        node: usize,
        work: impl FnOnce(&mut Ledger, &mut std::collections::BTreeMap<String, u64>) -> R,
    ) -> Option<R> {
        let (result, told) = self.redis.edit(|redis| {
            let Redis { nodes, touched, .. } = redis;
            let ledger = nodes[node].as_mut()?;
            if scenario.variant == Variant::NoFence
                && let Some(view) = &mut ledger.view
            {
                view.fence.clone_from(&ledger.node_fence);
                ledger.twin = Some(view.version);
            }
            let result = work(ledger, touched);
            if let Some(view) = ledger.view.as_mut().filter(|_| !scenario.versions()) {
                view.version = 0;
                ledger.twin = ledger.twin.map(|_| 0);
            }
            if let Some(view) = ledger.view.as_mut().filter(|_| scenario.variant == Variant::NoFloor) {
                view.floor = 0;
            }
            Some((result, std::mem::take(&mut ledger.told)))
        })?;
        for event in &told {
            for pod in 0..self.pods.len() {
                let hears = |process: &Process| !process.paused && process.node == node;
                if self.pods[pod].cut.is_none() && self.pods[pod].process.as_ref().is_some_and(hears) {
                    self.process(pod, |process| process.holder.hear(event));
                }
            }
        }
        Some(result)
    }

    pub fn reply(&mut self, scenario: &Scenario, message: usize) {
        let clock = self.clock();
        let envelope = self.net.remove(message);
        self.pods[envelope.pod].edit(|pod| {
            let process = pod.process.as_mut().expect("a step of a live process");
            process.flight = None;
            process.holder.answer(&envelope.request, envelope.reply.clone(), clock);
            pod.table.note(scenario, process);
        });
    }

    pub fn time_out(&mut self, pod: usize, late: bool) {
        let clock = self.clock();
        self.process(pod, |process| {
            let request = process.flight.take().expect("a call that is awaited");
            process.holder.answer(&request, None, clock);
            process.failed = true;
        });
        if late {
            for envelope in self.net.iter_mut().filter(|e| e.pod == pod && e.reply.is_none()) {
                envelope.edit(|envelope| envelope.late = true);
            }
            self.net.retain(|e| e.pod != pod || e.reply.is_none());
        } else {
            self.net.retain(|e| e.pod != pod || e.late);
        }
    }

    /// A worker that was told to end and has no slot any more leaves the ledger, and ends when that is done.
    pub fn leave(&mut self, scenario: &Scenario, pod: usize, rejoins: bool) {
        let clock = self.clock();
        let (leaving, node) = self.process(pod, |process| (process.holder.leaving(clock), process.node));
        if let Some(Leaving { token, inc, seq }) = leaving
            && let Some(LeaveReply::Ok | LeaveReply::Gone) =
                self.on_ledger(scenario, node, |ledger, _| ledger.leave(&token, &inc, seq))
        {
            self.process(pod, |process| process.holder.left());
        }
        if !self.process(pod, |process| process.holder.is_done()) {
            return;
        }
        if rejoins {
            self.left.rejoin -= 1;
            crate::start::rejoin(self, scenario, pod);
        } else {
            self.kill(scenario, pod);
        }
    }

    /// The worker clears what is over on its clock.
    pub fn clear(&mut self, scenario: &Scenario, pod: usize) {
        let clock = self.clock();
        let (ids, token, node) = self.process(pod, |p| (p.holder.over(clock), p.holder.token().to_owned(), p.node));
        let reply = self.on_ledger(scenario, node, |ledger, _| ledger.clear(&token, &ids));
        if let Some(ClearReply::Ok | ClearReply::Gone) = reply {
            self.process(pod, |process| ids.iter().for_each(|id| process.holder.cleared(id)));
        }
    }

    pub fn redis_fault(&mut self, scenario: &Scenario, step: Step) {
        let now = self.now;
        let left = &mut self.left;
        self.redis.edit(|redis| match step {
            Step::Copy => {
                left.copy -= 1;
                redis.copy = redis.ledger().and_then(|ledger| ledger.view.clone());
            }
            Step::Rollback => {
                left.rollback -= 1;
                let copy = redis.copy.take();
                let node = redis.start(copy);
                *redis.nodes.last_mut().expect("a primary") = Some(node);
            }
            Step::Restore => {
                left.restore -= 1;
                let copy = redis.copy.take();
                // As when a virtual machine is set back: its twin says nothing.
                if let Some(Some(ledger)) = redis.nodes.last_mut() {
                    ledger.twin = copy.as_ref().map(|copy| copy.version);
                    ledger.view = copy;
                }
            }
            Step::Wipe => {
                left.wipe -= 1;
                if let Some(Some(ledger)) = redis.nodes.last_mut() {
                    ledger.view = None;
                }
            }
            Step::FailOver => {
                left.failover -= 1;
                let current = redis.ledger().and_then(|ledger| ledger.view.clone());
                let copy = redis.copy.take().or(current);
                let node = redis.start(copy);
                redis.nodes.push(Some(node));
                redis.old_ends = Some(now + scenario.old_primary);
            }
            _ => unreachable!("a fault of Redis"),
        });
    }

    /// Frees, without quarantine, what did not SYNC within the lease.
    pub fn free_by_ttl(&mut self) {
        let now = self.now;
        self.redis.edit(|redis| {
            let Redis { nodes, touched, .. } = redis;
            for view in nodes.iter_mut().flatten().filter_map(|ledger| ledger.view.as_mut()) {
                view.holders.retain(|holder| {
                    let last = touched.get(&holder.inc).copied().unwrap_or(0);
                    now < last + timing().lease.as_secs()
                });
            }
        });
    }
}

/// The broken worker: what it asked for counts as granted before the answer is there.
pub fn raise(process: &mut Process, clock: BootTime) {
    let Some(request) = process.flight.clone() else { return };
    let status = process.holder.status(clock);
    if !status.registered {
        return;
    }
    let hoped = request.want.min(status.entitlement);
    let granted = Granted {
        claim: hoped,
        limit: hoped,
        entitlement: status.entitlement,
        state: LedgerState::Open,
        lease: timing().lease,
        version: 0,
        quarantine: Vec::new(),
    };
    process.holder.answer(&request, Some(SyncReply::Ok(granted)), clock);
}
