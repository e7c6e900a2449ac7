//! Everything at once: workers, pods and Redis die, answers of Redis come late or never, the store refuses writes or forgets
//! its scripts, the server hangs up in the middle, and people handle dead letters, while mail with several recipients is
//! pushed by those who repeat what they are not sure of. What is counted in the end are recipients, not mails.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Stdio,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use mailrelay::{
    mail::UnixMillis,
    queue::{EnqueueLimits, Filter, Queue, QueueNames},
    store::{Store, StoreOptions},
};
use mailsink::{Behaviour, Failure, FailureStage};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use testkit::recipients;
use tokio::time::sleep;

use crate::{
    cluster::{Cluster, Death},
    in_a_runtime, number,
    points::bulk,
};

const PRODUCERS: usize = 3;
/// How often each of them pushes, unless so many mails wait: what is proven is not how fast a machine is.
const EVERY: Duration = Duration::from_millis(60);
const WAITING: i64 = 100;
/// How many mails more the server has taken between two faults.
const BETWEEN: u64 = 4;
const LIMIT: Duration = Duration::from_secs(5);
/// How long the next command of a kind is waited for: a worker may have none just now.
const TRAP: Duration = Duration::from_millis(500);
/// How many worlds are struck at once: they mostly wait.
const BESIDE: usize = 4;

/// What goes wrong next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    /// A worker is killed; its supervisor starts another.
    Worker,
    /// A worker and its supervisor are killed; a container runtime starts them again.
    Pod,
    /// Redis is killed, and started with what it wrote down.
    Redis,
    /// An answer to a worker gets lost with its connections.
    LostReply,
    /// An answer to a worker comes late.
    LateReply,
    /// The server ends a connection at some command.
    Server,
    /// Redis forgets all scripts.
    Scripts,
    /// Redis closes all connections.
    Connections,
    /// Redis refuses to write.
    Memory,
    /// Somebody re-drives or discards dead letters, and somebody else the same.
    CommandLine,
}

/// What happens in one unit, in any order.
const UNIT: [(Fault, usize); 10] = [
    (Fault::Worker, 8),
    (Fault::Pod, 2),
    (Fault::Redis, 5),
    (Fault::LostReply, 45),
    (Fault::LateReply, 45),
    (Fault::Server, 5),
    (Fault::Scripts, 1),
    (Fault::Connections, 1),
    (Fault::Memory, 1),
    (Fault::CommandLine, 2),
];

/// Commands whose answers are caught: a word of claims, of each stage, and of what is settled.
const WORDS: [&str; 4] = ["kept", "sending", "committing", "delivered"];

/// Where the server hangs up.
const STAGES: [FailureStage; 5] =
    [FailureStage::Greeting, FailureStage::Mail, FailureStage::Rcpt, FailureStage::Body, FailureStage::Dot];

/// A mail that was acknowledged: its recipients.
type Acknowledged = Arc<Mutex<BTreeMap<String, Vec<String>>>>;

struct Storm {
    cluster: Cluster,
    rng: StdRng,
    done: BTreeMap<Fault, u64>,
}

/// What happened, and what became of the mail.
#[derive(Default)]
struct Count {
    done: BTreeMap<Fault, u64>,
    mails: usize,
    pushed: u64,
    recipients: BTreeMap<String, u64>,
}

impl Count {
    fn add(&mut self, other: Self) {
        for (fault, times) in other.done {
            *self.done.entry(fault).or_default() += times;
        }
        for (state, count) in other.recipients {
            *self.recipients.entry(state).or_default() += count;
        }
        self.mails += other.mails;
        self.pushed += other.pushed;
    }
}

#[test]
fn everything_at_once_loses_nothing_and_doubles_nothing_by_recipient() {
    let (units, seed) = (number("STORM", 1), number("SEED", 1) as u64);
    let worlds = units.min(BESIDE);
    let mut count = Count::default();
    thread::scope(|scope| {
        let runs: Vec<_> = (0..worlds)
            .map(|world| {
                let units = units / worlds + usize::from(world < units % worlds);
                scope.spawn(move || in_a_runtime(storm(units, seed + world as u64)))
            })
            .collect();
        for run in runs {
            count.add(run.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    let done = |fault: Fault| count.done.get(&fault).copied().unwrap_or_default();
    let others = [Fault::Server, Fault::Scripts, Fault::Connections, Fault::Memory, Fault::CommandLine];
    println!(
        "storm: {} workers killed, Redis killed {} times, {} answers lost or late, {} other faults; {} mails pushed {} \
         times, their recipients: {:?}, 0 lost, 0 twice",
        done(Fault::Worker) + done(Fault::Pod),
        done(Fault::Redis),
        done(Fault::LostReply) + done(Fault::LateReply),
        others.map(done).iter().sum::<u64>(),
        count.mails,
        count.pushed,
        count.recipients,
    );
}

/// So many units in a world of its own.
async fn storm(units: usize, seed: u64) -> Count {
    let cluster = Cluster::start(4, &json!({})).await;
    cluster.sink.set_behaviour(refusing(None));
    let url = cluster.redis.lock().expect("no panic").url();
    let (stop, acknowledged, pushed) = (Arc::new(AtomicBool::new(false)), Acknowledged::default(), Arc::default());
    let producers: Vec<_> = (0..PRODUCERS)
        .map(|place| {
            let producer = Producer {
                place,
                store: Store::new(&StoreOptions::from_url(url.clone())).expect("options"),
                rng: StdRng::seed_from_u64(seed * 1000 + place as u64),
                acknowledged: acknowledged.clone(),
                pushed: Arc::clone(&pushed),
            };
            tokio::spawn(producer.run(stop.clone()))
        })
        .collect();
    cluster.ready().await;
    let mut storm = Storm { cluster, rng: StdRng::seed_from_u64(seed), done: BTreeMap::new() };
    for _ in 0..units {
        storm.unit().await;
    }
    stop.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.await.expect("no panic");
    }
    let acknowledged = std::mem::take(&mut *acknowledged.lock().expect("no panic"));
    storm.count(&acknowledged, pushed.load(Ordering::Relaxed)).await
}

/// A server that knows some recipients not, and others later; and that hangs up once, at some command.
fn refusing(hangs_up: Option<FailureStage>) -> Behaviour {
    let refused = Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").for_recipient("refused");
    let later = Failure::reply(FailureStage::Rcpt, "450 4.2.1 mailbox busy").for_recipient("later").times(10);
    Behaviour::failing([refused, later].into_iter().chain(hangs_up.map(|stage| Failure::closing(stage).times(1))))
}

impl Storm {
    async fn unit(&mut self) {
        let mut faults: Vec<Fault> = UNIT.iter().flat_map(|(fault, times)| vec![*fault; *times]).collect();
        while !faults.is_empty() {
            let before = self.cluster.sink.stats().accepted;
            let fault = faults.swap_remove(self.rng.random_range(0..faults.len()));
            if self.strike(fault).await {
                *self.done.entry(fault).or_default() += 1;
            }
            self.cluster
                .sink_until(&format!("mail flows after {fault:?}"), |stats| stats.accepted >= before + BETWEEN)
                .await;
        }
    }

    /// Whether it came to pass.
    async fn strike(&mut self, fault: Fault) -> bool {
        let victim = self.rng.random_range(0..self.cluster.pods.len());
        match fault {
            Fault::Worker => return self.cluster.pods[victim].kill(Death::Process),
            Fault::Pod => {
                let seat = &mut self.cluster.pods[victim];
                let killed = seat.kill(Death::Pod);
                seat.worker.restart();
                return killed;
            }
            Fault::Redis => {
                let mut redis = self.cluster.redis.lock().expect("no panic");
                redis.crash();
                redis.resume();
            }
            Fault::LostReply => {
                let caught = self.catch(victim).await;
                self.cluster.cut(victim);
                return caught;
            }
            Fault::LateReply => {
                let caught = self.catch(victim).await;
                if caught {
                    // The lateness itself: from what is hardly noticed to what is given up.
                    sleep(Duration::from_millis(1 << self.rng.random_range(2..12))).await;
                }
                self.cluster.pods[victim].door.thaw();
                return caught;
            }
            Fault::Server => {
                let stage = STAGES[self.rng.random_range(0..STAGES.len())];
                self.cluster.sink.set_behaviour(refusing(Some(stage)));
            }
            Fault::Scripts => self.redis(&["SCRIPT", "FLUSH"]),
            Fault::Connections => self.redis(&["CLIENT", "KILL", "TYPE", "normal"]),
            Fault::Memory => {
                self.redis(&["CONFIG", "SET", "maxmemory", "1"]);
                sleep(Duration::from_millis(self.rng.random_range(10..300))).await;
                self.redis(&["CONFIG", "SET", "maxmemory", "0"]);
            }
            Fault::CommandLine => self.people().await,
        }
        true
    }

    /// Holds back the answer to the next command of some kind, and all that follow; whether there was one.
    async fn catch(&mut self, victim: usize) -> bool {
        let word = WORDS[self.rng.random_range(0..WORDS.len())];
        let door = &self.cluster.pods[victim].door;
        door.freeze_answers_at(bulk(word));
        tokio::time::timeout(TRAP, door.frozen()).await.is_ok()
    }

    fn redis(&self, words: &[&str]) {
        let said = self.cluster.redis.lock().expect("no panic").command(words);
        said.unwrap_or_else(|said| panic!("{words:?}: {said}"));
    }

    /// Two people at once, at the real command line; one of them may be interrupted.
    async fn people(&mut self) {
        let url = self.cluster.redis.lock().expect("no panic").url();
        let interrupted = self.rng.random_bool(0.3);
        let mut at_work: Vec<_> = (0..2)
            .map(|_| {
                let action = if self.rng.random_bool(0.8) { "requeue" } else { "discard" };
                let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_mailrelay"))
                    .args(["dead", action, "--limit", "20", "--rate", "max", "--all"])
                    .env_clear()
                    .env("MAILRELAY_REDIS_URL", &url)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .kill_on_drop(true)
                    .spawn();
                child.expect("the binary runs")
            })
            .collect();
        if interrupted {
            let id = at_work[0].id().and_then(|id| i32::try_from(id).ok());
            let _ = id.map(|id| kill(Pid::from_raw(id), Signal::SIGINT));
        }
        for person in &mut at_work {
            person.wait().await.expect("it ends");
        }
    }

    async fn count(mut self, acknowledged: &BTreeMap<String, Vec<String>>, pushed: u64) -> Count {
        self.cluster.sink.set_behaviour(refusing(None));
        let cluster = &mut self.cluster;
        let audit = cluster
            .audit_until("everything is settled", |audit| {
                audit.queued + audit.raw_waiting + audit.delayed + audit.in_flight == 0
            })
            .await;
        assert_eq!(audit.difference, 0, "{audit:?}");
        let mut copies: BTreeMap<String, u64> = BTreeMap::new();
        for recipient in cluster.sink.journal().into_iter().flat_map(|entry| entry.to) {
            *copies.entry(recipient).or_default() += 1;
        }
        let twice: Vec<_> = copies.iter().filter(|(_, copies)| **copies > 1).collect();
        assert!(twice.is_empty(), "sent twice: {twice:?}\n{}", cluster.logs());
        let held = held_recipients(&cluster.queue).await;
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for (id, recipients) in acknowledged {
            for recipient in recipients {
                let has_it = copies.contains_key(recipient);
                let state = match (has_it, held.contains(recipient)) {
                    (true, _) => "delivered".into(),
                    (false, true) => "held".into(),
                    (false, false) => state(&cluster.queue, id).await,
                };
                let expected: &[&str] = if recipient.starts_with("good") {
                    &["delivered", "held"]
                } else if recipient.starts_with("later") {
                    &["delivered", "held", "dead", "discarded"]
                } else {
                    &["held", "dead", "discarded"]
                };
                assert!(expected.contains(&&*state), "{recipient} of {id}: {state}\n{}", cluster.logs());
                *ends.entry(state).or_default() += 1;
            }
        }
        assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
        Count { done: self.done, mails: acknowledged.len(), pushed, recipients: ends }
    }
}

/// For whom mail is held. One that nobody had looked into is held without a name, so its payload is asked.
async fn held_recipients(queue: &Queue) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for held in queue.held_list(&Filter::default(), usize::MAX).await.expect("held mail") {
        let Some(details) = queue.held_show(&held.claim_id).await.expect("held mail") else { continue };
        all.extend(details.remaining.unwrap_or_else(|| recipients(details.payload.as_bytes())));
        all.extend(details.refused.into_iter().map(|refusal| refusal.recipient));
    }
    all
}

async fn state(queue: &Queue, id: &str) -> String {
    queue.state(id).await.expect("an answer").map_or_else(|| "unknown".into(), |state| state.state)
}

/// Pushes mails, each again and again until it was acknowledged.
struct Producer {
    place: usize,
    store: Store,
    rng: StdRng,
    acknowledged: Acknowledged,
    pushed: Arc<AtomicU64>,
}

impl Producer {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut pace = tokio::time::interval(EVERY);
        let mut serial = 0;
        while !stop.load(Ordering::Relaxed) {
            pace.tick().await;
            let waiting = self.store.query::<i64>(redis::cmd("LLEN").arg("mail_queue"), LIMIT).await;
            if waiting.is_ok_and(|waiting| waiting > WAITING) {
                continue;
            }
            serial += 1;
            let id = format!("p{}-{serial}", self.place);
            let recipients = self.recipients(&id);
            let mail = json!({
                "id": id, "from": "app@example.com", "to": recipients, "subject": "Hello", "text": "Hello, world\n",
            });
            // Some repeat what was acknowledged, too.
            let times = 1 + usize::from(self.rng.random_bool(0.05));
            for _ in 0..times {
                while !self.push(&mail).await {
                    sleep(EVERY).await;
                }
            }
            self.acknowledged.lock().expect("no panic").insert(id, recipients);
        }
    }

    /// One to three, of whom the server takes most.
    fn recipients(&mut self, id: &str) -> Vec<String> {
        let kinds = ["good", "good", "good", "good", "good", "good", "good", "good", "refused", "later"];
        let more = self.rng.random_range(0..3);
        let first = std::iter::once(format!("good-{id}-0@example.org"));
        let others = (1..=more).map(|place| {
            let kind = kinds[self.rng.random_range(0..kinds.len())];
            format!("{kind}-{id}-{place}@example.org")
        });
        first.chain(others).collect()
    }

    /// Whether it was acknowledged, by plain LPUSH or by the script.
    async fn push(&mut self, mail: &Value) -> bool {
        self.pushed.fetch_add(1, Ordering::Relaxed);
        let text = mail.to_string();
        if self.rng.random_bool(0.5) {
            let mut command = redis::cmd("LPUSH");
            command.arg("mail_queue").arg(text);
            return self.store.query::<i64>(&command, LIMIT).await.is_ok();
        }
        let queue = Queue::new(self.store.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        let limits = EnqueueLimits { max_length: 1_000_000, max_bytes: 0 };
        queue.enqueue(text.as_bytes(), limits, UnixMillis::now()).await.is_ok()
    }
}
