//! Claims mail for the sessions that are free, and has sessions opened when mail waits that none is free for.
//!
//! Claims belong to free sessions only, so no mail waits in a worker that could be sent by another. With nothing to do,
//! the blocking move of the queue wakes this task; nothing is polled.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};

use super::{
    backoff::Backoff,
    context::{self, Context},
    fleet::Room,
    outcome::{self, Moment},
    pace::{Pace, Permits},
    settle::Work,
};
use crate::{
    api::RelayRecord,
    queue::{Arrivals, At, Batch, Queue, QueueNames},
    store::StoreError,
    telemetry::metrics::ByKind,
};

/// How long one blocking wait lasts.
const WAIT: Duration = Duration::from_secs(5);
/// How many mails one claim asks for.
const BATCH: usize = 64;
/// How many claims are on their way at once: each waits for Redis to write twice, and a session that becomes free
/// meanwhile should not wait for that of the others. More would only make the batches smaller.
const CLAIMS: usize = 4;
/// How many outcomes may wait for Redis before nothing more is claimed.
const SETTLEMENTS: usize = 256;
/// How long a mail is kept for a session that is being opened for it.
const KEPT: Duration = Duration::from_secs(10);

/// Where free sessions ask for mail. Clones are the same place.
#[derive(Clone)]
pub struct Intake {
    requests: mpsc::UnboundedSender<Request>,
}

/// What all sessions say, for the task that answers.
pub type Requests = mpsc::UnboundedReceiver<Request>;

/// What a session says.
pub enum Request {
    /// It asks for a mail.
    Next(Wish),
    /// Its server cannot take this one.
    PassOn(Box<Work>),
}

/// A session that asks for a mail.
pub struct Wish {
    pub(super) session: oneshot::Sender<Work>,
    /// The name of its server.
    server: String,
    pace: Arc<Pace>,
    /// How long it asks, unless a mail is being claimed for it then.
    until: Instant,
}

impl Intake {
    /// The two ends.
    pub fn new() -> (Self, Requests) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests }, receiver)
    }

    /// The next mail; `None` when none came within `rest`, or no more will come. One that is being claimed by then is
    /// waited for, however long that takes. Cancelling withdraws the wish: a mail that is being claimed for it goes to
    /// another session, to one that is opened for it, or back to the queue.
    pub async fn next(&self, server: &str, pace: &Arc<Pace>, rest: Duration) -> Option<Work> {
        let (session, mail) = oneshot::channel();
        let until = Instant::now() + rest;
        let wish = Wish { session, server: server.to_owned(), pace: Arc::clone(pace), until };
        self.requests.send(Request::Next(wish)).ok()?;
        mail.await.ok()
    }

    /// Gives a mail, of which nothing was sent, to a session of a server that it fits; or back to the queue, should none be
    /// to be had.
    pub fn pass_on(&self, work: Work) {
        // Without a task that answers, it goes back to the queue as it is dropped.
        let _ = self.requests.send(Request::PassOn(Box::new(work)));
    }
}

/// The queue that mail is taken from now.
struct Source {
    queue: Queue,
    arrivals: Arrivals,
}

/// A claim on its way, with the sessions it is for.
struct Claim {
    queue: Queue,
    sessions: VecDeque<Wish>,
    /// Leave for their mails; sessions of servers for which there was none get nothing this time.
    permits: Vec<Permits>,
    wanted: usize,
    claimed: Result<Batch, StoreError>,
}

struct Task {
    context: Arc<Context>,
    source: Option<Source>,
    waiting: VecDeque<Wish>,
    /// Mails whose sessions ended while they were claimed, or whose servers cannot take them, kept until then for sessions
    /// that are being opened for them: claimed anew, a mail that takes longer than its server lets a session rest would
    /// never be sent, and one that is too large for a server could come to it again and again.
    kept: VecDeque<(Work, Instant)>,
    claims: FuturesUnordered<BoxFuture<'static, Claim>>,
    /// Whether mail may wait that nobody was given: look before waiting for more.
    look: bool,
    /// The last claim brought less than was asked for, and whether it got anywhere at all.
    dry: Option<bool>,
    /// Something failed: not before then.
    not_before: Option<Instant>,
    backoff: Backoff,
}

/// Answers until the worker stops; gives back what it claimed and nobody took.
pub async fn run(context: Arc<Context>, mut requests: Requests) {
    let stop = context.stop.clone();
    let mut relay = context.relay.clone();
    let mut task = Task {
        context,
        source: None,
        waiting: VecDeque::new(),
        kept: VecDeque::new(),
        claims: FuturesUnordered::new(),
        look: true,
        dry: None,
        not_before: None,
        backoff: Backoff::new(),
    };
    loop {
        let record = relay.borrow_and_update().clone();
        task.follow(record.as_deref());
        let active = record.is_some_and(|record| !record.spec.suspend && record.stalled.is_none());
        if active {
            task.look().await;
        }
        let room = task.context.fleet.room(Instant::now());
        // Mail is waited for only when a session could take it; otherwise what arrives is for others, or for later.
        let listen = active && !task.look && (task.may_send(Instant::now()) || room == Room::Now);
        let (rested, kept) = (task.rests_until(), task.kept.front().map(|(_, until)| *until));
        let paced = task.paced_until(Instant::now());
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            request = requests.recv() => match request {
                Some(Request::Next(wish)) => task.take_in(wish),
                Some(Request::PassOn(work)) => task.pass_on(*work),
                None => break,
            },
            Some(claim) = task.claims.next() => task.hand_out(claim),
            changed = relay.changed() => if changed.is_ok() { task.look = true } else { break },
            () = until(task.not_before) => task.not_before = None,
            () = until(rested) => task.dismiss(Instant::now()),
            () = until(paced) => task.look = true,
            () = until(kept) => task.give_up_first_kept(),
            () = until(room.opens()) => task.look = true,
            // A large mail may have waited for that.
            () = task.context.room.freed() => {
                task.not_before = None;
                task.look = true;
            }
            () = task.context.fleet.changed() => task.look = true,
            () = arrival(task.source.as_mut()), if listen => task.look = true,
        }
    }
    task.waiting.clear();
    task.kept.clear();
    while let Some(mut claim) = task.claims.next().await {
        claim.sessions.clear();
        task.hand_out(claim);
    }
    task.waiting.clear();
    if let Some(source) = task.source {
        task.context.settler.return_lost(source.queue);
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// However the wait ends, a look follows: another process may have left something behind.
async fn arrival(source: Option<&mut Source>) {
    if let Some(source) = source {
        let _ = source.arrivals.wait(WAIT).await;
    }
}

impl Task {
    /// Takes from the queue that the relay names.
    fn follow(&mut self, relay: Option<&RelayRecord>) {
        let Some(relay) = relay else { return };
        let names = QueueNames::from_spec(&relay.spec.queue);
        if self.source.as_ref().is_some_and(|source| *source.queue.names() == names) {
            return;
        }
        let queue = Queue::new(self.context.store.clone(), names).within(self.context.room.clone());
        let source = Source { arrivals: Arrivals::spawn(&queue), queue: queue.clone() };
        if let Some(old) = self.source.replace(source) {
            self.context.settler.return_lost(old.queue);
        }
        self.context.set_queue(queue);
    }

    fn take_in(&mut self, wish: Wish) {
        let fitting = self.kept.iter().position(|(work, _)| work.fits(&wish.server));
        self.waiting.push_back(wish);
        if let Some((work, until)) = fitting.and_then(|at| self.kept.remove(at))
            && let Some(work) = offer(work, &mut self.waiting)
        {
            self.kept.push_front((work, until));
        }
        self.look = true;
    }

    fn pass_on(&mut self, work: Work) {
        if let Some(work) = offer(work, &mut self.waiting) {
            self.keep(work);
        }
        self.look = true;
    }

    /// No session came for it: it goes back to the queue, to be tried at once, or later when few servers would do.
    fn give_up_first_kept(&mut self) {
        let Some((work, _)) = self.kept.pop_front().filter(|(work, _)| work.is_choosy()) else { return };
        let moment = Moment { now: work.queue.estimate(At::Redis), random: context::throw() };
        let conclusion = outcome::unplaced(&work.claimed.header, &self.context.settler.policy(), moment);
        self.context.settler.settle(work, conclusion, || {});
    }

    /// When a session that asks has rested long enough. None has while a claim is on its way that may have mail for it.
    fn rests_until(&self) -> Option<Instant> {
        self.waiting.iter().map(|wish| wish.until).min().filter(|_| self.claims.is_empty())
    }

    fn dismiss(&mut self, now: Instant) {
        self.waiting.retain(|wish| wish.until > now);
    }

    /// Claims for the sessions that wait, or opens some for the mail that waits.
    async fn look(&mut self) {
        if !self.look || self.not_before.is_some() {
            return;
        }
        let Some(queue) = self.source.as_ref().map(|source| source.queue.clone()) else { return };
        self.open_for_kept();
        self.waiting.retain(|wish| !wish.session.is_closed());
        // Many mails that few servers can take must not fill the memory.
        if self.context.settler.open() >= SETTLEMENTS || self.kept.len() >= BATCH {
            return self.pause();
        }
        if self.may_send(Instant::now()) {
            if self.claims.len() < CLAIMS && self.is_worth_it(&queue).await {
                self.claim(queue);
            }
            return;
        }
        if !self.waiting.is_empty() {
            // All wait for their servers' rate limits: then is the time to look.
            self.look = false;
            return;
        }
        if !self.claims.is_empty() || self.context.fleet.room(Instant::now()) != Room::Now {
            return;
        }
        match queue.depths(At::Redis).await {
            Ok(depths) if depths.pending == 0 => self.look = false,
            Ok(depths) => {
                let pending = usize::try_from(depths.pending).unwrap_or(usize::MAX);
                let missing = pending.saturating_sub(self.context.fleet.opening());
                let opened = self.context.fleet.open(missing, &self.context);
                if opened == missing {
                    // A session comes for each; of what arrives until then the queue tells.
                    self.look = false;
                } else if self.context.fleet.room(Instant::now()) == Room::Now {
                    // The lease is about to end or to be renewed, which nobody tells.
                    self.pause();
                }
            }
            Err(error) => self.failed(&error),
        }
    }

    /// Whether a session waits whose server may get mail now.
    fn may_send(&self, now: Instant) -> bool {
        self.waiting.iter().any(|wish| wish.pace.rests_until(now).is_none())
    }

    /// When the first of the sessions that wait for their server's rate limit may send.
    fn paced_until(&self, now: Instant) -> Option<Instant> {
        self.waiting.iter().filter_map(|wish| wish.pace.rests_until(now)).min()
    }

    /// Starts a claim for all sessions that wait and may send.
    fn claim(&mut self, queue: Queue) {
        let now = Instant::now();
        let (mut sessions, mut others) = (VecDeque::new(), VecDeque::new());
        for wish in self.waiting.drain(..) {
            let takes_part = sessions.len() < BATCH && wish.pace.rests_until(now).is_none();
            if takes_part { sessions.push_back(wish) } else { others.push_back(wish) }
        }
        self.waiting = others;
        let context = Arc::clone(&self.context);
        let claim = async move {
            let permits = permits_for(&sessions).await;
            let wanted = permits.iter().map(Permits::count).sum();
            let (process, pod) = (context.process.as_str(), &context.identity.pod);
            let claimed = match wanted {
                0 => Ok(Batch::default()),
                wanted => queue.claim(process, pod, wanted, At::Redis).await,
            };
            Claim { queue, sessions, permits, wanted, claimed }
        };
        self.claims.push(claim.boxed());
    }

    /// Gives what was claimed to the sessions; those that get nothing wait on.
    fn hand_out(&mut self, claim: Claim) {
        let Claim { queue, mut sessions, mut permits, wanted, claimed } = claim;
        match claimed {
            // No server may get mail now.
            Ok(_) if wanted == 0 => self.look = true,
            Ok(Batch { mails, ended }) => {
                let count = mails.len();
                // Entries that yield nothing must not hold up the mail behind them.
                let went_on = count + ended > 0;
                if went_on {
                    self.backoff.reset();
                }
                self.context.metrics.claims.inc_by(count as u64);
                for claimed in mails {
                    let work = Work::new(claimed, queue.clone(), self.context.settler.clone());
                    if let Some(work) = give(work, &mut sessions, &mut permits)
                        .and_then(|work| give(work, &mut self.waiting, &mut permits))
                    {
                        self.keep(work);
                    }
                }
                self.look = true;
                self.dry = (count < wanted).then_some(went_on);
            }
            Err(error) => self.failed(&error),
        }
        // They came first.
        sessions.extend(self.waiting.drain(..));
        self.waiting = sessions;
    }

    /// Keeps a mail for a session that is to be opened for it; while none can be it goes back to the queue.
    fn keep(&mut self, work: Work) {
        if !self.context.stop.is_cancelled() {
            self.kept.push_back((work, Instant::now() + KEPT));
        }
    }

    /// Opens sessions for the mails that are kept.
    fn open_for_kept(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let fleet = &self.context.fleet;
        let opening = fleet.opening();
        let missing = self.kept.len().saturating_sub(opening);
        if fleet.open_at(|server| fits_any(&self.kept, server), missing, &self.context) > 0 || opening > 0 {
            return;
        }
        if fleet.room(Instant::now()) == Room::None {
            // Sessions of servers that do for them come for more, sooner or later.
            self.kept.retain(|(work, _)| work.is_choosy());
        }
        // Servers may share a budget: one that rests at a server which takes none of these makes room.
        let served = fleet.servers().iter().any(|server| fits_any(&self.kept, &server.name) && server.sessions() > 0);
        if !self.kept.is_empty() && !served {
            self.waiting.pop_front();
        }
    }

    /// After a claim that brought less than was asked for: whether to ask again.
    async fn is_worth_it(&mut self, queue: &Queue) -> bool {
        let Some(went_on) = self.dry.take() else { return true };
        match queue.depths(At::Redis).await {
            Ok(depths) if depths.pending == 0 => self.look = false,
            // Something came of it: what was dropped or put off hid more.
            Ok(_) if went_on => return true,
            // What waits cannot be claimed, which is not worth a hot loop.
            Ok(_) => self.pause(),
            Err(error) => self.failed(&error),
        }
        false
    }

    fn failed(&mut self, error: &StoreError) {
        self.context.metrics.store_failures.get_or_create(&ByKind { kind: "claim" }).inc();
        tracing::debug!(%error, "cannot claim mail");
        self.pause();
    }

    fn pause(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next());
    }
}

/// Whether this server may take one of these mails.
fn fits_any(mails: &VecDeque<(Work, Instant)>, server: &str) -> bool {
    mails.iter().any(|(work, _)| work.fits(server))
}

/// Leave for a mail of each of these sessions, as far as their servers' rate limits have any.
async fn permits_for(sessions: &VecDeque<Wish>) -> Vec<Permits> {
    let mut paces: Vec<(Arc<Pace>, usize)> = Vec::new();
    for wish in sessions {
        match paces.iter_mut().find(|(pace, _)| Arc::ptr_eq(pace, &wish.pace)) {
            Some((_, count)) => *count += 1,
            None => paces.push((Arc::clone(&wish.pace), 1)),
        }
    }
    let mut permits = Vec::with_capacity(paces.len());
    for (pace, count) in paces {
        permits.extend(pace.permits(count).await);
    }
    permits
}

/// Gives a mail, and leave to send it, to the first session for which there is leave.
fn give(mut work: Work, sessions: &mut VecDeque<Wish>, permits: &mut [Permits]) -> Option<Work> {
    loop {
        let leave = |wish: &Wish| permits.iter().position(|permits| permits.count() > 0 && permits.is_of(&wish.pace));
        let found = sessions.iter().enumerate().find_map(|(at, wish)| Some((at, leave(wish)?)));
        let Some((at, of)) = found else { return Some(work) };
        let Some(wish) = sessions.remove(at) else { return Some(work) };
        work.permit = permits[of].split_one();
        match wish.session.send(work) {
            Ok(()) => return None,
            Err(returned) => {
                work = returned;
                permits[of].join(work.permit.take());
            }
        }
    }
}

/// Gives a mail to the first session that is still there, of a server that it fits; the mail again when none is.
fn offer(mut work: Work, sessions: &mut VecDeque<Wish>) -> Option<Work> {
    while let Some(at) = sessions.iter().position(|wish| work.fits(&wish.server)) {
        let Some(wish) = sessions.remove(at) else { break };
        match wish.session.send(work) {
            Ok(()) => return None,
            Err(returned) => work = returned,
        }
    }
    Some(work)
}
