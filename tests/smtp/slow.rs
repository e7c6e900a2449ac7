//! Servers that read slowly, or end late: how little of ours waits in the kernel for them, and who hears of their end.

use std::{future::pending, sync::Arc, time::Duration};

use mailrelay::{
    api::Tls,
    smtp::{Closed, Session, Transaction},
};
use mailsink::{Behaviour, Ending};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::Instant,
};

use crate::support::{SOON, endpoint, go, open, send, sink_with, to};

/// A message of at least so many bytes.
fn large(bytes: usize) -> Vec<u8> {
    let mut text = b"Message-ID: <large@test>\r\n\r\n".to_vec();
    while text.len() < bytes {
        text.extend([b'x'; 70].iter().chain(b"\r\n"));
    }
    text
}

#[tokio::test]
async fn what_waits_unsent_for_a_server_that_does_not_read_is_little() {
    // The server has a window of some size, whatever we do; beyond it, what our kernel holds is ours to bound.
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let (stopped, stop) = tokio::sync::oneshot::channel::<()>();
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let _ = stream.write_all(b"220 hello\r\n").await;
        for reply in ["250-hello\r\n250 SIZE\r\n", "250 ok\r\n", "250 ok\r\n", "354 go on\r\n"] {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(reply.as_bytes()).await;
        }
        let _ = stop.await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        rest.len()
    });
    let (text, recipients) = (large(20_000_000), to(&["a@example.com"]));
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    let mut session = Session::open(&endpoint(address, Tls::None, None), None).await.expect("a session");
    let sending = session.transact(&transaction, go);
    // By then it has long stopped at the server's window.
    tokio::time::timeout(Duration::from_secs(1), sending).await.expect_err("nobody reads it");
    let unsent = unsent(address.port());
    // The process dies.
    drop(session);
    let _ = stopped.send(());
    let got = server.await.expect("the server ends");
    assert!(got < text.len());
    // One segment more than the bound, which loopback makes large.
    assert!(unsent <= 96 * 1024, "{unsent} bytes were unsent when {got} had been taken");
    println!("unsent {unsent}, taken in all {got}");
}

/// Bytes that the kernel holds, unsent or not acknowledged, for the connections to this port on loopback.
fn unsent(port: u16) -> u64 {
    let wanted = format!(":{port:04X}");
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let lines = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let ours = lines.filter(|fields| fields[2].ends_with(&wanted));
    ours.map(|fields| u64::from_str_radix(fields[4].split(':').next().expect("two queues"), 16).expect("hex")).sum()
}

#[tokio::test]
async fn a_large_mail_is_not_slowed_down_by_the_small_buffer() {
    let sink = sink_with(Behaviour::default()).await;
    let mut session = open(&sink).await;
    let (text, recipients) = (large(20_000_000), to(&["a@example.com"]));
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    let start = Instant::now();
    assert!(session.transact(&transaction, go).await.is_delivered());
    let megabytes = 20.0 / start.elapsed().as_secs_f64();
    println!("{megabytes:.0} MB/s");
    assert!(megabytes > 10.0, "{megabytes:.0} MB/s");
}

#[tokio::test]
async fn a_server_that_ends_late_is_listened_to_until_it_does() {
    for quit in [true, false] {
        let sink = sink_with(Behaviour { close_delay_ms: 400, mail_delay_ms: 400, ..Behaviour::default() }).await;
        let mut session = open(&sink).await;
        if !quit {
            // In the middle of a mail, whose reply will not be waited for.
            let sending = send(&mut session, 1);
            tokio::time::timeout(Duration::from_millis(50), sending).await.expect_err("the sink takes its time");
        }
        let started = Instant::now();
        let closed = session.close_with(tokio::time::sleep(Duration::from_millis(20))).await;
        assert!(started.elapsed() < Duration::from_millis(300), "{:?}", started.elapsed());
        let Closed::Lingering(socket) = closed else { panic!("{closed:?}") };
        assert_eq!(sink.stats().open, 1);
        assert!(socket.ended(SOON).await);
        assert_eq!(sink.stats().open, 0);
    }
}

#[tokio::test]
async fn a_server_that_resets_late_or_never_ends_has_proven_nothing() {
    let sink = sink_with(Behaviour { close_delay_ms: 300, ending: Ending::Reset, ..Behaviour::default() }).await;
    let closed = open(&sink).await.close_with(tokio::time::sleep(Duration::from_millis(20))).await;
    let Closed::Lingering(socket) = closed else { panic!("{closed:?}") };
    assert!(!socket.ended(SOON).await);
    sink.set_behaviour(Behaviour { close_delay_ms: 60_000, ..Behaviour::default() });
    let closed = open(&sink).await.close_with(tokio::time::sleep(Duration::from_millis(20))).await;
    let Closed::Lingering(socket) = closed else { panic!("{closed:?}") };
    assert!(!socket.ended(Duration::from_millis(50)).await);
}

#[tokio::test]
async fn a_server_that_ends_its_side_first_is_answered_with_ours() {
    let sink = sink_with(Behaviour { ending: Ending::Half, ..Behaviour::default() }).await;
    assert_eq!(open(&sink).await.close().await, Closed::Eof);
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("our end has come");
}

#[tokio::test]
async fn a_connection_is_told_of_before_anything_is_said_on_it() {
    let sink = sink_with(Behaviour { greeting_delay_ms: 60_000, ..Behaviour::default() }).await;
    let told = Arc::new(std::sync::Mutex::new(None));
    let endpoint = endpoint(sink.smtp(), Tls::None, None);
    let note = |local, remote| *told.lock().expect("no panic") = Some((local, remote));
    let opening = Session::open_with(&endpoint, None, note, pending(), pending());
    tokio::time::timeout(Duration::from_millis(200), opening).await.expect_err("the sink says nothing");
    let (local, remote) = told.lock().expect("no panic").expect("it is told");
    assert!(local.ip().is_loopback() && local.port() != 0);
    assert_eq!(remote, sink.smtp());
}
