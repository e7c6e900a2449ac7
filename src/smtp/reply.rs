//! The words of the reply table: what is asked (step, reply, situation) and what is answered (verdict, why, signal).

use std::{fmt, time::Duration};

/// A reply of the server (RFC 5321 section 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// 200 to 599.
    pub code: u16,
    /// The enhanced status code at the start of the text (RFC 3463), if it has one.
    pub enhanced: Option<EnhancedCode>,
    /// The text of all lines, joined by spaces, without the reply code; control characters are gone.
    pub text: String,
}

impl Reply {
    /// A reply as read, with the enhanced status code found in the text.
    pub fn new(code: u16, text: &str) -> Self {
        Self { code, enhanced: EnhancedCode::parse(text), text: text.trim().to_owned() }
    }

    /// 2yz: done.
    pub fn is_completion(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// 4yz: not now.
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// 5yz: not ever.
    pub fn is_permanent(&self) -> bool {
        (500..600).contains(&self.code)
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.text)
    }
}

/// class.subject.detail, as in 4.7.1 (RFC 3463).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EnhancedCode(pub u8, pub u16, pub u16);

impl EnhancedCode {
    /// Reads the code that starts a reply's text.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split_whitespace().next()?.splitn(3, '.');
        let class = parts.next()?.parse().ok().filter(|class| matches!(class, 2 | 4 | 5))?;
        Some(Self(class, parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

/// What was being done when something happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// Name lookup and TCP.
    Connect,
    /// The server's first line.
    Greeting,
    /// EHLO.
    Ehlo,
    /// STARTTLS and the handshake.
    Tls,
    /// AUTH.
    Auth,
    /// A session at rest, before MAIL.
    Idle,
    /// MAIL.
    Mail,
    /// RCPT.
    Rcpt,
    /// DATA.
    Data,
    /// The message, before the bytes that complete it.
    Body,
    /// The bytes that complete the message were handed to the socket, by DATA or by BDAT.
    AfterDot,
}

impl Step {
    /// For logs and metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Greeting => "greeting",
            Self::Ehlo => "ehlo",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Idle => "idle",
            Self::Mail => "mail",
            Self::Rcpt => "rcpt",
            Self::Data => "data",
            Self::Body => "body",
            Self::AfterDot => "after_dot",
        }
    }

    /// Whether a session is still being made.
    pub(super) fn is_opening(self) -> bool {
        matches!(self, Self::Connect | Self::Greeting | Self::Ehlo | Self::Tls | Self::Auth)
    }
}

/// What happened.
#[derive(Clone, Copy, Debug)]
pub enum Event<'a> {
    /// A reply that parses.
    Reply(&'a Reply),
    /// Bytes that are no reply.
    Garbled,
    /// Nothing within the limit of the step.
    TimedOut,
    /// EOF, reset, refused, no route, no such host, or a failed handshake.
    Broken,
}

/// What the table needs to know besides.
#[derive(Clone, Copy, Debug, Default)]
pub struct Situation {
    /// Recipients of this transaction accepted so far.
    pub accepted: usize,
    /// This mail was already sent again once at no charge, after a 503 or an answer that made no sense.
    pub resent: bool,
    /// This session has carried a mail before.
    pub reused: bool,
}

/// What becomes of the mail, or of one recipient of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The server took responsibility.
    Delivered,
    /// Free of charge: the server did not judge this mail. Wait at least `delay` if given.
    Defer {
        /// How to go on.
        resend: Resend,
        /// What the server asked for.
        delay: Option<Duration>,
    },
    /// The server judged this mail and said later: one attempt is used up. Wait at least `delay` if given.
    Retry {
        /// How long it is worth trying.
        class: Class,
        /// What the server asked for.
        delay: Option<Duration>,
    },
    /// A 5yz that may judge us and not the mail. Free of charge, until it is known that the server takes other mail of
    /// ours: then it judged this one.
    Suspect,
    /// Never: to the dead letters.
    Dead,
    /// Whether the server took it is not known: the policy `unknownOutcome` decides.
    Unknown,
}

/// How long a mail is tried that the server put off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// A judgement about a recipient: as often as the relay's spec says.
    Judged,
    /// A judgement about this mail without a reason that lasts: for some time.
    Patient,
    /// A delay on principle: for some hours, as greylisting wants it.
    Greylisted,
}

/// How a deferred mail goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resend {
    /// With a delay, as the server's state allows.
    Later,
    /// At once, on another session.
    NewSession,
    /// At once, in a transaction of its own; this session will do.
    NewTransaction,
}

/// Why, in one word for dead letters, events and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// 2yz at the end.
    Accepted,
    /// No connection, or none that gets as far as a greeting and an EHLO reply.
    ConnectFailed,
    /// The greeting or the EHLO reply was a refusal.
    GreetingRefused,
    /// More sessions than the server allows.
    TooManyConnections,
    /// No TLS, and no clear text instead.
    TlsFailed,
    /// The server does not take our login.
    AuthenticationFailed,
    /// The server ended a session at rest.
    SessionGone,
    /// The server takes no more mails in this session.
    SessionFull,
    /// 421.
    ServiceUnavailable,
    /// Too fast.
    Throttled,
    /// No more today.
    QuotaExceeded,
    /// The server's disk is full.
    OutOfStorage,
    /// More recipients than one transaction may have.
    TooManyRecipients,
    /// Come back later, on principle.
    Greylisted,
    /// This recipient can't be reached now.
    RecipientDeferred,
    /// This recipient is refused.
    RecipientRefused,
    /// The sender is refused.
    SenderRefused,
    /// The message is too large.
    TooLarge,
    /// The content is against the server's policy; in a suspicion, a refusal that says nothing more.
    PolicyRefused,
    /// The server has us on a block list.
    Blocked,
    /// The server does not send to others for us.
    RelayDenied,
    /// The server wants a login, and we have none.
    LoginRequired,
    /// The server does not like our name in EHLO.
    HeloRefused,
    /// The server does not like the address that we come from, or its name.
    ClientRefused,
    /// A reply out of sequence, or none at all in SMTP's terms.
    ProtocolError,
    /// The connection broke.
    ConnectionLost,
    /// A step took too long.
    TimedOut,
    /// Another 4yz.
    TemporaryFailure,
    /// The attempts of the mail, or of one recipient, are used up.
    RetriesExhausted,
    /// The final answer was lost.
    OutcomeUnknown,
    /// The mail needs an extension that the server does not have.
    NotSupported,
    /// We stopped before the message was complete.
    Aborted,
    /// No file descriptor was left to this process.
    OutOfFileDescriptors,
}

impl Why {
    /// `UpperCamelCase`, stable.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ConnectFailed => "ConnectFailed",
            Self::GreetingRefused => "GreetingRefused",
            Self::TooManyConnections => "TooManyConnections",
            Self::TlsFailed => "TlsFailed",
            Self::AuthenticationFailed => "AuthenticationFailed",
            Self::SessionGone => "SessionGone",
            Self::SessionFull => "SessionFull",
            Self::ServiceUnavailable => "ServiceUnavailable",
            Self::Throttled => "Throttled",
            Self::QuotaExceeded => "QuotaExceeded",
            Self::OutOfStorage => "OutOfStorage",
            Self::TooManyRecipients => "TooManyRecipients",
            Self::Greylisted => "Greylisted",
            Self::RecipientDeferred => "RecipientDeferred",
            Self::RecipientRefused => "RecipientRefused",
            Self::SenderRefused => "SenderRefused",
            Self::TooLarge => "TooLarge",
            Self::PolicyRefused => "PolicyRefused",
            Self::Blocked => "Blocked",
            Self::RelayDenied => "RelayDenied",
            Self::LoginRequired => "LoginRequired",
            Self::HeloRefused => "HeloRefused",
            Self::ClientRefused => "ClientRefused",
            Self::ProtocolError => "ProtocolError",
            Self::ConnectionLost => "ConnectionLost",
            Self::TimedOut => "TimedOut",
            Self::TemporaryFailure => "TemporaryFailure",
            Self::RetriesExhausted => "RetriesExhausted",
            Self::OutcomeUnknown => "OutcomeUnknown",
            Self::NotSupported => "NotSupported",
            Self::Aborted => "Aborted",
            Self::OutOfFileDescriptors => "OutOfFileDescriptors",
        }
    }
}

/// What an answer says about the server, for the state that all sessions to it share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerSignal {
    /// Nothing.
    None,
    /// It took a mail: breaker to 0, and one step towards growing a reduced budget again.
    Good,
    /// Breaker + 1.
    Failing,
    /// The effective budget is what is open, less one, once per burst; one slot goes into quarantine.
    TooManyConnections,
    /// Halve the rate for 60 s, then recover.
    SlowDown,
    /// It takes fewer mails in a session than we thought.
    SessionFull,
    /// What we may send in a time is used up: no more until a part of that time is over.
    QuotaExceeded(Duration),
    /// It refused a mail for a reason that may lie with us; many different ones in a row mean PAUSE.
    RefusesUs(Why),
    /// Breaker open for all pods, with a condition.
    Pause(PauseReason),
}

/// Why a server is left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PauseReason {
    /// TLS does not work; there is no clear text instead.
    TlsFailed,
    /// Until the Secret changes, or a probe in 5 minutes.
    AuthenticationFailed,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disposition {
    /// For the mail or the recipient.
    pub verdict: Verdict,
    /// In one word.
    pub why: Why,
    /// For the server.
    pub signal: ServerSignal,
}

impl Disposition {
    pub(super) const fn new(verdict: Verdict, why: Why, signal: ServerSignal) -> Self {
        Self { verdict, why, signal }
    }

    pub(super) const fn free(why: Why, signal: ServerSignal) -> Self {
        Self::new(Verdict::Defer { resend: Resend::Later, delay: None }, why, signal)
    }

    pub(super) const fn resend(resend: Resend, why: Why, signal: ServerSignal) -> Self {
        Self::new(Verdict::Defer { resend, delay: None }, why, signal)
    }

    pub(super) const fn retry(class: Class, why: Why) -> Self {
        Self::new(Verdict::Retry { class, delay: None }, why, ServerSignal::None)
    }

    pub(super) const fn suspect(why: Why) -> Self {
        Self::new(Verdict::Suspect, why, ServerSignal::RefusesUs(why))
    }

    pub(super) const fn dead(why: Why) -> Self {
        Self::new(Verdict::Dead, why, ServerSignal::None)
    }

    pub(super) const fn cannot_authenticate() -> Self {
        Self::free(Why::AuthenticationFailed, ServerSignal::Pause(PauseReason::AuthenticationFailed))
    }

    pub(super) const fn out_of_files() -> Self {
        Self::free(Why::OutOfFileDescriptors, ServerSignal::None)
    }

    pub(super) const fn aborted() -> Self {
        Self::free(Why::Aborted, ServerSignal::None)
    }

    /// Puts in what the server asked for ("try again in 5 minutes").
    pub(super) fn after(mut self, wish: Option<Duration>) -> Self {
        match &mut self.verdict {
            Verdict::Defer { delay, .. } | Verdict::Retry { delay, .. } => *delay = wish,
            _ => {}
        }
        self
    }
}
