//! A session that is ready for mail, and its end.

use std::{
    fmt,
    future::pending,
    pin::{Pin, pin},
    time::Duration,
};

use tokio::time::{Instant, timeout};

use super::{connect::StepLimits, ending::Closed, fault::Fault, offers::Offers, reply::Reply, transport::Transport};

/// Whether a session may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Another mail may follow.
    Ready,
    /// In step with the server, but no more mail: QUIT.
    Finished,
    /// Out of step: nothing can be said any more.
    Broken,
}

/// A session that is ready for mail. Dropping it closes the socket and nothing else: the server's end is then unknown,
/// and so it is when a call is cancelled.
pub struct Session {
    pub(super) transport: Transport,
    pub(super) offers: Offers,
    pub(super) limits: StepLimits,
    pub(super) state: State,
    pub(super) messages: u32,
    pub(super) last_used: Instant,
    pub(super) features: Features,
}

/// Which extensions to use when they are offered; for measurements and for servers that offer what they can't do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// Several commands in one write.
    pub pipelining: bool,
    /// BDAT instead of DATA.
    pub chunking: Chunking,
}

/// Whether BDAT is used with a server that offers CHUNKING.
///
/// A box before the server may pass on an offer that it cannot keep. It then takes BDAT for a mistake, and the message
/// behind it for commands: whoever wrote the message could send mail of his own by it. So nothing follows the first BDAT but
/// a line that is no command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chunking {
    /// It is tried with the first line of a message, which costs that message a round trip.
    Untried,
    /// The server has taken a chunk.
    Proven,
    /// DATA is used.
    Off,
}

impl Default for Features {
    fn default() -> Self {
        Self { pipelining: true, chunking: Chunking::Untried }
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("state", &self.state).field("messages", &self.messages).finish_non_exhaustive()
    }
}

impl Session {
    /// One command and its reply. When the command can't be written, the server may have said why. A reply that is there
    /// before the command is no answer to it: a refusal may be about the session, anything else makes no sense.
    pub(super) async fn exchange(&mut self, line: &str, limit: Duration) -> Result<Reply, Fault> {
        if !self.transport.is_quiet().await
            && let Some(early) = self.last_words().await
        {
            let refusal = early.is_transient() || early.is_permanent();
            return if refusal { Ok(early) } else { Err(Fault::Garbled("a reply that nothing was asked for".into())) };
        }
        match self.transport.write(format!("{line}\r\n").as_bytes(), self.limits.block).await {
            Ok(()) => self.transport.reply(limit).await,
            Err(written) => self.last_words().await.ok_or(written.fault),
        }
    }

    /// After a failed write: a reply that is there already.
    pub(super) async fn last_words(&mut self) -> Option<Reply> {
        self.transport.reply(Duration::from_millis(250)).await.ok()
    }

    /// Whether another mail may be sent in this session.
    pub fn is_usable(&self) -> bool {
        self.state == State::Ready
    }

    /// Mails offered in this session so far, whatever became of them.
    pub fn messages(&self) -> u32 {
        self.messages
    }

    /// How long the session has been at rest.
    pub fn idle_for(&self) -> Duration {
        self.last_used.elapsed()
    }

    /// What the server offers.
    pub fn offers(&self) -> &Offers {
        &self.offers
    }

    /// Uses fewer extensions than are offered.
    pub fn restrict(&mut self, features: Features) {
        self.features = features;
    }

    /// Which of the extensions that are offered are used, and what was learned of CHUNKING.
    pub fn features(&self) -> Features {
        self.features
    }

    /// For a session at rest: resolves when the server says something or closes; close the session then. Cancelling
    /// loses nothing.
    pub async fn ended(&mut self) {
        self.transport.stirred().await;
    }

    /// Says QUIT if both sides are in step, ends our side and waits for the server's end, within `limits.close`.
    /// Cancelling closes the socket without proof of the server's end.
    pub async fn close(self) -> Closed {
        self.close_with(pending()).await
    }

    /// The same, cut short once `hurry` resolves: our side is ended at once then, and the server's end waited for as in
    /// [`Session::abort_now`].
    pub async fn close_with(self, hurry: impl Future<Output = ()>) -> Closed {
        self.end(pin!(hurry)).await
    }

    pub(super) async fn end(mut self, mut hurry: Pin<&mut impl Future<Output = ()>>) -> Closed {
        let deadline = Instant::now() + self.limits.close;
        if self.state != State::Broken && !self.transport.said_farewell() && self.transport.is_quiet().await {
            // Whatever it answers, our end follows; some time is kept for the server's.
            let limit = self.limits.close * 3 / 4;
            tokio::select! {
                _ = timeout(limit, self.exchange("QUIT", limit)) => {}
                () = hurry.as_mut() => return self.transport.finish_now().await,
            }
        }
        self.transport.finish(deadline.saturating_duration_since(Instant::now()), hurry).await
    }

    /// Ends our side at once, in the middle of whatever it is, and waits for the server's end, within `limits.close`.
    /// A body without its end is not delivered.
    pub async fn abort(self) -> Closed {
        self.transport.finish(self.limits.close, pin!(pending())).await
    }

    /// The same, for when the lease ends: without TLS's own farewell, and the server's end is waited for 100 ms at most.
    pub async fn abort_now(self) -> Closed {
        self.transport.finish_now().await
    }
}
