//! A second, small world: one server under two names. A budget is renamed while its pool is in use, so that there are two
//! ledgers for the sessions that one server counts.
//!
//! The rules are production's here, too: how pools stand towards each other is [`mailrelay::controller::stand`], what the
//! leader does to each is [`Watch::actions`]. Nothing is lost and nothing is late; a worker may die, and its sessions then
//! last as long as they can. One worker is in the old pool and leaves it; another one
//! is in the new one from the moment of the rename.

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
const TICKS: u64 = 8;
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
    /// The plan calls the budget by its new name, and a worker joins that pool.
    Rename,
    /// The worker of the old pool hears of it, and leaves when it has no session any more.
    Leave,
    /// A SYNC of the worker of this pool.
    Sync(usize),
    /// It counts a slot and connects.
    Open(usize),
    Close(usize),
    ServerReads(usize),
    GiveUp(usize),
    Clear(usize),
    /// The worker of the old pool dies.
    Kill,
}

/// A session that the server counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Session {
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
    holder: Holder,
    leaving: bool,
    /// The tick of its last SYNC, and how many there were in it.
    sent: (u64, u8),
}

#[derive(Clone, Debug, PartialEq, Hash)]
pub struct State {
    now: u64,
    renamed: bool,
    kills: u8,
    pools: Vec<Shared<Pool>>,
    /// The worker of each pool.
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
        let synced = |worker: &Worker| worker.sent.0 == state.now && worker.sent.1 > 0;
        if state.now < TICKS && state.workers.iter().flatten().all(|worker| synced(worker)) {
            steps.push(Step::Tick);
        }
        if !state.renamed {
            steps.push(Step::Rename);
        }
        if let Some(worker) = &state.workers[OLD] {
            if state.renamed && !worker.leaving {
                steps.push(Step::Leave);
            }
            if state.kills > 0 {
                steps.push(Step::Kill);
            }
        }
        for (pool, worker) in state.workers.iter().enumerate() {
            let Some(Worker { holder, sent: (tick, count), .. }) = worker.as_deref() else { continue };
            if *tick < state.now || *count == 0 || holder.is_due() && *count < 2 {
                steps.push(Step::Sync(pool));
            }
            if holder.may_count(state.clock()) {
                steps.push(Step::Open(pool));
            }
            if !holder.over(state.clock()).is_empty() {
                steps.push(Step::Clear(pool));
            }
        }
        for (index, session) in state.sessions.iter().enumerate() {
            match session.closed {
                None if session.until.is_none() => steps.push(Step::Close(index)),
                Some(since) if state.workers[session.pool].is_some() => {
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
        let mut state = State {
            now: 0,
            renamed: false,
            kills: 1,
            pools: NAMES.map(|name| Shared::new(pool(name))).to_vec(),
            workers: vec![Some(worker(OLD)), None],
            sessions: Vec::new(),
        };
        // A fresh pool opens at once: INIT, then OPEN.
        state.lead(self);
        state.lead(self);
        // The token, the pod's last generation, the registration.
        (0..3).for_each(|_| state.sync(OLD));
        state.lead(self);
        state
    }
}

fn worker(pod: usize) -> Shared<Worker> {
    let holder = Holder::new(identity(pod, 0, 0, &Numbers::default()), timing(), SESSION_TIMEOUT);
    Shared::new(Worker { holder, leaving: false, sent: (0, 0) })
}

impl State {
    fn clock(&self) -> BootTime {
        moment(self.now)
    }

    fn worker<R>(&mut self, pool: usize, change: impl FnOnce(&mut Worker) -> R) -> R {
        self.workers[pool].as_mut().expect("a step of a live worker").edit(change)
    }

    fn take(&mut self, variant: Renamed, step: Step) {
        let (now, clock) = (self.now, self.clock());
        let longest = ghost(timing().hold(SESSION_TIMEOUT));
        match step {
            Step::Tick => self.tick(variant),
            Step::Rename => {
                self.renamed = true;
                self.workers[NEW] = Some(worker(NEW));
            }
            Step::Leave => {
                self.worker(OLD, |worker| {
                    worker.leaving = true;
                    worker.holder.close();
                });
                self.leave();
            }
            Step::Sync(pool) => self.sync(pool),
            Step::Open(pool) => {
                if let Some(slot) = self.worker(pool, |worker| worker.holder.count(clock)) {
                    self.worker(pool, |worker| worker.holder.set_connected(slot));
                    self.sessions.push(Session { pool, slot, closed: None, until: None });
                }
            }
            Step::Close(index) => {
                let session = &mut self.sessions[index];
                (session.closed, session.until) = (Some(now), Some(now + longest));
            }
            Step::ServerReads(index) => {
                let Session { pool, slot, .. } = self.sessions.remove(index);
                self.worker(pool, |worker| worker.holder.release(slot));
                self.leave();
            }
            Step::GiveUp(index) => {
                let Session { pool, slot, .. } = self.sessions[index];
                self.sessions[index].closed = None;
                let hold = timing().hold(SESSION_TIMEOUT);
                self.worker(pool, |worker| worker.holder.quarantine(slot, "no-eof", hold, clock));
            }
            Step::Clear(pool) => {
                let (ids, token) =
                    self.worker(pool, |worker| (worker.holder.over(clock), worker.holder.token().to_owned()));
                self.pools[pool].edit(|pool| pool.ledger.clear(&token, &ids));
                self.worker(pool, |worker| ids.iter().for_each(|id| worker.holder.cleared(id)));
            }
            Step::Kill => {
                self.kills -= 1;
                self.kill(OLD);
            }
        }
    }

    fn kill(&mut self, pool: usize) {
        self.workers[pool] = None;
        let until = self.now + ghost(timing().hold(SESSION_TIMEOUT));
        for session in self.sessions.iter_mut().filter(|session| session.pool == pool) {
            session.closed = None;
            session.until.get_or_insert(until);
        }
    }

    fn tick(&mut self, variant: Renamed) {
        self.now += 1;
        let (now, clock) = (self.now, self.clock());
        for pool in [OLD, NEW] {
            let is_due = |worker: &Shared<Worker>| {
                let holder = &worker.holder;
                holder.held() > 0 && holder.deadline().is_some_and(|deadline| clock >= deadline)
            };
            if self.workers[pool].as_ref().is_some_and(is_due) {
                self.kill(pool);
            }
            if self.workers[pool].is_some() {
                self.worker(pool, |worker| worker.holder.tick(clock));
            }
        }
        let over: Vec<Session> =
            self.sessions.iter().filter(|s| s.until.is_some_and(|until| until <= now)).copied().collect();
        for session in over {
            self.sessions.retain(|other| *other != session);
            if session.closed.is_some() && self.workers[session.pool].is_some() {
                self.worker(session.pool, |worker| worker.holder.release(session.slot));
            }
        }
        self.lead(variant);
    }

    fn sync(&mut self, pool: usize) {
        let (now, clock) = (self.now, self.clock());
        let request = self.worker(pool, |worker| {
            let (tick, count) = worker.sent;
            worker.sent = (now, if tick == now { count + 1 } else { 1 });
            worker.holder.request(clock)
        });
        if let Some(request) = request {
            let mut reply = self.pools[pool].edit(|pool| {
                let reply = pool.ledger.sync(&request);
                pool.ledger.told.clear();
                reply
            });
            // Versions do not matter where no copy comes back.
            if let SyncReply::Ok(granted) = &mut reply {
                granted.version = 0;
            }
            self.worker(pool, |worker| worker.holder.answer(&request, Some(reply), clock));
        }
        self.leave();
    }

    /// The worker of the old pool leaves when it has told all, and ends when that is done.
    fn leave(&mut self) {
        let clock = self.clock();
        if self.workers[OLD].as_ref().is_none_or(|worker| !worker.leaving) {
            return;
        }
        if let Some(leaving) = self.worker(OLD, |worker| worker.holder.leaving(clock)) {
            self.pools[OLD].edit(|pool| {
                pool.ledger.leave(&leaving.token, &leaving.inc, leaving.seq);
                pool.ledger.told.clear();
            });
            self.worker(OLD, |worker| worker.holder.left());
        }
        if self.worker(OLD, |worker| worker.holder.is_done()) {
            self.workers[OLD] = None;
        }
    }
}
