//! A connection as processes have it: the streams and handles that the product's code works with.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
};

use futures::{FutureExt, future::BoxFuture};
use mailrelay::{
    smtp::{Connected, Connection, Dial, Handle, Network},
    store::Dialer,
};
use redis::aio::AsyncStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Net, Packet, Place, Side, Tcp, address};
use crate::process::Process;

/// One end of a connection as a process has it; dropping it closes it.
#[derive(Debug)]
struct Socket {
    net: Net,
    conn: u64,
    side: Side,
}

impl Drop for Socket {
    fn drop(&mut self) {
        let mut woken = Vec::new();
        self.net.inner().close(self.conn, self.side, &mut woken);
        for waker in woken {
            waker.wake();
        }
    }
}

impl Socket {
    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let end = conn.end(self.side);
        if let Some(error) = end.take_error() {
            return Poll::Ready(Err(error));
        }
        match end.tcp {
            Tcp::SynSent => {
                end.writer = Some(cx.waker().clone());
                Poll::Pending
            }
            Tcp::Closed => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn local(&self) -> SocketAddr {
        let inner = self.net.inner();
        let found = inner.conns.get(&self.conn).map(|conn| address(conn.places[0], conn.port));
        found.unwrap_or_else(|| address(0, 0))
    }

    fn end(&self) {
        let mut woken = Vec::new();
        self.net.inner().end(self.conn, self.side, &mut woken);
        for waker in woken {
            waker.wake();
        }
    }

    /// What `recv` says: bytes first, then the other side's end, then an error, once.
    fn receive(&self, buf: Option<&mut ReadBuf<'_>>, waker: Option<&Waker>) -> Poll<io::Result<usize>> {
        let mut inner = self.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        };
        let end = conn.end(self.side);
        if !end.ready.is_empty() {
            let Some(buf) = buf else { return Poll::Ready(Ok(1)) };
            let count = buf.remaining().min(end.ready.len());
            let (first, second) = end.ready.as_slices();
            let (in_first, in_second) = (count.min(first.len()), count.saturating_sub(first.len()));
            buf.put_slice(&first[..in_first]);
            buf.put_slice(&second[..in_second]);
            end.ready.drain(..count);
            let announced = |other: &super::End| matches!(other.coming.back(), Some(Packet::Window));
            let other = conn.look(self.side.other());
            if !other.unsent.is_empty() && !announced(other) {
                inner.send(self.conn, self.side, Packet::Window);
            }
            return Poll::Ready(Ok(count));
        }
        if end.done {
            return Poll::Ready(Ok(0));
        }
        if let Some(error) = end.take_error() {
            return Poll::Ready(Err(error));
        }
        if end.tcp == Tcp::Closed {
            return Poll::Ready(Ok(0));
        }
        if let Some(waker) = waker {
            end.reader = Some(waker.clone());
        }
        Poll::Pending
    }
}

/// The bytes of a connection.
#[derive(Clone, Debug)]
pub struct Stream(Arc<Socket>);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.receive(Some(buf), Some(cx.waker())).map_ok(drop)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut woken = Vec::new();
        let written = {
            let mut inner = self.0.net.inner();
            let Some(conn) = inner.conns.get_mut(&self.0.conn) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let end = conn.end(self.0.side);
            if let Some(error) = end.take_error() {
                return Poll::Ready(Err(error));
            }
            if !end.may_write() {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let count = buf.len().min(end.buffer.saturating_sub(end.unsent.len()));
            if count == 0 {
                end.writer = Some(cx.waker().clone());
                return Poll::Pending;
            }
            end.unsent.extend(&buf[..count]);
            inner.pump(self.0.conn, self.0.side, &mut woken);
            count
        };
        for waker in woken {
            waker.wake();
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.end();
        Poll::Ready(Ok(()))
    }
}

/// The second handle on a client's socket.
#[derive(Debug)]
struct Peeker(Arc<Socket>);

impl Handle for Peeker {
    fn is_connected(&self) -> bool {
        let inner = self.0.net.inner();
        // The kernel keeps TIME_WAIT apart from the socket.
        let has_peer = |tcp| !matches!(tcp, Tcp::Closed | Tcp::SynSent | Tcp::TimeWait);
        inner.conns.get(&self.0.conn).is_some_and(|conn| has_peer(conn.client.tcp))
    }

    fn peek(&self) -> io::Result<usize> {
        match self.0.receive(None, None) {
            Poll::Ready(peeked) => peeked,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn take_error(&self) -> Option<io::Error> {
        let mut inner = self.0.net.inner();
        inner.conns.get_mut(&self.0.conn).and_then(|conn| conn.client.take_error())
    }

    fn end(&self) {
        self.0.end();
    }

    fn connection(&self) -> io::Result<Connection> {
        Ok(Box::new(Stream(Arc::clone(&self.0))))
    }
}

/// Any address will do.
const REDIS_ADDRESS: SocketAddr =
    SocketAddr::V4(std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 0, 0, 6), 6379));

/// The network as one process sees it.
#[derive(Clone, Debug)]
pub struct Interface {
    pub net: Net,
    pub process: Arc<Process>,
    /// Where all connections go.
    pub server: Place,
}

impl Interface {
    fn connect(
        &self,
        remote: SocketAddr,
        buffer: Option<usize>,
    ) -> io::Result<(Arc<Socket>, BoxFuture<'static, io::Result<Stream>>)> {
        let conn = self.net.inner().connect(self.process.place, self.server, remote, buffer)?;
        let socket = Arc::new(Socket { net: self.net.clone(), conn, side: Side::Client });
        let connecting = Arc::clone(&socket);
        let connected = async move {
            std::future::poll_fn(|cx| connecting.poll_connected(cx)).await?;
            Ok(Stream(connecting))
        };
        Ok((socket, connected.boxed()))
    }
}

impl Network for Interface {
    fn dial(&self, address: SocketAddr) -> io::Result<Dial> {
        let buffer = self.net.inner().ways.buffer;
        let (socket, connected) = self.connect(address, Some(buffer))?;
        let local = socket.local();
        let connecting =
            async move { Ok(Connected { stream: Box::new(connected.await?) as Connection, local }) }.boxed();
        Ok(Dial { connecting, handle: Box::new(Peeker(socket)) })
    }
}

impl Dialer for Interface {
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn AsyncStream + Send + Sync + Unpin>>> {
        let connected = self.connect(REDIS_ADDRESS, None);
        async move { Ok(Box::new(connected?.1.await?) as Box<dyn AsyncStream + Send + Sync + Unpin>) }.boxed()
    }
}

/// Where a server accepts connections.
pub struct Port {
    pub(super) net: Net,
    pub(super) place: Place,
}

impl Port {
    /// The next connection, and the place that it comes from.
    pub async fn accept(&self) -> (Stream, Place) {
        std::future::poll_fn(|cx| {
            let mut inner = self.net.inner();
            let Some(listener) = inner.listeners.get_mut(&self.place) else { return Poll::Pending };
            let Some(conn) = listener.backlog.pop_front() else {
                listener.acceptor = Some(cx.waker().clone());
                return Poll::Pending;
            };
            let from = inner.conns.get(&conn).map_or(0, |conn| conn.places[0]);
            let socket = Socket { net: self.net.clone(), conn, side: Side::Server };
            Poll::Ready((Stream(Arc::new(socket)), from))
        })
        .await
    }
}
