//! A worker killed at each point of a transaction: before the last byte another delivers the mail, once; after it the mail
//! is held, or sent once more under the same Message-ID when the relay wants that.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    thread,
    time::{Duration, Instant},
};

use mailrelay::queue::Stage;
use mailsink::{Behaviour, Failure, FailureStage};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;
use testkit::eventually;

use crate::{
    cluster::{Cluster, Death, mail},
    figures, in_a_runtime, number,
};

/// How long the server is silent at most; whoever waits for it dies long before.
const SILENCE: Duration = Duration::from_secs(20);
/// How many clusters run at once: they mostly wait.
const BESIDE: usize = 11;

/// Where in a mail's transaction the worker is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Point {
    Taken,
    Admitted,
    Connected,
    MailAnswered,
    RecipientAnswered,
    DataAnswered,
    Content,
    CommittingUnwritten,
    CommittingWritten,
    Dot,
    Answered,
}

use Point::*;

const ALL: [Point; 11] = [
    Taken,
    Admitted,
    Connected,
    MailAnswered,
    RecipientAnswered,
    DataAnswered,
    Content,
    CommittingUnwritten,
    CommittingWritten,
    Dot,
    Answered,
];

impl Point {
    /// A word of the command to Redis that the worker does not get beyond, and whether Redis still gets that one.
    fn word(self) -> Option<(&'static str, bool)> {
        match self {
            Taken => Some(("kept", false)),
            Admitted => Some(("sending", false)),
            CommittingUnwritten => Some(("committing", false)),
            CommittingWritten => Some(("committing", true)),
            Answered => Some(("delivered", false)),
            _ => None,
        }
    }

    /// What the server does, so that the worker does not get beyond this.
    fn server(self) -> Behaviour {
        let at = match self {
            Connected => Some(FailureStage::Greeting),
            // A transaction goes on while Redis is told of it.
            Admitted => Some(FailureStage::Mail),
            MailAnswered => Some(FailureStage::Rcpt),
            RecipientAnswered | DataAnswered => Some(FailureStage::Data),
            Content => Some(FailureStage::Body),
            Dot => Some(FailureStage::Dot),
            _ => None,
        };
        let times = if self == Connected { u32::MAX } else { 1 };
        let silence = if matches!(self, Connected | DataAnswered) { Duration::from_secs(1) } else { SILENCE };
        let failure = at.map(|stage| Failure::silence(stage, silence).times(times).accepting());
        step_by_step(failure)
    }

    /// What Redis must know of the mail.
    fn stages(self) -> &'static [Stage] {
        match self {
            Connected => &[],
            Taken => &[Stage::Taken],
            Admitted => &[Stage::Claimed],
            // It is told of the sending beside the transaction.
            MailAnswered | RecipientAnswered | DataAnswered | Content | CommittingUnwritten => {
                &[Stage::Claimed, Stage::Sending]
            }
            CommittingWritten | Dot | Answered => &[Stage::Committing],
        }
    }

    /// Whether nobody can know any more that the server has not taken the mail.
    fn is_in_doubt(self) -> bool {
        self.stages() == [Stage::Committing]
    }

    /// How long the mail is: more than the kernels take in when the server stops to read in the middle.
    fn lines(self) -> usize {
        if self == Content { 1 << 16 } else { 1 }
    }

    /// How often the server has taken the mail by then.
    fn taken(self) -> usize {
        usize::from(matches!(self, Dot | Answered))
    }
}

/// A server that is asked one thing at a time.
fn step_by_step(failure: Option<Failure>) -> Behaviour {
    Behaviour { hide: vec!["PIPELINING".into(), "CHUNKING".into()], ..Behaviour::failing(failure) }
}

/// Milliseconds from each death until the mail was where it belongs.
type Times = BTreeMap<(bool, Death), Vec<u64>>;

struct Trial<'a> {
    cluster: &'a mut Cluster,
    point: Point,
    resends: bool,
}

impl Trial<'_> {
    async fn run(&mut self, number: usize, death: Death) -> u64 {
        let (point, id) = (self.point, format!("{:?}-{number}", self.point));
        self.cluster.ready().await;
        let before = self.cluster.queue.audit().await.expect("audit");
        if point == Connected {
            self.cluster.sink_until("no session is open", |stats| stats.open == 0).await;
        }
        self.cluster.sink.set_behaviour(point.server());
        for seat in &self.cluster.pods {
            match point.word() {
                Some((word, false)) => seat.door.freeze_at(bulk(word)),
                Some((word, true)) => seat.door.freeze_behind(bulk(word)),
                None => {}
            }
        }
        self.cluster.push(&mail(&id, point.lines())).await;
        let victim = self.reached().await;
        if point == DataAnswered {
            // What the server says now is not read any more.
            let pid = self.cluster.pods[victim].worker.children()[0];
            kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("the signal is delivered");
            self.cluster.sink_until("the server has answered", |stats| stats.silent == 0).await;
        }
        for (place, seat) in self.cluster.pods.iter().enumerate() {
            if place != victim {
                seat.door.thaw();
            }
        }
        self.cluster.sink.set_behaviour(step_by_step(None));
        let registration = self.cluster.registration(victim).await;
        let killed = mailrelay::mail::UnixMillis::now().0;
        assert!(self.cluster.pods[victim].kill(death), "{point:?}: there is a worker to kill");
        // What it had sent and the door held back is gone with it.
        self.cluster.cut(victim);
        let took = self.outcome(&id, killed, &before).await;
        if death == Death::Pod {
            self.cluster.pods[victim].worker.restart();
        }
        self.cluster.registered_after(victim, registration).await;
        took
    }

    /// Waits until a worker is at the point; which.
    async fn reached(&self) -> usize {
        let (point, cluster) = (self.point, &self.cluster);
        let stages = point.stages();
        let found = async || {
            if point.word().is_none() && point != Connected {
                let waits = cluster.sink.behaviour().failures.first().and_then(|failure| failure.times) == Some(1);
                if waits {
                    return Err("the server is not there yet".to_owned());
                }
            }
            if point == Connected {
                let port = cluster.sink.smtp().port();
                if cluster.sink.stats().silent == 0 {
                    return Err("nobody has connected".to_owned());
                }
                let connected = |pid: &i32| is_connected(*pid, port);
                let place = cluster.pods.iter().position(|seat| seat.worker.children().first().is_some_and(connected));
                return place.ok_or_else(|| "nobody is connected".to_owned());
            }
            let flights = cluster.queue.in_flight().await.map_err(|error| error.to_string())?;
            let flight = flights.iter().find(|flight| !flight.stages.is_empty()).ok_or("nobody has the mail")?;
            let place = cluster.pods.iter().position(|seat| seat.pod.name == flight.pod).expect("a pod of ours");
            if point.word().is_some() && !cluster.pods[place].door.is_frozen() {
                return Err("the command was not sent yet".to_owned());
            }
            let fits = flight.stages.keys().all(|stage| stages.contains(stage));
            if fits { Ok(place) } else { Err(format!("{:?}", flight.stages)) }
        };
        eventually(&format!("a worker is at {point:?}"), found).await
    }

    /// Waits until the mail is where it belongs, and says how long that took.
    async fn outcome(&self, id: &str, killed: u64, before: &mailrelay::queue::Audit) -> u64 {
        let (point, cluster) = (self.point, &self.cluster);
        let held = u64::from(point.is_in_doubt() && !self.resends);
        let start = Instant::now();
        let audit = cluster
            .audit_until(&format!("{point:?}: the mail is settled"), |audit| {
                audit.held + audit.delivered > before.held + before.delivered && audit.in_flight == 0
            })
            .await;
        let settled = start.elapsed();
        let outcome = (audit.held - before.held, audit.delivered - before.delivered, audit.dead, audit.difference);
        assert_eq!(outcome, (held, 1 - held, 0, 0), "{point:?}: held, delivered, dead, difference\n{}", cluster.logs());
        let journal = cluster.sink.journal();
        let of_it: Vec<_> = journal.iter().filter(|entry| entry.message_id.starts_with(&format!("{id}@"))).collect();
        let copies = point.taken() + usize::from(held == 0);
        assert_eq!(of_it.len(), copies, "{point:?}: copies at the server: {of_it:?}");
        assert!(of_it.iter().all(|entry| entry.message_id == of_it[0].message_id), "{of_it:?}");
        match of_it.last() {
            Some(entry) if held == 0 => entry.at_ms.saturating_sub(killed),
            _ => u64::try_from(settled.as_millis()).expect("short"),
        }
    }
}

/// A word as an argument of a command.
pub fn bulk(word: &str) -> String {
    format!("${}\r\n{word}\r\n", word.len())
}

/// Whether a process has a connection to this port of loopback.
fn is_connected(pid: i32, port: u16) -> bool {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let remote = format!("0100007F:{port:04X}");
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let inodes: Vec<String> =
        rows.filter(|row| row.get(2) == Some(&&*remote)).map(|row| format!("socket:[{}]", row[9])).collect();
    let files = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    files
        .filter_map(|file| std::fs::read_link(file.path()).ok())
        .any(|link| inodes.iter().any(|inode| link.as_os_str() == &**inode))
}

/// Each point in a cluster of its own, so often for each kind of death.
fn at_each(points: &[Point], rounds: usize, resends: bool) {
    let times: Mutex<Times> = Mutex::default();
    let next = Mutex::new(points.iter());
    thread::scope(|scope| {
        for _ in 0..BESIDE {
            scope.spawn(|| {
                while let Some(point) = {
                    let mut next = next.lock().expect("no panic");
                    next.next()
                } {
                    in_a_runtime(at(*point, rounds, resends, &times));
                }
            });
        }
    });
    println!(
        "killed at each of {} points of a transaction, {}:",
        points.len(),
        if resends { "Resend" } else { "Hold" }
    );
    for ((in_doubt, death), times) in times.into_inner().expect("no panic") {
        let what = match (in_doubt, resends) {
            (false, _) => "delivered by another after",
            (true, false) => "held after",
            (true, true) => "sent again after",
        };
        println!("  {death:?} dies: {what}: {}", figures(times));
    }
}

async fn at(point: Point, rounds: usize, resends: bool, times: &Mutex<Times>) {
    let unknown = if resends { "Resend" } else { "Hold" };
    let mut cluster = Cluster::start(2, &json!({ "unknownOutcome": unknown })).await;
    // From now on Redis knows the scripts: a command that is caught with a door behind it takes effect at once.
    cluster.sink.set_behaviour(step_by_step(None));
    cluster.push(&mail("first", 1)).await;
    cluster.audit_until("the first mail is delivered", |audit| audit.delivered == 1 && audit.in_flight == 0).await;
    let mut trial = Trial { cluster: &mut cluster, point, resends };
    for round in 0..rounds {
        let death = if round % 2 == 0 { Death::Process } else { Death::Pod };
        let took = trial.run(round, death).await;
        times.lock().expect("no panic").entry((point.is_in_doubt(), death)).or_default().push(took);
    }
    let sent = 1 + u64::try_from(rounds).expect("few");
    let audit = cluster
        .audit_until("each mail is delivered or held", |audit| {
            (audit.accepted, audit.delivered + audit.held) == (sent, sent)
        })
        .await;
    assert_eq!(audit.difference, 0, "{point:?}: {audit:?}");
    assert!(!cluster.logs().contains("panicked"), "{}", cluster.logs());
}

#[test]
fn a_worker_killed_at_any_point_of_a_transaction_loses_nothing_and_doubles_nothing() {
    at_each(&ALL, number("KILLS", 2), false);
}

#[test]
fn what_was_in_doubt_is_sent_once_more_under_the_same_message_id_when_the_relay_wants_it() {
    at_each(&[CommittingWritten, Dot, Answered], number("KILLS", 2), true);
}
