//! Invariant I under delay, loss, reordering, crashes, wipes and stale copies: the production code of worker, ledger and
//! leader in one simulated world, with seeds. The server is counted from outside: a session lasts from `connect()` until
//! the server noticed its end.

#![expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]

use std::{collections::BTreeMap, time::Duration};

use mailrelay::lease::{
    Action, BootTime, Evidence, Holder, Holds, Identity, InitRequest, Ledger, LedgerView, Mirror, OpenRequest, Policy,
    ProcessId, SyncReply, SyncRequest, Timing, Watch,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

const BUDGET: u32 = 6;
const PODS: usize = 4;
const HOLDS: Holds = Holds { close_grace: Duration::from_secs(2), session_timeout: Duration::from_secs(30) };

/// What a run of the world leaves out, to show that the test would notice.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Broken {
    Nothing,
    /// The pool opens at once after a wipe.
    NoReclaim,
    /// A slot is given back when the worker closed, not when the server noticed.
    NoEof,
    /// Messages reach a ledger that is not in force.
    NoFence,
    /// A new process does not look for the sockets of the one before.
    NoSearch,
}

struct Worker {
    holder: Holder,
    slots: Vec<u64>,
    request: Option<(SyncRequest, BootTime)>,
    next: BootTime,
}

enum Message {
    Ask(usize, String, SyncRequest),
    Answer(usize, String, SyncRequest, SyncReply),
}

struct World {
    random: StdRng,
    now: BootTime,
    timing: Timing,
    ledger: Ledger,
    stale: Option<LedgerView>,
    /// What the leader wrote down outside Redis.
    mirror: Mirror,
    workers: Vec<Worker>,
    /// Messages with the time of their arrival.
    wire: Vec<(BootTime, Message)>,
    /// Sessions at the server whose client has gone: until when they count, and the pod if its kernel got no answer to FIN.
    ghosts: Vec<(BootTime, Option<usize>)>,
    watch: Watch,
    opened: bool,
    next_look: BootTime,
    recovering: BootTime,
    counters: BTreeMap<&'static str, u32>,
    tokens: u32,
    nodes: u32,
    revision: u64,
    shares: BTreeMap<String, u32>,
    broken: Broken,
}

impl World {
    fn new(seed: u64, broken: Broken) -> Self {
        let now = BootTime::after_boot(Duration::from_secs(1000));
        let mut world = Self {
            random: StdRng::seed_from_u64(seed),
            now,
            timing: Timing::default(),
            ledger: Ledger::new("node0"),
            stale: None,
            mirror: Mirror::default(),
            workers: Vec::new(),
            wire: Vec::new(),
            ghosts: Vec::new(),
            watch: Watch::default(),
            opened: false,
            next_look: now,
            recovering: now,
            counters: BTreeMap::new(),
            tokens: 0,
            nodes: 0,
            revision: 1,
            shares: BTreeMap::new(),
            broken,
        };
        world.draw_shares();
        for pod in 0..PODS {
            let worker = world.new_worker(pod);
            world.workers.push(worker);
        }
        world
    }

    fn below(&mut self, n: u64) -> u64 {
        self.random.random_range(0..n)
    }

    fn count(&mut self, what: &'static str) {
        *self.counters.entry(what).or_default() += 1;
    }

    fn new_worker(&mut self, pod: usize) -> Worker {
        let identity = Identity {
            pod_uid: format!("uid{pod}"),
            pod: format!("pod{pod}"),
            namespace: "mail".into(),
            process: ProcessId::parse(&format!("{:032x}", self.random.random::<u128>())).expect("hex"),
            boot_id: format!("boot{}", pod % 2),
        };
        let holder = Holder::new(identity, self.timing, HOLDS.close_grace, HOLDS.session_timeout);
        Worker { holder, slots: Vec::new(), request: None, next: self.now }
    }

    fn draw_shares(&mut self) {
        let mut left = u64::from(BUDGET);
        self.shares.clear();
        for pod in 0..PODS {
            let share = if pod + 1 == PODS { left } else { self.below(left + 1) };
            left -= share;
            self.shares.insert(format!("uid{pod}"), u32::try_from(share).unwrap());
        }
    }

    fn policy(&self) -> Policy {
        let entitlements = self.shares.clone();
        Policy { epoch: 1, revision: self.revision, budget: BUDGET, lease: self.timing.lease, entitlements }
    }

    /// Sessions that the server counts now.
    fn at_server(&self) -> usize {
        let live: usize = self.workers.iter().map(|worker| worker.slots.len()).sum();
        live + self.ghosts.iter().filter(|(until, _)| self.now < *until).count()
    }

    fn step(&mut self) {
        let pause = Duration::from_millis(1 + self.below(120));
        self.now = self.now + pause;
        self.deliver();
        for pod in 0..PODS {
            self.work(pod);
        }
        self.disturb();
        if self.now >= self.next_look {
            self.lead();
        }
        let now = self.now;
        self.ghosts.retain(|(until, _)| now < *until);
    }

    fn send(&mut self, message: Message) {
        if self.below(100) < 6 {
            self.count("lost");
            return;
        }
        let late = if self.below(100) < 8 { self.below(9000) } else { self.below(30) };
        self.wire.push((self.now + Duration::from_millis(late), message));
    }

    fn deliver(&mut self) {
        let now = self.now;
        let (arrived, wire): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.wire).into_iter().partition(|(at, _)| *at <= now);
        self.wire = wire;
        for (_, message) in arrived {
            match message {
                Message::Ask(pod, process, request) => {
                    if self.broken == Broken::NoFence {
                        let fence = self.ledger.node_fence.clone();
                        if let Some(view) = &mut self.ledger.view {
                            view.fence = fence;
                        }
                    }
                    let reply = self.ledger.sync(&request);
                    let word = match &reply {
                        SyncReply::Ok(_) => "ok",
                        SyncReply::Wait(_) => "wait",
                        SyncReply::Token { .. } => "token",
                        SyncReply::Gone => "gone",
                        SyncReply::Stale => "stale",
                        SyncReply::Register { .. } => "register",
                    };
                    self.count(word);
                    self.send(Message::Answer(pod, process, request, reply));
                }
                Message::Answer(pod, process, request, reply) => {
                    let worker = &mut self.workers[pod];
                    // A time-out of the call drops its answer; so does the end of the process.
                    let waited = worker.request.as_ref().is_some_and(|(sent, _)| *sent == request);
                    if waited && request.process == process {
                        worker.request = None;
                        worker.holder.answer(&request, Some(reply), now);
                        worker.next = if worker.holder.is_due() { now } else { now + worker.holder.pause(0.0) };
                    }
                }
            }
        }
    }

    /// A worker that acts in time: R6 is what makes others do so.
    fn work(&mut self, pod: usize) {
        let now = self.now;
        // The steps are coarser than the closing margin: close whatever would end before the next one.
        let ending = self.workers[pod].holder.time_left(now) < Duration::from_millis(200);
        self.workers[pod].holder.tick(now);
        for slot in self.workers[pod].slots.clone() {
            let revoked = self.workers[pod].holder.is_revoked(slot);
            if ending || (revoked && self.below(100) < 20) || self.below(1000) < 8 {
                self.close(pod, slot);
            }
        }
        if self.below(100) < 30
            && let Some(slot) = self.workers[pod].holder.count(now)
        {
            self.workers[pod].slots.push(slot);
            self.count("opened");
        }
        if self.below(1000) < 5 {
            let want = u32::try_from(self.below(8)).unwrap();
            self.workers[pod].holder.set_want(want);
        }
        let limit = self.timing.sync_limit();
        if let Some((request, sent)) = self.workers[pod].request.clone()
            && now.saturating_since(sent) > limit
        {
            self.workers[pod].request = None;
            self.workers[pod].holder.answer(&request, None, now);
        }
        let worker = &mut self.workers[pod];
        if (now >= worker.next || worker.holder.is_due())
            && let Some(request) = worker.holder.request(now)
        {
            worker.request = Some((request.clone(), now));
            worker.next = now + Duration::from_secs(1);
            let process = request.process.clone();
            self.send(Message::Ask(pod, process, request));
        }
        let token = self.workers[pod].holder.token().to_owned();
        for id in self.workers[pod].holder.over(now) {
            self.ledger.clear(&token, &id);
            self.workers[pod].holder.cleared(&id);
            self.count("cleared");
        }
    }

    fn close(&mut self, pod: usize, slot: u64) {
        let now = self.now;
        self.workers[pod].slots.retain(|other| *other != slot);
        let clean = self.below(100) < 80;
        if clean && self.broken != Broken::NoEof {
            self.workers[pod].holder.release(slot);
        } else {
            // No EOF came: the server notices at some time within its own limit.
            let until = now + Duration::from_millis(self.below(30_000));
            self.ghosts.push((until, Some(pod)));
            if self.broken == Broken::NoEof {
                self.workers[pod].holder.release(slot);
            } else {
                self.workers[pod].holder.quarantine(slot, "no-eof", HOLDS.session_timeout, now);
            }
            self.count("unclean");
        }
    }

    fn disturb(&mut self) {
        match self.below(4000) {
            0..12 => {
                // A process dies; the kernel sends FIN, the server notices within the grace. Its successor starts at once.
                let pod = usize::try_from(self.below(PODS as u64)).unwrap();
                // Some die while they close, before they could say what ended uncleanly.
                if self.below(2) == 0 {
                    for slot in self.workers[pod].slots.clone() {
                        self.close(pod, slot);
                    }
                }
                let sessions = self.workers[pod].slots.len();
                for _ in 0..sessions {
                    let until = self.now + Duration::from_millis(self.below(2000));
                    self.ghosts.push((until, None));
                }
                self.workers[pod] = self.new_worker(pod);
                // R5a: the successor finds the sockets whose FIN was never answered.
                let found = self.ghosts.iter().filter(|(_, unanswered)| *unanswered == Some(pod)).count();
                let (now, found) = (self.now, u32::try_from(found).unwrap());
                if found > 0 && self.broken != Broken::NoSearch {
                    self.workers[pod].holder.inherit(found, "inherited", HOLDS.session_timeout, now);
                    self.count("inherited");
                }
                self.count("died");
            }
            12..40 => {
                self.draw_shares();
                self.revision += 1;
                let policy = self.policy();
                self.watch.sent(policy.epoch, &policy.entitlements, self.now);
                self.ledger.policy(&policy);
                self.watch.answered();
                self.count("policy");
            }
            40..45 => {
                // The leader may go down with the store.
                self.ledger.view = None;
                self.count("wiped");
                if self.below(2) == 0 {
                    self.change_leader();
                }
            }
            45..50 => {
                // A restart from a copy of a while ago.
                self.nodes += 1;
                self.ledger.node_fence = format!("node{}", self.nodes);
                if let Some(stale) = self.stale.take() {
                    self.ledger.view = Some(stale);
                }
                self.count("restored");
            }
            50..70 => self.stale = self.ledger.view.clone(),
            70..75 => self.change_leader(),
            _ => {}
        }
    }

    /// Another leader: it knows what the ledger says, if there is one, and what was mirrored.
    fn change_leader(&mut self) {
        self.watch = Watch::default();
        self.watch.restore(&self.mirror, self.now);
        self.count("new leader");
    }

    fn lead(&mut self) {
        self.next_look = self.now + Duration::from_millis(250);
        self.watch.list(&(0..PODS).map(|pod| format!("uid{pod}")).collect());
        self.watch.observe(&self.ledger.snapshot(), self.now);
        // Written at a bounded rate.
        if self.below(100) < 25 {
            self.mirror = self.watch.mirror(self.now, &self.timing);
        }
        let mut evidence = Evidence::default();
        evidence.nodes.insert("boot0".into(), self.now);
        let opened = self.opened && self.broken != Broken::NoReclaim;
        for action in self.watch.actions(self.now, &self.timing, HOLDS, opened, Duration::ZERO, &evidence) {
            match action {
                Action::Init { fence, quarantine } => {
                    self.tokens += 1;
                    let (token, policy) = (format!("t{}", self.tokens), self.policy());
                    self.watch.sent(policy.epoch, &policy.entitlements, self.now);
                    self.ledger.init(&InitRequest { fence, token, policy, quarantine });
                    self.watch.answered();
                    self.recovering = self.now;
                    self.count("init");
                }
                Action::Open { token, missing } => {
                    self.opened = true;
                    self.count(if self.now < self.recovering + self.timing.reclaim {
                        "open early"
                    } else {
                        "open late"
                    });
                    self.watch.opening(self.now);
                    self.ledger.open(&OpenRequest { epoch: 1, token, missing });
                    self.watch.answered();
                    self.count("open");
                }
                Action::Reap { token, inc, seq, quarantine } => {
                    self.ledger.reap(&token, &inc, Some(seq), quarantine.as_secs() + 1, "silent");
                    self.count("reap");
                }
                Action::ReapDead { token, inc, quarantine } => {
                    self.ledger.reap(&token, &inc, None, quarantine.as_secs() + 1, "dead");
                }
                Action::Clear { token, id } => drop(self.ledger.clear(&token, &id)),
            }
        }
    }
}

/// The most sessions the server counted at once, and how often each thing happened.
fn run(seed: u64, steps: u32, broken: Broken) -> (usize, BTreeMap<&'static str, u32>) {
    let mut world = World::new(seed, broken);
    let mut peak = 0;
    for _ in 0..steps {
        world.step();
        peak = peak.max(world.at_server());
    }
    (peak, world.counters)
}

#[test]
fn the_server_never_counts_more_sessions_than_the_budget() {
    let mut all: BTreeMap<&'static str, u32> = BTreeMap::new();
    let mut peaks = 0;
    for seed in 0..60 {
        let (peak, counters) = run(seed, 4000, Broken::Nothing);
        assert!(peak <= BUDGET as usize, "seed {seed}: {peak} sessions");
        peaks += usize::from(peak == BUDGET as usize);
        for (what, n) in counters {
            *all.entry(what).or_default() += n;
        }
    }
    println!("{all:?}, budget used up in {peaks} of 60 runs");
    for what in [
        "lost",
        "ok",
        "wait",
        "token",
        "gone",
        "stale",
        "register",
        "opened",
        "unclean",
        "died",
        "init",
        "open",
        "open early",
    ] {
        assert!(all.get(what).is_some_and(|n| *n > 20), "too rare to show anything: {what} in {all:?}");
    }
    assert!(peaks > 50, "the budget was used up in {peaks} of 60 runs only");
}

#[test]
fn the_simulation_notices_what_the_rules_prevent() {
    for broken in [Broken::NoReclaim, Broken::NoEof, Broken::NoFence, Broken::NoSearch] {
        let found = (0..60).find(|seed| run(*seed, 4000, broken).0 > BUDGET as usize);
        assert!(found.is_some(), "{broken:?} went unnoticed");
    }
}
