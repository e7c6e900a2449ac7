//! What is wrong with a server: what sessions and mails say of it, and what the controller hears of that.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;

use super::Server;
use crate::{
    api::{Reason, Unavailable},
    smtp::{OpenError, PauseReason, ServerSignal, Why},
    telemetry::log::mask,
    worker::{
        breaker::{LONG_PAUSE, Trouble},
        credentials::{CredentialsError, CredentialsFolder},
        suspects::{self, Offered, Party},
    },
};

/// How long a server that found a session to be one too many is said to be saturated.
const SATURATED: Duration = Duration::from_secs(30);
/// How long a server rests after it said that we are too fast.
const SLOW_DOWN: Duration = Duration::from_secs(2);
/// The same for sessions.
const ENOUGH_SESSIONS: usize = 5;

/// Why no session could be opened.
pub enum Unopened<'a> {
    /// The files of the server.
    Files(&'a CredentialsError),
    /// The server.
    Server(&'a OpenError),
}

impl Server {
    /// Remembers why a session could not be opened.
    pub fn not_opened(&self, why: &Unopened<'_>, files: &CredentialsFolder) {
        self.has_spoken();
        let trouble = match why {
            Unopened::Files(error) => {
                let what = unavailable(error.reason(), &error.to_string());
                Some(if error.may_pass() { Trouble::Failure(what) } else { Trouble::Lasting(what, LONG_PAUSE) })
            }
            Unopened::Server(error) if error.disposition.signal == ServerSignal::TooManyConnections => {
                self.trouble(error.disposition.signal, error.disposition.why, &error.to_string())
            }
            Unopened::Server(error) if matches!(error.disposition.signal, ServerSignal::RefusesUs(_)) => {
                let what = unavailable(error.disposition.why, &error.to_string());
                let mut state = self.state();
                state.sessions_refused = state.sessions_refused.saturating_add(1);
                Some(match state.sessions_refused {
                    ENOUGH_SESSIONS.. => Trouble::Lasting(what, suspects::PAUSE),
                    _ => Trouble::Failure(what),
                })
            }
            Unopened::Server(error) => {
                self.trouble(error.disposition.signal, error.disposition.why, &error.to_string()).or_else(|| {
                    // Nothing that the table counts, but never a hot loop.
                    Some(Trouble::Failure(unavailable(error.disposition.why, &error.to_string())))
                })
            }
        };
        if let Some(trouble) = trouble {
            self.failed(trouble, files);
        }
    }

    /// Remembers what a mail transaction taught about the server.
    pub fn learn(
        &self,
        signals: &[ServerSignal],
        why: Why,
        words: &str,
        mail: &Offered<'_>,
        files: &CredentialsFolder,
    ) {
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
                        self.failed(Trouble::Lasting(unavailable(*why, words), pause), files);
                    }
                }
                ServerSignal::QuotaExceeded(pause) => {
                    let mut state = self.state();
                    let sender = Party::Sender(mail.sender.to_owned());
                    if state.quotas.refused(mail.id, sender, now.into_std()).is_some() {
                        drop(state);
                        let what = unavailable(Reason::QuotaExceeded, words);
                        self.failed(Trouble::Lasting(what, *pause), files);
                    } else {
                        state.rests_until = Some(now + SLOW_DOWN);
                    }
                }
                other => {
                    if let Some(trouble) = self.trouble(*other, why, words) {
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

    fn trouble(&self, signal: ServerSignal, why: Why, words: &str) -> Option<Trouble> {
        match signal {
            ServerSignal::Failing => Some(Trouble::Failure(unavailable(why, words))),
            // The sessions that it took go on, and each that it refused withholds a slot: nothing to pause for.
            ServerSignal::TooManyConnections => {
                let saturated = unavailable(Reason::TooManyConnections, words);
                self.state().saturated = Some((Instant::now(), saturated));
                None
            }
            ServerSignal::Pause(reason) => {
                let reason = match reason {
                    PauseReason::TlsFailed => Reason::TlsFailed,
                    PauseReason::AuthenticationFailed => Reason::AuthenticationFailed,
                };
                Some(Trouble::Lasting(unavailable(reason, words), LONG_PAUSE))
            }
            // Before the first mail; what is said of mails is counted apart.
            ServerSignal::QuotaExceeded(pause) => {
                Some(Trouble::Lasting(unavailable(Reason::QuotaExceeded, words), pause))
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
        let what = unavailable(
            Reason::DeadLetterSurge,
            &format!("most of the last mails went to the dead letters, the last one for: {words}"),
        );
        tracing::warn!(
            server.name = self.name,
            reason = what.reason.as_str(),
            rest_s = rest.as_secs(),
            "too much mail dies"
        );
        state.breaker.failed(Trouble::Lasting(what, rest), now);
        true
    }

    /// Ends that rest: a person allows it.
    pub fn stop_resting(&self) {
        let mut state = self.state();
        if state.breaker.unavailable().is_some_and(|why| why.reason == Reason::DeadLetterSurge) {
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
                reason = now.reason.as_str(),
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
        let silent = unavailable(Reason::ConnectFailed, &words);
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
        self.failed(Trouble::Failure(unavailable(Reason::ConnectFailed, why)), files);
    }
}

/// For logs and the relay's status; a server's words may hold addresses.
fn unavailable(reason: impl Into<Reason>, message: &str) -> Unavailable {
    Unavailable { reason: reason.into(), message: mask(message) }
}

/// Both have the same words; what a mail alone can meet has no name of its own in a report.
impl From<Why> for Reason {
    fn from(why: Why) -> Self {
        let Ok(reason) = why.as_str().parse();
        reason
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_us_or_of_itself_has_a_name_in_the_report() {
        for why in [
            Why::ConnectFailed,
            Why::GreetingRefused,
            Why::ServiceUnavailable,
            Why::OutOfStorage,
            Why::ConnectionLost,
            Why::TimedOut,
            Why::OutcomeUnknown,
            Why::Throttled,
            Why::TemporaryFailure,
            Why::ProtocolError,
            Why::TooManyConnections,
            Why::QuotaExceeded,
            Why::TlsFailed,
            Why::AuthenticationFailed,
            Why::RelayDenied,
            Why::LoginRequired,
            Why::HeloRefused,
            Why::ClientRefused,
            Why::Blocked,
            Why::SenderRefused,
            Why::RecipientRefused,
            Why::PolicyRefused,
            Why::OutOfFileDescriptors,
        ] {
            let reason = Reason::from(why);
            assert_eq!(reason.as_str(), why.as_str());
            assert!(!matches!(reason, Reason::Other(_)), "{reason}");
        }
    }
}
