//! The world: all processes, stepped window by window; what Kubernetes does around them; what befalls them.

mod befall;
mod kubernetes;
mod spec;

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::AtomicI64},
    time::Duration,
};

use rand::{Rng, RngExt, SeedableRng, rngs::SmallRng};
use serde_json::json;
use simredis::{SimRedis, Snapshot};
use spec::Spec;
use testkit::{ApiServer, Mood};

use crate::{
    cluster::{MAIL, NAMESPACE, Node, OBSERVER, Pod, REDIS, RELAY},
    courier::Courier,
    judge::unrest,
    mail::MailServer,
    net::{Net, Place},
    observer::Observer,
    plan::{Fault, Plan},
    post::Post,
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
const REST: Duration = Duration::from_secs(400);
/// How often those who would wait for minutes are told that they wait in vain, once all faults are over.
const HEAL_EVERY: Duration = Duration::from_secs(20);
/// A window while nothing befalls anybody: packets take longer then.
const LONG_WINDOW_MS: u64 = 50;

/// What happens at its time.
#[derive(Clone, Copy)]
enum Event {
    Fault(Fault),
    /// A person has seen what is wrong with the ledgers.
    MendLedgers,
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
    /// Its cgroup runs again.
    ThawPod {
        pod: usize,
    },
    /// Its network namespace goes, with all sockets in it.
    Vanish {
        pod: usize,
    },
    /// What was to befall a pod that was frozen.
    Again(Fault),
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
    Hasten {
        from: Place,
        to: Place,
    },
    CutLater {
        from: Place,
        to: Place,
        ms: u64,
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
    /// What producers send.
    pub posts: Arc<Vec<Post>>,
    pub courier: Courier,
    pub counts: BTreeMap<String, u64>,
    pub now: Time,
    pub lost_by_store: bool,
    /// How often a worker's process ended.
    pub deaths: u32,
    chance: SmallRng,
    net: Net,
    api: ApiServer,
    redis: SimRedis,
    copies: Vec<Snapshot>,
    /// Whether the ledgers hold what makes no sense: such a copy would bring it back after it was mended.
    garbled: bool,
    servers: Running,
    watcher: Running,
    controllers: Vec<Controller>,
    nodes: Vec<Node>,
    pub pods: Vec<Pod>,
    /// Wall clocks: of the nodes, of the controllers' machine, of the servers.
    skews: Vec<Arc<AtomicI64>>,
    /// Whether the wall clock of Redis ever jumped.
    pub queue_time_moved: bool,
    pub spec: Spec,
    agenda: BTreeMap<(Time, u64), Event>,
    serial: u64,
}

impl World {
    pub fn new(plan: Plan, print: bool) -> Self {
        let trace = Trace::new(print);
        let mut chance = SmallRng::seed_from_u64(plan.seed ^ 0x5eed_5eed);
        let net = Net::new(chance.next_u64(), plan.ways, plan.broken);
        let api = ApiServer::new(chance.next_u64(), {
            let trace = trace.clone();
            move |line| trace.note(|| line)
        });
        let mail = MailServer::new(plan.budget, plan.habits.clone(), chance.next_u64(), trace.clone());
        let skews: Vec<Arc<AtomicI64>> = (0..plan.nodes + 2).map(|_| Arc::default()).collect();
        let (redis_port, mail_port) = (net.listen(REDIS, None), net.listen(MAIL, Some(plan.habits.room)));
        let (redis_seed, serving) = (chance.next_u64(), mail.clone());
        let mut made = None;
        let courier = Courier::new(plan.disorder, plan.calm, plan.seed ^ 0xc0de, trace.clone());
        let deciding = courier.clone();
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
                    let (stream, from) = redis_port.accept().await;
                    let (redis, courier) = (redis.clone(), deciding.clone());
                    tokio::spawn(async move { redis.serve_by(stream, |words| courier.fate(from, words)).await });
                }
            }
        });
        let redis = made.expect("made at the start");
        for (name, value) in [("appendonly", "yes"), ("appendfsync", "always"), ("maxmemory-policy", "noeviction")] {
            servers.within(|| redis.configure(name, value));
        }
        for (from, to) in plan.broken.scripts() {
            redis.alter_scripts(from, to);
        }
        let observer = Observer::default();
        let posts = Arc::new(Post::all(chance.next_u64(), plan.customs, &plan.arrivals, plan.size, plan.calm));
        let mails = posts.clone();
        let (watching, way, trace_of_it) = (observer.clone(), net.clone(), trace.clone());
        let watcher = Running::start("observer", OBSERVER, &Arc::default(), chance.next_u64(), |process| {
            watching.run(way, process, mails, trace_of_it)
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
            posts,
            courier,
            counts: BTreeMap::new(),
            now: Time::ZERO,
            lost_by_store: false,
            deaths: 0,
            chance,
            net,
            api,
            redis,
            copies: Vec::new(),
            garbled: false,
            servers,
            watcher,
            controllers: vec![Controller { running: None, starts: 0 }, Controller { running: None, starts: 0 }],
            nodes,
            pods: Vec::new(),
            skews,
            queue_time_moved: false,
            agenda: BTreeMap::new(),
            serial: 0,
            spec: Spec::new(&plan),
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
                "servers": self.spec.servers(&plan),
                "retry": { "initialBackoff": "200ms", "maxBackoff": "2s", "maxRetries": 20 },
                "breaker": { "pause": "3s" },
                "unknownOutcome": if plan.resend { "Resend" } else { "Hold" },
            },
        });
        self.api.put("mailrelays", &format!("{NAMESPACE}/{RELAY}"), relay);
        self.spec.pool().clone_into(&mut self.observer.inner().pool);
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
        let resting = self.now >= self.plan.calm;
        let window = if resting { LONG_WINDOW_MS } else { self.plan.ways.latency.least_ms };
        let until = self.now + Duration::from_millis(window);
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
            if self.pods[pod].frozen.is_some() {
                continue;
            }
            match self.pods[pod].running.as_mut().map(|running| running.step(until)) {
                Some(Step::Ended) => self.worker_ended(pod, "ended"),
                Some(Step::Shot) => {
                    self.count("dead-man switches");
                    self.worker_ended(pod, "was shot");
                }
                Some(Step::Lives) | None => {}
            }
            let place = self.pods[pod].place;
            self.pods[pod].supervisor.step(until, || self.net.table(place, MAIL));
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
        let mut next_heal = self.now;
        while self.now < self.plan.calm + REST {
            if self.now >= next_heal {
                self.net.heal();
                next_heal = self.now + HEAL_EVERY;
            }
            self.step();
            if !self.mail.seen(|seen| seen.violations.is_empty()) {
                return false;
            }
            if unrest(self).is_none() {
                return true;
            }
        }
        false
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Fault(fault) | Event::Again(fault) => self.befall(fault),
            // Who is frozen does nothing, and nothing can be done to it.
            Event::StartWorker { pod, .. }
            | Event::KillPod { pod }
            | Event::KillStopped { pod, .. }
            | Event::Resume { pod, .. }
                if self.is_frozen(pod) =>
            {
                self.when_thawed(pod, event);
            }
            Event::StartContainer { pod } => self.start_container(pod),
            Event::StartWorker { pod, starts } => {
                if self.pods[pod].starts == starts {
                    self.start_worker(pod);
                }
            }
            Event::ThawPod { pod } => self.thaw_pod(pod),
            Event::Vanish { pod } => self.net.vanish(self.pods[pod].place),
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
            Event::MendLedgers => self.garble(None),
            Event::Thaw => self.servers.within(|| self.redis.thaw()),
            Event::MailUp => self.net.refuse(MAIL, false),
            Event::Mend { from, to } => self.net.cut(from, to, false),
            Event::CutLater { from, to, ms } => {
                if self.now < self.plan.calm {
                    self.net.cut(from, to, true);
                    self.at(Duration::from_millis(ms), Event::Mend { from, to });
                }
            }
            Event::Hasten { from, to } => self.net.delay(from, to, Duration::ZERO),
            Event::Copy => {
                if !self.redis.is_down() && !self.garbled {
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
}
