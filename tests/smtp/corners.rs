//! Servers that are old, odd, or hidden behind a box that is.

use std::borrow::Cow;

use mailrelay::{
    api::{Auth, Tls},
    smtp::{Chunking, Closed, Credentials, Endpoint, Features, MailData, Session, Step, Transaction, Why},
};
use mailsink::{Behaviour, Failure, FailureStage, Login, Sink, SinkConfig};

use crate::support::{endpoint, go, open, open_first, send, sink, sink_with, to};

/// A mail whose text is a mail transaction of its own, should a server take it for commands.
const TROJAN: &[u8] = b"Message-ID: <trojan@test>\r\n\r\nRSET\r\nMAIL FROM:<forged@test>\r\n\
    RCPT TO:<victim@test>\r\nDATA\r\nMessage-ID: <forged@test>\r\n\r\nHa.\r\n.\r\n";

#[tokio::test]
async fn the_text_of_a_mail_is_never_commands_for_a_server_that_knows_no_bdat() {
    let codes = ["500 5.5.1 what?", "501 5.5.4 a size?", "502 5.5.1 not here", "503 5.5.1 bad sequence", "504 no"];
    for (refusal, pipelining) in codes.into_iter().flat_map(|refusal| [(refusal, true), (refusal, false)]) {
        let sink = sink_with(Behaviour::failing([Failure::reply(FailureStage::Bdat, refusal)])).await;
        let mut session = open_first(&sink).await;
        session.restrict(Features { pipelining, ..Features::default() });
        let recipients = to(&["a@example.com", "b@example.com"]);
        let trojan = Transaction::new("me@example.com", &recipients, &TROJAN).expect("a good mail");
        let outcome = session.transact(&trojan, go).await;
        assert!(outcome.is_delivered(), "{refusal}: {outcome:?}");
        assert_eq!(session.features().chunking, Chunking::Off);
        assert!(send(&mut session, 1).await.is_delivered());
        let journal = sink.journal();
        let senders: Vec<&str> = journal.iter().map(|entry| entry.from.as_str()).collect();
        assert_eq!(senders, ["me@example.com", "me@example.com"], "{refusal}");
        assert_eq!(sink.messages()[0], TROJAN);
        assert_eq!(session.close().await, Closed::Eof);
    }
}

#[tokio::test]
async fn the_first_bdat_has_nothing_behind_it_and_costs_one_round_trip_once() {
    let sink = sink().await;
    let mut session = open_first(&sink).await;
    // The last reply of a mail counts with the mail after it, and greeting and EHLO count with the first.
    for (number, round_trips) in [3, 1, 1].into_iter().enumerate() {
        assert!(send(&mut session, number).await.is_delivered());
        assert_eq!(session.features().chunking, Chunking::Proven);
        assert_eq!(sink.journal()[number].turnarounds, round_trips, "{number}");
    }
}

#[tokio::test]
async fn a_refusal_of_the_mail_is_no_refusal_of_bdat() {
    let refusal = Failure::reply(FailureStage::Data, "452 4.3.1 no room");
    let sink = sink_with(Behaviour::failing([refusal])).await;
    let mut session = open_first(&sink).await;
    let outcome = send(&mut session, 1).await;
    assert_eq!((outcome.recipients[0].disposition.why, outcome.committed), (Why::OutOfStorage, false), "{outcome:?}");
    assert_eq!(session.features().chunking, Chunking::Untried);
    sink.set_behaviour(Behaviour::default());
    assert!(send(&mut session, 2).await.is_delivered());
    assert_eq!(session.features().chunking, Chunking::Proven);
}

#[tokio::test]
async fn a_server_that_knows_no_ehlo_is_greeted_with_helo_when_nothing_more_is_wanted() {
    for code in ["500 what?", "502 5.5.1 unknown"] {
        let sink = sink_with(Behaviour::failing([Failure::reply(FailureStage::Ehlo, code)])).await;
        let mut session = open(&sink).await;
        assert!(send(&mut session, 1).await.is_delivered());
        assert!(!session.offers().pipelining);
    }
    // Our name is what a 501 is about, and TLS is never given up.
    let sink = sink_with(Behaviour::failing([Failure::reply(FailureStage::Ehlo, "501 5.5.4 invalid name")])).await;
    let error = Session::open(&endpoint(sink.smtp(), Tls::None, None), None).await.expect_err("a refused name");
    assert_eq!(error.disposition.why, Why::HeloRefused);
    sink.set_behaviour(Behaviour::failing([Failure::reply(FailureStage::Ehlo, "502 5.5.1 unknown")]));
    let error = Session::open(&endpoint(sink.smtp(), Tls::StartTls, None), None).await.expect_err("no TLS");
    assert_eq!((error.step, error.reply.map(|reply| reply.code)), (Step::Ehlo, Some(502)));
}

async fn login(behaviour: Behaviour, auth: Auth) -> Result<Session, mailrelay::smtp::OpenError> {
    let login = Some(Login { username: "user".into(), password: "secret".into() });
    let config = SinkConfig { tls: true, login, ..SinkConfig::default() };
    let sink = Sink::start(config).await.expect("the sink starts");
    sink.set_behaviour(behaviour);
    let endpoint = Endpoint { auth: Some(auth), ..endpoint(sink.smtp(), Tls::StartTls, sink.certificate()) };
    let credentials = Credentials {
        username: "user".into(),
        password: (auth != Auth::XOAuth2).then(|| "secret".into()),
        token: (auth == Auth::XOAuth2).then(|| "secret".into()),
    };
    Session::open(&endpoint, Some(&credentials)).await
}

#[tokio::test]
async fn a_server_that_asks_for_the_response_of_auth_plain_gets_it() {
    login(Behaviour { asks_for_response: true, ..Behaviour::default() }, Auth::Plain).await.expect("a login");
}

#[tokio::test]
async fn of_plain_and_login_the_one_that_is_offered_is_used() {
    for (offered, wanted) in [
        ("LOGIN", Auth::Plain),
        ("PLAIN XOAUTH2", Auth::Login),
        ("LOGIN PLAIN", Auth::Login),
        ("XOAUTH2 LOGIN", Auth::Auto),
    ] {
        let behaviour = Behaviour { mechanisms: Some(offered.into()), ..Behaviour::default() };
        login(behaviour, wanted).await.expect("a login");
    }
    let behaviour = Behaviour { mechanisms: Some("GSSAPI NTLM".into()), ..Behaviour::default() };
    let error = login(behaviour, Auth::Plain).await.expect_err("nothing in common");
    assert!(error.detail.contains("does not offer AUTH PLAIN; it offers GSSAPI, NTLM"), "{error}");
    // A password is no token, and the other way round.
    let behaviour = Behaviour { mechanisms: Some("XOAUTH2".into()), ..Behaviour::default() };
    let error = login(behaviour, Auth::Auto).await.expect_err("nothing in common");
    assert!(error.detail.contains("the server offers XOAUTH2, and the password is for none of that"), "{error}");
    let behaviour = Behaviour { mechanisms: Some("PLAIN LOGIN".into()), ..Behaviour::default() };
    let error = login(behaviour, Auth::XOAuth2).await.expect_err("nothing in common");
    assert!(error.detail.contains("does not offer AUTH XOAUTH2"), "{error}");
}

#[tokio::test]
async fn replies_whose_lines_end_with_lf_alone_are_read() {
    let sink = sink_with(Behaviour { bare_lf: true, ..Behaviour::default() }).await;
    let mut session = open_first(&sink).await;
    for number in 0..3 {
        assert!(send(&mut session, number).await.is_delivered());
    }
    assert_eq!(session.close().await, Closed::Eof);
}

/// A message whose text needs 8 bits, and the same text in 7.
struct Text;

impl MailData for Text {
    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(std::iter::once(Cow::Borrowed("Message-ID: <8@test>\r\n\r\nGrüße\r\n".as_bytes())))
    }

    fn seven_bit(&self) -> Option<Box<dyn MailData + Send + '_>> {
        Some(Box::new(b"Message-ID: <8@test>\r\n\r\nGr=FC=DFe\r\n".as_slice()))
    }
}

#[tokio::test]
async fn a_server_without_8bitmime_gets_7_bits_or_what_there_is_and_no_mail_dies_of_it() {
    let sink = sink_with(Behaviour { hide: vec!["8BITMIME".into()], ..Behaviour::default() }).await;
    let mut session = open(&sink).await;
    let recipients = to(&["a@example.com"]);
    let other = "Message-ID: <other@test>\r\n\r\nGrüße\r\n".as_bytes();
    for message in [&Text as &dyn MailData, &other] {
        let outcome = session.transact(&Transaction::new("me@x.org", &recipients, message).expect("good"), go).await;
        assert!(outcome.is_delivered(), "{outcome:?}");
    }
    let messages = sink.messages();
    assert!(messages[0].is_ascii() && messages[1] == other, "{messages:?}");
    sink.set_behaviour(Behaviour::default());
    let mut session = open(&sink).await;
    assert!(session.transact(&Transaction::new("", &recipients, &Text).expect("good"), go).await.is_delivered());
    assert!(!sink.messages()[2].is_ascii());
}
