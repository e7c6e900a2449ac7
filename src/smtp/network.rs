//! Connections to mail servers: TCP, or what a simulation puts in its place.

use std::{
    fmt, io,
    net::{Shutdown, SocketAddr, TcpStream as StdStream},
    os::fd::AsFd,
    time::Duration,
};

use futures::{FutureExt, future::BoxFuture};
use socket2::{SockRef, TcpKeepalive};
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
    pub connecting: BoxFuture<'static, io::Result<Connected>>,
    /// The same socket: it is closed when both are dropped.
    pub handle: Box<dyn Handle>,
}

/// A connection that stands.
pub struct Connected {
    /// Its bytes.
    pub stream: Connection,
    /// Our own end: with the address that was dialled, all that tells it from every other connection.
    pub local: SocketAddr,
}

/// The bytes of a connection; dropping it closes the socket, unless a handle is left.
pub type Connection = Box<dyn Bytes>;

/// What a [`Connection`] can do.
pub trait Bytes: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin {}

impl<T: AsyncRead + AsyncWrite + fmt::Debug + Send + Sync + Unpin> Bytes for T {}

/// A second handle on a socket: to ask after a time-out whether it was connected after all, to look for the server's end
/// without reading, and to end our side below TLS.
pub trait Handle: fmt::Debug + Send + Sync {
    /// Whether the socket has a peer: from the answer to its SYN until the kernel is done with it, be it since both sides
    /// have acknowledged the other's FIN, or by an error.
    fn is_connected(&self) -> bool;
    /// How many bytes can be read now, one at most; 0 at the server's end; `WouldBlock` when nothing has come.
    fn peek(&self) -> io::Result<usize>;
    /// An error that the socket has met and nobody was told of yet; it is not told again.
    fn take_error(&self) -> Option<io::Error> {
        None
    }
    /// Sends FIN; takes the attempt back when it is not connected yet.
    fn end(&self);
    /// The socket again, when nothing else is left of it.
    fn connection(&self) -> io::Result<Connection>;
}

/// Bytes that wait for the server's window, in the kernel: what a dead process leaves there is sent without it, and the
/// server counts the session until it has read all of it. So it is little; a write waits instead.
const UNSENT: u32 = 16 * 1024;
/// Bytes in the kernel that were not acknowledged, sent or not; it takes twice this for its own needs. Enough for 5 MB/s
/// over 50 ms.
const SEND_BUFFER: u32 = 256 * 1024;

/// A server may work on a message for ten minutes, in which nothing passes. A box on the way that has forgotten the connection
/// meanwhile, or whose reset was lost, is found out by probes: it answers them by a reset. They also keep it from forgetting.
/// A path that is cut stays cut for three minutes before a connection breaks: an answer may still come through.
const PROBE_AFTER: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_secs(15);
const PROBES: u32 = 10;

/// TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

impl Network for Tcp {
    fn dial(&self, address: SocketAddr) -> io::Result<Dial> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // Nagle's algorithm would hold the end of each message back until a delayed ACK, some 40 ms.
        socket.set_nodelay(true)?;
        socket.set_send_buffer_size(SEND_BUFFER)?;
        let options = SockRef::from(&socket);
        // A kernel that does not know this one keeps the other bound.
        let _ = options.set_tcp_notsent_lowat(UNSENT);
        let probes = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY).with_retries(PROBES);
        options.set_tcp_keepalive(&probes)?;
        let handle = StdStream::from(socket.as_fd().try_clone_to_owned()?);
        let connecting = async move {
            let stream = socket.connect(address).await?;
            // Whoever fails from here on had a connection.
            let local = stream.local_addr().map_err(|_| io::ErrorKind::ConnectionAborted)?;
            Ok(Connected { stream: Box::new(stream), local })
        };
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

    fn take_error(&self) -> Option<io::Error> {
        Self::take_error(self).ok().flatten()
    }

    fn end(&self) {
        // Without a connection there is nothing to end.
        let _ = self.shutdown(Shutdown::Write);
    }

    fn connection(&self) -> io::Result<Connection> {
        Ok(Box::new(TcpStream::from_std(self.try_clone()?)?))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn the_kernel_probes_a_connection_in_which_nothing_passes() {
        let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let Dial { connecting, handle: _handle } = Tcp.dial(server.local_addr().unwrap()).unwrap();
        let connected = connecting.await.unwrap();
        let port = format!(":{:04X}", connected.local.port());
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let ours = table.lines().map(|row| row.split_whitespace().collect::<Vec<_>>());
        let timer = ours.filter(|row| row[1].ends_with(&port)).map(|row| row[5].to_owned()).next().unwrap();
        // The kind of timer that runs, and when, in hundredths of a second.
        let (kind, left) = timer.split_once(':').unwrap();
        assert_eq!(kind, "02", "{timer}");
        assert!(u64::from_str_radix(left, 16).unwrap() <= 100 * PROBE_AFTER.as_secs(), "{timer}");
    }
}
