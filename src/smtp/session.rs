//! A session: from the socket to a server that is ready for mail, and to its end.

use std::{
    fmt,
    future::pending,
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::time::{Instant, timeout};

use crate::api::{Auth, Tls};

use super::{
    connect::{ConnectFailure, Credentials, Endpoint, StepLimits, connect},
    ending::Closed,
    reply::{Context, Event, Reply, Ruling, Stage},
    table::judge,
    tls::server_name,
    wire::{Fault, Wire},
};

/// Why there is no session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot open a session with {host}:{port} ({}): {detail}", stage.as_str())]
pub struct OpenError {
    /// As configured.
    pub host: String,
    /// As configured.
    pub port: u16,
    /// How far it got.
    pub stage: Stage,
    /// What it means. The verdict is always a deferral: no mail was judged.
    pub ruling: Ruling,
    /// What the server said, if it did.
    pub reply: Option<Reply>,
    /// What happened, for people.
    pub detail: String,
    /// What is known about the connection's end.
    pub closed: Closed,
}

/// What the server offers (EHLO reply).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is one keyword of the EHLO reply, independent of the others")]
pub struct Offers {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 6152.
    pub eight_bit: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 1870; `Some(None)` is SIZE without a limit.
    pub size: Option<Option<usize>>,
    /// The mechanisms of AUTH in upper case.
    pub auth: Vec<String>,
}

impl Offers {
    /// From the lines of an EHLO reply; the first one is the server's greeting.
    fn read(lines: &[String]) -> Self {
        let mut offers = Self::default();
        for line in lines.iter().skip(1) {
            let line = line.to_ascii_uppercase();
            // "AUTH=PLAIN" is how some old servers write it for older clients.
            let mut words = line.split([' ', '=']).filter(|word| !word.is_empty());
            match words.next() {
                Some("PIPELINING") => offers.pipelining = true,
                Some("CHUNKING") => offers.chunking = true,
                Some("8BITMIME") => offers.eight_bit = true,
                Some("SMTPUTF8") => offers.smtp_utf8 = true,
                Some("STARTTLS") => offers.starttls = true,
                Some("SIZE") => {
                    offers.size = Some(words.next().and_then(|size| size.parse().ok()).filter(|size| *size > 0));
                }
                Some("AUTH") => offers.auth.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        offers
    }

    /// The mechanism to log in with: the one wanted, or the other that sends the same user and password in the same way.
    fn login_by(&self, wanted: Auth) -> Option<Auth> {
        let alike: &[Auth] = match wanted {
            Auth::Plain => &[Auth::Plain, Auth::Login],
            Auth::Login => &[Auth::Login, Auth::Plain],
            Auth::XOAuth2 => &[Auth::XOAuth2],
        };
        let offered = |auth: &&Auth| self.auth.iter().any(|offered| offered == keyword(**auth));
        alike.iter().find(offered).copied()
    }
}

/// As it stands in the EHLO reply.
fn keyword(auth: Auth) -> &'static str {
    match auth {
        Auth::Plain => "PLAIN",
        Auth::Login => "LOGIN",
        Auth::XOAuth2 => "XOAUTH2",
    }
}

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
    pub(super) wire: Wire,
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

/// Where opening failed, before the connection is ended.
struct OpenFault {
    stage: Stage,
    reply: Option<Reply>,
    fault: Option<Fault>,
    detail: String,
    unwanted: bool,
}

/// Why we gave up opening a session.
const UNWANTED: &str = "the session is not wanted any more";

impl OpenFault {
    fn refused(stage: Stage, reply: Reply) -> Self {
        let detail = format!("the server refused: {reply}");
        Self { stage, reply: Some(reply), fault: None, detail, unwanted: false }
    }

    fn fault(stage: Stage, fault: Fault) -> Self {
        let detail = fault.detail();
        Self { stage, reply: None, fault: Some(fault), detail, unwanted: false }
    }

    fn unable(stage: Stage, detail: &str) -> Self {
        Self { stage, reply: None, fault: None, detail: detail.to_owned(), unwanted: false }
    }

    fn unwanted() -> Self {
        Self { unwanted: true, ..Self::unable(Stage::Greeting, UNWANTED) }
    }

    fn ruling(&self) -> Ruling {
        if self.unwanted {
            return Ruling::aborted();
        }
        let event = match (&self.reply, &self.fault) {
            (Some(reply), _) => Event::Reply(reply),
            (None, Some(fault)) => fault.event(),
            (None, None) => Event::Garbled,
        };
        match self.stage {
            // Our own inability to log in has no reply; it is for a person to mend, like a refused password.
            Stage::Auth if self.reply.is_none() && self.fault.is_none() => Ruling::cannot_authenticate(),
            stage => judge(stage, event, &Context::default()),
        }
    }
}

impl Session {
    /// Connects, greets, encrypts and logs in, each step within its limit. On failure the connection is ended as far
    /// as possible before this returns. Cancelling closes the socket without proof of the server's end.
    pub async fn open(endpoint: &Endpoint, credentials: Option<&Credentials>) -> Result<Self, OpenError> {
        Self::open_with(endpoint, credentials, |_, _| (), pending(), pending()).await
    }

    /// The same, given up once `unwanted` resolves ([`super::Why::Aborted`]): the connection is then ended as after a
    /// failure, and as in [`Session::close_with`] once `hurry` resolves. `connected` is told our own address and the
    /// server's before anything is said.
    pub async fn open_with(
        endpoint: &Endpoint,
        credentials: Option<&Credentials>,
        connected: impl Fn(SocketAddr, SocketAddr),
        unwanted: impl Future<Output = ()>,
        hurry: impl Future<Output = ()>,
    ) -> Result<Self, OpenError> {
        let (mut unwanted, mut hurry) = (pin!(unwanted), pin!(hurry));
        let error = |stage, ruling, reply, detail, closed| OpenError {
            host: endpoint.host.clone(),
            port: endpoint.port,
            stage,
            ruling,
            reply,
            detail,
            closed,
        };
        if let Err(fault) = check(endpoint, credentials) {
            return Err(error(fault.stage, fault.ruling(), None, fault.detail, Closed::NeverOpen));
        }
        let wire = match connect(endpoint, connected, unwanted.as_mut(), hurry.as_mut()).await {
            Ok(wire) => wire,
            Err(fault) => {
                let ruling = match fault.why {
                    ConnectFailure::TimedOut => judge(Stage::Connect, Event::TimedOut, &Context::default()),
                    ConnectFailure::Broken => judge(Stage::Connect, Event::Broken, &Context::default()),
                    ConnectFailure::OutOfFiles => Ruling::out_of_files(),
                    ConnectFailure::Unwanted => Ruling::aborted(),
                };
                return Err(error(Stage::Connect, ruling, None, fault.detail, fault.closed));
            }
        };
        let mut session = Self {
            wire,
            offers: Offers::default(),
            limits: endpoint.limits,
            state: State::Ready,
            messages: 0,
            last_used: Instant::now(),
            features: Features::default(),
        };
        let prepared = tokio::select! {
            prepared = session.prepare(endpoint, credentials) => prepared,
            () = unwanted => Err(OpenFault::unwanted()),
        };
        match prepared {
            Ok(()) => {
                session.last_used = Instant::now();
                Ok(session)
            }
            Err(fault) => {
                // A refusal leaves both sides in step.
                session.state = if fault.reply.is_some() { State::Finished } else { State::Broken };
                let ruling = fault.ruling();
                let closed = session.end(hurry).await;
                Err(error(fault.stage, ruling, fault.reply, fault.detail, closed))
            }
        }
    }

    async fn prepare(&mut self, endpoint: &Endpoint, credentials: Option<&Credentials>) -> Result<(), OpenFault> {
        if endpoint.tls == Tls::Implicit {
            self.encrypt(endpoint).await?;
        }
        let greeting = self.wire.reply(self.limits.greeting).await;
        expect(Stage::Greeting, greeting, 220)?;
        if endpoint.tls == Tls::None && endpoint.auth.is_none() {
            return self.ehlo_or_helo(endpoint).await;
        }
        self.ehlo(endpoint).await?;
        if endpoint.tls == Tls::StartTls {
            if !self.offers.starttls {
                return Err(OpenFault::unable(Stage::Tls, "the server does not offer STARTTLS"));
            }
            self.command(Stage::Tls, "STARTTLS", 220).await?;
            self.encrypt(endpoint).await?;
            // What was said in clear text does not count any more (RFC 3207 section 4.2).
            self.ehlo(endpoint).await?;
        }
        match (endpoint.auth, credentials) {
            (Some(mechanism), Some(credentials)) => self.authenticate(mechanism, credentials).await,
            _ => Ok(()),
        }
    }

    async fn encrypt(&mut self, endpoint: &Endpoint) -> Result<(), OpenFault> {
        let name = server_name(&endpoint.host).map_err(|detail| OpenFault::unable(Stage::Tls, &detail))?;
        let encrypting = self.wire.encrypt(&endpoint.roots, name, self.limits.handshake);
        encrypting.await.map_err(|fault| OpenFault::fault(Stage::Tls, fault))
    }

    async fn ehlo(&mut self, endpoint: &Endpoint) -> Result<(), OpenFault> {
        self.command(Stage::Ehlo, &format!("EHLO {}", endpoint.helo), 250).await?;
        self.offers = Offers::read(self.wire.lines());
        Ok(())
    }

    /// A server that knows no EHLO offers nothing (RFC 5321 section 3.2): enough, when neither TLS nor a login is wanted.
    async fn ehlo_or_helo(&mut self, endpoint: &Endpoint) -> Result<(), OpenFault> {
        match self.ehlo(endpoint).await {
            Err(OpenFault { reply: Some(Reply { code: 500 | 502, .. }), .. }) => {
                self.command(Stage::Ehlo, &format!("HELO {}", endpoint.helo), 250).await
            }
            other => other,
        }
    }

    async fn authenticate(&mut self, mechanism: Auth, credentials: &Credentials) -> Result<(), OpenFault> {
        let Credentials { username, secret } = credentials;
        let Some(mechanism) = self.offers.login_by(mechanism) else {
            let offered = if self.offers.auth.is_empty() { "no login".into() } else { self.offers.auth.join(", ") };
            let problem = format!("the server does not offer AUTH {}; it offers {offered}", keyword(mechanism));
            return Err(OpenFault::unable(Stage::Auth, &problem));
        };
        match mechanism {
            Auth::Plain => {
                let response = BASE64_STANDARD.encode(format!("\0{username}\0{secret}"));
                let said = self.say(Stage::Auth, &format!("AUTH PLAIN {response}")).await?;
                if said.code == 334 {
                    // It takes no response along with the command, and asks for it (RFC 4954 section 4).
                    return self.command(Stage::Auth, &response, 235).await;
                }
                expect(Stage::Auth, Ok(said), 235)
            }
            Auth::Login => {
                self.command(Stage::Auth, "AUTH LOGIN", 334).await?;
                self.command(Stage::Auth, &BASE64_STANDARD.encode(username), 334).await?;
                self.command(Stage::Auth, &BASE64_STANDARD.encode(secret), 235).await
            }
            Auth::XOAuth2 => {
                let response = BASE64_STANDARD.encode(format!("user={username}\x01auth=Bearer {secret}\x01\x01"));
                let said = self.say(Stage::Auth, &format!("AUTH XOAUTH2 {response}")).await?;
                if said.code == 334 {
                    // A challenge with the error in it; the refusal comes after an empty answer.
                    return self.command(Stage::Auth, "", 235).await;
                }
                expect(Stage::Auth, Ok(said), 235)
            }
        }
    }

    async fn command(&mut self, stage: Stage, line: &str, wanted: u16) -> Result<(), OpenFault> {
        let reply = self.say(stage, line).await?;
        expect(stage, Ok(reply), wanted)
    }

    async fn say(&mut self, stage: Stage, line: &str) -> Result<Reply, OpenFault> {
        self.exchange(line, self.limits.command).await.map_err(|fault| OpenFault::fault(stage, fault))
    }

    /// One command and its reply. When the command can't be written, the server may have said why. A reply that is there
    /// before the command is no answer to it: a refusal may be about the session, anything else makes no sense.
    pub(super) async fn exchange(&mut self, line: &str, limit: Duration) -> Result<Reply, Fault> {
        if !self.wire.is_quiet().await
            && let Some(early) = self.last_words().await
        {
            let refusal = early.is_transient() || early.is_permanent();
            return if refusal { Ok(early) } else { Err(Fault::Garbled("a reply that nothing was asked for".into())) };
        }
        match self.wire.write(format!("{line}\r\n").as_bytes(), self.limits.block).await {
            Ok(()) => self.wire.reply(limit).await,
            Err(written) => self.last_words().await.ok_or(written.fault),
        }
    }

    /// After a failed write: a reply that is there already.
    pub(super) async fn last_words(&mut self) -> Option<Reply> {
        self.wire.reply(Duration::from_millis(250)).await.ok()
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
        self.wire.stirred().await;
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

    async fn end(mut self, mut hurry: Pin<&mut impl Future<Output = ()>>) -> Closed {
        let deadline = Instant::now() + self.limits.close;
        if self.state != State::Broken && !self.wire.said_farewell() && self.wire.is_quiet().await {
            // Whatever it answers, our end follows; some time is kept for the server's.
            let limit = self.limits.close * 3 / 4;
            tokio::select! {
                _ = timeout(limit, self.exchange("QUIT", limit)) => {}
                () = hurry.as_mut() => return self.wire.finish_now().await,
            }
        }
        self.wire.finish(deadline.saturating_duration_since(Instant::now()), hurry).await
    }

    /// Ends our side at once, in the middle of whatever it is, and waits for the server's end, within `limits.close`.
    /// A body without its end is not delivered.
    pub async fn abort(self) -> Closed {
        self.wire.finish(self.limits.close, pin!(pending())).await
    }

    /// The same, for when the lease ends: without TLS's own farewell, and the server's end is waited for 100 ms at most.
    pub async fn abort_now(self) -> Closed {
        self.wire.finish_now().await
    }
}

fn expect(stage: Stage, read: Result<Reply, Fault>, wanted: u16) -> Result<(), OpenFault> {
    match read {
        Ok(reply) if reply.code == wanted => Ok(()),
        Ok(reply) => Err(OpenFault::refused(stage, reply)),
        Err(fault) => Err(OpenFault::fault(stage, fault)),
    }
}

/// What must not even be tried.
fn check(endpoint: &Endpoint, credentials: Option<&Credentials>) -> Result<(), OpenFault> {
    let helo = &endpoint.helo;
    if helo.is_empty() || !helo.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(OpenFault::unable(Stage::Ehlo, "our own name for EHLO is no host name"));
    }
    match (endpoint.auth, credentials) {
        (None, _) => Ok(()),
        (Some(_), _) if endpoint.tls == Tls::None => {
            Err(OpenFault::unable(Stage::Auth, "a login is never sent without TLS: set tls or remove auth"))
        }
        (Some(_), None) => Err(OpenFault::unable(Stage::Auth, "there are no credentials for this server")),
        (Some(_), Some(Credentials { username, secret })) => {
            let separators = |text: &str| text.is_empty() || text.contains(['\0', '\x01']);
            if separators(username) || separators(secret) {
                return Err(OpenFault::unable(
                    Stage::Auth,
                    "the user or the secret is empty or has control characters",
                ));
            }
            Ok(())
        }
    }
}
