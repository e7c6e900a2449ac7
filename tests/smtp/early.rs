//! Replies that come before what they seem to answer.

use mailrelay::{
    api::Tls,
    smtp::{MailOutcome, Session, Transaction, Verdict},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
};

use crate::support::{SOON, endpoint, go, to};

/// A server that answers by this table (the first verb that fits), and from an answer that begins with `!` on reads
/// nothing more.
async fn server(answers: &'static [(&'static str, &'static str)]) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("a connection");
        let (reader, mut writer) = stream.into_split();
        let mut lines = BufReader::new(reader).lines();
        let mut verb = "GREET".to_owned();
        loop {
            let answer = answers.iter().find(|(known, _)| *known == verb).map_or("250 2.0.0 ok\r\n", |(_, said)| said);
            writer.write_all(answer.trim_start_matches('!').as_bytes()).await.expect("written");
            if answer.starts_with('!') {
                // It keeps the connection and never looks at it again.
                std::future::pending::<()>().await;
            }
            let Ok(Some(line)) = lines.next_line().await else { return };
            line.split(' ').next().unwrap_or_default().clone_into(&mut verb);
        }
    });
    address
}

async fn outcome_at(answers: &'static [(&'static str, &'static str)]) -> Option<MailOutcome> {
    let mut session = Session::open(&endpoint(server(answers).await, Tls::None, None), None).await.ok()?;
    let (recipients, text) = (to(&["a@example.com"]), "Subject: x\r\n\r\nHello\r\n");
    let transaction = Transaction::new("me@example.com", &recipients, &text).expect("a good mail");
    Some(tokio::time::timeout(SOON, session.transact(&transaction, go)).await.expect("an outcome"))
}

#[tokio::test]
async fn what_was_said_before_the_content_came_is_no_acceptance_of_it() {
    const GREET: (&str, &str) = ("GREET", "220 hello\r\n");
    let servers: [&'static [(&'static str, &'static str)]; 5] = [
        &[GREET, ("DATA", "!354 go on\r\n250 2.0.0 taken\r\n")],
        &[GREET, ("EHLO", "250-hello\r\n250 PIPELINING\r\n"), ("DATA", "!354 go on\r\n250 2.0.0 taken\r\n")],
        &[
            GREET,
            ("EHLO", "250-hello\r\n250 PIPELINING\r\n"),
            ("MAIL", "!250 ok\r\n250 ok\r\n354 go on\r\n250 2.0.0 taken\r\n"),
        ],
        &[GREET, ("MAIL", "!250 ok\r\n250 ok\r\n354 go on\r\n250 2.0.0 taken\r\n")],
        &[("GREET", "!220 hello\r\n250 hello\r\n250 ok\r\n250 ok\r\n354 go on\r\n250 2.0.0 taken\r\n")],
    ];
    for answers in servers {
        let Some(outcome) = outcome_at(answers).await else { continue };
        assert!(!outcome.committed && !outcome.is_delivered(), "{answers:?}: {outcome:?}");
        let free = |verdict: &Verdict| !matches!(verdict, Verdict::Delivered | Verdict::Dead | Verdict::Unknown);
        assert_eq!(outcome.places(free), [0], "{answers:?}: {outcome:?}");
    }
}

#[tokio::test]
async fn a_refusal_that_comes_before_the_content_is_complete_is_heard() {
    let outcome = outcome_at(&[("GREET", "220 hello\r\n"), ("DATA", "!354 go on\r\n552 5.3.4 too large\r\n")]).await;
    let outcome = outcome.expect("a session");
    assert_eq!(outcome.places(|verdict| *verdict == Verdict::Dead), [0], "{outcome:?}");
    assert!(!outcome.committed, "{outcome:?}");
}
