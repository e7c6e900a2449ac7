//! A connection as processes have it: the streams and handles that the product's code works with.

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures::{FutureExt, future::BoxFuture};
use mailrelay::{
    smtp::{Connected, Connection, Dial, Handle, Network},
    store::Dialer,
};
use redis::aio::AsyncStream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{Conn, End, Net, Packet, Place, Side, State};
use crate::process::Process;

impl Net {
    fn dial(&self, process: &Process, server: Place) -> Arc<Socket> {
        let mut inner = self.inner();
        inner.serial += 1;
        let conn = inner.serial;
        let new = Conn {
            places: [process.place, server],
            state: State::Connecting,
            connector: None,
            client: End::default(),
            server: End::default(),
        };
        inner.conns.insert(conn, new);
        inner.send(conn, Side::Client, Packet::Syn);
        Arc::new(Socket { net: self.clone(), conn, side: Side::Client })
    }
}

/// One end of a connection as a process has it; dropping it closes it.
#[derive(Debug)]
struct Socket {
    net: Net,
    conn: u64,
    side: Side,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.net.inner().close(self.conn, self.side);
    }
}

impl Socket {
    fn poll_connected(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.conn) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        match conn.state {
            State::Established => Poll::Ready(Ok(())),
            State::Refused => Poll::Ready(Err(io::ErrorKind::ConnectionRefused.into())),
            State::Connecting => {
                conn.connector = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Sends FIN; an attempt that is not connected yet is taken back.
    fn end(&self) {
        let mut inner = self.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.conn) else { return };
        let established = conn.state == State::Established;
        let end = conn.end(self.side);
        if !established {
            end.closed = true;
        } else if !end.ended && !end.reset {
            end.ended = true;
            inner.send(self.conn, self.side, Packet::Fin);
        }
    }
}

/// The bytes of a connection.
#[derive(Clone, Debug)]
pub struct Stream(Arc<Socket>);

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut inner = self.0.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.0.conn) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let end = conn.end(self.0.side);
        if !end.ready.is_empty() {
            let count = buf.remaining().min(end.ready.len());
            let (first, second) = end.ready.as_slices();
            let (in_first, in_second) = (count.min(first.len()), count.saturating_sub(first.len()));
            buf.put_slice(&first[..in_first]);
            buf.put_slice(&second[..in_second]);
            end.ready.drain(..count);
            return Poll::Ready(Ok(()));
        }
        if end.reset {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        if end.eof {
            return Poll::Ready(Ok(()));
        }
        end.reader = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut inner = self.0.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.0.conn) else {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        };
        let end = conn.end(self.0.side);
        if end.ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if end.reset {
            // As Linux has it: a broken pipe is a reset that came after the other side's end.
            let kind = if end.eof { io::ErrorKind::BrokenPipe } else { io::ErrorKind::ConnectionReset };
            return Poll::Ready(Err(kind.into()));
        }
        inner.send(self.0.conn, self.0.side, Packet::Data(buf.to_vec()));
        Poll::Ready(Ok(buf.len()))
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
struct Peeker(Arc<Socket>);

impl Handle for Peeker {
    fn is_connected(&self) -> bool {
        let mut inner = self.0.net.inner();
        inner.conns.get_mut(&self.0.conn).is_some_and(|conn| conn.state == State::Established && !conn.client.reset)
    }

    fn peek(&self) -> io::Result<usize> {
        let mut inner = self.0.net.inner();
        let Some(conn) = inner.conns.get_mut(&self.0.conn) else { return Err(io::ErrorKind::ConnectionReset.into()) };
        match &conn.client {
            end if !end.ready.is_empty() => Ok(1),
            end if end.reset => Err(io::ErrorKind::ConnectionReset.into()),
            end if end.eof => Ok(0),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn end(&self) {
        self.0.end();
    }

    fn into_connection(self: Box<Self>) -> io::Result<Connection> {
        Ok(Box::new(Stream(self.0)))
    }
}

/// The network as one process sees it.
#[derive(Clone, Debug)]
pub struct Interface {
    pub net: Net,
    pub process: Arc<Process>,
    /// Where all connections go.
    pub server: Place,
}

impl Interface {
    fn connect(&self) -> (Arc<Socket>, BoxFuture<'static, io::Result<Stream>>) {
        let socket = self.net.dial(&self.process, self.server);
        let connecting = Arc::clone(&socket);
        let connected = async move {
            std::future::poll_fn(|cx| connecting.poll_connected(cx)).await?;
            Ok(Stream(connecting))
        };
        (socket, connected.boxed())
    }
}

impl Network for Interface {
    fn dial(&self, _: SocketAddr) -> io::Result<Dial> {
        let (socket, connected) = self.connect();
        // The number of the connection, as a port: no two are the same.
        let port = u16::try_from(socket.conn % (1 << 16)).unwrap_or_default();
        let local = SocketAddr::from(([127, 0, 0, 1], port));
        let connecting =
            async move { Ok(Connected { stream: Box::new(connected.await?) as Connection, local }) }.boxed();
        Ok(Dial { connecting, handle: Box::new(Peeker(socket)) })
    }
}

impl Dialer for Interface {
    fn dial(&self) -> BoxFuture<'static, io::Result<Box<dyn AsyncStream + Send + Sync + Unpin>>> {
        let (_, connected) = self.connect();
        async move { Ok(Box::new(connected.await?) as Box<dyn AsyncStream + Send + Sync + Unpin>) }.boxed()
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
