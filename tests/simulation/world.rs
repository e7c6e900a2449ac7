//! The world: all processes, stepped window by window; what Kubernetes does around them; what befalls them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use mailrelay::controller::{ControllerOptions, Replica};
use prometheus_client::registry::Registry;
use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use simredis::{SimRedis, Snapshot};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{ApiServer, Mood},
    cluster::{MAIL, NAMESPACE, Node, OBSERVER, Pod, REDIS, RELAY, SERVER, Shown, start_worker, store},
    mail::MailServer,
    net::{Net, Place},
    observer::Observer,
    plan::{Broken, Cut, Fault, Plan},
    process::{Running, Step, Time, set_world},
    trace::Trace,
};

/// Where controllers are in the network, and pods.
const CONTROLLERS: Place = 10;
const PODS: Place = 100;
/// How often a kubelet renews its node's Lease.
const NODE_RENEWAL: Duration = Duration::from_secs(10);
/// How often a copy of the store is kept, to come back as a stale one.
const COPY_EVERY: Duration = Duration::from_secs(2);
/// How long everything may take to come to rest once all faults are over.
const REST: Duration = Duration::from_secs(150);

/// What happens at its time.
enum Event {
    Fault(Fault),
    /// The kubelet starts, or starts again, the worker's container.
    StartContainer {
        pod: usize,
    },
    /// The supervisor starts the worker, unless another start came first.
    StartWorker {
        pod: usize,
        starts: u32,
    },
    /// The kubelet tells the API server of a pod.
    Tell {
        pod: usize,
    },
    /// The kubelet has seen that its pod is over.
    Remove {
        pod: usize,
    },
    KillPod {
        pod: usize,
    },
    KillStopped {
        pod: usize,
        starts: u32,
    },
    Resume {
        pod: usize,
        starts: u32,
    },
    Renew {
        node: usize,
    },
    Boot {
        node: usize,
    },
    StartController {
        replica: usize,
    },
    ResumeController {
        replica: usize,
        starts: u32,
    },
    Mood(Mood),
    RedisUp(Restart),
    Thaw,
    MailUp,
    Mend {
        from: Place,
        to: Place,
    },
    Copy,
}

#[derive(Clone, Copy)]
enum Restart {
    Kept,
    Empty,
    Stale,
}

/// A controller's place, and the process in it.
struct Controller {
    running: Option<Running>,
    starts: u32,
}

/// A world.
pub struct World {
    pub plan: Plan,
    pub trace: Trace,
    pub mail: MailServer,
    pub observer: Observer,
    pub counts: BTreeMap<String, u64>,
    pub now: Time,
    pub lost_by_store: bool,
    chance: SmallRng,
    net: Net,
    api: ApiServer,
    redis: SimRedis,
    copies: Vec<Snapshot>,
    servers: Running,
    watcher: Running,
    controllers: Vec<Controller>,
    nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    /// Wall clocks: of the nodes, of the controllers' machine, of the servers.
    skews: Vec<Arc<AtomicI64>>,
    agenda: BTreeMap<(Time, u64), Event>,
    serial: u64,
}

impl World {
    pub fn new(plan: Plan, print: bool) -> Self {
        let trace = Trace::new(print);
        let mut chance = SmallRng::seed_from_u64(plan.seed ^ 0x5eed_5eed);
        let net = Net::new(chance.next_u64(), plan.latency, plan.broken);
        let api = ApiServer::new(chance.next_u64(), trace.clone());
        let mail = MailServer::new(plan.budget, plan.habits.clone(), chance.next_u64(), trace.clone());
        let skews: Vec<Arc<AtomicI64>> = (0..plan.nodes + 2).map(|_| Arc::default()).collect();
        let (redis_port, mail_port) = (net.listen(REDIS), net.listen(MAIL));
        let (redis_seed, serving) = (chance.next_u64(), mail.clone());
        let mut made = None;
        let servers = Running::start("servers", 0, &skews[plan.nodes + 1], chance.next_u64(), |process| {
            // Made inside its runtime, whose clock is its clock.
            let wall = Arc::new(|| {
                let since = mailrelay::system::wall_clock().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or_default()
            });
            let redis = SimRedis::with_wall_clock(redis_seed, wall);
            made = Some(redis.clone());
            drop(process);
            async move {
                tokio::spawn(serving.serve(mail_port));
                loop {
                    let (stream, _) = redis_port.accept().await;
                    let redis = redis.clone();
                    tokio::spawn(async move { redis.serve(stream).await });
                }
            }
        });
        let redis = made.expect("made at the start");
        for (name, value) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")] {
            servers.within(|| redis.configure(name, value));
        }
        let observer = Observer::default();
        let (watching, to, arrivals, notes) = (observer.clone(), net.clone(), plan.arrivals.clone(), trace.clone());
        let watcher = Running::start("observer", OBSERVER, &Arc::default(), chance.next_u64(), |process| {
            watching.run(to, process, arrivals, notes)
        });
        let nodes = (0..plan.nodes)
            .map(|number| Node {
                name: format!("node-{number}"),
                boots: 1,
                is_up: true,
                skew_ms: Arc::clone(&skews[number]),
            })
            .collect();
        let mut world = Self {
            trace,
            mail,
            observer,
            counts: BTreeMap::new(),
            now: Time::ZERO,
            lost_by_store: false,
            chance,
            net,
            api,
            redis,
            copies: Vec::new(),
            servers,
            watcher,
            controllers: vec![Controller { running: None, starts: 0 }, Controller { running: None, starts: 0 }],
            nodes,
            pods: Vec::new(),
            skews,
            agenda: BTreeMap::new(),
            serial: 0,
            plan,
        };
        world.populate();
        world
    }

    fn populate(&mut self) {
        let plan = self.plan.clone();
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": {
                "name": RELAY, "namespace": NAMESPACE, "uid": "relay-uid", "generation": 1,
                "creationTimestamp": "2026-11-20T00:00:00Z",
            },
            "spec": {
                "servers": [{
                    "name": "primary", "host": SERVER, "port": 25, "tls": "None", "maxConnections": plan.budget,
                    "sessionTimeout": format!("{}s", plan.session_timeout.as_secs()),
                    "closeGrace": format!("{}s", plan.close_grace.as_secs()),
                }],
                "retry": { "initialBackoff": "200ms", "maxBackoff": "2s", "maxRetries": 20 },
                "breaker": { "pause": "3s" },
                "unknownOutcome": if plan.resend { "Resend" } else { "Hold" },
            },
        });
        self.api.put("mailrelays", &format!("{NAMESPACE}/{RELAY}"), relay);
        for node in 0..self.nodes.len() {
            self.tell_node(node);
            let first = self.between(0, 10_000);
            self.at(first, Event::Renew { node });
        }
        for replica in 0..self.controllers.len() {
            let wait = self.between(0, 200);
            self.at(wait, Event::StartController { replica });
        }
        for _ in 0..plan.pods {
            self.add_pod();
        }
        self.at(COPY_EVERY, Event::Copy);
        for (at, fault) in &plan.faults {
            self.at(*at, Event::Fault(*fault));
        }
    }

    fn at(&mut self, after: Duration, event: Event) {
        self.serial += 1;
        self.agenda.insert((self.now + after, self.serial), event);
    }

    fn between(&mut self, least_ms: u64, most_ms: u64) -> Duration {
        Duration::from_millis(self.chance.random_range(least_ms..=most_ms))
    }

    fn count(&mut self, what: impl Into<String>) {
        *self.counts.entry(what.into()).or_default() += 1;
    }

    /// Runs one window.
    pub fn step(&mut self) {
        set_world(self.now);
        self.net.deliver(self.now);
        while let Some(entry) = self.agenda.first_entry().filter(|entry| entry.key().0 <= self.now) {
            let event = entry.remove();
            self.happen(event);
        }
        let until = self.now + Duration::from_millis(self.plan.latency.least_ms);
        self.servers.step(until);
        self.watcher.step(until);
        for replica in 0..self.controllers.len() {
            let ended = self.controllers[replica].running.as_mut().map(|running| running.step(until));
            if matches!(ended, Some(Step::Ended | Step::Shot)) {
                self.trace.note(|| format!("controller {replica} ended"));
                self.count("controllers deposed");
                self.end_controller(replica);
                self.at(Duration::from_millis(700), Event::StartController { replica });
            }
        }
        for pod in 0..self.pods.len() {
            match self.pods[pod].running.as_mut().map(|running| running.step(until)) {
                Some(Step::Ended) => self.worker_ended(pod, "ended"),
                Some(Step::Shot) => {
                    self.count("dead-man switches");
                    self.worker_ended(pod, "was shot");
                }
                Some(Step::Lives) | None => {}
            }
        }
        self.now = until;
        set_world(self.now);
    }

    /// Runs until the faults are over and everything is at rest, or for too long. Returns whether it came to rest.
    pub fn run(&mut self) -> bool {
        while self.now < self.plan.calm {
            self.step();
            if !self.mail.seen(|seen| seen.violations.is_empty()) {
                return false;
            }
        }
        // What still lasts of the faults ends by itself, or now.
        self.net.heal();
        self.mail.heal();
        self.api.set_mood(Mood::default());
        if self.pods.iter().all(|pod| pod.leaving) {
            self.add_pod();
        }
        self.observer.inner().looking = true;
        self.trace.note(|| "the faults are over".to_owned());
        while self.now < self.plan.calm + REST {
            self.step();
            if !self.mail.seen(|seen| seen.violations.is_empty()) {
                return false;
            }
            if self.is_at_rest() {
                return true;
            }
        }
        false
    }

    /// Whether shares are as they should be, no mail waits, and nothing is withheld.
    fn is_at_rest(&self) -> bool {
        self.unrest().is_none()
    }

    /// Why not.
    pub fn unrest(&self) -> Option<String> {
        let inner = self.observer.inner();
        if inner.tried < self.plan.mails {
            return Some(format!("{} of {} mails were sent off", inner.tried, self.plan.mails));
        }
        let Some(look) = &inner.look else { return Some("nobody could look yet".into()) };
        if look.at <= self.plan.calm.max(inner.last_try) {
            return Some("the last look was long ago".into());
        }
        let audit = &look.audit;
        // A wall clock that jumps moves the time of mails that wait for a retry.
        let delayed = if self.skews.iter().any(|skew| skew.load(Ordering::Relaxed) != 0) { 0 } else { audit.delayed };
        if audit.queued + delayed + audit.in_flight > 0 {
            return Some(format!("mail waits: {audit:?}"));
        }
        let Some(ledger) = look.snapshot.in_force() else { return Some("no ledger is in force".into()) };
        if ledger.state != mailrelay::lease::LedgerState::Open {
            return Some("the ledger is not open".into());
        }
        let members: BTreeSet<&str> =
            self.pods.iter().filter(|pod| !pod.gone && !pod.leaving && !pod.over).map(|pod| &*pod.uid).collect();
        let entitled: BTreeSet<&str> = ledger.entitlements.keys().map(|uid| &**uid).collect();
        if entitled != members {
            return Some(format!("shares are for {entitled:?}, pods are {members:?}"));
        }
        let holders: Vec<&str> = ledger.holders.iter().map(|holder| &*holder.pod_uid).collect();
        let registered: BTreeSet<&str> = holders.iter().copied().collect();
        if registered != members || holders.len() != members.len() {
            return Some(format!("holders are {holders:?}, pods are {members:?}"));
        }
        // A server that takes less than the budget gets less, until it has proven itself.
        if let Some(effective) = look.effective {
            return (effective > self.plan.budget).then(|| "more than the budget is shared out".into());
        }
        let shared: u32 = ledger.entitlements.values().sum();
        if !members.is_empty() && shared != self.plan.budget {
            return Some(format!("{shared} of {} slots are shared out", self.plan.budget));
        }
        if !ledger.quarantine.is_empty() {
            return Some(format!("withheld: {:?}", ledger.quarantine));
        }
        None
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) => self.befall(fault),
            Event::StartContainer { pod } => self.start_container(pod),
            Event::StartWorker { pod, starts } => {
                if self.pods[pod].starts == starts {
                    self.start_worker(pod);
                }
            }
            Event::Tell { pod } => self.tell_pod(pod),
            Event::Remove { pod } => self.remove_pod(pod),
            Event::KillPod { pod } => {
                self.pods[pod].leaving = true;
                self.kill_worker(pod);
            }
            Event::KillStopped { pod, starts } => {
                if self.pods[pod].starts == starts {
                    self.kill_worker(pod);
                }
            }
            Event::Resume { pod, starts } => {
                let pod = &mut self.pods[pod];
                if let Some(running) = pod.running.as_mut().filter(|_| pod.starts == starts) {
                    running.stopped = false;
                    self.trace.note(|| format!("{} goes on", pod.name));
                }
            }
            Event::Renew { node } => {
                if self.nodes[node].is_up {
                    self.tell_node(node);
                }
                self.at(NODE_RENEWAL, Event::Renew { node });
            }
            Event::Boot { node } => self.boot(node),
            Event::StartController { replica } => self.start_controller(replica),
            Event::ResumeController { replica, starts } => {
                let controller = &mut self.controllers[replica];
                if let Some(running) = controller.running.as_mut().filter(|_| controller.starts == starts) {
                    running.stopped = false;
                    self.trace.note(|| format!("controller {replica} goes on"));
                }
            }
            Event::Mood(mood) => self.api.set_mood(mood),
            Event::RedisUp(restart) => self.start_redis(restart),
            Event::Thaw => self.servers.within(|| self.redis.thaw()),
            Event::MailUp => self.net.refuse(MAIL, false),
            Event::Mend { from, to } => self.net.cut(from, to, false),
            Event::Copy => {
                if !self.redis.is_down() {
                    let copy = self.servers.within(|| self.redis.snapshot());
                    self.copies.push(copy);
                    // From two to six seconds old.
                    if self.copies.len() > 3 {
                        self.copies.remove(0);
                    }
                }
                self.at(COPY_EVERY, Event::Copy);
            }
        }
    }

    fn befall(&mut self, fault: Fault) {
        if self.now >= self.plan.calm {
            return;
        }
        let ms = Duration::from_millis;
        self.trace.note(|| format!("fault: {fault:?}"));
        self.count(format!("fault {}", fault.kind()));
        let pod = |world: &Self, wanted: usize| {
            let alive: Vec<usize> = (0..world.pods.len()).filter(|pod| !world.pods[*pod].leaving).collect();
            (!alive.is_empty()).then(|| alive[wanted % alive.len()])
        };
        match fault {
            Fault::PauseWorker { pod: wanted, ms: span } => {
                let Some(pod) = pod(self, wanted) else { return };
                let starts = self.pods[pod].starts;
                if let Some(running) = &mut self.pods[pod].running {
                    running.stopped = true;
                }
                self.at(ms(span), Event::Resume { pod, starts });
            }
            Fault::KillWorker { pod: wanted } => {
                if let Some(pod) = pod(self, wanted) {
                    self.kill_worker(pod);
                }
            }
            Fault::KillWorkerCut { pod: wanted, ms: span } => {
                let Some(pod) = pod(self, wanted) else { return };
                self.cut(self.pods[pod].place, MAIL, Cut::There, ms(span));
                self.kill_worker(pod);
            }
            Fault::CrashContainer { pod: wanted, ms: span } => {
                let Some(pod) = pod(self, wanted) else { return };
                // With its supervisor: the kubelet starts another one, and is slow to tell.
                self.end_worker(pod);
                self.pods[pod].starts += 1;
                self.pods[pod].shown = Shown::Terminated;
                let lag = self.between(100, 1_500);
                self.at(lag, Event::Tell { pod });
                self.at(ms(span / 4), Event::StartContainer { pod });
            }
            Fault::RebootNode { node, ms: span } => self.crash_node(node, ms(span)),
            Fault::DeletePod { pod: wanted } => {
                let Some(pod) = pod(self, wanted) else { return };
                self.delete_pod(pod);
            }
            Fault::ForceDelete { pod: wanted, ms: span } => {
                let Some(pod) = pod(self, wanted) else { return };
                self.pods[pod].leaving = true;
                self.pods[pod].gone = true;
                self.api.delete("pods", &self.pods[pod].key());
                // Its process goes on until its kubelet hears of it.
                self.at(ms(span), Event::KillPod { pod });
            }
            Fault::FailPod { pod: wanted } => {
                let Some(pod) = pod(self, wanted) else { return };
                self.pods[pod].leaving = true;
                self.end_worker(pod);
                (self.pods[pod].over, self.pods[pod].shown) = (true, Shown::Terminated);
                let lag = self.between(200, 3_000);
                self.at(lag, Event::Tell { pod });
                self.at(lag + ms(4_000), Event::Remove { pod });
            }
            Fault::AddPod => {
                if self.pods.iter().filter(|pod| !pod.leaving).count() < 6 {
                    self.add_pod();
                }
            }
            Fault::KillController { replica } => {
                self.end_controller(replica);
                self.controllers[replica].starts += 1;
                let wait = self.between(200, 3_000);
                self.at(wait, Event::StartController { replica });
            }
            Fault::PauseController { replica, ms: span } => {
                let starts = self.controllers[replica].starts;
                if let Some(running) = &mut self.controllers[replica].running {
                    running.stopped = true;
                }
                self.at(ms(span), Event::ResumeController { replica, starts });
            }
            Fault::DeleteLease => self.api.delete("leases", "mailrelay/mailrelay-controller"),
            Fault::DeleteEpoch => self.api.delete("configmaps", "mailrelay/mailrelay-controller-epoch"),
            Fault::ApiDown { ms: span } => self.mood(Mood { down: true, ..Mood::default() }, ms(span)),
            Fault::ApiSilent { ms: span } => self.mood(Mood { silent: true, ..Mood::default() }, ms(span)),
            Fault::ApiSlow { ms: span } => self.mood(Mood { slow_ms: 2_500, ..Mood::default() }, ms(span)),
            Fault::ApiConflicts { ms: span } => self.mood(Mood { conflicts: 400, ..Mood::default() }, ms(span)),
            Fault::DropWatches { forget } => self.api.drop_watches(forget),
            Fault::RedisCrash { ms: span } => self.stop_redis(Restart::Kept, ms(span)),
            Fault::RedisEmpty { ms: span } => self.stop_redis(Restart::Empty, ms(span)),
            Fault::RedisStale { ms: span } => self.stop_redis(Restart::Stale, ms(span)),
            Fault::RedisFreeze { ms: span } => {
                self.servers.within(|| self.redis.freeze());
                self.at(ms(span), Event::Thaw);
            }
            Fault::FlushAll => {
                self.lost_by_store = true;
                self.servers.within(|| self.redis.flush_all());
            }
            Fault::DeleteLedger => {
                let key = format!("mailrelay:{{{SERVER}}}:ledger");
                self.servers.within(|| self.redis.delete(&key));
            }
            Fault::StaleLedger => self.stale_ledger(),
            Fault::ScriptFlush => self.servers.within(|| self.redis.script_flush()),
            Fault::CutWorkerRedis { pod: wanted, ms: span, cut } => {
                if let Some(pod) = pod(self, wanted) {
                    self.cut(self.pods[pod].place, REDIS, cut, ms(span));
                }
            }
            Fault::CutWorkerMail { pod: wanted, ms: span, cut } => {
                if let Some(pod) = pod(self, wanted) {
                    self.cut(self.pods[pod].place, MAIL, cut, ms(span));
                }
            }
            Fault::CutControllerRedis { replica, ms: span, cut } => {
                let place = CONTROLLERS + u32::try_from(replica).expect("small");
                self.cut(place, REDIS, cut, ms(span));
            }
            Fault::MailCrash { ms: span } => {
                self.net.refuse(MAIL, true);
                self.servers.within(|| self.mail.crash());
                self.at(ms(span), Event::MailUp);
            }
            Fault::WallClock { node, hours } => {
                // The nodes, the controllers' machine and the servers in turn.
                let whose = (node + usize::try_from(self.serial).expect("small")) % self.skews.len();
                self.skews[whose].fetch_add(hours * 3_600_000, Ordering::Relaxed);
            }
        }
    }

    fn cut(&mut self, client: Place, server: Place, cut: Cut, span: Duration) {
        if cut != Cut::Back {
            self.net.cut(client, server, true);
            self.at(span, Event::Mend { from: client, to: server });
        }
        if cut != Cut::There {
            self.net.cut(server, client, true);
            self.at(span, Event::Mend { from: server, to: client });
        }
    }

    fn mood(&mut self, mood: Mood, span: Duration) {
        self.api.set_mood(mood);
        self.at(span, Event::Mood(Mood::default()));
    }

    fn stop_redis(&mut self, restart: Restart, span: Duration) {
        if self.redis.is_down() {
            return;
        }
        self.lost_by_store |= !matches!(restart, Restart::Kept);
        self.net.refuse(REDIS, true);
        self.servers.within(|| self.redis.crash());
        self.at(span, Event::RedisUp(restart));
    }

    fn start_redis(&mut self, restart: Restart) {
        self.servers.within(|| match (restart, self.copies.first()) {
            (Restart::Kept, _) => self.redis.restart(),
            (Restart::Stale, Some(copy)) => self.redis.restart_from(copy),
            (Restart::Stale | Restart::Empty, _) => self.redis.restart_empty(),
        });
        self.net.refuse(REDIS, false);
    }

    /// The ledger alone goes back to what it was, as when it lay in a store of its own.
    fn stale_ledger(&mut self) {
        let Some(copy) = self.copies.first().cloned() else { return };
        if self.redis.is_down() {
            return;
        }
        let prefix = format!("mailrelay:{{{SERVER}}}:");
        let keeps_ids = self.plan.broken == Broken::NoFence;
        self.servers.within(|| {
            if !keeps_ids {
                self.redis.restart();
            }
            self.redis.bring_back(&copy, &prefix);
        });
    }

    fn add_pod(&mut self) {
        let number = self.pods.len();
        let node = self.chance.random_range(0..self.nodes.len());
        let uid = format!("{:08x}-{number}", self.chance.next_u32());
        self.pods.push(Pod {
            name: format!("web-{number}"),
            uid,
            node,
            place: PODS + u32::try_from(number).expect("few"),
            restarts: 0,
            shown: Shown::Waiting,
            over: false,
            leaving: false,
            gone: false,
            running: None,
            stop: CancellationToken::new(),
            starts: 0,
        });
        self.tell_pod(number);
        let wait = self.between(50, 500);
        self.at(wait, Event::StartContainer { pod: number });
    }

    fn start_container(&mut self, pod: usize) {
        let node = self.pods[pod].node;
        if self.pods[pod].leaving || !self.nodes[node].is_up || self.pods[pod].running.is_some() {
            return;
        }
        if self.pods[pod].starts > 0 {
            self.pods[pod].restarts += 1;
        }
        self.start_worker(pod);
        self.pods[pod].shown = Shown::Running;
        let lag = self.between(50, 1_000);
        self.at(lag, Event::Tell { pod });
    }

    fn start_worker(&mut self, pod: usize) {
        let node = self.pods[pod].node;
        if self.pods[pod].leaving || !self.nodes[node].is_up || self.pods[pod].running.is_some() {
            return;
        }
        self.pods[pod].starts += 1;
        let seed = self.chance.next_u64();
        let has_switch = self.plan.broken != Broken::NoSwitch;
        let running = start_worker(&self.pods[pod], &self.nodes[node], &self.net, seed, has_switch);
        self.trace.note(|| format!("{} starts", running.process.name));
        self.count("workers started");
        self.pods[pod].running = Some(running);
    }

    /// SIGKILL; the supervisor starts another one.
    fn kill_worker(&mut self, pod: usize) {
        if self.pods[pod].running.is_some() {
            self.worker_ended(pod, "was killed");
        }
    }

    /// The kernel closes what the process had; only then it is taken apart, which no order is promised for.
    fn end_worker(&mut self, pod: usize) {
        self.net.hang_up(self.pods[pod].place);
        self.pods[pod].running = None;
    }

    fn end_controller(&mut self, replica: usize) {
        self.net.hang_up(CONTROLLERS + u32::try_from(replica).expect("small"));
        self.controllers[replica].running = None;
    }

    fn worker_ended(&mut self, pod: usize, how: &str) {
        self.end_worker(pod);
        self.trace.note(|| format!("{}#{} {how}", self.pods[pod].name, self.pods[pod].starts));
        if self.pods[pod].stop.is_cancelled() {
            // Its pod is on its way out, and the kubelet sees that it is over.
            (self.pods[pod].over, self.pods[pod].shown) = (true, Shown::Terminated);
            let lag = self.between(100, 1_000);
            self.at(lag, Event::Tell { pod });
            self.at(lag + Duration::from_millis(300), Event::Remove { pod });
        } else if !self.pods[pod].leaving {
            let starts = self.pods[pod].starts;
            let wait = self.between(20, 200);
            self.at(wait, Event::StartWorker { pod, starts });
        }
    }

    fn delete_pod(&mut self, pod: usize) {
        self.pods[pod].leaving = true;
        self.pods[pod].stop.cancel();
        self.tell_pod(pod);
        if self.pods[pod].running.is_none() {
            self.at(Duration::from_millis(500), Event::Remove { pod });
        } else {
            // The grace period.
            let starts = self.pods[pod].starts;
            self.at(Duration::from_secs(8), Event::KillStopped { pod, starts });
        }
    }

    fn tell_pod(&mut self, pod: usize) {
        let pod = &self.pods[pod];
        if pod.gone || !self.nodes[pod.node].is_up {
            return;
        }
        let object = pod.object(&self.nodes[pod.node].name, pod.stop.is_cancelled());
        self.api.put("pods", &pod.key(), object);
    }

    fn remove_pod(&mut self, pod: usize) {
        if !self.pods[pod].gone && self.nodes[self.pods[pod].node].is_up {
            self.pods[pod].gone = true;
            self.api.delete("pods", &self.pods[pod].key());
        }
    }

    fn tell_node(&mut self, node: usize) {
        let node = &self.nodes[node];
        self.api.put("nodes", &format!("/{}", node.name), node.object());
        self.api.put("leases", &format!("kube-node-lease/{}", node.name), node.lease(self.now.as_secs_f64()));
    }

    /// The machine is gone without a word.
    fn crash_node(&mut self, node: usize, span: Duration) {
        if !self.nodes[node].is_up {
            return;
        }
        self.nodes[node].is_up = false;
        for pod in &mut self.pods {
            if pod.node == node {
                self.net.vanish(pod.place);
                pod.running = None;
                pod.starts += 1;
            }
        }
        self.at(span, Event::Boot { node });
    }

    fn boot(&mut self, node: usize) {
        (self.nodes[node].is_up, self.nodes[node].boots) = (true, self.nodes[node].boots + 1);
        self.tell_node(node);
        for pod in 0..self.pods.len() {
            if self.pods[pod].node != node || self.pods[pod].gone {
                continue;
            }
            self.net.appear(self.pods[pod].place);
            if self.pods[pod].leaving {
                self.pods[pod].over = true;
                self.pods[pod].shown = Shown::Terminated;
                self.at(Duration::from_millis(500), Event::Remove { pod });
            } else {
                let wait = self.between(300, 2_000);
                self.at(wait, Event::StartContainer { pod });
            }
        }
    }

    fn start_controller(&mut self, replica: usize) {
        if self.controllers[replica].running.is_some() {
            return;
        }
        self.controllers[replica].starts += 1;
        let (net, client) = (self.net.clone(), self.api.clone());
        let place = CONTROLLERS + u32::try_from(replica).expect("small");
        let name = format!("controller-{replica}");
        let options = ControllerOptions {
            store: mailrelay::store::StoreOptions::from_url("redis://simulated"),
            namespace: "mailrelay".into(),
            identity: name.clone(),
            lease_name: "mailrelay-controller".into(),
            shared_budgets: false,
            http: (std::net::Ipv4Addr::LOCALHOST, 0).into(),
        };
        let seed = self.chance.next_u64();
        let skew = &self.skews[self.nodes.len()];
        let running = Running::start(&name, place, skew, seed, move |process| async move {
            let (ready, _) = watch::channel(false);
            let store = store(&net, &process);
            let replica = Replica::new(options, store, client.client(), &mut Registry::default(), ready);
            // Why it ended is for its log.
            let _ = replica.run(std::future::pending()).await;
        });
        self.trace.note(|| format!("{name} starts"));
        self.controllers[replica].running = Some(running);
    }
}
