//! One mail server as this worker sees it: its slots, its breaker, its sessions.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    breaker::{Breaker, Generation, LONG_PAUSE, Limits, Permit, Trouble},
    credentials::{CredentialsError, CredentialsFolder},
    pace::Pace,
    settle_time::SettleTime,
    suspects::{self, Offered, Party, Suspects},
    withhold::Withholding,
};
use crate::{
    api::{self, Unavailable},
    lease::{Slot, SlotPool, TOO_MANY, Timing, Withheld},
    rate::Buckets,
    smtp::{Chunking, Closed, Features, Lingering, OpenError, PauseReason, ServerSignal, Why},
    telemetry::log::mask,
};

/// How long a server that found a session to be one too many is said to be saturated.
const SATURATED: Duration = Duration::from_secs(30);
/// How long a server rests after it said that we are too fast.
const SLOW_DOWN: Duration = Duration::from_secs(2);
/// After how many different mails in a row that may have been refused since we are not welcome the server is left alone.
const ENOUGH_REFUSALS: usize = 5;
/// The same for sessions.
const ENOUGH_SESSIONS: usize = 5;
/// The same for mails that were refused since what we may send is used up: one may be its sender's matter alone.
const ENOUGH_QUOTAS: usize = 2;
/// Why a server rests when most of the last mails died.
const SURGE: &str = "DeadLetterSurge";
/// How long a slot is withheld whose server's end was seen and which could not rest any longer: as long as it can be needed.
const UNSETTLED: Duration = Duration::from_secs(2);

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

/// Why no session could be opened.
pub enum Unopened<'a> {
    /// The files of the server.
    Files(&'a CredentialsError),
    /// The server.
    Server(&'a OpenError),
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
        (&own.host, own.port, own.tls, own.auth, own.pool())
            == (&settings.host, settings.port, settings.tls, settings.auth, settings.pool())
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

    /// Remembers why a session could not be opened.
    pub fn not_opened(&self, why: &Unopened<'_>, files: &CredentialsFolder) {
        self.has_spoken();
        let trouble = match why {
            Unopened::Files(error) => {
                let what = unavailable(error.reason(), &error.to_string());
                Some(if error.may_pass() { Trouble::Failure(what) } else { Trouble::Lasting(what, LONG_PAUSE) })
            }
            Unopened::Server(error) if error.disposition.signal == ServerSignal::TooManyConnections => {
                self.trouble(error.disposition.signal, &error.to_string())
            }
            Unopened::Server(error) if matches!(error.disposition.signal, ServerSignal::RefusesUs(_)) => {
                let what = unavailable(error.disposition.why.as_str(), &error.to_string());
                let mut state = self.state();
                state.sessions_refused = state.sessions_refused.saturating_add(1);
                Some(match state.sessions_refused {
                    ENOUGH_SESSIONS.. => Trouble::Lasting(what, suspects::PAUSE),
                    _ => Trouble::Failure(what),
                })
            }
            Unopened::Server(error) => {
                self.trouble(error.disposition.signal, &error.to_string()).or_else(|| {
                    // Nothing that the table counts, but never a hot loop.
                    Some(Trouble::Failure(unavailable(error.disposition.why.as_str(), &error.to_string())))
                })
            }
        };
        if let Some(trouble) = trouble {
            self.failed(trouble, files);
        }
    }

    /// Remembers what a mail transaction taught about the server.
    pub fn learn(&self, signals: &[ServerSignal], words: &str, mail: &Offered<'_>, files: &CredentialsFolder) {
        let now = Instant::now();
        let before = self.permit(now);
        for signal in signals {
            match signal {
                ServerSignal::Good => {
                    self.good.fetch_add(1, Ordering::Relaxed);
                    let mut state = self.state();
                    state.refusals.taken(mail.sender, mail.recipient, mail.began);
                    state.quotas.taken(mail.sender, mail.recipient, mail.began);
                    state.sessions_refused = 0;
                    state.breaker.worked(mail.session);
                    if !state.breaker.is_paused(now) {
                        state.blamed = None;
                    }
                }
                ServerSignal::SlowDown => self.state().rests_until = Some(now + SLOW_DOWN),
                // It took the mail for others, or other mail since: it has nothing against us.
                ServerSignal::RefusesUs(_) if mail.is_to_blame || signals.contains(&ServerSignal::Good) => {}
                ServerSignal::RefusesUs(why) => {
                    let pause = self.state().refusals.refused(mail.id, mail.party(), now.into_std());
                    if let Some(pause) = pause {
                        self.failed(Trouble::Lasting(unavailable(why.as_str(), words), pause), files);
                    }
                }
                ServerSignal::QuotaExceeded(pause) => {
                    let mut state = self.state();
                    let sender = Party::Sender(mail.sender.to_owned());
                    if state.quotas.refused(mail.id, sender, now.into_std()).is_some() {
                        drop(state);
                        let what = unavailable(Why::QuotaExceeded.as_str(), words);
                        self.failed(Trouble::Lasting(what, *pause), files);
                    } else {
                        state.rests_until = Some(now + SLOW_DOWN);
                    }
                }
                other => {
                    if let Some(trouble) = self.trouble(*other, words) {
                        self.failed(trouble, files);
                    }
                }
            }
        }
        if self.permit(Instant::now()) != before {
            self.changed.notify_one();
        }
    }

    /// How long ago the last mail was offered that the server took, and whether no other mail than this one is refused as
    /// if it judged us.
    pub fn standing(&self, mail: &str) -> (Option<Duration>, bool) {
        let (state, now) = (self.state(), Instant::now().into_std());
        let taken = state.refusals.last_taken().map(|taken| now.duration_since(taken));
        (taken, state.refusals.is_lone(mail))
    }

    fn trouble(&self, signal: ServerSignal, words: &str) -> Option<Trouble> {
        match signal {
            ServerSignal::Failing => Some(Trouble::Failure(unavailable("ConnectFailed", words))),
            // The sessions that it took go on, and each that it refused withholds a slot: nothing to pause for.
            ServerSignal::TooManyConnections => {
                let saturated = unavailable(Why::TooManyConnections.as_str(), words);
                self.state().saturated = Some((Instant::now(), saturated));
                None
            }
            ServerSignal::Pause(reason) => {
                let reason = match reason {
                    PauseReason::TlsFailed => "TlsFailed",
                    PauseReason::AuthenticationFailed => "AuthenticationFailed",
                };
                Some(Trouble::Lasting(unavailable(reason, words), LONG_PAUSE))
            }
            // Before the first mail; what is said of mails is counted apart.
            ServerSignal::QuotaExceeded(pause) => {
                Some(Trouble::Lasting(unavailable(Why::QuotaExceeded.as_str(), words), pause))
            }
            ServerSignal::None
            | ServerSignal::Good
            | ServerSignal::SlowDown
            | ServerSignal::SessionFull
            | ServerSignal::RefusesUs(_) => None,
        }
    }

    /// Leaves the server alone, since most of the last mails died; false when it is left alone anyway.
    pub fn rest_from_deaths(&self, rest: Duration, words: &str) -> bool {
        let (mut state, now) = (self.state(), Instant::now());
        if state.breaker.is_paused(now) {
            return false;
        }
        let what =
            unavailable(SURGE, &format!("most of the last mails went to the dead letters, the last one for: {words}"));
        tracing::warn!(server.name = self.name, reason = what.reason, rest_s = rest.as_secs(), "too much mail dies");
        state.breaker.failed(Trouble::Lasting(what, rest), now);
        true
    }

    /// Ends that rest: a person allows it.
    pub fn stop_resting(&self) {
        let mut state = self.state();
        if state.breaker.unavailable().is_some_and(|why| why.reason == SURGE) {
            state.breaker.forgive();
            drop(state);
            self.changed.notify_one();
        }
    }

    fn failed(&self, trouble: Trouble, files: &CredentialsFolder) {
        let blamed = matches!(trouble, Trouble::Lasting(..)).then(|| files.fingerprint(&self.name)).flatten();
        let mut state = self.state();
        let before = state.breaker.unavailable().cloned();
        state.breaker.failed(trouble, Instant::now());
        if blamed.is_some() {
            state.blamed = blamed;
        }
        if let Some(now) = state.breaker.unavailable()
            && before.as_ref() != Some(now)
        {
            tracing::warn!(
                server.name = self.name,
                reason = now.reason,
                detail = now.message,
                "the server can't be used"
            );
        }
    }

    /// Looks whether the files that a refusal was blamed on have changed; then the server is tried again at once.
    pub fn look_at_files(&self, files: &CredentialsFolder) {
        let Some(blamed) = self.state().blamed else { return };
        if files.fingerprint(&self.name) != Some(blamed) {
            tracing::info!(server.name = self.name, "the server's files changed; it is tried again");
            let mut state = self.state();
            state.blamed = None;
            state.breaker.forgive();
            self.changed.notify_one();
        }
    }

    /// Why the server can't be used, when that is worth telling.
    pub fn unavailable(&self) -> Option<Unavailable> {
        self.state().breaker.unavailable().cloned()
    }

    /// What the controller should hear: why the server can't be used, or not as far as the budget goes.
    pub fn trouble_to_tell(&self) -> Option<Unavailable> {
        let state = self.state();
        let saturated = state.saturated.as_ref().filter(|(at, _)| at.elapsed() < SATURATED).map(|(_, why)| why);
        state.breaker.unavailable().or(state.silent.as_ref()).or(saturated).cloned()
    }

    /// Says that a session cannot be opened since the server says nothing; it may be waited for some minutes.
    pub fn is_silent(&self, time: Duration) {
        let words = format!("the server has not greeted us for {} s; it is waited for", time.as_secs());
        let silent = unavailable(Why::ConnectFailed.as_str(), &words);
        if self.state().silent.replace(silent).is_none() {
            tracing::warn!(server.name = self.name, words, "no session can be opened");
        }
    }

    /// The server has said something to a session that is being opened.
    pub fn has_spoken(&self) {
        self.state().silent = None;
    }

    /// Remembers a session that the server ended before it could carry a mail.
    pub fn ended_early(&self, files: &CredentialsFolder) {
        let why = "the server ended a session before its first mail";
        self.failed(Trouble::Failure(unavailable(Why::ConnectFailed.as_str(), why)), files);
    }

    /// Withholds a session's slot for as long as the server may count the session, or counts one too many; gives back
    /// one that never was used. What is left is a slot whose server's end was seen: it goes to [`Server::settle`].
    pub fn account_for(self: &Arc<Self>, slot: Slot, closed: Closed, too_many: bool) -> Option<Slot> {
        let settings = self.settings();
        let hold = Timing::default().hold(settings.session_timeout.get());
        if too_many {
            let now = Instant::now().into_std();
            let withhold = {
                let mut state = self.state();
                state.settle_time.refused(now);
                state.withholding.refused(now)
            };
            let forgotten = match closed {
                Closed::NeverOpen | Closed::Eof => {
                    slot.note_ended();
                    Duration::ZERO
                }
                Closed::Farewell => settings.close_grace.get(),
                Closed::Lingering(_) | Closed::NoEof => hold,
            };
            slot.quarantine(TOO_MANY, withhold.max(forgotten));
            return None;
        }
        match closed {
            Closed::NeverOpen => slot.release(),
            Closed::Eof => return Some(slot),
            Closed::Farewell => {
                slot.quarantine("reset after farewell", settings.close_grace.get());
            }
            Closed::Lingering(socket) => {
                tracing::info!(server.name = self.name, "a session's end was not seen in time: its slot is withheld");
                let withheld = slot.withhold("no end of session seen");
                tokio::spawn(Arc::clone(self).listen(socket, withheld, hold));
            }
            Closed::NoEof => {
                tracing::warn!(
                    server.name = self.name,
                    hold_s = hold.as_secs(),
                    "a connection broke without the server's end: its slot is withheld"
                );
                slot.withhold("connection broken");
            }
        }
        None
    }

    /// Gives back a slot whose server's end was seen, after a moment in which the server may still count it; neither the
    /// end of the lease nor `out_of_time` wait for that.
    pub async fn settle(&self, slot: Slot, out_of_time: &CancellationToken) {
        // A connection that the server ended first leaves no trace in the kernel.
        slot.note_ended();
        let rest = self.state().settle_time.rest(Instant::now().into_std());
        tokio::select! {
            biased;
            () = tokio::time::sleep(rest) => {
                slot.release();
                self.state().settle_time.returned(Instant::now().into_std());
            }
            () = slot.expired() => drop(slot.quarantine("unsettled", UNSETTLED)),
            () = out_of_time.cancelled() => drop(slot.quarantine("unsettled", UNSETTLED)),
        }
    }

    /// Listens to a socket whose server's end did not come in time, for as long as its slot is withheld; there is one at
    /// most for each slot withheld. Without this a long outage of Redis would cost every slot its whole time.
    async fn listen(self: Arc<Self>, socket: Lingering, withheld: Withheld, hold: Duration) {
        if socket.ended(hold).await {
            let rest = self.state().settle_time.rest(Instant::now().into_std());
            tokio::time::sleep(rest).await;
            tracing::info!(server.name = self.name, "the server's end of a session was seen after all");
            withheld.prove();
            self.state().settle_time.returned(Instant::now().into_std());
        }
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

/// For logs and the relay's status; a server's words may hold addresses.
fn unavailable(reason: &str, message: &str) -> Unavailable {
    Unavailable { reason: reason.into(), message: mask(message) }
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
