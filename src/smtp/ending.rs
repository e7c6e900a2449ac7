//! The end of a connection: ours, and what is known of the server's.

use std::{pin::Pin, time::Duration};

use tokio::{io::AsyncReadExt, time::timeout};

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
    /// The server has closed its side.
    Eof,
    /// The server said that the session was over (221 or 421), and then the connection was reset instead of ended, which
    /// proves nothing by itself: a server whose word is to be trusted counts the session no more, or only as long as its
    /// process takes to go.
    Farewell,
    /// The server has not ended its side yet and may still count the session.
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

    pub(super) fn lingering(socket: Connection, heard: Heard) -> Self {
        Self::Lingering(Lingering { socket, heard })
    }
}

/// A socket whose own side is ended: nothing more will be written, and the server's end has yet to come. Dropping it closes
/// the socket, and the end is then never seen.
#[derive(Debug)]
pub struct Lingering {
    socket: Connection,
    heard: Heard,
}

impl Lingering {
    /// Reads on, and drops what it reads, until the server's end, or as long as `limit`; whether it came and nothing else
    /// came before.
    pub async fn ended(mut self, limit: Duration) -> bool {
        end_of(&mut self.socket, limit).await && self.heard.first() == Some(FirstWord::Eof)
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

/// Ends our side of a socket that only its handle is left of, and waits for the server's end; once `hurry` resolves, not
/// much longer.
pub(super) async fn end_socket(
    socket: Box<dyn Handle>,
    heard: &Heard,
    limit: Duration,
    hurry: Pin<&mut impl Future<Output = ()>>,
) -> Closed {
    socket.end();
    let Ok(mut stream) = socket.into_connection() else { return Closed::NoEof };
    tokio::select! {
        _ = end_of(&mut stream, limit) => {}
        () = hurry => {
            end_of(&mut stream, FORCED).await;
        }
    }
    match heard.first() {
        None => Closed::lingering(stream, heard.clone()),
        Some(first) => Closed::after(first, false),
    }
}
