//! A sink that goes down and comes up again.

use mailsink::{Sink, SinkConfig};
use tokio::{io::AsyncReadExt, net::TcpStream};

async fn greeted(sink: &Sink) -> TcpStream {
    let mut stream = TcpStream::connect(sink.smtp()).await.expect("a connection");
    let mut greeting = [0; 4];
    stream.read_exact(&mut greeting).await.expect("a greeting");
    assert_eq!(&greeting, b"220 ");
    stream
}

#[tokio::test]
async fn an_outage_ends_all_sessions_and_what_was_counted_stays() {
    let sink = Sink::start(SinkConfig::default()).await.expect("the sink starts");
    let mut first = greeted(&sink).await;
    let _second = greeted(&sink).await;
    sink.go_down().await;
    assert_eq!(sink.stats().open, 0);
    let mut rest = Vec::new();
    first.read_to_end(&mut rest).await.expect("an end");
    assert_eq!(rest, b"mailsink ESMTP\r\n", "the rest of the greeting, and no goodbye");
    TcpStream::connect(sink.smtp()).await.expect_err("nobody listens");
    sink.come_up().await.expect("the same port");
    let _third = greeted(&sink).await;
    let stats = sink.stats();
    assert_eq!((stats.sessions, stats.peak, stats.open), (3, 2, 1), "{stats:?}");
}
