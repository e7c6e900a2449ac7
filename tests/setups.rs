//! Row 38: a relay that is set up wrongly in one of twelve ways, with mail queued. No mail dies, the worker says which
//! setting it is, and when that is mended all sessions are in use at once; then exactly the mails that are really bad are dead.
//!
//! - `make test-long`: with 5,000 mails each (`MAILS=n`).

mod scene;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use mailrelay::queue::Filter;
use mailsink::{Behaviour, Failure, FailureStage, Login, Sink, SinkConfig};
use scene::{Scene, mail};
use serde_json::{Value, json};

use FailureStage::{Greeting, Mail, Rcpt};
use Wrong::{Authority, Name, Port, Says};

/// How many mails, and how many of them the server refuses however it is set up.
const MAILS: usize = 150;
const BAD: usize = 5;
/// Within which times it is told, and all sessions are in use again: 10 and 5 s are promised, and a machine may be busy.
const TOLD: Duration = Duration::from_secs(20);
const FLOWS: Duration = Duration::from_secs(10);

/// What is wrong.
enum Wrong {
    /// What the server says to everybody, at this stage.
    Says(FailureStage, &'static str),
    /// The relay names a port at which nobody listens.
    Port,
    /// The worker trusts another authority.
    Authority,
    /// The relay calls the server by a name that its certificate does not have.
    Name,
    /// The server is reached by an address, and its certificate has a name that the relay was not told.
    CertificateName,
}

/// The server when nothing is wrong: it is busy with each mail, and does not know some recipients.
fn sound(busy: Duration) -> Vec<Failure> {
    let unknown = Failure::reply(FailureStage::Rcpt, "550 5.1.1 no such user").for_recipient("nobody");
    let busy = (!busy.is_zero()).then(|| Failure::silence(FailureStage::Mail, busy));
    [unknown].into_iter().chain(busy).collect()
}

async fn set_up_wrongly(wrong: Wrong, reason: &str) {
    let mails = std::env::var("MAILS").ok().and_then(|mails| mails.parse().ok()).unwrap_or(MAILS);
    let tls = matches!(wrong, Wrong::Authority | Wrong::Name | Wrong::CertificateName);
    let login = tls.then(|| Login { username: "app".into(), password: "secret".into() });
    let name = if matches!(wrong, Wrong::CertificateName) { "mail.example.com" } else { "127.0.0.1" };
    let config = SinkConfig { tls, names: vec![name.into()], login, ..SinkConfig::default() };
    let mut spec = json!({ "server": { "budgetName": "127.0.0.1" } });
    if tls {
        spec["server"]["tls"] = "StartTLS".into();
        spec["server"]["auth"] = "Plain".into();
    }
    match wrong {
        Wrong::Port => spec["server"]["port"] = testkit::free_port().into(),
        Wrong::Name => spec["server"]["host"] = "localhost".into(),
        Wrong::Says(..) | Wrong::Authority | Wrong::CertificateName => {}
    }
    let mut scene = Scene::open(16, config, spec).await;
    if let Wrong::Says(stage, reply) = wrong {
        scene.sink.set_behaviour(Behaviour::failing([Failure::reply(stage, reply)]));
    }
    let credentials = tempfile::tempdir().expect("a folder");
    let certificate = scene.sink.certificate().map(str::to_owned).unwrap_or_default();
    let trusted = if matches!(wrong, Wrong::Authority) { certificate_of_another().await } else { certificate.clone() };
    write_login(credentials.path(), &trusted);
    scene.add_worker_with(&["--credentials-dir", credentials.path().to_str().expect("UTF-8")]);
    push(&scene, mails).await;
    let began = Instant::now();
    scene.share(16, &[16]).await;
    scene.unavailable_for(reason).await;
    assert!(began.elapsed() < TOLD, "{:?}", began.elapsed());
    let audit = scene.queue.audit().await.expect("audit");
    assert_eq!((audit.dead, audit.delivered), (0, 0), "{audit:?}");
    let mended = Instant::now();
    scene.sink.set_behaviour(Behaviour::failing(sound(Duration::from_millis(200))));
    match wrong {
        Wrong::Says(..) => {}
        Wrong::Port => {
            let port = scene.sink.smtp().port();
            scene.change(|record| record.spec.servers[0].port = port).await;
        }
        Wrong::Authority => fs::write(credentials.path().join("primary/ca.crt"), &certificate).expect("written"),
        Wrong::Name => scene.change(|record| record.spec.servers[0].host = "127.0.0.1".parse().expect("a host")).await,
        Wrong::CertificateName => {
            scene.change(|record| record.spec.servers[0].tls_server_name = Some(name.parse().expect("a name"))).await;
        }
    }
    scene.sink_until("full flow", |stats| stats.open == 16 && stats.accepted >= 16).await;
    println!("{reason}: all sessions in use {:?} after the mend", mended.elapsed());
    assert!(mended.elapsed() < FLOWS, "{:?}", mended.elapsed());
    scene.sink.set_behaviour(Behaviour::failing(sound(Duration::ZERO)));
    let (good, bad) = (u64::try_from(mails - BAD).expect("few"), u64::try_from(BAD).expect("few"));
    let audit = scene
        .audit_until("all have ended", |audit| {
            (audit.delivered, audit.dead) == (good, bad) && audit.in_flight + audit.queued + audit.delayed == 0
        })
        .await;
    assert_eq!((audit.held, scene.sink.stats().duplicates), (0, 0), "{audit:?}");
    let letters = scene.queue.dead_list(&Filter::default(), BAD).await.expect("letters");
    let all_bad = letters.iter().all(|letter| letter.refused.iter().all(|who| who.recipient.starts_with("nobody")));
    assert!(all_bad, "{letters:?}");
    scene.logs_are_clean();
}

/// The certificate of another server.
async fn certificate_of_another() -> String {
    let other = Sink::start(SinkConfig { tls: true, ..SinkConfig::default() }).await.expect("the sink starts");
    other.certificate().expect("TLS").to_owned()
}

fn write_login(folder: &Path, authority: &str) {
    let files = folder.join("primary");
    fs::create_dir(&files).expect("a folder");
    for (name, text) in [("ca.crt", authority), ("username", "app"), ("password", "secret")] {
        if !text.is_empty() {
            fs::write(files.join(name), text).expect("written");
        }
    }
}

/// Mails to different recipients; the bad ones lie among them.
async fn push(scene: &Scene, mails: usize) {
    let texts: Vec<Value> = (0..mails)
        .map(|number| mail(&format!("{}{number}@example.org", if number < BAD { "nobody" } else { "customer" })))
        .collect();
    for some in texts.chunks(500) {
        let mut command = redis::cmd("LPUSH");
        command.arg("mail_queue");
        for mail in some {
            command.arg(mail.to_string());
        }
        let _: i64 = scene.query(&command).await;
    }
}

macro_rules! setups {
    ($($name:ident: $wrong:expr, $reason:literal;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $name() {
            set_up_wrongly($wrong, $reason).await;
        }
    )*};
}

setups! {
    row_38_relaying_that_is_denied: Says(Rcpt, "554 5.7.1 <x@example.org>: Relay access denied"), "RelayDenied";
    row_38_a_helo_name_that_is_refused:
        Says(Rcpt, "504 5.5.2 <relay>: Helo command rejected: need fully-qualified hostname"), "HeloRefused";
    row_38_a_client_host_that_is_refused:
        Says(Rcpt, "554 5.7.1 <unknown[192.0.2.1]>: Client host rejected: Access denied"), "ClientRefused";
    row_38_a_sender_s_domain_that_is_refused:
        Says(Mail, "550 5.1.8 <app@example.com>: Sender address rejected: Domain not found"), "SenderRefused";
    row_38_no_login_where_one_is_required: Says(Mail, "530 5.7.0 Authentication required"), "LoginRequired";
    row_38_a_quota_that_is_used_up:
        Says(Mail, "450 4.7.1 sending quota exceeded, try again in 3 seconds"), "QuotaExceeded";
    row_38_a_block_list:
        Says(Rcpt, "554 5.7.1 Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"), "Blocked";
    row_38_maintenance_at_the_greeting: Says(Greeting, "421 4.3.2 Service shutting down for maintenance"), "ServiceUnavailable";
    row_38_a_full_disk: Says(Mail, "452 4.3.1 Insufficient system storage"), "OutOfStorage";
    row_38_a_wrong_port: Port, "ConnectFailed";
    row_38_a_wrong_authority: Authority, "TlsFailed";
    row_38_a_wrong_name: Name, "TlsFailed";
    row_38_a_certificate_with_another_name: Wrong::CertificateName, "TlsFailed";
}
