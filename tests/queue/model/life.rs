//! The steps: of producers, of workers that live, die, or only seem to have died, of a server, and of people.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use mailrelay::{
    api::UnknownOutcome,
    mail::UnixMillis,
    queue::{
        Advance, At, Claimed, Counted, EnqueueError, OperationId, PerRecipient, Queue, RecoverOptions, Refusal,
        Schedule, Settled, Settlement, Stage,
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    super::{
        courier::{Courier, Disorder},
        support::*,
    },
    names::{lists, queues},
    posts::Made,
};

/// Words of scripts and those that take their place.
pub type Broken = &'static [(&'static str, &'static str)];

/// What may happen in a case.
#[derive(Clone, Copy)]
pub struct Manners {
    pub disorder: Disorder,
    /// People delete what they should not.
    pub edits: bool,
    /// The relay gets another queue now and then.
    pub renames: bool,
}

/// How far a worker is with a claim.
pub enum Doing {
    At(Stage),
    /// The server has answered.
    Sent(Settlement, PerRecipient, OperationId),
}

/// A mail in the hands of a worker, and the queue that it came from.
pub struct Hand {
    pub queue: Queue,
    pub claim: Claimed,
    pub doing: Doing,
}

pub struct Worker {
    pub process: String,
    /// Where it takes mail from now.
    pub queue: Queue,
    pub hands: Vec<Hand>,
}

pub struct Life<'a> {
    pub fixture: &'a Fixture,
    pub courier: Courier,
    edits: bool,
    pub renames: bool,
    pub random: StdRng,
    pub now: UnixMillis,
    /// All queues, as an observer sees them.
    pub queues: Vec<Queue>,
    /// Which of them the relay has now.
    pub named: usize,
    pub queue: Queue,
    pub marks: u64,
    pub workers: Vec<Worker>,
    /// Processes that died, or seem to have died.
    pub graves: Vec<Worker>,
    processes: u32,
    pub made: Vec<Made>,
    /// How often the server took a mail for a recipient.
    pub has: BTreeMap<String, u32>,
    /// For whom it said no, or later.
    pub judged: BTreeSet<String>,
    /// Who may have a mail twice, since somebody took that risk.
    pub risked: BTreeSet<String>,
    /// Whose mail a person discarded or removed; and discarded in particular.
    pub dropped: BTreeSet<String>,
    pub discarded: BTreeSet<String>,
    /// Crashes that may speak against a mail.
    pub crashes: u32,
    /// Counted entries that were removed behind the scripts' back.
    pub removed: i64,
    pub wrong: Vec<String>,
}

/// Again until Redis answers: what every caller does.
pub async fn again<T, E>(ask: impl AsyncFn() -> Result<T, E>) -> T {
    loop {
        if let Ok(answer) = ask().await {
            return answer;
        }
    }
}

impl<'a> Life<'a> {
    pub async fn new(fixture: &'a Fixture, seed: u64, manners: Manners, broken: Broken) -> Self {
        let courier = Courier::open(fixture, seed, broken).await;
        courier.disorder(manners.disorder);
        let queues: Vec<Queue> = queues().into_iter().map(|names| courier.queue_of(names)).collect();
        let mut life = Self {
            fixture,
            named: 0,
            queue: queues[0].clone(),
            queues,
            courier,
            edits: manners.edits,
            renames: manners.renames,
            random: StdRng::seed_from_u64(seed),
            now: fixture.queue.ask_time().await.expect("TIME"),
            marks: 0,
            workers: Vec::new(),
            graves: Vec::new(),
            processes: 0,
            made: Vec::new(),
            has: BTreeMap::new(),
            judged: BTreeSet::new(),
            risked: BTreeSet::new(),
            dropped: BTreeSet::new(),
            discarded: BTreeSet::new(),
            crashes: 0,
            removed: 0,
            wrong: Vec::new(),
        };
        life.start();
        life.start();
        life
    }

    /// Another worker process.
    pub fn start(&mut self) {
        self.processes += 1;
        let process = format!("{:032x}", self.processes);
        let queue = self.courier.queue_of(queues()[self.named].clone());
        self.workers.push(Worker { process, queue, hands: Vec::new() });
    }

    pub fn some(&mut self, below: usize) -> usize {
        self.random.random_range(0..below)
    }

    pub async fn step(&mut self) {
        self.now = self.now.after(Duration::from_millis(self.random.random_range(0..500)));
        match self.random.random_range(0..100) {
            0..=15 => self.produce().await,
            16..=19 => self.repeat().await,
            20..=34 => {
                let (worker, max) = (self.some(self.workers.len()), self.random.random_range(1..5));
                self.claim(worker, max).await;
            }
            35..=79 => {
                let worker = self.some(self.workers.len());
                self.work(worker).await;
            }
            80..=82 => self.die(),
            83..=85 => self.recover().await,
            86..=88 => self.haunt().await,
            89..=92 => {
                let (now, cap) = (self.now.after(Duration::from_secs(5)), self.some(4));
                let _ = self.queue.promote_due(now, cap).await;
            }
            93..=96 => self.decide().await,
            97 if self.edits => self.edit().await,
            98 if self.renames => self.rename(1 - self.named).await,
            _ => self.courier.arrive().await,
        }
    }

    async fn produce(&mut self) {
        if self.random.random_bool(0.1) {
            return self.fixture.push(self.queue.names().queue(), "{").await;
        }
        // Not every producer has heard of it at once.
        let queue = if self.renames && self.random.random_bool(0.2) { 1 - self.named } else { self.named };
        self.made.push(Made::next(&self.made, queue, &mut self.random));
        self.send(self.made.len() - 1).await;
    }

    /// A producer sends a mail again, be it that it is not sure.
    async fn repeat(&mut self) {
        let named: Vec<usize> = (0..self.made.len()).filter(|number| self.made[*number].is_named()).collect();
        if !named.is_empty() {
            let number = named[self.some(named.len())];
            self.send(number).await;
        }
    }

    async fn send(&mut self, number: usize) {
        self.marks += 1;
        let (made, mark) = (self.made[number].clone(), self.marks);
        let took = match self.random.random_range(0..10) {
            0..=4 => {
                let tries = if made.is_named() { 20 } else { 1 };
                self.enqueue(&made, mark, tries).await.is_some()
            }
            5 => {
                let entry = made.forged(mark, &mut self.random);
                self.fixture.push(&lists(&self.queues[made.queue])[0], entry).await;
                true
            }
            way => {
                self.fixture.push(&lists(&self.queues[made.queue])[way - 6], made.json(mark)).await;
                true
            }
        };
        self.made[number].accepted |= took;
    }

    /// Whether it is a duplicate; none when nobody knows whether it was taken.
    pub async fn enqueue(&self, made: &Made, mark: u64, tries: usize) -> Option<bool> {
        for _ in 0..tries {
            match self.queues[made.queue].enqueue(made.json(mark).as_bytes(), NO_LIMITS, self.now).await {
                Ok(enqueued) => return Some(enqueued.duplicate),
                Err(EnqueueError::Store { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
        None
    }

    /// The mails that the worker got, and how many ended instead.
    pub async fn claim(&mut self, worker: usize, max: usize) -> usize {
        let worker = &mut self.workers[worker];
        // Not by a time that stands still: when it was taken tells a claim from another of its id.
        let batch = again(async || worker.queue.claim(&worker.process, "pod", max, At::Redis).await).await;
        let yielded = batch.mails.len() + batch.ended;
        let in_hand = |claim| Hand { queue: worker.queue.clone(), claim, doing: Doing::At(Stage::Claimed) };
        let hands: Vec<Hand> = batch.mails.into_iter().map(in_hand).collect();
        worker.hands.extend(hands);
        yielded
    }

    /// A worker goes on with one of its claims.
    async fn work(&mut self, worker: usize) {
        let Worker { process, hands, .. } = &mut self.workers[worker];
        if hands.is_empty() {
            return;
        }
        let at = self.random.random_range(0..hands.len());
        let (process, hand) = (process.clone(), hands.swap_remove(at));
        if let Some(hand) = self.go_on(&process, hand).await {
            self.workers[worker].hands.push(hand);
        }
    }

    /// One step with a claim; none when it is over.
    pub async fn go_on(&mut self, process: &str, hand: Hand) -> Option<Hand> {
        let Hand { queue, claim, doing } = hand;
        let doing = self.next(process, &queue, &claim, doing).await?;
        Some(Hand { queue, claim, doing })
    }

    async fn next(&mut self, process: &str, queue: &Queue, claim: &Claimed, doing: Doing) -> Option<Doing> {
        let now = self.now;
        match doing {
            Doing::At(Stage::Committing) => Some(self.transact(claim)),
            Doing::At(Stage::Claimed) if self.random.random_bool(0.1) => {
                again(async || queue.requeue_claim(process, &claim.claim_id, now).await).await;
                None
            }
            Doing::At(stage) => {
                let next = if stage == Stage::Claimed { Stage::Sending } else { Stage::Committing };
                let advance = again(async || queue.advance(process, &claim.claim_id, next, now).await).await;
                (advance == Advance::Done).then_some(Doing::At(next))
            }
            Doing::Sent(settlement, progress, operation) => {
                let settle = async || queue.settle(process, claim, &operation, &settlement, &progress, now).await;
                again(settle).await;
                if self.random.random_bool(0.1) {
                    let answer = again(settle).await;
                    if !matches!(answer, Settled::Repeated | Settled::Lost) {
                        self.wrong.push(format!("twice settled: {answer:?}"));
                    }
                }
                None
            }
        }
    }

    /// The server judges each recipient, and then the mail.
    fn transact(&mut self, claim: &Claimed) -> Doing {
        let mut progress = PerRecipient::default();
        for recipient in &claim.mail.recipients {
            match self.random.random_range(0..20) {
                0..=2 => {
                    progress.refused.push(Refusal { recipient: recipient.clone(), reply: "550 5.1.1 who?".into() });
                }
                3..=5 => progress.judged.push((recipient.clone(), Schedule::Judged)),
                _ => progress.accepted.push(recipient.clone()),
            }
        }
        let (refused, put_off) = (&progress.refused, &progress.judged);
        let judged = refused.iter().map(|refusal| &refusal.recipient).chain(put_off.iter().map(|(who, _)| who));
        self.judged.extend(judged.cloned());
        // What the server says of the whole mail.
        let (takes, answers) = match self.random.random_range(0..20) {
            _ if progress.accepted.is_empty() => (false, true),
            0 => (false, true),
            1 => (false, false),
            2 => (true, false),
            _ => (true, true),
        };
        if takes {
            for recipient in &progress.accepted {
                *self.has.entry(recipient.clone()).or_default() += 1;
            }
        } else if answers {
            let later = std::mem::take(&mut progress.accepted);
            self.judged.extend(later.iter().cloned());
            progress.judged.extend(later.into_iter().map(|recipient| (recipient, Schedule::Judged)));
        }
        let settlement = if !answers {
            // Of those whom it accepted nobody knows.
            progress.accepted.clear();
            Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() }
        } else if !progress.judged.is_empty() {
            let wait = Duration::from_secs(self.random.random_range(0..10));
            let (reason, reply) = ("Greylisted".into(), "450 4.2.0 later".into());
            Settlement::Delayed { wait, counted: Counted::Attempt, reason, reply }
        } else if takes {
            delivered()
        } else {
            dead("RecipientRefused")
        };
        Doing::Sent(settlement, progress, OperationId::random())
    }

    /// A worker dies, or seems to; another takes its place.
    fn die(&mut self) {
        let worker = self.some(self.workers.len());
        self.graves.push(self.workers.swap_remove(worker));
        self.start();
    }

    /// The claims of one that seems dead are resolved, as far as they are of the relay's queue. Its connections are closed by then: what was committing is over.
    async fn recover(&mut self) {
        if self.graves.is_empty() {
            return;
        }
        let grave = self.some(self.graves.len());
        let resends = self.random.random_bool(0.2);
        for mut hand in std::mem::take(&mut self.graves[grave].hands) {
            if let Doing::At(Stage::Committing) = hand.doing {
                hand.doing = self.transact(&hand.claim);
            }
            if resends && let Doing::Sent(..) = hand.doing {
                self.risked.extend(hand.claim.mail.recipients.iter().cloned());
            }
            self.graves[grave].hands.push(hand);
        }
        let unknown = if resends { UnknownOutcome::Resend } else { UnknownOutcome::Hold };
        let options = RecoverOptions {
            unknown,
            fence_changed: self.random.random_bool(0.1),
            crashed: self.random.random_bool(0.5),
            out_of_memory: false,
        };
        self.crashes += u32::from(options.crashed);
        let (process, now, queue) = (self.graves[grave].process.clone(), self.now, self.queue.clone());
        again(async || queue.recover(&process, &options, now).await).await;
    }

    /// One that was recovered goes on, since it does not know.
    async fn haunt(&mut self) {
        if self.graves.is_empty() {
            return;
        }
        let grave = self.some(self.graves.len());
        let Some(hand) = self.graves[grave].hands.pop() else { return };
        let process = self.graves[grave].process.clone();
        if let Some(hand) = self.go_on(&process, hand).await {
            self.graves[grave].hands.push(hand);
        }
    }
}
