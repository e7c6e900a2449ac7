//! What a reset proves: nothing, whoever meets it, unless the server's end came before.

use std::time::Duration;

use futures::FutureExt;
use mailrelay::{
    api::Tls,
    smtp::{Closed, Commit, Session, Transaction},
};
use mailsink::{Behaviour, Sink, SinkConfig};
use testkit::ForgetfulBox;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::support::{SOON, endpoint, message, send, sink, sink_with, to};

/// A session through a box that may forget it.
async fn behind_a_box(sink: &Sink) -> (Session, ForgetfulBox) {
    let way = ForgetfulBox::open(sink.smtp()).await.expect("a port");
    let session = Session::open(&endpoint(way.address(), Tls::None, None), None).await.expect("a session");
    (session, way)
}

/// The same with TLS.
async fn behind_a_box_in_tls() -> (Sink, Session, ForgetfulBox) {
    let sink = Sink::start(SinkConfig { tls: true, ..SinkConfig::default() }).await.expect("the sink starts");
    let way = ForgetfulBox::open(sink.smtp()).await.expect("a port");
    let endpoint = endpoint(way.address(), Tls::StartTls, sink.certificate());
    let session = Session::open(&endpoint, None).await.expect("a session");
    (sink, session, way)
}

/// Ends it, with a QUIT if both sides are in step, or without.
async fn end(session: Session, quit: bool) -> Closed {
    if quit { session.close().await } else { session.abort().await }
}

#[tokio::test]
async fn a_reset_that_a_session_at_rest_meets_proves_nothing() {
    for quit in [true, false] {
        let sink = sink().await;
        let (mut session, way) = behind_a_box(&sink).await;
        assert!(send(&mut session, 1).await.is_delivered());
        way.forget(1).await;
        session.ended().await;
        assert_eq!(end(session, quit).await, Closed::NoEof);
        assert_eq!(sink.stats().open, 1, "the server knows of nothing");
    }
}

#[tokio::test]
async fn a_reset_that_the_look_before_a_mail_meets_proves_nothing() {
    for quit in [true, false] {
        let sink = sink().await;
        let (mut session, way) = behind_a_box(&sink).await;
        way.forget(1).await;
        assert!(send(&mut session, 1).await.is_session_gone());
        assert_eq!(end(session, quit).await, Closed::NoEof);
    }
}

#[tokio::test]
async fn a_reset_that_the_look_before_quit_meets_proves_nothing() {
    let sink = sink().await;
    let (session, way) = behind_a_box(&sink).await;
    way.forget(1).await;
    assert_eq!(session.close().await, Closed::NoEof);
}

#[tokio::test]
async fn a_reset_that_a_write_meets_proves_nothing() {
    for hide in [vec![], vec!["CHUNKING".to_owned()]] {
        let sink = sink_with(Behaviour { hide, ..Behaviour::default() }).await;
        let (mut session, way) = behind_a_box(&sink).await;
        let (text, recipients) = (message(1), to(&["a@example.com"]));
        let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
        let outcome = session
            .transact(&transaction, async || {
                way.forget(1).await;
                Commit::Go
            })
            .await;
        assert!(!outcome.is_delivered(), "{outcome:?}");
        assert_eq!(session.close().await, Closed::NoEof);
        assert_eq!(sink.stats().open, 1);
    }
}

#[tokio::test]
async fn a_reset_while_a_reply_is_awaited_proves_nothing() {
    let sink = sink_with(Behaviour { mail_delay_ms: 60_000, ..Behaviour::default() }).await;
    let (mut session, way) = behind_a_box(&sink).await;
    let sending = send(&mut session, 1);
    let (outcome, ()) = tokio::join!(sending, async {
        sink.wait_for(SOON, |stats| stats.open == 1).await.expect("a session");
        way.forget(1).await;
    });
    assert!(!outcome.is_delivered(), "{outcome:?}");
    assert_eq!(session.close().await, Closed::NoEof);
}

#[tokio::test]
async fn a_reset_instead_of_an_answer_to_quit_proves_nothing() {
    let sink = sink().await;
    let (session, way) = behind_a_box(&sink).await;
    way.forget_before("QUIT");
    assert_eq!(session.close().await, Closed::NoEof);
    assert_eq!((way.forgotten(), sink.stats().open), (1, 1));
}

#[tokio::test]
async fn a_reset_that_went_by_with_a_branch_that_was_dropped_proves_nothing() {
    let sink = sink().await;
    let (mut session, way) = behind_a_box(&sink).await;
    // Registers with the socket, as the branch of a `select!` that another one wins.
    assert!(session.ended().now_or_never().is_none());
    way.forget(1).await;
    tokio::select! {
        biased;
        () = session.ended() => {}
        () = std::future::pending() => {}
    }
    assert_eq!(session.abort().await, Closed::NoEof);
}

#[tokio::test]
async fn a_reset_below_tls_proves_nothing() {
    for met_by in ["rest", "mail", "quit", "write"] {
        let (sink, mut session, way) = behind_a_box_in_tls().await;
        assert!(send(&mut session, 1).await.is_delivered());
        if met_by != "write" {
            way.forget(1).await;
        }
        match met_by {
            "rest" => session.ended().await,
            "mail" => assert!(!send(&mut session, 2).await.is_delivered()),
            "write" => {
                let (text, recipients) = (message(1), to(&["a@example.com"]));
                let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
                let forget = async || {
                    way.forget(1).await;
                    Commit::Go
                };
                assert!(!session.transact(&transaction, forget).await.is_delivered());
            }
            _ => {}
        }
        assert_eq!(session.close().await, Closed::NoEof, "met by {met_by}");
        assert_eq!(sink.stats().open, 1);
    }
}

/// A server that greets one client and then does this.
async fn server<F: Future<Output = ()> + Send>(
    then: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a client");
        let _ = stream.write_all(b"220 hello\r\n").await;
        let _ = stream.read(&mut [0; 512]).await;
        let _ = stream.write_all(b"250 hello\r\n").await;
        then(stream).await;
    });
    address
}

#[tokio::test]
async fn a_reset_after_the_server_s_end_takes_nothing_from_its_proof() {
    let (closed, wait) = tokio::sync::oneshot::channel();
    let address = server(|mut stream| async {
        stream.shutdown().await.expect("a FIN");
        let _ = stream.set_zero_linger();
        drop(stream);
        let _ = closed.send(());
    })
    .await;
    let session = Session::open(&endpoint(address, Tls::None, None), None).await.expect("a session");
    wait.await.expect("both are on their way");
    assert_eq!(session.close().await, Closed::Eof);
}

#[tokio::test]
async fn a_write_into_a_session_that_the_server_ended_and_reset_is_proof_of_its_end() {
    let (close, wait) = tokio::sync::oneshot::channel();
    let (closed, gone) = tokio::sync::oneshot::channel();
    let address = server(|mut stream| async move {
        for reply in ["250 ok\r\n", "250 ok\r\n", "354 go on\r\n"] {
            let _ = stream.read(&mut [0; 512]).await;
            let _ = stream.write_all(reply.as_bytes()).await;
        }
        let _ = wait.await;
        stream.shutdown().await.expect("a FIN");
        let _ = stream.set_zero_linger();
        drop(stream);
        let _ = closed.send(());
    })
    .await;
    let mut session = Session::open(&endpoint(address, Tls::None, None), None).await.expect("a session");
    let (text, recipients) = (message(1), to(&["a@example.com"]));
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    let outcome = session
        .transact(&transaction, async || {
            let _ = close.send(());
            gone.await.expect("both are on their way");
            Commit::Go
        })
        .await;
    assert!(!outcome.is_delivered(), "{outcome:?}");
    assert_eq!(session.close().await, Closed::Eof);
}

#[tokio::test]
async fn a_reset_after_the_server_s_own_farewell_is_no_end_but_its_word_is() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 512]).await;
        let _ = stream.write_all(b"221 bye\r\n").await;
        let _ = stream.set_zero_linger();
    })
    .await;
    let session = Session::open(&endpoint(address, Tls::None, None), None).await.expect("a session");
    assert_eq!(session.close().await, Closed::Farewell);
}

#[tokio::test]
async fn a_reset_instead_of_any_word_to_quit_proves_nothing() {
    let address = server(|mut stream| async move {
        let _ = stream.read(&mut [0; 512]).await;
        let _ = stream.set_zero_linger();
    })
    .await;
    let session = Session::open(&endpoint(address, Tls::None, None), None).await.expect("a session");
    assert_eq!(session.close().await, Closed::NoEof);
}

#[tokio::test]
async fn a_connection_that_is_reset_before_its_first_word_may_be_counted() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_zero_linger();
        }
    });
    for _ in 0..20 {
        let error = Session::open(&endpoint(address, Tls::None, None), None).await.expect_err("no server");
        assert_eq!(error.closed, Closed::NoEof, "{error}");
    }
}

#[tokio::test]
async fn an_attempt_that_nobody_answered_never_was_a_connection() {
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind(([127, 0, 0, 1], 0).into()).expect("a port");
    let listener = socket.listen(1).expect("it listens");
    let address = listener.local_addr().expect("an address");
    // Beyond its backlog the kernel drops what comes.
    let mut waiting = Vec::new();
    while let Ok(connected) = tokio::time::timeout(Duration::from_millis(100), TcpStream::connect(address)).await {
        waiting.push(connected.expect("not refused"));
    }
    let mut endpoint = endpoint(address, Tls::None, None);
    endpoint.limits.connect = Duration::from_millis(100);
    let error = Session::open(&endpoint, None).await.expect_err("no answer");
    assert_eq!(error.closed, Closed::NeverOpen, "{error}");
    let unwanted = tokio::time::sleep(Duration::from_millis(20));
    let given_up = Session::open_with(&endpoint, None, |_, _| (), unwanted, std::future::pending()).await;
    assert_eq!(given_up.expect_err("no answer").closed, Closed::NeverOpen);
}
