//! Claims mail for the sessions that are free, and has sessions opened when mail waits that none is free for.
//!
//! Claims belong to free sessions only, so no mail waits in a worker that could be sent by another. With nothing to do,
//! the blocking move of the queue wakes this task; nothing is polled.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{mpsc, oneshot};

use super::{backoff::Backoff, context::Context, fleet::Room, settle::Work};
use crate::{
    api::RelayRecord,
    queue::{Arrivals, Queue, QueueNames, UnixMillis},
    store::StoreError,
    telemetry::metrics::ByKind,
};

/// How long one blocking wait lasts (queue.md, Stages).
const WAIT: Duration = Duration::from_secs(5);
/// How many mails one script claims.
const BATCH: usize = 64;
/// How many outcomes may wait for Redis before nothing more is claimed.
const SETTLEMENTS: usize = 256;

/// Where free sessions ask for mail. Clones are the same place.
#[derive(Clone)]
pub struct Intake {
    requests: mpsc::UnboundedSender<oneshot::Sender<Work>>,
}

/// The asking of all sessions, for the task that answers.
pub type Requests = mpsc::UnboundedReceiver<oneshot::Sender<Work>>;

impl Intake {
    /// The two ends.
    pub fn new() -> (Self, Requests) {
        let (requests, receiver) = mpsc::unbounded_channel();
        (Self { requests }, receiver)
    }

    /// The next mail; `None` when no more will come. Cancelling withdraws the wish: a mail that was claimed for it
    /// already goes back to the queue.
    pub async fn next(&self) -> Option<Work> {
        let (answer, mail) = oneshot::channel();
        self.requests.send(answer).ok()?;
        mail.await.ok()
    }
}

/// The queue that mail is taken from now.
struct Source {
    queue: Queue,
    arrivals: Arrivals,
}

impl Source {
    /// The queue that the relay names; the same one as before unless the name changed.
    fn follow(before: Option<Self>, relay: Option<&RelayRecord>, context: &Context) -> Option<Self> {
        let names = QueueNames::from_spec(&relay?.spec.queue);
        if let Some(source) = before
            && *source.queue.names() == names
        {
            return Some(source);
        }
        let queue = Queue::new(context.store.clone(), names);
        Some(Self { arrivals: Arrivals::spawn(&queue), queue })
    }
}

struct Task {
    context: Arc<Context>,
    waiting: VecDeque<oneshot::Sender<Work>>,
    /// Whether mail may wait that nobody was given: look before waiting for more.
    look: bool,
    backoff: Backoff,
}

/// What to do after a look.
enum Next {
    /// Look again at once: there was as much as was asked for.
    Again,
    /// Something must change first: a session, the budget, a server, or the arrival of mail.
    Wait,
    /// Try again after a pause.
    Pause(Duration),
}

/// Answers until the worker stops.
pub async fn run(context: Arc<Context>, mut requests: Requests) {
    let stop = context.stop.clone();
    let mut relay = context.relay.clone();
    let mut source = None;
    let mut task = Task { context, waiting: VecDeque::new(), look: true, backoff: Backoff::new() };
    loop {
        let record = relay.borrow_and_update().clone();
        source = Source::follow(source, record.as_deref(), &task.context);
        let active = record.is_some_and(|record| !record.spec.suspend && record.stalled.is_none());
        let next = match &source {
            Some(source) if active && task.look => task.look(&source.queue).await,
            _ => Next::Wait,
        };
        let pause = match next {
            Next::Again => Duration::ZERO,
            Next::Pause(pause) => pause,
            Next::Wait => Duration::MAX,
        };
        let room = task.context.fleet.room(Instant::now());
        // Mail is waited for only when a session could take it; otherwise what arrives is for others, or for later.
        let listen = active && !task.look && (!task.waiting.is_empty() || room == Room::Now);
        tokio::select! {
            biased;
            () = stop.cancelled() => return,
            request = requests.recv() => match request {
                Some(request) => { task.waiting.push_back(request); task.look = true; }
                None => return,
            },
            changed = relay.changed() => if changed.is_ok() { task.look = true } else { return },
            () = tokio::time::sleep(pause), if pause < Duration::MAX => {}
            () = until(room) => task.look = true,
            () = task.context.fleet.changed() => task.look = true,
            () = arrival(source.as_mut()), if listen => task.look = true,
        }
    }
}

async fn until(room: Room) {
    match room {
        Room::At(at) => tokio::time::sleep_until(at.into()).await,
        Room::Now | Room::None => std::future::pending().await,
    }
}

/// However the wait ends, a look follows: another process may have left something behind.
async fn arrival(source: Option<&mut Source>) {
    if let Some(source) = source {
        let _ = source.arrivals.wait(WAIT).await;
    }
}

impl Task {
    async fn look(&mut self, queue: &Queue) -> Next {
        match self.try_look(queue).await {
            Ok(next) => {
                if !matches!(next, Next::Pause(_)) {
                    self.backoff.reset();
                }
                next
            }
            Err(error) => {
                self.context.metrics.store_failures.get_or_create(&ByKind { kind: "claim" }).inc();
                let pause = self.backoff.next();
                tracing::debug!(%error, retry_ms = pause.as_millis(), "cannot claim mail");
                Next::Pause(pause)
            }
        }
    }

    async fn try_look(&mut self, queue: &Queue) -> Result<Next, StoreError> {
        self.waiting.retain(|session| !session.is_closed());
        if self.context.settler.open() >= SETTLEMENTS {
            return Ok(Next::Pause(self.backoff.next()));
        }
        if !self.waiting.is_empty() {
            let wanted = self.waiting.len().min(BATCH);
            if self.claim(queue, wanted).await? == wanted {
                return Ok(Next::Again);
            }
        } else if self.context.fleet.room(Instant::now()) != Room::Now {
            return Ok(Next::Wait);
        }
        let pending = queue.depths(UnixMillis::now()).await?.pending;
        if pending == 0 {
            self.look = false;
            return Ok(Next::Again);
        }
        if !self.waiting.is_empty() {
            // There is something that could not be claimed; it is not worth a hot loop.
            return Ok(Next::Pause(self.backoff.next()));
        }
        let coming = self.context.fleet.opening();
        self.context.fleet.open(usize::try_from(pending).unwrap_or(usize::MAX).saturating_sub(coming), &self.context);
        Ok(Next::Wait)
    }

    /// Claims mail for free sessions; how many there were.
    async fn claim(&mut self, queue: &Queue, wanted: usize) -> Result<usize, StoreError> {
        let context = &self.context;
        let claimed = queue.claim(context.process.as_str(), &context.identity.pod, wanted, UnixMillis::now()).await?;
        let count = claimed.len();
        context.metrics.claims.inc_by(count as u64);
        context.metrics.claims_open.inc_by(i64::try_from(count).unwrap_or(i64::MAX));
        for claimed in claimed {
            let mut work = Work { claimed: Arc::new(claimed), queue: queue.clone() };
            loop {
                let Some(session) = self.waiting.pop_front() else {
                    context.settler.give_back(work);
                    break;
                };
                match session.send(work) {
                    Ok(()) => break,
                    // This session is gone; the next one may want it.
                    Err(returned) => work = returned,
                }
            }
        }
        Ok(count)
    }
}
