//! How sessions begin and end, against the counting sink.

use std::time::Duration;

use mailrelay::{
    api::{Auth, Tls},
    smtp::{Closed, Credentials, Endpoint, PauseReason, ServerSignal, Session, Step, Why},
};
use mailsink::{Behaviour, Failure, FailureStage, Login, Sink, SinkConfig};

use crate::support::{SOON, endpoint, open, send, sink, sink_with};

/// A sink that offers STARTTLS, implicit TLS and a login.
async fn secure_sink() -> Sink {
    let config = SinkConfig {
        smtps: Some(([127, 0, 0, 1], 0).into()),
        tls: true,
        login: Some(Login { username: "user".into(), password: "secret".into() }),
        ..SinkConfig::default()
    };
    Sink::start(config).await.expect("the sink starts")
}

fn credentials(secret: &str) -> Credentials {
    Credentials { username: "user".into(), password: Some(secret.into()), token: Some(secret.into()) }
}

#[tokio::test]
async fn the_seventeenth_session_is_refused_and_the_sixteen_go_on() {
    let sink = sink().await;
    let mut sessions = Vec::new();
    for _ in 0..16 {
        sessions.push(open(&sink).await);
    }
    let refused = Session::open(&endpoint(sink.smtp(), Tls::None, None), None).await.expect_err("one too many");
    assert_eq!((refused.step, refused.disposition.signal), (Step::Greeting, ServerSignal::TooManyConnections));
    assert_eq!(refused.closed, Closed::Eof);
    let stats = sink.stats();
    assert_eq!((stats.open, stats.peak, stats.rejected, stats.peak_attempted), (16, 16, 1, 17));
    for (number, session) in sessions.iter_mut().enumerate() {
        assert!(send(session, number).await.is_delivered());
    }
    assert_eq!(sessions.pop().expect("a session").close().await, Closed::Eof);
    // The end was read, so the place is free at once.
    open(&sink).await;
}

#[tokio::test]
async fn a_server_whose_certificate_has_another_name_is_trusted_when_that_name_was_given() {
    let names = vec!["mail.example.com".to_owned()];
    let sink = Sink::start(SinkConfig { tls: true, names, ..SinkConfig::default() }).await.expect("the sink starts");
    let by_address = endpoint(sink.smtp(), Tls::StartTls, sink.certificate());
    let refused = Session::open(&by_address, None).await.expect_err("another name");
    assert_eq!(refused.disposition.why, Why::TlsFailed);
    assert!(refused.detail.contains("tlsServerName"), "{}", refused.detail);
    let trusting = |name: &str| Endpoint { tls_name: Some(name.into()), ..by_address.clone() };
    let mut session = Session::open(&trusting("mail.example.com"), None).await.expect("a session");
    assert!(send(&mut session, 1).await.is_delivered());
    let refused = Session::open(&trusting("other.example.com"), None).await.expect_err("a third name");
    assert_eq!(refused.disposition.why, Why::TlsFailed);
}

#[tokio::test]
async fn tls_and_a_login_work_in_every_combination() {
    let sink = secure_sink().await;
    for (tls, address) in [(Tls::StartTls, sink.smtp()), (Tls::Implicit, sink.smtps().expect("an address"))] {
        for auth in [Auth::Plain, Auth::Login, Auth::XOAuth2, Auth::Auto] {
            let endpoint = endpoint(address, tls, sink.certificate());
            let endpoint = Endpoint { auth: Some(auth), ..endpoint };
            let mut session = Session::open(&endpoint, Some(&credentials("secret"))).await.expect("a session");
            for number in 0..2 {
                assert!(send(&mut session, number).await.is_delivered(), "{tls:?} {auth:?}");
            }
            assert_eq!(session.close().await, Closed::Eof, "{tls:?} {auth:?}");
            let error = Session::open(&endpoint, Some(&credentials("wrong"))).await.expect_err("a wrong password");
            assert_eq!(error.disposition.signal, ServerSignal::Pause(PauseReason::AuthenticationFailed), "{error}");
            assert_eq!((error.reply.expect("a reply").code, error.closed), (535, Closed::Eof));
        }
    }
    assert_eq!(sink.stats().open, 0);
}

#[tokio::test]
async fn there_is_no_way_back_to_clear_text() {
    let secure = secure_sink().await;
    // Not trusted.
    let error = Session::open(&endpoint(secure.smtp(), Tls::StartTls, None), None).await.expect_err("not trusted");
    assert_eq!(
        (error.step, error.disposition.signal, error.closed),
        (Step::Tls, ServerSignal::Pause(PauseReason::TlsFailed), Closed::Eof)
    );
    // Not offered; refused; clear text behind the reply.
    let hidden = Behaviour { hide: vec!["STARTTLS".into()], ..Behaviour::default() };
    let refused = Behaviour::failing([Failure::reply(FailureStage::Starttls, "554 5.7.3 not for you")]);
    let injected = Behaviour::failing([Failure::raw(FailureStage::Starttls, "220 go\r\n250 injected\r\n")]);
    for behaviour in [hidden, refused, injected] {
        secure.set_behaviour(behaviour.clone());
        let endpoint = endpoint(secure.smtp(), Tls::StartTls, secure.certificate());
        let error = Session::open(&endpoint, None).await.expect_err("no TLS");
        assert_eq!(
            (error.step, error.disposition.signal),
            (Step::Tls, ServerSignal::Pause(PauseReason::TlsFailed)),
            "{behaviour:?}"
        );
        assert_eq!(secure.stats().accepted, 0);
    }
}

#[tokio::test]
async fn a_login_is_never_sent_without_tls() {
    let sink = sink().await;
    let endpoint = Endpoint { auth: Some(Auth::Plain), ..endpoint(sink.smtp(), Tls::None, None) };
    let error = Session::open(&endpoint, Some(&credentials("secret"))).await.expect_err("clear text");
    assert_eq!(
        (&error.closed, error.disposition.signal),
        (&Closed::NeverOpen, ServerSignal::Pause(PauseReason::AuthenticationFailed))
    );
    assert_eq!(sink.stats().peak_attempted, 0);
    assert!(!format!("{error:?} {:?}", credentials("secret")).contains("secret\""));
}

#[tokio::test]
async fn a_refused_connection_never_was_one() {
    let address = ([127, 0, 0, 1], testkit::free_port()).into();
    let error = Session::open(&endpoint(address, Tls::None, None), None).await.expect_err("nobody listens");
    assert_eq!(
        (error.step, error.closed, error.disposition.signal),
        (Step::Connect, Closed::NeverOpen, ServerSignal::Failing)
    );
}

#[tokio::test]
async fn every_wait_has_its_limit() {
    let slow = Duration::from_secs(60);
    let mut endpoint_of = endpoint(([127, 0, 0, 1], 1).into(), Tls::None, None);
    let short = Duration::from_millis(100);
    endpoint_of.limits.greeting = short;
    endpoint_of.limits.command = short;
    endpoint_of.limits.data = short;
    endpoint_of.limits.dot = short;
    endpoint_of.limits.close = short;
    // A tarpit, and a server that takes its time at each stage.
    for stage in [FailureStage::Greeting, FailureStage::Ehlo] {
        let sink = sink_with(Behaviour::failing([Failure::raw(stage, "").after(slow)])).await;
        endpoint_of.port = sink.smtp().port();
        let error = Session::open(&endpoint_of, None).await.expect_err("too slow");
        assert_eq!(error.disposition.signal, ServerSignal::Failing, "{error}");
        assert!(matches!(error.closed, Closed::Lingering(_)), "{error}");
    }
    for (stage, why) in [
        (FailureStage::Mail, Why::TimedOut),
        (FailureStage::Rcpt, Why::TimedOut),
        (FailureStage::Data, Why::TimedOut),
        (FailureStage::Dot, Why::OutcomeUnknown),
    ] {
        let hide = vec!["CHUNKING".to_owned()];
        let failures = vec![Failure::raw(stage, "").after(slow)];
        let sink = sink_with(Behaviour { hide, failures, ..Behaviour::default() }).await;
        endpoint_of.port = sink.smtp().port();
        let mut session = Session::open(&endpoint_of, None).await.expect("a session");
        let outcome = send(&mut session, 1).await;
        assert_eq!((outcome.recipients[0].disposition.why, session.is_usable()), (why, false));
        assert!(matches!(session.abort().await, Closed::Lingering(_)));
    }
    let sink = sink_with(Behaviour { byte_delay_ms: 50, ..Behaviour::default() }).await;
    endpoint_of.port = sink.smtp().port();
    let error = Session::open(&endpoint_of, None).await.expect_err("a tarpit");
    assert_eq!(error.step, Step::Greeting);
}

#[tokio::test]
async fn close_waits_for_a_late_end_and_says_so_when_it_does_not_come() {
    let sink = sink_with(Behaviour { close_delay_ms: 300, ..Behaviour::default() }).await;
    let session = open(&sink).await;
    assert_eq!(session.close().await, Closed::Eof);
    assert_eq!(sink.stats().open, 0);
    sink.set_behaviour(Behaviour { close_delay_ms: 60_000, ..Behaviour::default() });
    let mut endpoint = endpoint(sink.smtp(), Tls::None, None);
    endpoint.limits.close = Duration::from_millis(100);
    let session = Session::open(&endpoint, None).await.expect("a session");
    assert!(matches!(session.close().await, Closed::Lingering(_)));
    assert_eq!(sink.stats().open, 1);
}

#[tokio::test]
async fn an_aborted_session_is_proven_closed_in_the_middle_of_anything() {
    let sink = sink().await;
    let session = open(&sink).await;
    assert_eq!(session.abort().await, Closed::Eof);
    assert_eq!(sink.stats().open, 0);
}

#[tokio::test]
async fn a_dropped_session_closes_its_socket() {
    let sink = sink().await;
    drop(open(&sink).await);
    sink.wait_for(SOON, |stats| stats.open == 0).await.expect("the sink sees the end");
}

#[tokio::test]
async fn a_refusing_greeting_is_the_servers_failure() {
    for (greeting, why) in [("554 5.7.1 go away", Why::GreetingRefused), ("421 4.3.2 closing", Why::ServiceUnavailable)]
    {
        let sink = sink_with(Behaviour::failing([Failure::reply(FailureStage::Greeting, greeting)])).await;
        let error = Session::open(&endpoint(sink.smtp(), Tls::None, None), None).await.expect_err("refused");
        assert_eq!(
            (error.disposition.why, error.disposition.signal, error.closed),
            (why, ServerSignal::Failing, Closed::Eof),
            "{greeting}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sixteen_clients_who_come_back_as_soon_as_they_have_read_the_end_are_never_too_many() {
    let sink = sink().await;
    let endpoint = endpoint(sink.smtp(), Tls::None, None);
    let clients: Vec<_> = (0..16)
        .map(|client| {
            let endpoint = endpoint.clone();
            tokio::spawn(async move {
                for round in 0..30 {
                    let mut session = Session::open(&endpoint, None).await.expect("there is room");
                    assert!(send(&mut session, client * 100 + round).await.is_delivered());
                    let closed = if round % 2 == 0 { session.close().await } else { session.abort().await };
                    assert_eq!(closed, Closed::Eof);
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client ends well");
    }
    let stats = sink.stats();
    assert_eq!((stats.open, stats.rejected, stats.accepted, stats.duplicates), (0, 0, 480, 0));
    assert!(stats.peak <= 16 && stats.peak_attempted <= 16, "{stats:?}");
}
