//! One mail server as this worker sees it: its slots, its breaker, its sessions.

mod slots;
mod troubles;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

pub use self::troubles::Unopened;
use super::{
    breaker::{Breaker, Generation, Limits, Permit},
    pace::Pace,
    settle_time::SettleTime,
    suspects::Suspects,
    withhold::Withholding,
};
use crate::{
    api::{self, Unavailable},
    lease::{Slot, SlotPool, Timing},
    rate::Buckets,
    smtp::{Chunking, Features},
};

/// After how many different mails in a row that may have been refused since we are not welcome the server is left alone.
const ENOUGH_REFUSALS: usize = 5;
/// The same for mails that were refused since what we may send is used up: one may be its sender's matter alone.
const ENOUGH_QUOTAS: usize = 2;

/// A server and everything that its sessions share.
pub struct Server {
    /// Its name in the spec.
    pub name: String,
    /// Where its slots come from; shared with every server of the same budget.
    pub pool: SlotPool,
    /// Its rate limits.
    pub pace: Arc<Pace>,
    /// Ends when the spec no longer has this server as it was.
    pub stop: CancellationToken,
    settings: Mutex<Arc<api::Server>>,
    state: Mutex<State>,
    opening: AtomicUsize,
    sessions: AtomicUsize,
    good: AtomicU64,
    /// What is known of its offer of CHUNKING.
    chunking: Mutex<Chunking>,
    changed: Arc<Notify>,
}

struct State {
    breaker: Breaker,
    /// The files that were in use when the server refused us for good.
    blamed: Option<u64>,
    refusals: Suspects,
    quotas: Suspects,
    /// How many sessions in a row the server refused for our sake.
    sessions_refused: usize,
    rests_until: Option<Instant>,
    /// A session that is being opened has heard nothing for long.
    silent: Option<Unavailable>,
    /// When the server last found a session to be one too many, and in what words.
    saturated: Option<(Instant, Unavailable)>,
    withholding: Withholding,
    settle_time: SettleTime,
}

impl Server {
    /// A server that nothing is known of; `changed` is told whenever a session may have become possible.
    pub fn new(settings: &api::Server, pool: SlotPool, buckets: Buckets, limits: Limits, changed: Arc<Notify>) -> Self {
        Self {
            name: settings.name.clone(),
            pool,
            pace: Arc::new(Pace::new(buckets, &settings.rate_limits)),
            stop: CancellationToken::new(),
            settings: Mutex::new(Arc::new(settings.clone())),
            state: Mutex::new(State {
                breaker: Breaker::new(limits),
                blamed: None,
                refusals: Suspects::new(ENOUGH_REFUSALS),
                quotas: Suspects::new(ENOUGH_QUOTAS),
                sessions_refused: 0,
                rests_until: None,
                silent: None,
                saturated: None,
                withholding: Withholding::new(),
                settle_time: SettleTime::new(Timing::default().settle),
            }),
            opening: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            good: AtomicU64::new(0),
            chunking: Mutex::new(Chunking::Untried),
            changed,
        }
    }

    /// As the spec has it now.
    pub fn settings(&self) -> Arc<api::Server> {
        Arc::clone(&self.settings.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes over what may change while sessions are open.
    pub fn adjust(&self, settings: &api::Server, limits: Limits) {
        self.pace.adjust(&settings.rate_limits);
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(settings.clone());
        self.state().breaker.set_limits(limits);
    }

    /// Whether sessions of `self` are also good for `settings`.
    pub fn is_like(&self, settings: &api::Server) -> bool {
        let own = self.settings();
        let is_same_server = (&own.host, own.port, own.pool()) == (&settings.host, settings.port, settings.pool());
        let is_same_opening = (own.tls, &own.tls_server_name, own.auth, &own.helo_name)
            == (settings.tls, &settings.tls_server_name, settings.auth, &settings.helo_name);
        is_same_server && is_same_opening
    }

    /// Which of the extensions that it offers are used.
    pub fn features(&self) -> Features {
        let chunking = *self.chunking.lock().unwrap_or_else(PoisonError::into_inner);
        Features { chunking, ..Features::default() }
    }

    /// What a session found out of its extensions.
    pub fn learn_features(&self, features: Features) {
        let mut known = self.chunking.lock().unwrap_or_else(PoisonError::into_inner);
        let learned = match (*known, features.chunking) {
            // A session that was told less than is known now.
            (Chunking::Off, _) | (_, Chunking::Untried) => *known,
            (_, learned) => learned,
        };
        let refused = std::mem::replace(&mut *known, learned) != Chunking::Off && learned == Chunking::Off;
        if refused {
            tracing::warn!(
                server.name = self.name,
                "the server offers CHUNKING and refuses BDAT; DATA is used from now on"
            );
        }
    }

    /// Sessions that exist or are being opened.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Sessions that will soon ask for their first mail.
    pub fn opening(&self) -> usize {
        self.opening.load(Ordering::Relaxed)
    }

    /// Whether another session may be opened, as far as the server is concerned.
    pub fn permit(&self, now: Instant) -> Permit {
        let state = self.state();
        let paced = self.pace.rests_until(now);
        match state.rests_until.filter(|until| *until > now).max(paced) {
            Some(until) => Permit::At(until),
            None => state.breaker.permit(now),
        }
    }

    /// Whether one session more could be of use.
    pub fn wants_more(&self) -> bool {
        self.sessions() < self.pace.worth()
    }

    /// A slot for a session, if the lease has one free and the server may be used.
    pub fn try_open(self: &Arc<Self>, now: Instant) -> Option<(Slot, Opening)> {
        if self.stop.is_cancelled() || self.permit(now) != Permit::Granted || !self.wants_more() {
            return None;
        }
        let slot = self.pool.try_acquire()?;
        let generation = self.state().breaker.opening();
        self.opening.fetch_add(1, Ordering::Relaxed);
        self.sessions.fetch_add(1, Ordering::Relaxed);
        Some((slot, Opening { server: Arc::clone(self), is_open: false, generation }))
    }

    /// How long an open session should wait before the next mail, so that a server in trouble does not see mail after
    /// mail; `None` when it should end: the server is left alone, or only sessions opened after that may ask it.
    pub fn rest(&self, session: Generation, now: Instant) -> Option<Duration> {
        if self.state().breaker.shuts_out(session, now) {
            return None;
        }
        Some(match self.permit(now) {
            Permit::At(at) => at.saturating_duration_since(now),
            Permit::Granted | Permit::Probing => Duration::ZERO,
        })
    }

    /// How many mails the server took since this was last asked.
    pub fn take_good(&self) -> u64 {
        self.good.swap(0, Ordering::Relaxed)
    }

    /// Counts mails again that could not be told of.
    pub fn put_back_good(&self, mails: u64) {
        self.good.fetch_add(mails, Ordering::Relaxed);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a session from before it is opened until it is gone, however its task ends.
pub struct Opening {
    server: Arc<Server>,
    is_open: bool,
    /// Which pauses of the server it came after.
    pub generation: Generation,
}

impl Opening {
    /// Mail that waits should not wait for this session.
    pub fn takes_long(&mut self) {
        self.done();
        self.server.changed.notify_one();
    }

    /// The session is open and asks for mail from now on.
    pub fn done(&mut self) {
        if !std::mem::replace(&mut self.is_open, true) {
            self.server.opening.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.done();
        self.server.sessions.fetch_sub(1, Ordering::Relaxed);
        self.server.state().breaker.ended(Instant::now());
        self.server.changed.notify_one();
    }
}
