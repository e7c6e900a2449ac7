//! From the socket to a session that is ready for mail.

use std::{future::pending, net::SocketAddr, pin::pin};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::time::Instant;

use crate::api::{Auth, Tls};

use super::{
    connect::{ConnectFailure, Credentials, Endpoint, Mechanism, connect},
    ending::Closed,
    fault::Fault,
    offers::{Offers, fitting},
    reply::{Disposition, Event, Reply, Situation, Step},
    session::{Features, Session, State},
    table::judge,
    tls::server_name,
};

/// Why there is no session.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot open a session with {host}:{port} ({}): {detail}", step.as_str())]
pub struct OpenError {
    /// As configured.
    pub host: String,
    /// As configured.
    pub port: u16,
    /// How far it got.
    pub step: Step,
    /// What it means. The verdict is always a deferral: no mail was judged.
    pub disposition: Disposition,
    /// What the server said, if it did.
    pub reply: Option<Reply>,
    /// What happened, for people.
    pub detail: String,
    /// What is known about the connection's end.
    pub closed: Closed,
}

/// Where opening failed, before the connection is ended.
struct OpenFault {
    step: Step,
    reply: Option<Reply>,
    fault: Option<Fault>,
    detail: String,
    unwanted: bool,
}

/// Why we gave up opening a session.
const UNWANTED: &str = "the session is not wanted any more";

impl OpenFault {
    fn refused(step: Step, reply: Reply) -> Self {
        let detail = format!("the server refused: {reply}");
        Self { step, reply: Some(reply), fault: None, detail, unwanted: false }
    }

    fn fault(step: Step, fault: Fault) -> Self {
        let detail = fault.detail();
        Self { step, reply: None, fault: Some(fault), detail, unwanted: false }
    }

    fn unable(step: Step, detail: &str) -> Self {
        Self { step, reply: None, fault: None, detail: detail.to_owned(), unwanted: false }
    }

    fn unwanted() -> Self {
        Self { unwanted: true, ..Self::unable(Step::Greeting, UNWANTED) }
    }

    fn disposition(&self) -> Disposition {
        if self.unwanted {
            return Disposition::aborted();
        }
        let event = match (&self.reply, &self.fault) {
            (Some(reply), _) => Event::Reply(reply),
            (None, Some(fault)) => fault.event(),
            (None, None) => Event::Garbled,
        };
        match self.step {
            // Our own inability to log in has no reply; it is for a person to mend, like a refused password.
            Step::Auth if self.reply.is_none() && self.fault.is_none() => Disposition::cannot_authenticate(),
            step => judge(step, event, &Situation::default()),
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
        let error = |step, disposition, reply, detail, closed| OpenError {
            host: endpoint.host.clone(),
            port: endpoint.port,
            step,
            disposition,
            reply,
            detail,
            closed,
        };
        if let Err(fault) = check(endpoint, credentials) {
            return Err(error(fault.step, fault.disposition(), None, fault.detail, Closed::NeverOpen));
        }
        let transport = match connect(endpoint, connected, unwanted.as_mut(), hurry.as_mut()).await {
            Ok(transport) => transport,
            Err(fault) => {
                let disposition = match fault.why {
                    ConnectFailure::TimedOut => judge(Step::Connect, Event::TimedOut, &Situation::default()),
                    ConnectFailure::Broken => judge(Step::Connect, Event::Broken, &Situation::default()),
                    ConnectFailure::OutOfFiles => Disposition::out_of_files(),
                    ConnectFailure::Unwanted => Disposition::aborted(),
                };
                return Err(error(Step::Connect, disposition, None, fault.detail, fault.closed));
            }
        };
        let mut session = Self {
            transport,
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
                let disposition = fault.disposition();
                let closed = session.end(hurry).await;
                Err(error(fault.step, disposition, fault.reply, fault.detail, closed))
            }
        }
    }

    async fn prepare(&mut self, endpoint: &Endpoint, credentials: Option<&Credentials>) -> Result<(), OpenFault> {
        if endpoint.tls == Tls::Implicit {
            self.encrypt(endpoint).await?;
        }
        let greeting = self.transport.reply(self.limits.greeting).await;
        expect(Step::Greeting, greeting, 220)?;
        if endpoint.tls == Tls::None && endpoint.auth.is_none() {
            return self.ehlo_or_helo(endpoint).await;
        }
        self.ehlo(endpoint).await?;
        if endpoint.tls == Tls::StartTls {
            if !self.offers.starttls {
                return Err(OpenFault::unable(Step::Tls, "the server does not offer STARTTLS"));
            }
            self.command(Step::Tls, "STARTTLS", 220).await?;
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
        let name = server_name(endpoint.tls_name.as_ref().unwrap_or(&endpoint.host))
            .map_err(|detail| OpenFault::unable(Step::Tls, &detail))?;
        let encrypting = self.transport.encrypt(&endpoint.roots, name, self.limits.handshake);
        encrypting.await.map_err(|fault| OpenFault::fault(Step::Tls, fault))
    }

    async fn ehlo(&mut self, endpoint: &Endpoint) -> Result<(), OpenFault> {
        self.command(Step::Ehlo, &format!("EHLO {}", endpoint.helo), 250).await?;
        self.offers = Offers::read(self.transport.lines());
        Ok(())
    }

    /// A server that knows no EHLO offers nothing (RFC 5321 section 3.2): enough, when neither TLS nor a login is wanted.
    async fn ehlo_or_helo(&mut self, endpoint: &Endpoint) -> Result<(), OpenFault> {
        match self.ehlo(endpoint).await {
            Err(OpenFault { reply: Some(Reply { code: 500 | 502, .. }), .. }) => {
                self.command(Step::Ehlo, &format!("HELO {}", endpoint.helo), 250).await
            }
            other => other,
        }
    }

    async fn authenticate(&mut self, mechanism: Auth, credentials: &Credentials) -> Result<(), OpenFault> {
        let username = &credentials.username;
        let Some((mechanism, secret)) = self.offers.login_by(mechanism, credentials) else {
            let offered = if self.offers.auth.is_empty() { "no login".into() } else { self.offers.auth.join(", ") };
            let problem = match fitting(mechanism) {
                [wanted, ..] if mechanism != Auth::Auto => {
                    format!("the server does not offer AUTH {}; it offers {offered}", wanted.keyword())
                }
                _ => {
                    let file = if credentials.token.is_none() { "the password" } else { "the token" };
                    format!("the server offers {offered}, and {file} is for none of that")
                }
            };
            return Err(OpenFault::unable(Step::Auth, &problem));
        };
        match mechanism {
            Mechanism::Plain => {
                let response = BASE64_STANDARD.encode(format!("\0{username}\0{secret}"));
                let said = self.say(Step::Auth, &format!("AUTH PLAIN {response}")).await?;
                if said.code == 334 {
                    // It takes no response along with the command, and asks for it (RFC 4954 section 4).
                    return self.command(Step::Auth, &response, 235).await;
                }
                expect(Step::Auth, Ok(said), 235)
            }
            Mechanism::Login => {
                self.command(Step::Auth, "AUTH LOGIN", 334).await?;
                self.command(Step::Auth, &BASE64_STANDARD.encode(username), 334).await?;
                self.command(Step::Auth, &BASE64_STANDARD.encode(secret), 235).await
            }
            Mechanism::XOAuth2 => {
                let response = BASE64_STANDARD.encode(format!("user={username}\x01auth=Bearer {secret}\x01\x01"));
                let said = self.say(Step::Auth, &format!("AUTH XOAUTH2 {response}")).await?;
                if said.code == 334 {
                    // A challenge with the error in it; the refusal comes after an empty answer.
                    return self.command(Step::Auth, "", 235).await;
                }
                expect(Step::Auth, Ok(said), 235)
            }
        }
    }

    async fn command(&mut self, step: Step, line: &str, wanted: u16) -> Result<(), OpenFault> {
        let reply = self.say(step, line).await?;
        expect(step, Ok(reply), wanted)
    }

    async fn say(&mut self, step: Step, line: &str) -> Result<Reply, OpenFault> {
        self.exchange(line, self.limits.command).await.map_err(|fault| OpenFault::fault(step, fault))
    }
}

fn expect(step: Step, read: Result<Reply, Fault>, wanted: u16) -> Result<(), OpenFault> {
    match read {
        Ok(reply) if reply.code == wanted => Ok(()),
        Ok(reply) => Err(OpenFault::refused(step, reply)),
        Err(fault) => Err(OpenFault::fault(step, fault)),
    }
}

/// What must not even be tried.
fn check(endpoint: &Endpoint, credentials: Option<&Credentials>) -> Result<(), OpenFault> {
    let helo = &endpoint.helo;
    if helo.is_empty() || !helo.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(OpenFault::unable(Step::Ehlo, "our own name for EHLO is no host name"));
    }
    match (endpoint.auth, credentials) {
        (None, _) => Ok(()),
        (Some(_), _) if endpoint.tls == Tls::None => {
            Err(OpenFault::unable(Step::Auth, "a login is never sent without TLS: set tls or remove auth"))
        }
        (Some(_), None) => Err(OpenFault::unable(Step::Auth, "there are no credentials for this server")),
        (Some(_), Some(Credentials { username, password, token })) => {
            let separators = |text: &str| text.is_empty() || text.contains(['\0', '\x01']);
            let secrets = || password.iter().chain(token);
            if separators(username) || secrets().any(|secret| separators(secret)) {
                return Err(OpenFault::unable(Step::Auth, "the user or the secret is empty or has control characters"));
            }
            Ok(())
        }
    }
}
