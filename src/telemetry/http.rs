//! The HTTP port of a process: `/livez`, `/readyz`, `/metrics`.

//!
//! Whoever reaches the port may be anybody, and the process has mail to send: connections are few, small and short, and
//! the oldest one makes room for the next, so that neither silence nor half a request keeps a probe out.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use axum::{
    Router,
    extract::Request,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::sys::resource::{Resource, getrlimit};
use prometheus_client::{encoding::text::encode, registry::Registry};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tower_service::Service;

/// How long to wait before a port that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(10);
/// How long to wait before another connection is taken when the system would not give us one.
const ACCEPT_AGAIN: Duration = Duration::from_millis(200);
/// Connections that the kernel holds for us until we take them.
const BACKLOG: i32 = 512;
/// Bytes that the kernel takes in for a connection before we read them: what it holds may count as ours.
const RECEIVE_BUFFER: usize = 16 * 1024;
/// The longest request, all headers together. It is also the least that the library can be told.
const LONGEST_REQUEST: usize = 8 * 1024;

/// What strangers may take of this process.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections at once.
    connections: usize,
    /// From the connection to the end of the request's headers.
    request: Duration,
    /// From the connection to its end.
    connection: Duration,
}

impl Limits {
    /// An eighth of the file descriptors, 64 at most: the others are for mail.
    fn of_process() -> Self {
        let descriptors = getrlimit(Resource::RLIMIT_NOFILE).map_or(256, |(soft, _)| soft);
        let connections = usize::try_from(descriptors / 8).unwrap_or(usize::MAX).clamp(4, 64);
        Self { connections, request: Duration::from_secs(5), connection: Duration::from_secs(10) }
    }
}

/// What the port shows.
#[derive(Clone)]
pub struct Routes {
    ready: watch::Receiver<bool>,
    registry: Arc<Registry>,
}

impl Routes {
    /// `/readyz` follows `ready`; `/metrics` prints `registry`; `/livez` says that the process answers.
    pub fn new(ready: watch::Receiver<bool>, registry: Arc<Registry>) -> Self {
        Self { ready, registry }
    }

    fn router(self) -> Router {
        let Self { ready: readiness_now, registry } = self;
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(async move || readiness(*readiness_now.borrow())))
            .route("/metrics", get(async move || exposition(&registry)))
    }
}

/// Serves until dropped, one request a connection. A port that is taken is logged and tried again: in a sidecar the
/// application may use it, and mail must flow without its metrics.
pub async fn serve(address: SocketAddr, routes: Routes) {
    let pages = routes.router();
    let limits = Limits::of_process();
    loop {
        match listen(address) {
            Ok(listener) => match accept_all(&listener, &pages, limits).await {},
            Err(error) => tracing::error!(
                http.address = %address,
                %error,
                "cannot listen for probes and metrics; choose another address with --http"
            ),
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

/// Where there is no IPv6, all addresses are those of IPv4.
fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match listen_on(address) {
        Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => listen_on((Ipv4Addr::UNSPECIFIED, address.port()).into()),
        listening => listening,
    }
}

fn listen_on(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Probes come by the pod's address, whatever its family is.
        socket.set_only_v6(false)?;
    }
    // Before listening, so that every connection has it.
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

async fn accept_all(listener: &TcpListener, pages: &Router, limits: Limits) -> Infallible {
    let mut guests = Guests { most: limits.connections, tasks: JoinSet::new(), oldest_first: VecDeque::new() };
    let mut complained = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                complained = false;
                guests.admit(answer(stream, pages.clone(), limits)).await;
            }
            // It went before we took it.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!(%error, "cannot take a connection for probes and metrics");
                }
                tokio::time::sleep(ACCEPT_AGAIN).await;
            }
        }
    }
}

/// The connections that are open, never more than `most`.
struct Guests {
    most: usize,
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Guests {
    /// Serves one more connection. The oldest makes room: a request takes a moment, so it has none, or reads no answer.
    async fn admit(&mut self, connection: impl Future<Output = ()> + Send + 'static) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|task| !task.is_finished());
        while self.tasks.len() >= self.most {
            if let Some(oldest) = self.oldest_first.pop_front() {
                oldest.abort();
            }
            // Its descriptor is closed once the task is gone.
            self.tasks.join_next().await;
        }
        self.oldest_first.push_back(self.tasks.spawn(connection));
    }
}

/// Answers one request. How a connection ends concerns only who opened it.
async fn answer(stream: TcpStream, pages: Router, limits: Limits) {
    let service = service_fn(move |request: Request<Incoming>| pages.clone().call(request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.request)
        .max_buf_size(LONGEST_REQUEST)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    let _ = timeout(limits.connection, connection).await;
}

fn readiness(ready: bool) -> Response {
    if ready {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: still starting or stopping\n").into_response()
    }
}

fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn body_of(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("mails", "Mails", counter.clone());
        counter.inc_by(3);
        let response = exposition(&registry);
        assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
        let text = body_of(response).await;
        assert!(text.contains("mails_total 3\n") && text.ends_with("# EOF\n"), "{text}");
    }

    /// A port with these limits, and where it is.
    fn port(limits: Limits) -> SocketAddr {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Routes::new(watch::channel(true).1, Arc::default()).router();
        tokio::spawn(async move { accept_all(&listener, &pages, limits).await });
        address
    }

    const SHORT: Limits =
        Limits { connections: 8, request: Duration::from_millis(200), connection: Duration::from_millis(400) };
    const LONG: Limits =
        Limits { connections: 8, request: Duration::from_secs(600), connection: Duration::from_secs(600) };

    /// What the port says to these bytes until it closes the connection.
    async fn said(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // It may close in the middle of it.
        let _ = stream.write_all(request).await;
        until_closed(&mut stream).await
    }

    async fn until_closed(stream: &mut TcpStream) -> String {
        let mut answer = Vec::new();
        let _ = timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await.expect("it is closed");
        String::from_utf8(answer).unwrap()
    }

    const PROBE: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";

    #[tokio::test]
    async fn probes_are_answered_at_addresses_of_either_family() {
        let listener = listen("[::]:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let pages = Routes::new(watch::channel(true).1, Arc::default()).router();
        tokio::spawn(async move { accept_all(&listener, &pages, LONG).await });
        let mut families = vec![SocketAddr::from((Ipv4Addr::LOCALHOST, address.port()))];
        if address.is_ipv6() {
            families.push((Ipv6Addr::LOCALHOST, address.port()).into());
        }
        for address in families {
            assert!(said(address, PROBE).await.starts_with("HTTP/1.1 200"), "{address}");
        }
    }

    #[tokio::test]
    async fn the_oldest_of_too_many_connections_makes_room_for_a_probe() {
        for first_words in [&b""[..], b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Half: "] {
            let address = port(LONG);
            let mut guests = Vec::new();
            for _ in 0..50 {
                let mut guest = TcpStream::connect(address).await.unwrap();
                let _ = guest.write_all(first_words).await;
                guests.push(guest);
                if guests.len() % 10 == 0 {
                    assert!(said(address, PROBE).await.starts_with("HTTP/1.1 200 OK"));
                }
            }
            for guest in &mut guests[..40] {
                assert_eq!(until_closed(guest).await, "");
            }
        }
    }

    #[tokio::test]
    async fn who_is_slow_to_ask_is_sent_away() {
        let address = port(SHORT);
        assert_eq!(said(address, b"").await, "");
        assert_eq!(said(address, b"GET /livez HTTP/1.1\r\nHost: x\r\n").await, "");
        assert!(said(address, PROBE).await.ends_with("\r\n\r\nok\n"), "one request, and the end");
    }

    #[tokio::test]
    async fn a_request_that_goes_on_and_on_is_refused_and_not_kept() {
        let address = port(LONG);
        let line = [b"X-Long: ".as_slice(), &[b'a'; 4_000], b"\r\n"].concat();
        let request = [b"GET /livez HTTP/1.1\r\nHost: x\r\n".as_slice(), &line.repeat(90)].concat();
        let answer = said(address, &request).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    }

    #[tokio::test]
    async fn readiness_follows_the_process() {
        assert_eq!(readiness(true).status(), StatusCode::OK);
        assert_eq!(readiness(false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
