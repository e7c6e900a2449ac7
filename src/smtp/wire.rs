//! Bytes: replies read from a socket, commands and content written to it, in clear text or TLS.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Instant, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{
    ending::{Closed, FORCED, both_ends, end_of},
    heard::Heard,
    network::{Connection, Handle},
    reply::{Event, Reply},
    tls::{self, TlsRoots},
};

/// RFC 5321 asks for 512; servers write more.
const LONGEST_LINE: usize = 4096;
/// All lines of one reply.
const LONGEST_REPLY: usize = 64 * 1024;
/// Bytes written under one time limit.
const BLOCK: usize = 64 * 1024;

/// Why no reply was read, or not all was written.
#[derive(Debug)]
pub(super) enum Fault {
    Garbled(String),
    /// The two sides did not come to terms.
    Tls(String),
    TimedOut,
    Broken(String),
}

impl Fault {
    pub fn event(&self) -> Event<'static> {
        match self {
            Self::Garbled(_) | Self::Tls(_) => Event::Garbled,
            Self::TimedOut => Event::TimedOut,
            Self::Broken(_) => Event::Broken,
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Self::Garbled(detail) => format!("the answer is no SMTP reply: {detail}"),
            Self::Tls(detail) => format!("no agreement on TLS: {detail}"),
            Self::TimedOut => "no answer in time".into(),
            Self::Broken(detail) => format!("the connection broke: {detail}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A write that failed.
pub(super) struct WriteFault {
    pub fault: Fault,
    /// Whether the last byte may have reached the server all the same.
    pub complete: bool,
}

/// A connection to a server and what was read ahead.
pub(super) struct Wire {
    stream: Stream,
    handle: Box<dyn Handle>,
    heard: Heard,
    /// Both ends have come.
    over: bool,
    ahead: Vec<u8>,
    partial: Partial,
    lines: Vec<String>,
    farewell: bool,
}

#[derive(Debug)]
enum Stream {
    Plain(Connection),
    Tls(Box<TlsStream<Connection>>),
    Gone,
}

impl Wire {
    /// `handle` is a second handle on the socket of `stream`; `heard` is what both keep of it.
    pub fn new(stream: Connection, handle: Box<dyn Handle>, heard: Heard) -> Self {
        Self {
            stream: Stream::Plain(stream),
            handle,
            heard,
            over: false,
            ahead: Vec::new(),
            partial: Partial::default(),
            lines: Vec::new(),
            farewell: false,
        }
    }

    /// The TLS handshake. What the server sent ahead in clear text makes it fail: it could be anybody's
    /// (CVE-2011-0411 and its kin).
    pub async fn encrypt(&mut self, roots: &TlsRoots, name: ServerName<'static>, limit: Duration) -> Result<(), Fault> {
        if !self.ahead.is_empty() {
            return Err(Fault::Garbled("clear text after the reply to STARTTLS".into()));
        }
        let Stream::Plain(stream) = std::mem::replace(&mut self.stream, Stream::Gone) else {
            return Err(Fault::Broken("it is encrypted already".into()));
        };
        match timeout(limit, TlsConnector::from(roots.config()).connect(name, stream).into_fallible()).await {
            Ok(Ok(stream)) => {
                self.stream = Stream::Tls(Box::new(stream));
                Ok(())
            }
            Ok(Err((error, stream))) => {
                self.stream = Stream::Plain(stream);
                // What TLS itself finds wrong, or the server's alert; anything else is the connection's end.
                let disagreed = error.kind() == io::ErrorKind::InvalidData;
                Err(if disagreed { Fault::Tls(tls::problem(&error)) } else { error.into() })
            }
            Err(_) => Err(Fault::TimedOut),
        }
    }

    /// Reads one reply; cancelling loses nothing.
    pub async fn reply(&mut self, limit: Duration) -> Result<Reply, Fault> {
        match timeout(limit, self.next_reply()).await {
            Ok(read) => read,
            Err(_) => Err(Fault::TimedOut),
        }
    }

    async fn next_reply(&mut self) -> Result<Reply, Fault> {
        loop {
            if let Some((code, lines, used)) = self.partial.read(&self.ahead).map_err(Fault::Garbled)? {
                self.ahead.drain(..used);
                self.lines = lines;
                self.farewell |= matches!(code, 221 | 421);
                return Ok(Reply::new(code, &self.lines.join(" ")));
            }
            if self.stream.read_buf(&mut self.ahead).await? == 0 {
                return Err(Fault::Broken("the server closed it".into()));
            }
        }
    }

    /// The lines of the last reply, without their codes.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    /// Writes all, every block within `limit`. Cancelling may leave a part of it written.
    pub async fn write(&mut self, bytes: &[u8], limit: Duration) -> Result<(), WriteFault> {
        for block in bytes.chunks(BLOCK) {
            let fault = match timeout(limit, self.stream.write_all(block)).await {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error.into(),
                Err(_) => Fault::TimedOut,
            };
            return Err(WriteFault { fault, complete: false });
        }
        let fault = match timeout(limit, self.stream.flush()).await {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.into(),
            Err(_) => Fault::TimedOut,
        };
        Err(WriteFault { fault, complete: true })
    }

    /// Whether the server has neither said anything nor closed, as far as this host knows: no round trip.
    pub async fn is_quiet(&mut self) -> bool {
        if !self.ahead.is_empty() {
            return false;
        }
        match self.handle.peek() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => true,
            Ok(1..) if matches!(self.stream, Stream::Tls(_)) => {
                // It may be a session ticket, which is nobody's business but TLS's.
                timeout(Duration::from_millis(5), self.stream.read_buf(&mut self.ahead)).await.is_err()
            }
            _ => false,
        }
    }

    /// Waits until the server says something or closes. Cancelling loses nothing.
    pub async fn stirred(&mut self) {
        if self.ahead.is_empty() {
            let _ = self.stream.read_buf(&mut self.ahead).await;
        }
    }

    /// Whether the server has said that it closes.
    pub fn said_farewell(&self) -> bool {
        self.farewell
    }

    /// Ends our side and waits until the server has ended its own and has our end; once `hurry` resolves, as
    /// [`Wire::finish_now`].
    pub async fn finish(mut self, limit: Duration, hurry: Pin<&mut impl Future<Output = ()>>) -> Closed {
        self.note_farewell();
        self.reclaim();
        tokio::select! {
            () = self.part(limit) => self.closed(),
            () = hurry => self.finish_now().await,
        }
    }

    /// Ends our side below TLS, and waits for both ends for a moment only.
    pub async fn finish_now(mut self) -> Closed {
        self.note_farewell();
        self.reclaim();
        self.handle.end();
        self.both_ends(FORCED).await;
        self.closed()
    }

    async fn part(&mut self, limit: Duration) {
        let deadline = Instant::now() + limit;
        // After a farewell the server closes by itself. What we sent meanwhile, be it TLS's own farewell, would stay
        // unread there, and its kernel would reset the connection instead of ending it.
        let patience = if self.farewell { limit * 3 / 4 } else { Duration::ZERO };
        let has_ended = match self.stream.socket() {
            Some(stream) => end_of(stream, patience).await,
            None => false,
        };
        if !has_ended {
            // A server that reads nothing would keep TLS's farewell waiting, and our FIN behind it.
            let left = deadline.saturating_duration_since(Instant::now());
            let _ = timeout(left / 4, self.stream.shutdown()).await;
        }
        self.handle.end();
        self.both_ends(deadline.saturating_duration_since(Instant::now())).await;
    }

    /// Below TLS: the server's farewell is not yet its FIN.
    async fn both_ends(&mut self, limit: Duration) {
        if let Some(stream) = self.stream.socket() {
            self.over = both_ends(stream, &*self.handle, &self.heard, limit).await;
        }
    }

    /// The stream may have gone with a handshake that took too long; the second handle still holds the socket.
    fn reclaim(&mut self) {
        if matches!(self.stream, Stream::Gone)
            && let Ok(stream) = self.handle.connection()
        {
            self.stream = Stream::Plain(stream);
        }
    }

    /// A farewell that came unasked and was not read yet counts as well.
    fn note_farewell(&mut self) {
        while let Ok(Some((code, _, used))) = self.partial.read(&self.ahead) {
            self.ahead.drain(..used);
            self.farewell |= matches!(code, 221 | 421);
        }
    }

    /// What was heard, after our side was ended.
    fn closed(self) -> Closed {
        let Self { stream, handle, heard, farewell, over, .. } = self;
        let socket = match stream {
            Stream::Plain(stream) => Some(stream),
            Stream::Tls(stream) => Some(stream.into_inner().0),
            Stream::Gone => None,
        };
        Closed::of(socket, handle, heard, over, farewell)
    }
}

/// A reply that is not all there, as far as it was read: however small the pieces are in which a server sends it, no byte
/// is looked at twice.
#[derive(Default)]
struct Partial {
    /// Where the line begins that has no end yet.
    start: usize,
    /// How far its end was looked for.
    looked: usize,
    code: Option<u16>,
    texts: Vec<String>,
}

impl Partial {
    /// The first reply in `bytes` and its length; `None` when it is not all there: then the same bytes and more must follow.
    ///
    /// Liberal: a line may end with LF alone, and no text, or text that is not UTF-8, is a reply all the same (RFC 5321
    /// section 4.2).
    fn read(&mut self, bytes: &[u8]) -> Result<Option<(u16, Vec<String>, usize)>, String> {
        loop {
            let Some(end) = bytes[self.looked..].iter().position(|byte| *byte == b'\n') else {
                self.looked = bytes.len();
                let endless = bytes.len() - self.start > LONGEST_LINE;
                return if endless { Err("an endless line".into()) } else { Ok(None) };
            };
            let end = self.looked + end;
            if end > LONGEST_REPLY {
                return Err("an endless reply".into());
            }
            let (code, last, text) = line(&bytes[self.start..end])?;
            if self.code.is_some_and(|known| known != code) {
                return Err("a line with another reply code".into());
            }
            self.code = Some(code);
            self.texts.push(text);
            (self.start, self.looked) = (end + 1, end + 1);
            if last {
                let Self { start, texts, .. } = std::mem::take(self);
                return Ok(Some((code, texts, start)));
            }
        }
    }
}

/// Code, whether it is the last of its reply, and text of a line without its LF.
fn line(line: &[u8]) -> Result<(u16, bool, String), String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (digits, text) = line.split_at(line.len().min(3));
    let number = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number: u16 = number.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    if !(200..600).contains(&number) {
        return Err("a line without a reply code".into());
    }
    let (last, text) = match text {
        [] => (true, text),
        [b' ', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err("a reply code without a space after it".into()),
    };
    Ok((number, last, String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()))
}

impl Stream {
    fn socket(&mut self) -> Option<&mut Connection> {
        match self {
            Self::Plain(stream) => Some(stream),
            Self::Tls(stream) => Some(stream.get_mut().0),
            Self::Gone => None,
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Gone => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_REPLY, Partial};

    fn parse(bytes: &[u8]) -> Result<Option<(u16, Vec<String>, usize)>, String> {
        Partial::default().read(bytes)
    }

    #[test]
    fn a_reply_in_pieces_is_the_same_reply_and_takes_no_longer_for_that() {
        let reply = [b"250-and more\r\n".repeat(LONGEST_REPLY / 14 - 1), b"250 end\r\n354 go".to_vec()].concat();
        let (mut partial, mut looked) = (Partial::default(), 0);
        let mut read = None;
        for end in 1..=reply.len() {
            let before = partial.looked;
            read = partial.read(&reply[..end]).expect("a reply");
            if read.is_some() {
                break;
            }
            looked += end - before;
        }
        assert_eq!(read, parse(&reply).expect("a reply"));
        assert!(looked <= reply.len(), "{looked} bytes looked at");
    }

    #[test]
    fn whole_replies_are_read_and_no_more() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(b"250 ok\r\n354 more"), Ok(Some((250, lines(&["ok"]), 8))));
        assert_eq!(parse(b"250-one\r\n250 two\r\n"), Ok(Some((250, lines(&["one", "two"]), 18))));
        assert_eq!(parse(b"250\r\n"), Ok(Some((250, lines(&[""]), 5))));
        assert_eq!(parse(b"250-one\r\n250\r\n"), Ok(Some((250, lines(&["one", ""]), 14))));
        assert_eq!(parse(b"250 \xfcber\x07\r\n"), Ok(Some((250, lines(&["\u{fffd}ber"]), 11))));
    }

    #[test]
    fn half_a_reply_is_none_yet() {
        for bytes in [&b""[..], b"250", b"250 ok", b"250 ok\r", b"250-one\r\n", b"250-one\r\n250 two"] {
            assert_eq!(parse(bytes), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let odd: [&[u8]; 8] = [
            b"ok\r\n",
            b"25\r\n",
            b"2500 ok\r\n",
            b"250-one\r\n251 two\r\n",
            b"150 hm\r\n",
            b"600 hm\r\n",
            b"\r\n",
            b"250\tok\r\n",
        ];
        for bytes in odd {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[b'2'; 5000]).is_err());
        assert!(parse(&b"250-again and again\r\n".repeat(5000)).is_err());
    }
}
