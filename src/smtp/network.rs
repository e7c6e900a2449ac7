//! Connections to mail servers: TCP, or what a simulation puts in its place.

use std::{
    fmt, io,
    net::{Shutdown, SocketAddr, TcpStream as StdStream},
    os::fd::AsFd,
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpSocket, TcpStream},
};

/// Makes connections.
pub trait Network: fmt::Debug + Send + Sync {
    /// A socket that is on its way to `address`.
    fn dial(&self, address: SocketAddr) -> io::Result<Dial>;
}

/// A socket on its way to a server.
pub struct Dial {
    /// Resolves when it is connected. Dropping it leaves the socket to the handle.
    pub connecting: BoxFuture<'static, io::Result<Connection>>,
    /// The same socket: it is closed when both are dropped.
    pub handle: Box<dyn Handle>,
}

/// The bytes of a connection; dropping it closes the socket, unless a handle is left.
pub type Connection = Box<dyn Bytes>;

/// What a [`Connection`] can do.
pub trait Bytes: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Bytes for T {}

/// A second handle on a socket: to ask after a time-out whether it was connected after all, to look for the server's end
/// without reading, and to end our side below TLS.
pub trait Handle: Send + Sync {
    /// Whether the server's end of the connection is known.
    fn is_connected(&self) -> bool;
    /// How many bytes can be read now, one at most; 0 at the server's end; `WouldBlock` when nothing has come.
    fn peek(&self) -> io::Result<usize>;
    /// Sends FIN; takes the attempt back when it is not connected yet.
    fn end(&self);
    /// The socket again.
    fn into_connection(self: Box<Self>) -> io::Result<Connection>;
}

/// TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn dial(&self, address: SocketAddr) -> io::Result<Dial> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Nagle's algorithm would hold the end of each message back until a delayed ACK, some 40 ms.
        socket.set_nodelay(true)?;
        let handle = StdStream::from(socket.as_fd().try_clone_to_owned()?);
        let connecting = async move { Ok(Box::new(socket.connect(address).await?) as Connection) };
        Ok(Dial { connecting: connecting.boxed(), handle: Box::new(handle) })
    }
}

impl Handle for StdStream {
    fn is_connected(&self) -> bool {
        self.peer_addr().is_ok()
    }

    fn peek(&self) -> io::Result<usize> {
        Self::peek(self, &mut [0])
    }

    fn end(&self) {
        // Without a connection there is nothing to end.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn into_connection(self: Box<Self>) -> io::Result<Connection> {
        Ok(Box::new(TcpStream::from_std(*self)?))
    }
}
