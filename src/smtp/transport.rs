//! The way to a server: replies read from a socket, commands and content written to it.

use std::{io, pin::Pin, time::Duration};

use rustls::pki_types::ServerName;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{
    ending::{Closed, FORCED, both_ends, end_of},
    fault::{Fault, WriteFault},
    heard::Heard,
    network::{Connection, Handle},
    reply::Reply,
    reply_reader::ReplyReader,
    stream::Stream,
    tls::{self, TlsRoots},
};

/// Bytes written under one time limit.
const BLOCK: usize = 64 * 1024;

/// A connection to a server and what was read ahead.
pub(super) struct Transport {
    stream: Stream,
    handle: Box<dyn Handle>,
    heard: Heard,
    /// Both ends have come.
    over: bool,
    ahead: Vec<u8>,
    partial: ReplyReader,
    lines: Vec<String>,
    farewell: bool,
}

impl Transport {
    /// `handle` is a second handle on the socket of `stream`; `heard` is what both keep of it.
    pub fn new(stream: Connection, handle: Box<dyn Handle>, heard: Heard) -> Self {
        Self {
            stream: Stream::Plain(stream),
            handle,
            heard,
            over: false,
            ahead: Vec::new(),
            partial: ReplyReader::default(),
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
    /// [`Transport::finish_now`].
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
