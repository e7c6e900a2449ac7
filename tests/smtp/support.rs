//! What the SMTP tests share.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use mailrelay::{
    api::Tls,
    smtp::{Chunking, Commit, Endpoint, Features, MailOutcome, Session, StepLimits, Tcp, TlsRoots, Transaction},
};
use mailsink::{Behaviour, Sink, SinkConfig};

/// A deadline for conditions that are met at once.
pub const SOON: Duration = Duration::from_secs(10);

pub fn endpoint(address: SocketAddr, tls: Tls, certificate: Option<&str>) -> Endpoint {
    Endpoint {
        host: address.ip().to_string(),
        tls_name: None,
        port: address.port(),
        tls,
        auth: None,
        roots: TlsRoots::platform(certificate.map(str::as_bytes)).expect("roots"),
        helo: "client.test".into(),
        limits: StepLimits::default(),
        network: Arc::new(Tcp),
    }
}

/// A sink without TLS that keeps the messages.
pub async fn sink() -> Sink {
    Sink::start(SinkConfig { keep_messages: true, ..SinkConfig::default() }).await.expect("the sink starts")
}

pub async fn sink_with(behaviour: Behaviour) -> Sink {
    let sink = sink().await;
    sink.set_behaviour(behaviour);
    sink
}

/// A session with it, in clear, which knows that the sink takes BDAT.
pub async fn open(sink: &Sink) -> Session {
    let mut session = open_first(sink).await;
    session.restrict(Features { chunking: Chunking::Proven, ..Features::default() });
    session
}

/// A session as a worker's first one with a server.
pub async fn open_first(sink: &Sink) -> Session {
    Session::open(&endpoint(sink.smtp(), Tls::None, None), None).await.expect("a session")
}

pub fn to(addresses: &[&str]) -> Vec<String> {
    addresses.iter().map(|address| (*address).to_owned()).collect()
}

pub fn message(number: usize) -> Vec<u8> {
    format!("Message-ID: <{number}@test>\r\nSubject: test\r\n\r\nHello.\r\n").into_bytes()
}

pub async fn go() -> Commit {
    Commit::Go
}

/// One small mail to one recipient.
pub async fn send(session: &mut Session, number: usize) -> MailOutcome {
    let (text, recipients) = (message(number), to(&["somebody@example.com"]));
    session.transact(&Transaction::new("me@example.com", &recipients, &text).expect("a good mail"), go).await
}
