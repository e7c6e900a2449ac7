//! A second, small world: one server under two names. A budget is renamed while its pool is in use, so that there are two
//! ledgers for the sessions that one server counts.
//!
//! The rules are production's here, too: how pools stand towards each other is [`stand`], what the leader does to each is
//! [`Watch::actions`]. Nothing is lost and nothing is late; a worker may die, and its sessions then last as long as they can.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mailrelay::{
    controller::{Known, Plan, PoolPlan, RelayKey, RelayPlan, Standing, stand},
    lease::{
        Action, BootTime, Evidence, Holder, InitRequest, Ledger, LedgerState, LedgerView, Numbers, OldPrimary,
        OpenRequest, Policy, Quarantine, SyncReply, Watch,
    },
};
use serde_json::json;
use stateright::{Model, Property};

use crate::{
    config::{GRACE, TICK, ghost, timing},
    start::{identity, uid},
    state::{Shared, moment},
    world::{ALL_USED, INVARIANT},
};

const BUDGET: u32 = 1;
const PODS: usize = 2;
const NAMES: [&str; 2] = ["old", "new"];
const OLD: usize = 0;
const NEW: usize = 1;
const TICKS: u64 = 7;
const SESSION_TIMEOUT: std::time::Duration = TICK;

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
            if state.kills > 0 {
                steps.push(Step::Kill(pod));
            }
            for pool in [OLD, NEW] {
                let Some(holder) = &worker.holders[pool] else { continue };
                let (tick, count) = worker.sent[pool];
                if tick < state.now || count == 0 || holder.is_due() && count < 2 {
                    steps.push(Step::Sync(pod, pool));
                }
                if holder.may_count(state.clock()) {
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
        let pool = |name: &str| Pool { ledger: Ledger::new(name), watch: Watch::default(), fresh: true };
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
            Step::Rename => self.renamed = true,
            Step::Move(pod) => self.worker(pod, |worker| {
                if let Some(old) = &mut worker.holders[OLD] {
                    old.close();
                }
                // Numbers never repeat in a process: above whatever the other holder draws.
                let numbers = Numbers::default();
                let next = || Holder::new(identity(pod, 0, 0, &numbers), timing(), SESSION_TIMEOUT);
                worker.holders[NEW] = Some((0..20).map(|_| next()).last().unwrap_or_else(next));
            }),
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
                    worker.holders.iter_mut().flatten().for_each(|holder| _ = holder.tick(clock))
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

    /// The leader's turn: how the pools stand, then each in turn.
    fn lead(&mut self, variant: Renamed) {
        let plan = plan(NAMES[usize::from(self.renamed)]);
        let known = |(pool, name): (&Shared<Pool>, &str)| Some((name.to_owned(), pool.known(self.clock())?));
        let known: BTreeMap<String, Known> = self.pools.iter().zip(NAMES).filter_map(known).collect();
        let mut standings = stand(&plan, &known);
        for (index, name) in NAMES.into_iter().enumerate() {
            let mut standing = standings.remove(name).unwrap_or_default();
            match variant {
                Renamed::Correct => {}
                Renamed::OpenedBeside => standing = Standing { servers: standing.servers, ..Standing::default() },
                Renamed::NothingInherited => standing.inherits.clear(),
            }
            self.drive(index, plan.pools.get(name), &standing);
        }
    }

    fn drive(&mut self, pool: usize, plan: Option<&PoolPlan>, standing: &Standing) {
        let clock = self.clock();
        self.pools[pool].edit(|it| {
            if it.ledger.view.is_none() && plan.is_none() {
                return;
            }
            // Versions do not matter where no copy comes back.
            it.ledger.view.iter_mut().for_each(|view| view.version = 0);
            it.watch.list(&(0..PODS).map(uid).collect());
            it.watch.observe(&it.ledger.snapshot(), clock);
            let policy = policy(plan, standing, it.ledger.view.as_ref());
            if let Some(view) = &it.ledger.view {
                it.fresh &= view.state != LedgerState::Open;
                if plan.is_none() && is_unused(view, standing.carried) {
                    (it.ledger.view, it.watch) = (None, Watch::default());
                    return;
                }
                if view.entitlements != policy.entitlements || view.servers != policy.servers {
                    it.watch.sent(1, &policy.entitlements, clock);
                    it.ledger.policy(&policy);
                    it.watch.answered();
                }
            }
            let old_primary = OldPrimary::StopsWithin(std::time::Duration::ZERO);
            let actions =
                it.watch.actions(clock, &timing(), SESSION_TIMEOUT, !it.fresh, old_primary, &Evidence::default());
            for action in actions {
                it.act(action, &policy, standing);
            }
        });
    }
}

impl Pool {
    fn known(&self, now: BootTime) -> Option<Known> {
        let view = self.ledger.view.as_ref()?;
        let entry = |entry: &mailrelay::lease::MirroredQuarantine| {
            let entry = entry.entry.clone();
            Quarantine { id: entry.id, slots: entry.slots, seconds: entry.seconds, why: entry.why }
        };
        let quarantine = self.watch.mirror(now, &timing()).quarantine.iter().map(entry).collect();
        let holders = view.holders.iter().filter(|holder| holder.claim > 0).map(|holder| &holder.pod_uid);
        let held = holders.chain(view.entitlements.iter().filter(|(_, share)| **share > 0).map(|(pod, _)| pod));
        let held = (view.state == LedgerState::Open).then(|| held.cloned().collect());
        Some(Known { servers: Some(self.watch.servers().clone()), held, quarantine })
    }

    fn act(&mut self, action: Action, policy: &Policy, standing: &Standing) {
        let hold = |hold: std::time::Duration| hold.as_secs() + u64::from(hold.subsec_nanos() > 0);
        match action {
            // What its servers still count is in the ledger of before.
            Action::Init { .. } if self.fresh && !standing.waits_for.is_empty() => {}
            Action::Init { fence, mut quarantine, version } => {
                quarantine.extend(standing.inherits.iter().cloned());
                let token = format!("token-{fence}");
                self.ledger.init(&InitRequest { fence, token, policy: policy.clone(), quarantine, version });
            }
            Action::Open { token, missing } => {
                self.ledger.open(&OpenRequest { epoch: 1, token, missing });
            }
            Action::Reap { token, inc, seq, quarantine } => {
                self.ledger.reap(&token, &inc, Some(seq), hold(quarantine), "silent");
            }
            Action::Clear { token, ids } => {
                self.ledger.clear(&token, &ids);
            }
            Action::Condemn { .. } | Action::ReapDead { .. } => unreachable!("nothing is lost and no pod is over"),
        }
        self.ledger.told.clear();
    }
}

/// As production writes it: a pool that is not planned grants nothing, nor does one to pods that wait.
fn policy(plan: Option<&PoolPlan>, standing: &Standing, view: Option<&LedgerView>) -> Policy {
    let share = |pod: &String| (pod.clone(), if standing.waiting.contains(pod) { 0 } else { BUDGET });
    Policy {
        epoch: 1,
        revision: view.map_or(1, |view| view.revision),
        budget: BUDGET,
        lease: timing().lease,
        entitlements: plan.map(|plan| plan.members.iter().map(share).collect()).unwrap_or_default(),
        servers: standing.servers.clone(),
    }
}

fn is_unused(view: &LedgerView, carried: bool) -> bool {
    let is_empty = view.holders.is_empty() && view.entitlements.is_empty();
    view.state == LedgerState::Open && is_empty && (carried || view.quarantine.is_empty())
}

/// One relay with one server, whose budget has this name.
fn plan(budget: &str) -> Plan {
    let relay: mailrelay::api::MailRelay = serde_json::from_value(json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
        "metadata": { "name": "r", "namespace": "mail", "uid": "r" },
        "spec": {
            "servers": [{ "name": "s", "host": "mx", "port": 25, "budgetName": budget }],
            "queue": { "name": "q", "deadLetterName": "d" },
        },
    }))
    .expect("a relay");
    let members: BTreeSet<String> = (0..PODS).map(uid).collect();
    let key = RelayKey::of(&relay);
    let server = &relay.spec.servers[0];
    let pool = PoolPlan {
        budget: BUDGET,
        members: members.clone(),
        session_timeout: server.session_timeout,
        close_grace: server.close_grace,
        servers: BTreeSet::from([server.address(), format!("relay:{key}/s")]),
    };
    let published = relay.spec.clone();
    let relay = RelayPlan {
        uid: "r".to_owned(),
        generation: 1,
        selector: String::new(),
        stalled: None,
        workers: members.into_iter().map(|uid| (uid.clone(), uid)).collect(),
        shared: None,
        relay: Arc::new(relay),
        published,
    };
    Plan { relays: BTreeMap::from([(key, relay)]), pools: BTreeMap::from([(budget.to_owned(), pool)]) }
}
