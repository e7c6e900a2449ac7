//! How long sessions count, and how they end.

use std::time::Duration;

use mailsink::{Behaviour, Ending, Sink, SinkConfig};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::Instant,
};

const SOON: Duration = Duration::from_secs(10);

async fn sink(behaviour: Behaviour) -> Sink {
    Sink::start(SinkConfig { behaviour, limit: 1, ..SinkConfig::default() }).await.expect("the sink starts")
}

/// A client that has read the greeting, which begins so.
async fn client(sink: &Sink, greeting: &str) -> TcpStream {
    let mut stream = TcpStream::connect(sink.smtp()).await.expect("a connection");
    assert!(line(&mut stream).await.starts_with(greeting));
    stream
}

async fn line(stream: &mut TcpStream) -> String {
    let mut line = String::new();
    while !line.ends_with("\r\n") {
        line.push(char::from(stream.read_u8().await.expect("a byte")));
    }
    line
}

async fn quit(stream: &mut TcpStream) {
    stream.write_all(b"QUIT\r\n").await.expect("written");
    assert!(line(stream).await.starts_with("221"));
}

#[tokio::test]
async fn a_session_that_is_half_closed_counts_until_the_client_s_end_comes() {
    let sink = sink(Behaviour { ending: Ending::Half, ..Behaviour::default() }).await;
    let mut stream = client(&sink, "220").await;
    quit(&mut stream).await;
    assert_eq!(stream.read(&mut [0]).await.expect("no reset"), 0, "the sink's end comes first");
    assert_eq!(sink.stats().open, 1, "it still counts");
    client(&sink, "421").await;
    stream.shutdown().await.expect("our end");
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("it counts no more");
}

#[tokio::test]
async fn a_session_that_is_reset_after_its_farewell_counts_no_more() {
    let sink = sink(Behaviour { ending: Ending::Reset, ..Behaviour::default() }).await;
    let mut stream = client(&sink, "220").await;
    quit(&mut stream).await;
    let error = stream.read(&mut [0]).await.expect_err("a reset");
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(sink.stats().open, 0);
}

#[tokio::test]
async fn a_server_that_counts_processes_refuses_until_they_are_gone() {
    let sink = sink(Behaviour { count_after_close_ms: 300, ..Behaviour::default() }).await;
    let mut stream = client(&sink, "220").await;
    quit(&mut stream).await;
    assert_eq!(stream.read(&mut [0]).await.expect("no reset"), 0);
    let ended = Instant::now();
    client(&sink, "421").await;
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("it counts no more");
    assert!(ended.elapsed() >= Duration::from_millis(290), "{:?}", ended.elapsed());
    client(&sink, "220").await;
}

#[tokio::test]
async fn a_slow_reader_takes_so_many_bytes_a_second_and_sees_the_end_behind_them() {
    let sink = sink(Behaviour { read_bytes_per_second: Some(1_000), ..Behaviour::default() }).await;
    let mut stream = client(&sink, "220").await;
    let start = Instant::now();
    let text = "NOOP\r\n".repeat(100);
    stream.write_all(text.as_bytes()).await.expect("written");
    stream.shutdown().await.expect("our end");
    let mut answers = String::new();
    stream.read_to_string(&mut answers).await.expect("no reset");
    assert_eq!(answers.matches("250 ").count(), 100);
    assert!(start.elapsed() >= Duration::from_millis(550), "{:?}", start.elapsed());
    assert_eq!(sink.stats().open, 0);
}

#[tokio::test]
async fn a_session_counts_until_the_sink_looks_at_its_socket_again() {
    let sink = sink(Behaviour { mail_delay_ms: 400, ..Behaviour::default() }).await;
    let mut stream = client(&sink, "220").await;
    let mail = "EHLO me\r\nMAIL FROM:<a@test>\r\nRCPT TO:<b@test>\r\nBDAT 4 LAST\r\nhi\r\n";
    stream.write_all(mail.as_bytes()).await.expect("written");
    drop(stream);
    let left = Instant::now();
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("it counts no more");
    assert!(left.elapsed() >= Duration::from_millis(390), "{:?}", left.elapsed());
}
