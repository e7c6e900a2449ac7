//! What a socket said first of its end. Linux reports an error once, to whoever asks next, and says afterwards that there
//! is nothing more to read, which looks like the server's end: so the first word is kept, whoever heard it.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::network::{Connection, Dial, Handle};

/// What a socket said first of its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FirstWord {
    /// The server's FIN has come: without it nothing proves that it has ended the connection.
    Eof,
    /// Somebody reset the connection: the server, or a box on the way that forgot it while the server still counts it.
    Reset,
    /// Anything else, such as packets that nobody acknowledges.
    Broken,
}

/// The first word of one socket; clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Heard(Arc<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// 0 for nothing yet.
    first: AtomicU8,
    /// Whether our own side was ended: from then on every write fails, which says nothing of the server.
    own_end: AtomicBool,
    /// Whether the server's kernel has been slow to acknowledge our end.
    lingers: AtomicBool,
    /// The kernel has given up our end before it was acknowledged.
    own_end_lost: AtomicBool,
}

impl Heard {
    /// Nothing yet: `None`.
    pub fn first(&self) -> Option<FirstWord> {
        match self.0.first.load(Ordering::Acquire) {
            1 => Some(FirstWord::Eof),
            2 => Some(FirstWord::Reset),
            3 => Some(FirstWord::Broken),
            _ => None,
        }
    }

    fn keep(&self, word: FirstWord) {
        let code = match word {
            FirstWord::Eof => 1,
            FirstWord::Reset => 2,
            FirstWord::Broken => 3,
        };
        let _ = self.0.first.compare_exchange(0, code, Ordering::AcqRel, Ordering::Acquire);
    }

    /// A read, or a look, of something that was not empty.
    fn read(&self, read: &io::Result<usize>) {
        match read {
            Ok(0) => self.keep(FirstWord::Eof),
            Ok(_) => {}
            Err(error) => self.error(error),
        }
    }

    fn wrote<T>(&self, written: &io::Result<T>) {
        if let Err(error) = written {
            let ours = error.kind() == io::ErrorKind::BrokenPipe && self.0.own_end.load(Ordering::Acquire);
            // What the end of our own side does to a write is no word of the server's.
            if !ours {
                self.error(error);
            }
        }
    }

    /// Our side is being ended.
    fn end(&self) {
        self.0.own_end.store(true, Ordering::Release);
    }

    /// Our end is not acknowledged yet, and was due.
    pub fn linger(&self) {
        self.0.lingers.store(true, Ordering::Release);
    }

    /// An error of a socket whose both sides are ended.
    pub fn error_after_end(&self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset};
        // A server that has closed answers what comes after that by a reset. Nobody else has a reason to in the moment of our
        // end; later a box on the way may have forgotten the connection.
        let is_answer = matches!(error.kind(), BrokenPipe | ConnectionReset);
        if !is_answer || self.0.lingers.load(Ordering::Acquire) {
            self.0.own_end_lost.store(true, Ordering::Release);
        }
    }

    /// Whether it will never be known that the server has our end.
    pub fn is_own_end_lost(&self) -> bool {
        self.0.own_end_lost.load(Ordering::Acquire)
    }

    fn ended(&self, ended: &io::Result<()>) {
        match ended {
            // The socket is gone already; the next read says how.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {}
            other => self.wrote(other),
        }
    }

    /// An error of a socket that is or was connected.
    pub fn error(&self, error: &io::Error) {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, Interrupted, WouldBlock};
        match error.kind() {
            WouldBlock | Interrupted => {}
            // So Linux calls a reset that came after the server's FIN, and, as long as our own side stands, nothing else.
            BrokenPipe => self.keep(FirstWord::Eof),
            ConnectionReset => self.keep(FirstWord::Reset),
            _ => self.keep(FirstWord::Broken),
        }
    }
}

/// A socket on its way whose first word will be kept, by its connection and by its second handle.
pub(super) fn heard(dial: Dial) -> (Dial, Heard) {
    let heard = Heard::default();
    let (of_stream, of_handle) = (heard.clone(), heard.clone());
    let connecting = Box::pin(async move {
        let mut connected = dial.connecting.await?;
        connected.stream = Box::new(HeardConnection { inner: connected.stream, heard: of_stream });
        Ok(connected)
    });
    let handle = Box::new(HeardHandle { inner: dial.handle, heard: of_handle });
    (Dial { connecting, handle }, heard)
}

#[derive(Debug)]
struct HeardConnection {
    inner: Connection,
    heard: Heard,
}

impl AsyncRead for HeardConnection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let (before, room) = (buf.filled().len(), buf.remaining());
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, buf));
        if room > 0 || read.is_err() {
            let read = read.as_ref().map(|()| buf.filled().len() - before);
            self.heard.read(&read.map_err(|error| error.kind().into()));
        }
        Poll::Ready(read)
    }
}

impl AsyncWrite for HeardConnection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write(cx, buf));
        self.heard.wrote(&written);
        Poll::Ready(written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(cx, bufs));
        self.heard.wrote(&written);
        Poll::Ready(written)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = ready!(Pin::new(&mut self.inner).poll_flush(cx));
        self.heard.wrote(&flushed);
        Poll::Ready(flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.heard.end();
        let ended = ready!(Pin::new(&mut self.inner).poll_shutdown(cx));
        self.heard.ended(&ended);
        Poll::Ready(ended)
    }
}

#[derive(Debug)]
struct HeardHandle {
    inner: Box<dyn Handle>,
    heard: Heard,
}

impl Handle for HeardHandle {
    fn is_connected(&self) -> bool {
        self.inner.is_connected()
    }

    fn peek(&self) -> io::Result<usize> {
        let seen = self.inner.peek();
        self.heard.read(&seen);
        seen
    }

    fn take_error(&self) -> Option<io::Error> {
        // Asked only of a socket that did not become a connection, as far as anybody knows, or of one that is over: whoever
        // asks must judge.
        self.inner.take_error()
    }

    fn end(&self) {
        self.heard.end();
        self.inner.end();
    }

    fn connection(&self) -> io::Result<Connection> {
        Ok(Box::new(HeardConnection { inner: self.inner.connection()?, heard: self.heard.clone() }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(kind: io::ErrorKind) -> io::Result<usize> {
        Err(kind.into())
    }

    #[test]
    fn the_end_proves_something_only_as_the_first_word() {
        let heard = Heard::default();
        heard.read(&Ok(5));
        heard.read(&error(io::ErrorKind::WouldBlock));
        assert_eq!(heard.first(), None);
        heard.clone().read(&error(io::ErrorKind::ConnectionReset));
        heard.read(&Ok(0));
        assert_eq!(heard.first(), Some(FirstWord::Reset));
        let heard = Heard::default();
        heard.read(&Ok(0));
        heard.wrote(&error(io::ErrorKind::BrokenPipe));
        assert_eq!(heard.first(), Some(FirstWord::Eof));
        let heard = Heard::default();
        heard.read(&error(io::ErrorKind::TimedOut));
        heard.read(&Ok(0));
        assert_eq!(heard.first(), Some(FirstWord::Broken));
    }

    #[test]
    fn a_reset_answers_our_end_only_at_once() {
        let (reset, given_up) = (io::ErrorKind::ConnectionReset.into(), io::ErrorKind::TimedOut.into());
        let heard = Heard::default();
        heard.error_after_end(&reset);
        assert!(!heard.is_own_end_lost());
        heard.linger();
        heard.error_after_end(&reset);
        assert!(heard.is_own_end_lost());
        let heard = Heard::default();
        heard.error_after_end(&given_up);
        assert!(heard.is_own_end_lost());
    }

    #[test]
    fn a_broken_pipe_is_the_server_s_end_unless_our_own_side_was_ended() {
        let heard = Heard::default();
        heard.wrote(&error(io::ErrorKind::BrokenPipe));
        assert_eq!(heard.first(), Some(FirstWord::Eof));
        let heard = Heard::default();
        heard.end();
        heard.wrote(&error(io::ErrorKind::BrokenPipe));
        heard.ended(&Err(io::ErrorKind::NotConnected.into()));
        assert_eq!(heard.first(), None);
        heard.wrote(&error(io::ErrorKind::ConnectionReset));
        heard.read(&Ok(0));
        assert_eq!(heard.first(), Some(FirstWord::Reset));
    }
}
