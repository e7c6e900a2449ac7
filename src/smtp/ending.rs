//! The end of a connection: ours, and what is known of the server's.
//!
//! The server's FIN says that it sends nothing more. Most servers have closed with it, but a proxy (`HAProxy`, Envoy, stunnel)
//! ends one direction at a time: it counts the connection until our FIN comes, which may be lost, or wait behind what the
//! proxy does not read any more. So a connection is over only when both ends are: the server's was read, and ours was
//! acknowledged.

use std::{pin::Pin, time::Duration};

use tokio::{
    io::AsyncReadExt,
    time::{Instant, sleep, timeout},
};

use super::{
    heard::{FirstWord, Heard},
    network::{Connection, Handle},
};

/// How long the server may take to end its side after an end that the end of a lease forces on us. Well below the 250 ms
/// that are left then: at the deadline the dead-man switch ends the process.
pub(super) const FORCED: Duration = Duration::from_millis(100);

/// What is known about the server's side of a connection that we have ended. A slot may be used again only after
/// [`Closed::NeverOpen`] or [`Closed::Eof`] ([`crate::lease`], R4).
#[derive(Debug, PartialEq, Eq)]
pub enum Closed {
    /// There never was a connection.
    NeverOpen,
    /// The server has closed its side, and has our end.
    Eof,
    /// The server said that the session was over (221 or 421), and then the connection was reset instead of ended, which
    /// proves nothing by itself: a server whose word is to be trusted counts the session no more, or only as long as its
    /// process takes to go.
    Farewell,
    /// The server has not ended its side yet, or may not have our end: it may still count the session.
    Lingering(Lingering),
    /// The connection broke, so that the server's end will never be seen: it may still count the session.
    NoEof,
}

impl Closed {
    /// After this word, and after the server's farewell or without.
    pub(super) fn after(first: FirstWord, farewell: bool) -> Self {
        match first {
            FirstWord::Eof => Self::Eof,
            FirstWord::Reset if farewell => Self::Farewell,
            FirstWord::Reset | FirstWord::Broken => Self::NoEof,
        }
    }

    /// By what was heard of a connection whose own side was ended, and whether both ends are `over`. `socket` is all that
    /// can still be read, if anything.
    pub(super) fn of(
        socket: Option<Connection>,
        handle: Box<dyn Handle>,
        heard: Heard,
        over: bool,
        farewell: bool,
    ) -> Self {
        match (heard.first(), socket) {
            (Some(first), _) if over || first != FirstWord::Eof => Self::after(first, farewell),
            (_, Some(socket)) => {
                heard.linger();
                Self::Lingering(Lingering { socket, handle, heard })
            }
            (_, None) => Self::NoEof,
        }
    }
}

/// A socket whose own side is ended: nothing more will be written, and the server's end, or its acknowledgement of ours, has
/// yet to come. Dropping it closes the socket, and the end is then never seen.
#[derive(Debug)]
pub struct Lingering {
    socket: Connection,
    handle: Box<dyn Handle>,
    heard: Heard,
}

impl Lingering {
    /// Reads on, and drops what it reads, until both ends have come, or as long as `limit`; whether they did and nothing else
    /// came before.
    pub async fn ended(mut self, limit: Duration) -> bool {
        both_ends(&mut self.socket, &*self.handle, &self.heard, limit).await
    }
}

/// Sockets are the same only when they are one.
impl PartialEq for Lingering {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Lingering {}

/// Reads and drops everything until the socket says that there is no more; false when it does not in time.
pub(super) async fn end_of(stream: &mut Connection, limit: Duration) -> bool {
    let mut scratch = [0; 4096];
    let reading = async { while stream.read(&mut scratch).await.is_ok_and(|read| read > 0) {} };
    timeout(limit, reading).await.is_ok()
}

/// Waits, after our side was ended, until the server's end was read and the server has ours; whether that is so, and nothing
/// else came before. It goes on where it was cancelled.
pub(super) async fn both_ends(stream: &mut Connection, handle: &dyn Handle, heard: &Heard, limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    end_of(stream, limit).await
        && heard.first() == Some(FirstWord::Eof)
        && own_end(handle, heard, deadline.saturating_duration_since(Instant::now())).await
}

/// Waits until our FIN is acknowledged, after the server's was read. The kernel tells nobody, it is just done with the socket
/// then, so it is asked: soon, since a round trip is short, and then less and less often.
async fn own_end(handle: &dyn Handle, heard: &Heard, limit: Duration) -> bool {
    let waiting = async {
        let mut pause = Duration::from_millis(1);
        while handle.is_connected() {
            sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    };
    if timeout(limit, waiting).await.is_err() {
        return false;
    }
    if let Some(error) = handle.take_error() {
        heard.error_after_end(&error);
    }
    !heard.is_own_end_lost()
}

/// Ends our side of a socket that only its handle is left of, and waits for the server's end; once `hurry` resolves, not
/// much longer.
pub(super) async fn end_socket(
    handle: Box<dyn Handle>,
    heard: &Heard,
    limit: Duration,
    hurry: Pin<&mut impl Future<Output = ()>>,
) -> Closed {
    handle.end();
    let Ok(mut stream) = handle.connection() else { return Closed::NoEof };
    let over = tokio::select! {
        over = both_ends(&mut stream, &*handle, heard, limit) => Some(over),
        () = hurry => None,
    };
    let over = match over {
        Some(over) => over,
        None => both_ends(&mut stream, &*handle, heard, FORCED).await,
    };
    Closed::of(Some(stream), handle, heard.clone(), over, false)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "a test says what failed by panicking")]
mod tests {
    use std::{
        future::pending,
        io,
        net::{Shutdown, TcpListener, TcpStream},
        pin::pin,
    };

    use super::{
        super::{
            heard::heard,
            network::{Connected, Dial, Network, Tcp},
            transport::Transport,
        },
        *,
    };

    const SHORT: Duration = Duration::from_millis(100);
    const LONG: Duration = Duration::from_secs(30);

    async fn connected() -> (Transport, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (Dial { connecting, handle }, heard) = heard(Tcp.dial(listener.local_addr().unwrap()).unwrap());
        let Connected { stream, .. } = connecting.await.unwrap();
        (Transport::new(stream, handle, heard), listener.accept().unwrap().0)
    }

    /// A server that has ended its side in the middle of a message and reads no more, as a proxy may: our FIN waits behind
    /// what it has not read.
    async fn half_closed() -> (Transport, TcpStream) {
        let (mut transport, server) = connected().await;
        assert!(transport.write(&vec![b'x'; 64 << 20], SHORT).await.is_err(), "more than both kernels take");
        server.shutdown(Shutdown::Write).unwrap();
        (transport, server)
    }

    async fn is_over_once_read(closed: Closed, mut server: TcpStream) {
        let Closed::Lingering(lingering) = closed else { panic!("{closed:?}") };
        let reading = tokio::task::spawn_blocking(move || io::copy(&mut server, &mut io::sink()));
        assert!(lingering.ended(LONG).await);
        reading.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_connection_is_not_over_before_the_server_has_our_end_too() {
        let (transport, server) = half_closed().await;
        is_over_once_read(transport.finish(SHORT, pin!(pending())).await, server).await;
    }

    #[tokio::test]
    async fn nor_is_it_in_a_hurry() {
        let (transport, server) = half_closed().await;
        is_over_once_read(transport.finish_now().await, server).await;
        let (transport, server) = half_closed().await;
        is_over_once_read(transport.finish(LONG, pin!(async {})).await, server).await;
    }

    #[tokio::test]
    async fn a_server_that_never_reads_our_end_may_count_for_ever() {
        let (transport, _server) = half_closed().await;
        let Closed::Lingering(lingering) = transport.finish(SHORT, pin!(pending())).await else {
            panic!("it has not read")
        };
        assert!(!lingering.ended(SHORT).await);
    }

    #[tokio::test]
    async fn it_is_over_as_soon_as_both_ends_have_come() {
        for how in [Shutdown::Write, Shutdown::Both] {
            let (transport, server) = connected().await;
            server.shutdown(how).unwrap();
            assert_eq!(transport.finish(LONG, pin!(pending())).await, Closed::Eof);
        }
        let (transport, server) = connected().await;
        drop(server);
        assert_eq!(transport.finish_now().await, Closed::Eof);
    }
}
