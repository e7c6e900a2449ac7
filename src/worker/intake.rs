//! Claims mail for the sessions that are free, and has sessions opened when mail waits that none is free for.
//!
//! Claims belong to free sessions only, so no mail waits in a worker that could be sent by another. With nothing to do,
//! the blocking move of the queue wakes this task; nothing is polled.

mod claim;
mod claiming;
mod give;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{claim::Claim, give::give};
use super::{
    backoff::Backoff,
    current_queue::CurrentQueue,
    fleet::{Fleet, Room},
    follow::Followed,
    outcome::{self, Moment},
    requests::{Request, Requests, Wish},
    sender,
    server::{Opening, Server},
    settle::{Settler, Work},
};
use crate::{
    api::RelayRecord,
    lease::{ProcessId, Slot},
    queue::{self, Arrivals, At, Queue, QueueNames},
    store::{Store, StoreError},
    system,
    telemetry::metrics::{ByKind, WorkerMetrics},
};

/// How long one blocking wait lasts at most while there is work; while the worker rests, as long as may be.
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

/// What the intake works with.
pub struct Handles {
    /// This run of the worker.
    pub process: ProcessId,
    /// Name of the pod.
    pub pod: String,
    /// Redis.
    pub store: Store,
    /// The relay in force.
    pub relay: Followed,
    /// Told which queue mail is taken from.
    pub queue: Arc<CurrentQueue>,
    /// Memory for the mails in hand.
    pub room: queue::Room,
    /// The servers and their sessions.
    pub fleet: Fleet,
    /// What the sessions that it has opened work with.
    pub sessions: Arc<sender::Handles>,
    /// Where outcomes go.
    pub settler: Settler,
    /// Figures.
    pub metrics: WorkerMetrics,
    /// Ends when no new mail may be started.
    pub stop: CancellationToken,
}

/// The queue that mail is taken from now.
struct Source {
    queue: Queue,
    arrivals: Arrivals,
}

struct Task {
    handles: Arc<Handles>,
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
pub async fn run(handles: Arc<Handles>, mut requests: Requests) {
    let stop = handles.stop.clone();
    let mut relay = handles.relay.clone();
    let mut task = Task {
        handles,
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
        let room = task.handles.fleet.room(Instant::now());
        // Mail is waited for only when a session could take it; otherwise what arrives is for others, or for later.
        let listen = active && !task.look && (task.may_send(Instant::now()) || room == Room::Now);
        let wait = if task.handles.fleet.is_resting() { Duration::MAX } else { WAIT };
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
            () = task.handles.room.freed() => {
                task.not_before = None;
                task.look = true;
            }
            () = task.handles.fleet.changed() => task.look = true,
            () = arrival(task.source.as_mut(), wait), if listen => task.look = true,
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
        task.handles.settler.return_lost(source.queue);
    }
}

async fn until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}

/// However the wait ends, a look follows: another process may have left something behind.
async fn arrival(source: Option<&mut Source>, wait: Duration) {
    if let Some(source) = source {
        let _ = source.arrivals.wait(wait).await;
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
        let queue = Queue::new(self.handles.store.clone(), names).within(self.handles.room.clone());
        let source = Source { arrivals: Arrivals::spawn(&queue), queue: queue.clone() };
        if let Some(old) = self.source.replace(source) {
            self.handles.settler.return_lost(old.queue);
        }
        self.handles.queue.set(queue);
    }

    fn take_in(&mut self, wish: Wish) {
        let fitting = self.kept.iter().position(|(work, _)| work.fits(&wish.server));
        self.waiting.push_back(wish);
        if let Some((work, until)) = fitting.and_then(|at| self.kept.remove(at))
            && let Some(work) = give(work, &mut self.waiting, None)
        {
            self.kept.push_front((work, until));
        }
        self.look = true;
    }

    fn pass_on(&mut self, work: Work) {
        if let Some(work) = give(work, &mut self.waiting, None) {
            self.keep(work);
        }
        self.look = true;
    }

    /// No session came for it: it goes back to the queue, to be tried at once, or later when few servers would do.
    fn give_up_first_kept(&mut self) {
        let Some((work, _)) = self.kept.pop_front().filter(|(work, _)| work.is_choosy()) else { return };
        let moment = Moment { now: work.queue.estimate(At::Redis), random: system::fraction() };
        let conclusion = outcome::unplaced(&work.claimed.header, &self.handles.settler.policy(), moment);
        self.handles.settler.settle(work, conclusion, || {});
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
        if self.handles.settler.open() >= SETTLEMENTS || self.kept.len() >= BATCH {
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
        if !self.claims.is_empty() || self.handles.fleet.room(Instant::now()) != Room::Now {
            return;
        }
        match queue.pending().await {
            Ok(0) => self.look = false,
            Ok(pending) => {
                let pending = usize::try_from(pending).unwrap_or(usize::MAX);
                let missing = pending.saturating_sub(self.handles.fleet.opening());
                let opened = self.handles.fleet.open(missing, &session_in(&self.handles));
                if opened == missing {
                    // A session comes for each; of what arrives until then the queue tells.
                    self.look = false;
                } else if self.handles.fleet.room(Instant::now()) == Room::Now {
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

    /// Keeps a mail for a session that is to be opened for it; while none can be it goes back to the queue.
    fn keep(&mut self, work: Work) {
        if !self.handles.stop.is_cancelled() {
            self.kept.push_back((work, Instant::now() + KEPT));
        }
    }

    /// Opens sessions for the mails that are kept.
    fn open_for_kept(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let fleet = &self.handles.fleet;
        let opening = fleet.opening();
        let missing = self.kept.len().saturating_sub(opening);
        if fleet.open_at(|server| fits_any(&self.kept, server), missing, &session_in(&self.handles)) > 0 || opening > 0
        {
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

    fn failed(&mut self, error: &StoreError) {
        self.handles.metrics.store_failures.get_or_create(&ByKind { kind: "claim" }).inc();
        tracing::debug!(%error, "cannot claim mail");
        self.pause();
    }

    fn pause(&mut self) {
        self.not_before = Some(Instant::now() + self.backoff.next());
    }
}

/// How a session of this worker lives.
fn session_in(handles: &Handles) -> impl Fn(Arc<Server>, Slot, Opening) -> BoxFuture<'static, ()> + use<> {
    let handles = Arc::clone(&handles.sessions);
    move |server, slot, opening| sender::run(Arc::clone(&handles), server, slot, opening).boxed()
}

/// Whether this server may take one of these mails.
fn fits_any(mails: &VecDeque<(Work, Instant)>, server: &str) -> bool {
    mails.iter().any(|(work, _)| work.fits(server))
}
