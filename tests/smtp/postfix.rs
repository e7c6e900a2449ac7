//! Sessions and transactions against a real Postfix.

use mailrelay::{
    api::{Auth, Tls},
    smtp::{
        Chunking, Closed, Credentials, Endpoint, Features, PauseReason, ServerSignal, Session, Transaction, Verdict,
        Why,
    },
};
use testkit::{Postfix, eventually};

use crate::support::{endpoint, go, message, send, to};

async fn delivered(postfix: &Postfix, count: usize) -> Vec<String> {
    let mut ids = eventually("Postfix delivers", async || {
        let ids = postfix.delivered();
        if ids.len() >= count { Ok(ids) } else { Err(postfix.log()) }
    })
    .await;
    ids.sort();
    ids
}

#[tokio::test]
async fn postfix_refuses_the_seventeenth_connection() {
    let postfix = Postfix::start(16);
    let plain = endpoint(postfix.address(), Tls::None, None);
    let mut sessions = Vec::new();
    for _ in 0..16 {
        sessions.push(Session::open(&plain, None).await.expect("one of sixteen"));
    }
    let error = Session::open(&plain, None).await.expect_err("one too many");
    assert_eq!((error.disposition.signal, &error.closed), (ServerSignal::TooManyConnections, &Closed::Eof), "{error}");
    assert_eq!(error.reply.expect("a reply").code, 421);
    // Another process writes the log, a moment after the answer.
    let refused = eventually("Postfix tells of the refusal", async || {
        let refused = postfix.refused_connections();
        if refused > 0 { Ok(refused) } else { Err(postfix.log()) }
    })
    .await;
    assert_eq!(refused, 1, "{}", postfix.log());
    for session in sessions {
        assert_eq!(session.close().await, Closed::Eof);
    }
}

#[tokio::test]
async fn a_hundred_mails_go_to_postfix_over_one_session() {
    let postfix = Postfix::start(16);
    let mut session = Session::open(&endpoint(postfix.address(), Tls::None, None), None).await.expect("a session");
    assert!(session.offers().pipelining && session.offers().chunking);
    for number in 0..100 {
        let outcome = send(&mut session, number).await;
        assert!(outcome.is_delivered(), "{outcome:?}");
    }
    assert_eq!(session.close().await, Closed::Eof);
    let mut ids = delivered(&postfix, 100).await;
    ids.dedup();
    assert_eq!(ids.len(), 100);
}

#[tokio::test]
async fn postfix_takes_a_login_after_starttls_and_refuses_a_wrong_one() {
    let postfix = Postfix::start(16);
    let (username, secret) = Postfix::LOGIN;
    let right = Credentials { username: username.into(), password: Some(secret.into()), token: None };
    let wrong = Credentials { password: Some("wrong".into()), ..right.clone() };
    for auth in [Auth::Plain, Auth::Login, Auth::Auto] {
        let endpoint =
            Endpoint { auth: Some(auth), ..endpoint(postfix.address(), Tls::StartTls, Some(postfix.certificate())) };
        let mut session = Session::open(&endpoint, Some(&right)).await.expect("a session");
        assert!(send(&mut session, auth as usize).await.is_delivered());
        assert!(send(&mut session, 10 + auth as usize).await.is_delivered());
        assert_eq!(session.close().await, Closed::Eof);
        let error = Session::open(&endpoint, Some(&wrong)).await.expect_err("a wrong password");
        assert_eq!(error.disposition.signal, ServerSignal::Pause(PauseReason::AuthenticationFailed), "{error}");
        assert_eq!(error.closed, Closed::Eof);
    }
    assert_eq!(delivered(&postfix, 6).await.len(), 6);
}

#[tokio::test]
async fn postfix_refuses_some_recipients_and_delivers_to_the_others() {
    let postfix = Postfix::start(16);
    let mut session = Session::open(&endpoint(postfix.address(), Tls::None, None), None).await.expect("a session");
    let recipients = to(&["refused@example.com", "a@example.com", "later@example.com", "b@example.com"]);
    let text = message(1);
    let outcome =
        session.transact(&Transaction::new("me@example.com", &recipients, &text).expect("a good mail"), go).await;
    assert_eq!(outcome.places(|verdict| *verdict == Verdict::Delivered), [1, 3], "{outcome:?}");
    assert_eq!(outcome.places(|verdict| *verdict == Verdict::Dead), [0]);
    assert_eq!(outcome.recipients[2].disposition.why, Why::Greylisted);
    assert!(send(&mut session, 2).await.is_delivered());
    assert_eq!(delivered(&postfix, 3).await, ["1@test", "1@test", "2@test"]);
}

#[tokio::test]
async fn messages_arrive_at_postfix_unchanged_by_every_way_of_sending() {
    let postfix = Postfix::start(16);
    let ways = [Chunking::Untried, Chunking::Proven, Chunking::Off];
    let ways = ways.into_iter().flat_map(|chunking| [(true, chunking), (false, chunking)]);
    for (number, (pipelining, chunking)) in ways.enumerate() {
        let mut session = Session::open(&endpoint(postfix.address(), Tls::None, None), None).await.expect("a session");
        session.restrict(Features { pipelining, chunking });
        let mut text = message(number);
        text.extend(b".\r\n..\r\nend\r\n");
        let recipients = to(&["a@example.com"]);
        let outcome = session.transact(&Transaction::new("", &recipients, &text).expect("a good mail"), go).await;
        assert!(outcome.is_delivered(), "{outcome:?}");
        assert_eq!(session.close().await, Closed::Eof);
    }
    assert_eq!(delivered(&postfix, 6).await.len(), 6);
}

#[tokio::test]
async fn several_postfixes_live_side_by_side() {
    let (one, two) = (Postfix::start(16), Postfix::start(2));
    let first = Session::open(&endpoint(two.address(), Tls::None, None), None).await.expect("a session");
    let second = Session::open(&endpoint(two.address(), Tls::None, None), None).await.expect("a session");
    let third = Session::open(&endpoint(two.address(), Tls::None, None), None).await.expect_err("its limit is its own");
    assert_eq!(third.disposition.why, Why::TooManyConnections);
    Session::open(&endpoint(one.address(), Tls::None, None), None).await.expect("the other has room");
    drop((first, second));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_who_come_back_as_soon_as_they_have_read_the_end_are_never_too_many_for_postfix() {
    let postfix = Postfix::start(16);
    let endpoint = endpoint(postfix.address(), Tls::None, None);
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let endpoint = endpoint.clone();
            tokio::spawn(async move {
                for round in 0..5 {
                    let mut session = Session::open(&endpoint, None).await.expect("there is room");
                    assert!(send(&mut session, client * 100 + round).await.is_delivered());
                    assert_eq!(session.close().await, Closed::Eof);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client ends well");
    }
    assert_eq!(postfix.refused_connections(), 0, "{}", postfix.log());
}
