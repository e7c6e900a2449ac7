//! What the sink does on demand; may change while it runs.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How the sink behaves. As JSON: `{"mail_delay_ms": 50, "failures": [{"stage": "dot", "times": 3, "reply": "451 4.3.0 later"}]}`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Behaviour {
    /// Another limit than the one it was started with.
    pub limit: Option<usize>,
    /// Before the greeting.
    pub greeting_delay_ms: u64,
    /// Before each batch of replies, as a long line would do.
    pub reply_delay_ms: u64,
    /// Before the reply to a whole message.
    pub mail_delay_ms: u64,
    /// Between the last reply and the end of the connection.
    pub close_delay_ms: u64,
    /// How the connection ends after the last reply.
    pub ending: Ending,
    /// A session counts so long after its connection is closed, as that of a server that counts its processes.
    pub count_after_close_ms: u64,
    /// No more is read of what clients send; absent: all that comes. What was read ahead is used first.
    pub read_bytes_per_second: Option<u64>,
    /// Between the bytes of every reply (a tarpit).
    pub byte_delay_ms: u64,
    /// End of a session that has been at rest so long, with an unsolicited 421.
    pub idle_limit_ms: Option<u64>,
    /// After so many mails, MAIL is answered by 421.
    pub max_messages_per_session: Option<u32>,
    /// After so many recipients, RCPT is answered by 452.
    pub max_recipients: Option<usize>,
    /// Announced with SIZE.
    pub size: Option<usize>,
    /// Keywords left out of the EHLO reply, such as `PIPELINING`.
    pub hide: Vec<String>,
    /// What AUTH offers; absent: `PLAIN LOGIN XOAUTH2`.
    pub mechanisms: Option<String>,
    /// AUTH PLAIN takes no response along with the command: it is asked for.
    pub asks_for_response: bool,
    /// The only name in EHLO that is taken; any other is refused at RCPT, as Postfix does it.
    pub helo_name: Option<String>,
    /// Replies end with LF alone.
    pub bare_lf: bool,
    /// What fails; the first that fits is taken.
    pub failures: Vec<Failure>,
}

/// How the sink ends a connection after its last word.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Ending {
    /// Both directions at once.
    #[default]
    Close,
    /// Its own first; the session counts until the client has ended the other one, or until the sink's patience
    /// (`idle_limit_ms`, or 300 s) is over.
    Half,
    /// A reset instead of an end.
    Reset,
}

/// One scripted failure.
#[derive(Clone, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(default, deny_unknown_fields)]
pub struct Failure {
    /// Where.
    pub stage: FailureStage,
    /// How often; absent: always.
    pub times: Option<u32>,
    /// Only for recipients that contain this.
    pub recipient: Option<String>,
    /// The reply, without CRLF.
    pub reply: Option<String>,
    /// Bytes instead of a reply, sent as they are.
    pub raw: Option<String>,
    /// At `dot`: the message is taken all the same.
    pub accept: bool,
    /// The connection ends, after the reply if there is one.
    pub close: bool,
    /// Nothing is said for so long, and then the rest happens.
    pub delay_ms: u64,
    /// After that all goes on as if there had been no failure; not at `dot`, where the message is over by then.
    pub resume: bool,
}

/// Where a scripted failure happens.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum FailureStage {
    /// Instead of the greeting.
    Greeting,
    /// At EHLO.
    Ehlo,
    /// At STARTTLS.
    Starttls,
    /// At AUTH.
    Auth,
    /// At MAIL.
    #[default]
    Mail,
    /// At RCPT.
    Rcpt,
    /// At DATA, or when the content of BDAT was read.
    Data,
    /// At BDAT, of which the server knows nothing: what follows is commands for it.
    Bdat,
    /// Within the content.
    Body,
    /// After the whole message.
    Dot,
    /// At QUIT.
    Quit,
}

impl Failure {
    /// A reply at a stage, always.
    pub fn reply(stage: FailureStage, reply: &str) -> Self {
        Self { stage, reply: Some(reply.to_owned()), ..Self::default() }
    }

    /// Bytes at a stage, always.
    pub fn raw(stage: FailureStage, raw: &str) -> Self {
        Self { stage, raw: Some(raw.to_owned()), ..Self::default() }
    }

    /// The end of the connection at a stage, always.
    pub fn closing(stage: FailureStage) -> Self {
        Self { stage, close: true, ..Self::default() }
    }

    /// A silence at a stage, always, after which all goes on as usual.
    pub fn silence(stage: FailureStage, delay: Duration) -> Self {
        Self { stage, resume: true, ..Self::default() }.after(delay)
    }

    /// Only so often.
    pub fn times(mut self, times: u32) -> Self {
        self.times = Some(times);
        self
    }

    /// Only for recipients that contain this.
    pub fn for_recipient(mut self, part: &str) -> Self {
        self.recipient = Some(part.to_owned());
        self
    }

    /// The message is taken all the same.
    pub fn accepting(mut self) -> Self {
        self.accept = true;
        self
    }

    /// And then the connection ends.
    pub fn and_close(mut self) -> Self {
        self.close = true;
        self
    }

    /// After a silence.
    pub fn after(mut self, delay: Duration) -> Self {
        self.delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self
    }
}

impl Behaviour {
    /// With these failures and nothing else.
    pub fn failing(failures: impl IntoIterator<Item = Failure>) -> Self {
        Self { failures: failures.into_iter().collect(), ..Self::default() }
    }

    /// Takes the failure that fits and counts it.
    pub(crate) fn fail(&mut self, stage: FailureStage, recipient: Option<&str>) -> Option<Failure> {
        let fits = |failure: &&mut Failure| {
            failure.stage == stage
                && failure.times != Some(0)
                && failure.recipient.as_deref().is_none_or(|part| recipient.is_some_and(|r| r.contains(part)))
        };
        let failure = self.failures.iter_mut().find(fits)?;
        if let Some(times) = &mut failure.times {
            *times -= 1;
        }
        Some(failure.clone())
    }
}
