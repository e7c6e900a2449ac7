//! Where a server is, how to prove who we are, and a socket to it.

use std::{fmt, io, net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    net::lookup_host,
    time::{Instant, timeout, timeout_at},
};

use crate::{api, system::is_out_of_files};

use super::{
    ending::{Closed, end_socket},
    heard::heard,
    network::{Connected, Dial, Network},
    tls::TlsRoots,
    transport::Transport,
};

/// A mail server and how to speak to it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// The name that the certificate must have, where that is not `host`.
    pub tls_name: Option<String>,
    /// TCP port.
    pub port: u16,
    /// There is never a way back to clear text.
    pub tls: api::Tls,
    /// Without TLS this is refused before anything is sent.
    pub auth: Option<api::Auth>,
    /// Whom to trust.
    pub roots: TlsRoots,
    /// Our name in EHLO: a host name, or an address in brackets.
    pub helo: String,
    /// How long each step may take.
    pub limits: StepLimits,
    /// The way there: [`super::Tcp`].
    pub network: Arc<dyn Network>,
}

/// The time limit of every step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StepLimits {
    /// Name lookup and TCP, over all addresses.
    pub connect: Duration,
    /// The server's first line.
    pub greeting: Duration,
    /// The TLS handshake.
    pub handshake: Duration,
    /// The reply to a command.
    pub command: Duration,
    /// The 354 to DATA.
    pub data: Duration,
    /// One block of the message to be taken by the socket, which holds little that the server has no room for.
    pub block: Duration,
    /// The reply to the whole message.
    pub dot: Duration,
    /// QUIT, 221 and EOF together: `closeGrace` + 1 s.
    pub close: Duration,
}

impl StepLimits {
    /// The usual limits, for a server that may take so long to notice a closed connection.
    pub fn with_close_grace(grace: Duration) -> Self {
        Self { close: grace + Duration::from_secs(1), ..Self::default() }
    }
}

impl Default for StepLimits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            // RFC 5321 section 4.5.3.2: a server may ask another one about a recipient, or make strangers wait.
            greeting: Duration::from_secs(300),
            handshake: Duration::from_secs(30),
            command: Duration::from_secs(300),
            data: Duration::from_secs(120),
            block: Duration::from_secs(180),
            dot: Duration::from_secs(600),
            close: Duration::from_secs(3),
        }
    }
}

/// A SASL mechanism that we know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mechanism {
    Plain,
    Login,
    XOAuth2,
}

impl Mechanism {
    /// As it stands in the EHLO reply.
    pub(super) fn keyword(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::Login => "LOGIN",
            Self::XOAuth2 => "XOAUTH2",
        }
    }
}

/// User and secrets; never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The login.
    pub username: String,
    /// For PLAIN and LOGIN.
    pub password: Option<String>,
    /// The bearer token for XOAUTH2.
    pub token: Option<String>,
}

impl Credentials {
    /// What a mechanism sends, if it is there.
    pub(super) fn secret(&self, mechanism: Mechanism) -> Option<&str> {
        match mechanism {
            Mechanism::Plain | Mechanism::Login => self.password.as_deref(),
            Mechanism::XOAuth2 => self.token.as_deref(),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(..)")
    }
}

/// No connection: why, and whether the server may have seen one all the same.
pub(super) struct ConnectFault {
    pub why: ConnectFailure,
    pub detail: String,
    pub closed: Closed,
}

/// Why there is no connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ConnectFailure {
    TimedOut,
    Broken,
    /// No file descriptor was left to us: that says nothing of the server.
    OutOfFiles,
    /// We gave up.
    Unwanted,
}

/// Tries the addresses of a server one after the other, until `unwanted` resolves. Cancelling closes the socket without
/// proof of its end.
pub(super) async fn connect(
    endpoint: &Endpoint,
    connected: impl Fn(SocketAddr, SocketAddr),
    mut unwanted: Pin<&mut impl Future<Output = ()>>,
    mut hurry: Pin<&mut impl Future<Output = ()>>,
) -> Result<Transport, ConnectFault> {
    let limits = &endpoint.limits;
    let deadline = Instant::now() + limits.connect;
    let fault = |why, detail: String| ConnectFault { why, detail, closed: Closed::NeverOpen };
    let looking = timeout_at(deadline, lookup_host((endpoint.host.as_str(), endpoint.port)));
    let found = tokio::select! {
        found = looking => found,
        () = unwanted.as_mut() => return Err(fault(ConnectFailure::Unwanted, "no longer wanted".into())),
    };
    let addresses: Vec<SocketAddr> = match found {
        Ok(Ok(found)) => found.take(4).collect(),
        Ok(Err(error)) => return Err(fault(ConnectFailure::Broken, format!("the name lookup failed: {error}"))),
        Err(_) => return Err(fault(ConnectFailure::TimedOut, "the name lookup took too long".into())),
    };
    let mut last = fault(ConnectFailure::Broken, "the name has no address".into());
    let mut left = u32::try_from(addresses.len()).unwrap_or(1);
    for address in addresses {
        let share = deadline.saturating_duration_since(Instant::now()) / left;
        left = (left - 1).max(1);
        match attempt(endpoint, address, share, &connected, unwanted.as_mut(), hurry.as_mut()).await {
            Ok(transport) => return Ok(transport),
            Err(fault) if fault.closed == Closed::NeverOpen && fault.why != ConnectFailure::Unwanted => last = fault,
            // Only one socket may count: where the server may have seen this one, another is not tried.
            Err(fault) => return Err(fault),
        }
    }
    Err(last)
}

async fn attempt(
    endpoint: &Endpoint,
    address: SocketAddr,
    limit: Duration,
    connected: impl Fn(SocketAddr, SocketAddr),
    unwanted: Pin<&mut impl Future<Output = ()>>,
    hurry: Pin<&mut impl Future<Output = ()>>,
) -> Result<Transport, ConnectFault> {
    let failed = |error: &io::Error| format!("cannot connect to {address}: {error}");
    let dialled = endpoint.network.dial(address).map_err(|error| ConnectFault {
        why: if is_out_of_files(&error) { ConnectFailure::OutOfFiles } else { ConnectFailure::Broken },
        detail: failed(&error),
        closed: Closed::NeverOpen,
    })?;
    let (Dial { connecting, handle }, heard) = heard(dialled);
    let (why, detail) = tokio::select! {
        connecting = timeout(limit, connecting) => match connecting {
            Ok(Ok(Connected { stream, local })) => {
                connected(local, address);
                return Ok(Transport::new(stream, handle, heard));
            }
            Ok(Err(error)) => {
                if was_open(&error) {
                    heard.error(&error);
                }
                (ConnectFailure::Broken, failed(&error))
            }
            Err(_) => (ConnectFailure::TimedOut, format!("no answer from {address} within {limit:?}")),
        },
        () = unwanted => (ConnectFailure::Unwanted, format!("given up while connecting to {address}")),
    };
    // It may have been connected for a moment, and the server may have seen that. Asked before our end, which leaves an
    // error of its own.
    if let Some(error) = handle.take_error().filter(was_open) {
        heard.error(&error);
    }
    // While connecting, this takes the attempt back, and the socket has no peer; once connected, it sends FIN.
    handle.end();
    if handle.is_connected() {
        let closed = end_socket(handle, &heard, endpoint.limits.close, hurry).await;
        return Err(ConnectFault { why, detail, closed });
    }
    let closed = heard.first().map_or(Closed::NeverOpen, |first| Closed::after(first, false));
    Err(ConnectFault { why, detail, closed })
}

/// Whether only a connection that stood meets this error.
fn was_open(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset)
}
