//! The server's side of one SMTP session.

use std::{io, net::SocketAddr, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;

use crate::{
    Behaviour, Ending, Failure, FailureStage, Login,
    state::{JournalEntry, State},
    tls::Tls,
};

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// How long the sink waits for a client.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a slow reader reads.
const SLOW_READS: u64 = 20;

impl Stream {
    /// Below TLS.
    fn socket(&mut self) -> &mut TcpStream {
        match self {
            Self::Plain(stream) => stream,
            Self::Tls(stream) => stream.get_mut().0,
        }
    }

    async fn read(&mut self, buffer: &mut Vec<u8>) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read_buf(buffer).await,
            Self::Tls(stream) => stream.read_buf(buffer).await,
        }
    }

    /// `most` bytes at the most.
    async fn read_some(&mut self, buffer: &mut Vec<u8>, most: u64) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.take(most).read_buf(buffer).await,
            Self::Tls(stream) => stream.take(most).read_buf(buffer).await,
        }
    }

    async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                stream.flush().await
            }
        }
    }
}

/// A connection that is counted until this is dropped, however its task ends.
struct Counted {
    state: State,
    let_in: bool,
    stream: Option<Stream>,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let after = Duration::from_millis(self.state.behaviour().count_after_close_ms);
        let stream = self.stream.take();
        let state = self.state.clone();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if self.let_in && !after.is_zero() => {
                drop(stream);
                runtime.spawn(async move {
                    sleep(after).await;
                    state.leave(true, ());
                });
            }
            _ => state.leave(self.let_in, stream),
        }
    }
}

/// Why a session ends; nobody needs more than that.
struct End;

impl From<io::Error> for End {
    fn from(_: io::Error) -> Self {
        Self
    }
}

/// What all sessions need.
#[derive(Clone)]
pub(crate) struct Shared {
    pub state: State,
    pub tls: Option<Tls>,
    pub login: Option<Login>,
}

struct Session {
    shared: Shared,
    counted: Counted,
    peer: SocketAddr,
    number: u64,
    input: Vec<u8>,
    output: Vec<u8>,
    encrypted: bool,
    /// The name that the client gave in EHLO.
    helo: String,
    logged_in: bool,
    from: Option<String>,
    to: Vec<String>,
    chunks: Option<Vec<u8>>,
    mails: u32,
    turnarounds: u64,
}

/// Serves one connection to its end. It was counted by `enter` when accepted; `number` is what that returned.
pub(crate) async fn serve(shared: Shared, stream: TcpStream, peer: SocketAddr, implicit: bool, number: Option<u64>) {
    let _ = stream.set_nodelay(true);
    let counted =
        Counted { state: shared.state.clone(), let_in: number.is_some(), stream: Some(Stream::Plain(stream)) };
    let mut session = Session {
        shared,
        counted,
        peer,
        number: number.unwrap_or_default(),
        input: Vec::new(),
        output: Vec::new(),
        encrypted: false,
        helo: String::new(),
        logged_in: false,
        from: None,
        to: Vec::new(),
        chunks: None,
        mails: 0,
        turnarounds: 0,
    };
    let refused = number.is_none();
    let _ = session.run(implicit, refused).await;
    let Behaviour { ending, idle_limit_ms, .. } = session.shared.state.behaviour();
    let Some(stream) = &mut session.counted.stream else { return };
    if ending == Ending::Reset && !refused {
        let _ = stream.socket().set_zero_linger();
        return;
    }
    if let Stream::Tls(stream) = stream {
        stream.get_mut().1.send_close_notify();
        let _ = timeout(Duration::from_secs(1), stream.flush()).await;
    }
    if ending == Ending::Half && !refused {
        let socket = stream.socket();
        let mut scratch = [0; 4096];
        let _ = socket.shutdown().await;
        let limit = idle_limit_ms.map_or(PATIENCE, Duration::from_millis);
        let _ = timeout(limit, async { while socket.read(&mut scratch).await.is_ok_and(|read| read > 0) {} }).await;
    }
}

impl Session {
    async fn run(&mut self, implicit: bool, refused: bool) -> Result<(), End> {
        if implicit {
            self.encrypt().await?;
        }
        if refused {
            self.say("421 4.7.0 mailsink too many connections");
            return self.flush().await;
        }
        let behaviour = self.shared.state.behaviour();
        sleep(Duration::from_millis(behaviour.greeting_delay_ms)).await;
        if !self.failed(FailureStage::Greeting, None).await? {
            self.say("220 mailsink ESMTP");
        }
        loop {
            let line = self.line().await?;
            let (verb, rest) = line.split_once(' ').unwrap_or((&line, ""));
            match verb.to_ascii_uppercase().as_str() {
                "EHLO" => {
                    rest.trim().clone_into(&mut self.helo);
                    self.ehlo().await?;
                }
                "HELO" => {
                    self.reset();
                    self.say("250 mailsink");
                }
                "STARTTLS" => self.starttls().await?,
                "AUTH" => self.auth(rest).await?,
                "MAIL" => self.mail(rest).await?,
                "RCPT" => self.rcpt(rest).await?,
                "DATA" => self.data().await?,
                "BDAT" => self.bdat(rest).await?,
                "RSET" => {
                    self.reset();
                    self.say("250 2.0.0 reset");
                }
                "NOOP" => self.say("250 2.0.0 ok"),
                "QUIT" => {
                    if !self.failed(FailureStage::Quit, None).await? {
                        self.say("221 2.0.0 bye");
                    }
                    self.flush().await?;
                    sleep(Duration::from_millis(self.shared.state.behaviour().close_delay_ms)).await;
                    return Ok(());
                }
                _ => self.say("500 5.5.2 what?"),
            }
        }
    }

    fn reset(&mut self) {
        self.from = None;
        self.to.clear();
        self.chunks = None;
    }

    /// Plays a scripted failure, if one fits; true when the usual reply is not to follow.
    async fn failed(&mut self, stage: FailureStage, recipient: Option<&str>) -> Result<bool, End> {
        let Some(failure) = self.shared.state.fail(stage, recipient) else { return Ok(false) };
        let resume = failure.resume;
        self.play(failure).await?;
        Ok(!resume)
    }

    async fn play(&mut self, failure: Failure) -> Result<(), End> {
        if failure.delay_ms > 0 {
            let _silent = self.shared.state.fall_silent();
            sleep(Duration::from_millis(failure.delay_ms)).await;
        }
        if let Some(reply) = &failure.reply {
            self.say(reply);
        }
        if let Some(raw) = &failure.raw {
            self.output.extend(raw.bytes());
        }
        if failure.close {
            self.flush().await?;
            sleep(Duration::from_millis(self.shared.state.behaviour().close_delay_ms)).await;
            return Err(End);
        }
        Ok(())
    }

    async fn ehlo(&mut self) -> Result<(), End> {
        self.reset();
        if self.failed(FailureStage::Ehlo, None).await? {
            return Ok(());
        }
        let behaviour = self.shared.state.behaviour();
        let mut keywords = vec!["PIPELINING".to_owned(), "8BITMIME".into(), "SMTPUTF8".into(), "CHUNKING".into()];
        keywords.push(behaviour.size.map_or("SIZE".into(), |size| format!("SIZE {size}")));
        if self.shared.tls.is_some() && !self.encrypted {
            keywords.push("STARTTLS".into());
        }
        if self.shared.login.is_some() && self.encrypted {
            let mechanisms = behaviour.mechanisms.as_deref().unwrap_or("PLAIN LOGIN XOAUTH2");
            keywords.push(format!("AUTH {mechanisms}"));
        }
        keywords.push("ENHANCEDSTATUSCODES".into());
        keywords.retain(|keyword| !behaviour.hide.iter().any(|hidden| keyword.starts_with(hidden.as_str())));
        keywords.insert(0, "mailsink".into());
        let last = keywords.len() - 1;
        for (at, keyword) in keywords.iter().enumerate() {
            self.say(&format!("250{}{keyword}", if at == last { ' ' } else { '-' }));
        }
        Ok(())
    }

    async fn starttls(&mut self) -> Result<(), End> {
        if self.failed(FailureStage::Starttls, None).await? {
            return Ok(());
        }
        if self.shared.tls.is_none() || self.encrypted {
            self.say("502 5.5.1 not here");
            return Ok(());
        }
        self.say("220 2.0.0 go ahead");
        self.flush().await?;
        if !self.input.is_empty() {
            return Err(End);
        }
        self.reset();
        self.encrypt().await
    }

    async fn encrypt(&mut self) -> Result<(), End> {
        let (Some(tls), Some(Stream::Plain(stream))) = (self.shared.tls.clone(), self.counted.stream.take()) else {
            return Err(End);
        };
        let accepting = tls.acceptor.accept(stream).into_fallible();
        match timeout(Duration::from_secs(10), accepting).await.map_err(|_| End)? {
            Ok(stream) => {
                self.counted.stream = Some(Stream::Tls(Box::new(stream)));
                self.encrypted = true;
                Ok(())
            }
            Err((_, stream)) => {
                // It must not be closed before it is taken off the count.
                self.counted.stream = Some(Stream::Plain(stream));
                Err(End)
            }
        }
    }

    async fn auth(&mut self, rest: &str) -> Result<(), End> {
        if self.failed(FailureStage::Auth, None).await? {
            return Ok(());
        }
        let Some(login) = self.shared.login.clone().filter(|_| self.encrypted) else {
            self.say("538 5.7.11 encryption required for requested authentication mechanism");
            return Ok(());
        };
        let (mechanism, first) = rest.split_once(' ').unwrap_or((rest, ""));
        let good = match mechanism.to_ascii_uppercase().as_str() {
            "PLAIN" => {
                let asks = first.is_empty() || self.shared.state.behaviour().asks_for_response;
                let given = if asks { self.ask("334 ").await? } else { decode(first) };
                given == format!("\0{}\0{}", login.username, login.password).into_bytes()
            }
            "LOGIN" => {
                let username = self.ask("334 VXNlcm5hbWU6").await?;
                let password = self.ask("334 UGFzc3dvcmQ6").await?;
                username == login.username.as_bytes() && password == login.password.as_bytes()
            }
            "XOAUTH2" => {
                let good = format!("user={}\x01auth=Bearer {}\x01\x01", login.username, login.password);
                let good = decode(first) == good.into_bytes();
                if !good {
                    self.ask("334 eyJzdGF0dXMiOiI0MDEifQ==").await?;
                }
                good
            }
            _ => {
                self.say("504 5.5.4 no such mechanism");
                return Ok(());
            }
        };
        self.logged_in |= good;
        self.say(if good { "235 2.7.0 welcome" } else { "535 5.7.8 authentication credentials invalid" });
        Ok(())
    }

    async fn ask(&mut self, challenge: &str) -> Result<Vec<u8>, End> {
        self.say(challenge);
        Ok(decode(&self.line().await?))
    }

    async fn mail(&mut self, rest: &str) -> Result<(), End> {
        let behaviour = self.shared.state.behaviour();
        if behaviour.max_messages_per_session.is_some_and(|most| self.mails >= most) {
            self.say("421 4.7.0 too many messages in this session");
            self.flush().await?;
            return Err(End);
        }
        if self.failed(FailureStage::Mail, None).await? {
            return Ok(());
        }
        if self.shared.login.is_some() && !self.logged_in {
            self.say("530 5.7.0 authentication required");
        } else if let Some(from) = path(rest) {
            self.from = Some(from);
            self.say("250 2.1.0 ok");
        } else {
            self.say("501 5.5.4 syntax: MAIL FROM:<address>");
        }
        Ok(())
    }

    async fn rcpt(&mut self, rest: &str) -> Result<(), End> {
        let Some(to) = path(rest) else {
            self.say("501 5.5.4 syntax: RCPT TO:<address>");
            return Ok(());
        };
        if self.from.is_none() {
            self.say("503 5.5.1 MAIL first");
            return Ok(());
        }
        if self.failed(FailureStage::Rcpt, Some(&to)).await? {
            return Ok(());
        }
        if self.shared.state.behaviour().helo_name.is_some_and(|name| name != self.helo) {
            let refusal = format!("504 5.5.2 <{}>: Helo command rejected: need fully-qualified hostname", self.helo);
            self.say(&refusal);
            return Ok(());
        }
        if self.shared.state.behaviour().max_recipients.is_some_and(|most| self.to.len() >= most) {
            self.say("452 4.5.3 too many recipients");
            return Ok(());
        }
        self.to.push(to);
        self.say("250 2.1.5 ok");
        Ok(())
    }

    async fn data(&mut self) -> Result<(), End> {
        if self.to.is_empty() {
            self.say("554 5.5.1 no valid recipients");
            return Ok(());
        }
        if self.failed(FailureStage::Data, None).await? {
            return Ok(());
        }
        self.say("354 end with a dot");
        let mut message = Vec::new();
        loop {
            let line = self.raw_line().await?;
            if line == b".\r\n" {
                break;
            }
            if self.failed(FailureStage::Body, None).await? {
                return Err(End);
            }
            message.extend(line.strip_prefix(b".").unwrap_or(&line));
        }
        self.dot(message).await
    }

    async fn bdat(&mut self, rest: &str) -> Result<(), End> {
        let mut words = rest.split_whitespace();
        let Some(size) = words.next().and_then(|size| size.parse::<usize>().ok()) else {
            self.say("501 5.5.4 syntax: BDAT size [LAST]");
            return Ok(());
        };
        let last = words.next().is_some_and(|word| word.eq_ignore_ascii_case("LAST"));
        if self.failed(FailureStage::Bdat, None).await? {
            return Ok(());
        }
        while self.input.len() < size {
            if self.shared.state.fail(FailureStage::Body, None).is_some() {
                return Err(End);
            }
            self.fill().await?;
        }
        let content: Vec<u8> = self.input.drain(..size).collect();
        if self.to.is_empty() {
            self.say("503 5.5.1 no valid recipients");
            return Ok(());
        }
        if self.failed(FailureStage::Data, None).await? {
            return Ok(());
        }
        if self.shared.state.fail(FailureStage::Body, None).is_some() {
            return Err(End);
        }
        let mut message = self.chunks.take().unwrap_or_default();
        message.extend(content);
        if last {
            return self.dot(message).await;
        }
        self.chunks = Some(message);
        self.say("250 2.0.0 ok");
        Ok(())
    }

    /// The whole message is here.
    async fn dot(&mut self, message: Vec<u8>) -> Result<(), End> {
        sleep(Duration::from_millis(self.shared.state.behaviour().mail_delay_ms)).await;
        let failure = self.shared.state.fail(FailureStage::Dot, None);
        if failure.as_ref().is_none_or(|failure| failure.accept) {
            let entry = JournalEntry {
                at_ms: 0,
                session: self.number,
                peer: self.peer,
                message_id: message_id(&message),
                from: self.from.take().unwrap_or_default(),
                to: std::mem::take(&mut self.to),
                size: message.len(),
                turnarounds: std::mem::take(&mut self.turnarounds),
            };
            self.shared.state.take(entry, message);
        }
        self.reset();
        self.mails += 1;
        if let Some(failure) = failure {
            return self.play(failure).await;
        }
        self.say(&format!("250 2.0.0 ok: queued as {}-{}", self.number, self.mails));
        Ok(())
    }

    fn say(&mut self, reply: &str) {
        self.output.extend(reply.bytes());
        self.output.extend(if self.shared.state.behaviour().bare_lf { "\n" } else { "\r\n" }.bytes());
    }

    /// Sends the replies gathered so far.
    async fn flush(&mut self) -> Result<(), End> {
        if self.output.is_empty() {
            return Ok(());
        }
        let behaviour = self.shared.state.behaviour();
        sleep(Duration::from_millis(behaviour.reply_delay_ms)).await;
        let output = std::mem::take(&mut self.output);
        let stream = self.counted.stream.as_mut().ok_or(End)?;
        if behaviour.byte_delay_ms == 0 {
            return Ok(stream.write(&output).await?);
        }
        for byte in output {
            stream.write(&[byte]).await?;
            sleep(Duration::from_millis(behaviour.byte_delay_ms)).await;
        }
        Ok(())
    }

    /// Waits for more input; replies gathered so far go out first, together (RFC 2920 section 3.2).
    async fn fill(&mut self) -> Result<(), End> {
        if !self.output.is_empty() {
            self.flush().await?;
            self.turnarounds += 1;
            self.shared.state.turnaround();
        }
        let Behaviour { idle_limit_ms, read_bytes_per_second, .. } = self.shared.state.behaviour();
        let limit = idle_limit_ms.map_or(PATIENCE, Duration::from_millis);
        let stream = self.counted.stream.as_mut().ok_or(End)?;
        if let Some(rate) = read_bytes_per_second {
            sleep(Duration::from_millis(1_000 / SLOW_READS)).await;
            let most = (rate / SLOW_READS).max(1);
            let reading = stream.read_some(&mut self.input, most);
            return match timeout(limit, reading).await {
                Ok(Ok(1..)) => Ok(()),
                _ => Err(End),
            };
        }
        // Without it a read takes 32 bytes, and what came in one write looks like several.
        self.input.reserve(64 * 1024);
        match timeout(limit, stream.read(&mut self.input)).await {
            Ok(Ok(1..)) => Ok(()),
            Ok(_) => Err(End),
            Err(_) => {
                self.say("421 4.4.2 mailsink idle timeout, closing");
                self.flush().await?;
                Err(End)
            }
        }
    }

    async fn raw_line(&mut self) -> Result<Vec<u8>, End> {
        loop {
            if let Some(end) = self.input.windows(2).position(|pair| pair == b"\r\n") {
                return Ok(self.input.drain(..end + 2).collect());
            }
            self.fill().await?;
        }
    }

    async fn line(&mut self) -> Result<String, End> {
        Ok(String::from_utf8_lossy(&self.raw_line().await?).trim_end().to_owned())
    }
}

fn decode(text: &str) -> Vec<u8> {
    BASE64_STANDARD.decode(text).unwrap_or_default()
}

/// What is between the angle brackets.
fn path(rest: &str) -> Option<String> {
    let (_, rest) = rest.split_once('<')?;
    Some(rest.split_once('>')?.0.to_owned())
}

fn message_id(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    let mut headers = text.lines().take_while(|line| !line.is_empty());
    let value = headers.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("message-id").then(|| value.trim().trim_matches(['<', '>']).to_owned())
    });
    value.unwrap_or_default()
}
