//! One mail transaction: what is offered, what the server made of it.

use std::borrow::Cow;

use super::{
    fault::Fault,
    reply::{Disposition, Event, Reply, ServerSignal, Situation, Step, Verdict, Why},
    table::judge,
};

/// A mail that cannot be put into SMTP.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// There is nobody to send it to.
    #[error("the mail has no recipient")]
    NoRecipient,
    /// Control bytes, spaces or angle brackets would end the command early.
    #[error("the address of {which} has a byte that no address may have")]
    Address {
        /// `the sender` or `recipient N`.
        which: String,
    },
    /// A server may take it for the end of a line where others do not (CVE-2023-51764 and its kin).
    #[error("the message has a bare CR or LF at byte {at}")]
    BareLineEnd {
        /// From 0.
        at: usize,
    },
    /// The last line has no end.
    #[error("the message does not end with CRLF")]
    Unterminated,
}

/// A message, which may be made while it is sent.
pub trait MailData: Sync {
    /// Its bytes from the beginning, in blocks; the same bytes each time.
    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_>;

    /// The same in 7 bits, as far as that can be, for a server without 8BITMIME; none when it can't be had.
    fn seven_bit(&self) -> Option<Box<dyn MailData + Send + '_>> {
        None
    }
}

impl<T: AsRef<[u8]> + Sync> MailData for T {
    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(std::iter::once(Cow::Borrowed(self.as_ref())))
    }
}

/// A mail as it goes over the wire; checked when made.
#[derive(Clone)]
pub struct Transaction<'a> {
    pub(super) reverse_path: &'a str,
    pub(super) recipients: &'a [String],
    pub(super) message: &'a dyn MailData,
    /// Bytes of the message.
    pub(super) length: usize,
    pub(super) resent: bool,
    pub(super) needs_utf8: bool,
    pub(super) needs_eight_bit: bool,
}

impl<'a> Transaction<'a> {
    /// `reverse_path` may be empty (a bounce); `message` has CRLF line ends, is not dot-stuffed, and ends with CRLF. It is
    /// read once here and once when it is sent.
    pub fn new(
        reverse_path: &'a str,
        recipients: &'a [String],
        message: &'a dyn MailData,
    ) -> Result<Self, TransactionError> {
        let broken = |text: &str| text.chars().any(|c| c.is_control() || matches!(c, ' ' | '<' | '>'));
        if recipients.is_empty() {
            return Err(TransactionError::NoRecipient);
        }
        if broken(reverse_path) {
            return Err(TransactionError::Address { which: "the sender".into() });
        }
        if let Some(at) = recipients.iter().position(|recipient| recipient.is_empty() || broken(recipient)) {
            return Err(TransactionError::Address { which: format!("recipient {}", at + 1) });
        }
        let (length, is_ascii) = measure(message)?;
        let needs_utf8 = !reverse_path.is_ascii() || recipients.iter().any(|recipient| !recipient.is_ascii());
        Ok(Self { reverse_path, recipients, message, length, resent: false, needs_utf8, needs_eight_bit: !is_ascii })
    }

    /// Says that this mail was already sent again once at no charge ([`Why::ProtocolError`], [`Why::SessionGone`]).
    pub fn resent(mut self, resent: bool) -> Self {
        self.resent = resent;
        self
    }

    /// Says that headers of the message have addresses beyond ASCII, so that it needs SMTPUTF8.
    pub fn utf8_headers(mut self, utf8: bool) -> Self {
        self.needs_utf8 |= utf8;
        self
    }

    /// This transaction with another form of its message.
    pub(super) fn with<'b>(&self, message: &'b dyn MailData) -> Result<Transaction<'b>, TransactionError>
    where
        'a: 'b,
    {
        let other = Transaction::new(self.reverse_path, self.recipients, message)?;
        Ok(other.resent(self.resent).utf8_headers(self.needs_utf8))
    }

    /// The first line, when no server can take it for a command: a header whose name is none.
    pub(super) fn harmless_line(&self) -> Option<String> {
        let block = self.message.blocks().next()?;
        let end = block.iter().position(|byte| *byte == b'\n')? + 1;
        let line = std::str::from_utf8(&block[..end]).ok()?;
        let (name, _) = line.split_once(':')?;
        let is_name = name.len() > 1 && name.bytes().all(|byte| byte.is_ascii_alphabetic() || byte == b'-');
        let verb = &name[..name.len().min(4)];
        let is_command = COMMANDS.iter().any(|command| verb.eq_ignore_ascii_case(&command[..4]));
        (is_name && !is_command && line.len() <= 998 && line.is_ascii()).then(|| line.to_owned())
    }

    /// Bytes of the message.
    pub fn length(&self) -> usize {
        self.length
    }
}

/// What servers may know as commands; some read no further than four letters.
const COMMANDS: [&str; 24] = [
    "ATRN", "AUTH", "BDAT", "BURL", "DATA", "EHLO", "ETRN", "EXPN", "HELO", "HELP", "LHLO", "MAIL", "NOOP", "QUIT",
    "RCPT", "RSET", "SAML", "SEND", "SOML", "STARTTLS", "TURN", "VRFY", "XCLIENT", "XFORWARD",
];

/// How many bytes a message has, and whether all are ASCII.
fn measure(message: &dyn MailData) -> Result<(usize, bool), TransactionError> {
    let (mut length, mut is_ascii, mut last) = (0, true, 0);
    for block in message.blocks() {
        is_ascii &= block.is_ascii();
        for (at, byte) in block.iter().enumerate() {
            match (last, *byte) {
                (b'\r', b'\n') => {}
                (b'\r', _) => return Err(TransactionError::BareLineEnd { at: length + at - 1 }),
                (_, b'\n') => return Err(TransactionError::BareLineEnd { at: length + at }),
                _ => {}
            }
            last = *byte;
        }
        length += block.len();
    }
    match last {
        b'\n' => Ok((length, is_ascii)),
        b'\r' => Err(TransactionError::BareLineEnd { at: length - 1 }),
        _ => Err(TransactionError::Unterminated),
    }
}

/// The caller's word just before the bytes that complete the message are handed to the socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Commit {
    /// The stage `committing` is written: go on.
    Go,
    /// The claim is lost or the lease too short: the message must not be completed.
    Abort,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecipientOutcome {
    /// What it means.
    pub disposition: Disposition,
    /// The reply that decided, if there was one.
    pub reply: Option<Reply>,
}

/// What became of a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailOutcome {
    /// False: nothing was sent. The server had ended the session ([`Why::SessionGone`]: send on another, free of
    /// charge), or the mail can't go to this server at all (too large, or it needs an extension).
    pub started: bool,
    /// In the order of the transaction, never fewer.
    pub recipients: Vec<RecipientOutcome>,
    /// How far it got.
    pub step: Step,
    /// Whether the caller said [`Commit::Go`].
    pub committed: bool,
    /// The last reply that was read.
    pub last_reply: Option<Reply>,
    /// What went wrong below SMTP, for people.
    pub detail: Option<String>,
    /// What was learned about the server, without doubles and without [`ServerSignal::None`].
    pub signals: Vec<ServerSignal>,
}

impl MailOutcome {
    /// The recipients with this kind of verdict, by their place in the transaction.
    pub fn places(&self, wanted: impl Fn(&Verdict) -> bool) -> Vec<usize> {
        let places = self.recipients.iter().enumerate();
        places.filter(|(_, recipient)| wanted(&recipient.disposition.verdict)).map(|(place, _)| place).collect()
    }

    /// Whether the server took the mail for everybody.
    pub fn is_delivered(&self) -> bool {
        self.recipients.iter().all(|recipient| recipient.disposition.verdict == Verdict::Delivered)
    }

    /// Whether the session was gone before anything was sent.
    pub fn is_session_gone(&self) -> bool {
        !self.started && self.recipients.iter().all(|recipient| recipient.disposition.why == Why::SessionGone)
    }
}

/// A transaction as far as it got.
pub(super) struct Course {
    pub outcome: MailOutcome,
    pub dispositions: Vec<Option<RecipientOutcome>>,
    pub situation: Situation,
    /// A 421 to a recipient.
    pub farewell: Option<Reply>,
}

/// The transaction can't go on; all recipients have their disposition.
pub(super) struct Over;

impl Course {
    pub fn new(transaction: &Transaction<'_>, reused: bool) -> Self {
        let outcome = MailOutcome {
            started: true,
            recipients: Vec::new(),
            step: Step::Idle,
            committed: false,
            last_reply: None,
            detail: None,
            signals: Vec::new(),
        };
        let situation = Situation { accepted: 0, resent: transaction.resent, reused };
        Self { outcome, dispositions: vec![None; transaction.recipients.len()], situation, farewell: None }
    }

    /// Gives one recipient its disposition.
    pub fn decide(&mut self, place: usize, disposition: Disposition, reply: Option<&Reply>) {
        self.dispositions[place] = Some(RecipientOutcome { disposition, reply: reply.cloned() });
        if disposition.signal != ServerSignal::None && !self.outcome.signals.contains(&disposition.signal) {
            self.outcome.signals.push(disposition.signal);
        }
    }

    /// Gives all that have none yet the same disposition.
    pub fn decide_rest(&mut self, disposition: Disposition, reply: Option<&Reply>) {
        for place in 0..self.dispositions.len() {
            if self.dispositions[place].is_none() {
                self.decide(place, disposition, reply);
            }
        }
    }

    /// Whether somebody still waits for the end of the transaction.
    pub fn is_open(&self) -> bool {
        self.dispositions.iter().any(Option::is_none)
    }

    pub fn read(&mut self, step: Step, reply: &Reply) {
        self.outcome.step = step;
        self.outcome.last_reply = Some(reply.clone());
    }

    /// Judges a reply.
    pub fn judge(&self, step: Step, reply: &Reply) -> Disposition {
        judge(step, Event::Reply(reply), &self.situation)
    }

    /// Judges what is no reply.
    pub fn fault(&mut self, step: Step, fault: &Fault) -> Disposition {
        self.outcome.step = step;
        self.outcome.detail = Some(fault.detail());
        judge(step, fault.event(), &self.situation)
    }

    pub fn end(mut self) -> MailOutcome {
        // Every path gives a disposition; were one forgotten, "unknown" is the one that neither loses nor doubles.
        let forgotten = judge(Step::AfterDot, Event::Broken, &self.situation);
        self.decide_rest(forgotten, None);
        self.outcome.recipients = self.dispositions.into_iter().flatten().collect();
        self.outcome
    }
}

#[cfg(test)]
mod tests {
    use super::{Transaction, TransactionError};

    fn check(from: &str, to: &[&str], message: &[u8]) -> Result<(), TransactionError> {
        let to: Vec<String> = to.iter().map(|address| (*address).to_owned()).collect();
        Transaction::new(from, &to, &message).map(|_| ())
    }

    #[test]
    fn bare_line_ends_are_refused_wherever_they_are() {
        let cases: [(&[u8], usize); 6] =
            [(b"a\nb\r\n", 1), (b"a\rb\r\n", 1), (b"\nb\r\n", 0), (b"a\r\n.\n\r\n", 4), (b"a\r\r\n", 1), (b"a\r", 1)];
        for (message, at) in cases {
            assert_eq!(check("", &["a@b"], message), Err(TransactionError::BareLineEnd { at }), "{message:?}");
        }
        assert_eq!(check("", &["a@b"], b"a"), Err(TransactionError::Unterminated));
        assert_eq!(check("", &["a@b"], b""), Err(TransactionError::Unterminated));
        assert_eq!(check("", &["a@b"], b"a\r\n\r\n"), Ok(()));
    }

    #[test]
    fn a_line_that_may_be_a_command_is_not_harmless() {
        let recipients = ["a@b".to_owned()];
        let line = |text: &'static str| {
            let message = text.as_bytes();
            Transaction::new("", &recipients, &message).expect("a good mail").harmless_line()
        };
        assert_eq!(line("From: a@b\r\nTo: c\r\n").as_deref(), Some("From: a@b\r\n"));
        assert_eq!(line("Message-ID: <a@b>\r\n").as_deref(), Some("Message-ID: <a@b>\r\n"));
        for text in [
            "DATA: x\r\n",
            "Sender: a@b\r\n",
            "data : x\r\n",
            "MAIL FROM:<a@b>\r\n",
            "Rset:\r\n",
            "X\r\n",
            "\r\n",
            ": x\r\n",
            "F\u{f6}: x\r\n",
        ] {
            assert_eq!(line(text), None, "{text}");
        }
    }

    #[test]
    fn addresses_that_would_end_the_command_are_refused() {
        for address in ["a@b>\r\nDATA", "a b@c", "<a@b>", "a@b\0", "a@b\u{85}"] {
            assert!(check(address, &["a@b"], b"\r\n").is_err(), "{address}");
            let second = check("", &["a@b", address], b"\r\n");
            assert_eq!(second, Err(TransactionError::Address { which: "recipient 2".into() }), "{address}");
        }
        assert!(check("", &[""], b"\r\n").is_err());
        assert_eq!(check("", &[], b"\r\n"), Err(TransactionError::NoRecipient));
    }
}
