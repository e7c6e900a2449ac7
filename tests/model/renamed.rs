//! A second, small world: one server under two names. A budget is renamed while its pool is in use, so that there are two
//! ledgers for the sessions that one server counts.
//!
//! The rules are production's here, too: how pools stand towards each other is [`mailrelay::controller::stand`], what the
//! leader does to each is [`Watch::actions`]. Nothing is lost and nothing is late; a worker may die, and its sessions then
//! last as long as they can. The second worker uses nothing of the old pool, and hears of the rename at once.

mod leader;

use std::{collections::BTreeSet, time::Duration};

use mailrelay::lease::{BootTime, Holder, Ledger, Numbers, SyncReply, Watch};
use stateright::{Model, Property};

use crate::{
    config::{GRACE, TICK, ghost, timing},
    start::identity,
    state::{Shared, moment},
    world::{ALL_USED, INVARIANT},
};

const BUDGET: u32 = 1;
const PODS: usize = 2;
const NAMES: [&str; 2] = ["old", "new"];
const OLD: usize = 0;
const NEW: usize = 1;
const TICKS: u64 = 5;
const SESSION_TIMEOUT: Duration = Duration::from_secs(3 * TICK.as_secs());

/// How the rename is broken on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Renamed {
    Correct,
    /// The new ledger is made without a look at the old one.
    OpenedBeside,
    /// The new ledger begins without what the old one withholds.
    NothingInherited,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Tick,
    Rename,
    /// The worker hears of the rename: it leaves the old pool and joins the new one.
    Move(usize),
    Sync(usize, usize),
    /// A slot is counted and connected.
    Open(usize, usize),
    Close(usize),
    ServerReads(usize),
    GiveUp(usize),
    Clear(usize, usize),
    Kill(usize),
}

/// A session that the server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
    pod: usize,
    pool: usize,
    slot: u64,
    /// Since when the worker waits for EOF.
    closed: Option<u64>,
    /// When the server's own time-out is over at the latest.
    until: Option<u64>,
}

#[derive(Clone, Debug)]
pub struct Pool {
    /// Its ledger; without one it is not known.
    ledger: Ledger,
    watch: Watch,
    /// Who holds slots or may claim some, as the last look showed.
    held: Option<BTreeSet<String>>,
    /// Never open so far.
    fresh: bool,
}

#[derive(Clone, Debug)]
pub struct Worker {
    /// One for each pool that it is in.
    holders: [Option<Holder>; 2],
    /// The tick of its last SYNC with each, and how many there were.
    sent: [(u64, u8); 2],
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    now: u64,
    renamed: bool,
    kills: u8,
    pools: Vec<Shared<Pool>>,
    workers: Vec<Option<Shared<Worker>>>,
    sessions: Vec<Session>,
}

impl Model for Renamed {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![self.first()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        let synced = |worker: &Worker| {
            (0..2).all(|pool| {
                worker.holders[pool].is_none() || worker.sent[pool].0 == state.now && worker.sent[pool].1 > 0
            })
        };
        if state.now < TICKS && state.workers.iter().flatten().all(|worker| synced(worker)) {
            steps.push(Step::Tick);
        }
        if !state.renamed {
            steps.push(Step::Rename);
        }
        for (pod, worker) in state.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            if state.renamed && worker.holders[NEW].is_none() {
                steps.push(Step::Move(pod));
            }
            if state.kills > 0 && pod == 0 {
                steps.push(Step::Kill(pod));
            }
            for pool in [OLD, NEW] {
                let Some(holder) = &worker.holders[pool] else { continue };
                let (tick, count) = worker.sent[pool];
                if tick < state.now || count == 0 || holder.is_due() && count < 2 {
                    steps.push(Step::Sync(pod, pool));
                }
                if holder.may_count(state.clock()) && (pod, pool) != (1, OLD) {
                    steps.push(Step::Open(pod, pool));
                }
                if !holder.over(state.clock()).is_empty() {
                    steps.push(Step::Clear(pod, pool));
                }
            }
        }
        for (index, session) in state.sessions.iter().enumerate() {
            match session.closed {
                None if session.until.is_none() => steps.push(Step::Close(index)),
                Some(since) if state.workers[session.pod].is_some() => {
                    steps.push(Step::ServerReads(index));
                    if state.now >= since + ghost(GRACE) {
                        steps.push(Step::GiveUp(index));
                    }
                }
                _ => {}
            }
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        state.take(*self, step);
        state.sessions.sort_unstable();
        (state != *last).then_some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(INVARIANT, |_: &Self, state: &State| state.sessions.len() <= BUDGET as usize),
            Property::sometimes(ALL_USED, |_: &Self, state: &State| {
                state.sessions.iter().filter(|session| session.pool == NEW).count() == BUDGET as usize
            }),
        ]
    }
}

impl Renamed {
    fn first(self) -> State {
        let pool = |name: &str| Pool { ledger: Ledger::new(name), watch: Watch::default(), held: None, fresh: true };
        let worker = |pod| {
            let holder = Holder::new(identity(pod, 0, 0, &Numbers::default()), timing(), SESSION_TIMEOUT);
            Some(Shared::new(Worker { holders: [Some(holder), None], sent: [(0, 0); 2] }))
        };
        let mut state = State {
            now: 0,
            renamed: false,
            kills: 1,
            pools: NAMES.map(|name| Shared::new(pool(name))).to_vec(),
            workers: (0..PODS).map(worker).collect(),
            sessions: Vec::new(),
        };
        // A fresh pool opens at once: INIT, then OPEN.
        state.lead(self);
        state.lead(self);
        for pod in 0..PODS {
            (0..3).for_each(|_| state.sync(pod, OLD));
        }
        state.lead(self);
        state
    }
}

impl State {
    fn clock(&self) -> BootTime {
        moment(self.now)
    }

    fn worker<R>(&mut self, pod: usize, change: impl FnOnce(&mut Worker) -> R) -> R {
        self.workers[pod].as_mut().expect("a step of a live worker").edit(change)
    }

    fn holder<R>(&mut self, pod: usize, pool: usize, change: impl FnOnce(&mut Holder) -> R) -> Option<R> {
        self.worker(pod, |worker| worker.holders[pool].as_mut().map(change))
    }

    fn take(&mut self, variant: Renamed, step: Step) {
        let clock = self.clock();
        match step {
            Step::Tick => self.tick(variant),
            Step::Rename => {
                self.renamed = true;
                self.join(1);
            }
            Step::Move(pod) => self.join(pod),
            Step::Sync(pod, pool) => self.sync(pod, pool),
            Step::Open(pod, pool) => {
                if let Some(Some(slot)) = self.holder(pod, pool, |holder| holder.count(clock)) {
                    self.holder(pod, pool, |holder| holder.set_connected(slot));
                    self.sessions.push(Session { pod, pool, slot, closed: None, until: None });
                }
            }
            Step::Close(index) => {
                let session = &mut self.sessions[index];
                session.closed = Some(self.now);
                session.until = Some(self.now + ghost(timing().hold(SESSION_TIMEOUT)));
            }
            Step::ServerReads(index) => {
                let Session { pod, pool, slot, .. } = self.sessions.remove(index);
                self.holder(pod, pool, |holder| holder.release(slot));
                self.leave(pod, pool);
            }
            Step::GiveUp(index) => {
                let Session { pod, pool, slot, .. } = self.sessions[index];
                self.sessions[index].closed = None;
                let hold = timing().hold(SESSION_TIMEOUT);
                self.holder(pod, pool, |holder| holder.quarantine(slot, "no-eof", hold, clock));
            }
            Step::Clear(pod, pool) => {
                let Some((ids, token)) = self.holder(pod, pool, |h| (h.over(clock), h.token().to_owned())) else {
                    return;
                };
                self.pools[pool].edit(|pool| pool.ledger.clear(&token, &ids));
                self.holder(pod, pool, |holder| ids.iter().for_each(|id| holder.cleared(id)));
            }
            Step::Kill(pod) => {
                self.kills -= 1;
                self.kill(pod);
            }
        }
    }

    /// The worker leaves the old pool when it may, and joins the new one.
    fn join(&mut self, pod: usize) {
        self.worker(pod, |worker| {
            if let Some(old) = &mut worker.holders[OLD] {
                old.close();
            }
            // Numbers never repeat in a process: above whatever the other holder draws.
            let numbers = Numbers::default();
            let next = || Holder::new(identity(pod, 0, 0, &numbers), timing(), SESSION_TIMEOUT);
            for _ in 1..20 {
                next();
            }
            worker.holders[NEW] = Some(next());
        });
    }

    fn kill(&mut self, pod: usize) {
        self.workers[pod] = None;
        let until = self.now + ghost(timing().hold(SESSION_TIMEOUT));
        for session in self.sessions.iter_mut().filter(|session| session.pod == pod) {
            session.closed = None;
            session.until.get_or_insert(until);
        }
    }

    fn tick(&mut self, variant: Renamed) {
        self.now += 1;
        let (now, clock) = (self.now, self.clock());
        for pod in 0..PODS {
            let is_due =
                |holder: &Holder| holder.held() > 0 && holder.deadline().is_some_and(|deadline| clock >= deadline);
            if self.workers[pod].as_ref().is_some_and(|worker| worker.holders.iter().flatten().any(is_due)) {
                self.kill(pod);
            }
            if self.workers[pod].is_some() {
                self.worker(pod, |worker| {
                    worker.holders.iter_mut().flatten().for_each(|holder| _ = holder.tick(clock));
                });
            }
        }
        let over: Vec<Session> =
            self.sessions.iter().filter(|s| s.until.is_some_and(|until| until <= now)).copied().collect();
        for session in over {
            self.sessions.retain(|other| *other != session);
            if session.closed.is_some() && self.workers[session.pod].is_some() {
                self.holder(session.pod, session.pool, |holder| holder.release(session.slot));
            }
        }
        self.lead(variant);
    }

    fn sync(&mut self, pod: usize, pool: usize) {
        let (now, clock) = (self.now, self.clock());
        let Some(Some(request)) = self.holder(pod, pool, |holder| holder.request(clock)) else {
            self.worker(pod, |worker| worker.sent[pool] = (now, 2));
            return self.leave(pod, pool);
        };
        let (mut reply, told) =
            self.pools[pool].edit(|it| (it.ledger.sync(&request), std::mem::take(&mut it.ledger.told)));
        if let SyncReply::Ok(granted) = &mut reply {
            granted.version = 0;
        }
        self.worker(pod, |worker| {
            let (tick, count) = worker.sent[pool];
            worker.sent[pool] = (now, if tick == now { count + 1 } else { 1 });
        });
        self.holder(pod, pool, |holder| holder.answer(&request, Some(reply), clock));
        for other in (0..PODS).filter(|other| *other != pod && self.workers[*other].is_some()).collect::<Vec<_>>() {
            self.holder(other, pool, |holder| told.iter().for_each(|event| holder.hear(event)));
        }
        self.leave(pod, pool);
    }

    fn leave(&mut self, pod: usize, pool: usize) {
        let clock = self.clock();
        if let Some(Some(leaving)) = self.holder(pod, pool, |holder| holder.leaving(clock)) {
            self.pools[pool].edit(|pool| {
                pool.ledger.leave(&leaving.token, &leaving.inc, leaving.seq);
                pool.ledger.told.clear();
            });
            self.holder(pod, pool, Holder::left);
        }
        self.worker(pod, |worker| {
            if worker.holders[pool].as_ref().is_some_and(Holder::is_done) {
                worker.holders[pool] = None;
            }
        });
    }
}
