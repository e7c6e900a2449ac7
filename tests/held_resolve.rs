//! `mailrelay held resolve`: mail that nobody knows the outcome of is settled by the log of a real Postfix.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use mailrelay::{
    api::UnknownOutcome,
    mail::UnixMillis,
    queue::{Advance, At, Filter, Queue, QueueNames, RecoverOptions, Stage},
    store::{Store, StoreOptions},
};
use redis::cmd;
use serde_json::{Value, json};
use testkit::{Persistence, Postfix, RedisServer, eventually};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

const PROCESS: &str = "0123456789abcdef0123456789abcdef";
const LIMIT: Duration = Duration::from_secs(5);

struct Scene {
    redis: RedisServer,
    store: Store,
    queue: Queue,
    postfix: Postfix,
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let redis = RedisServer::start(Persistence::Off);
        let store = Store::new(&StoreOptions::from_url(redis.url())).expect("options");
        let queue = Queue::new(store.clone(), QueueNames::new("mail_queue", "mail_dead_letter_queue"));
        Self { redis, store, queue, postfix: Postfix::start(16), folder: tempfile::tempdir().expect("a folder") }
    }

    /// Held mails with these ids: their process died after it had noted that it would complete them. Returns their
    /// Message-IDs.
    async fn hold(&self, ids: &[&str]) -> Vec<String> {
        for id in ids {
            let mail =
                json!({"id": id, "from": "me@example.com", "to": "you@example.com", "text": "hello"}).to_string();
            let _: i64 = self.store.query(cmd("LPUSH").arg("mail_queue").arg(mail), LIMIT).await.expect("LPUSH");
        }
        let claimed = self.queue.claim(PROCESS, "pod", ids.len(), At::Redis).await.expect("claimed").mails;
        for claim in &claimed {
            for stage in [Stage::Sending, Stage::Committing] {
                let advanced = self.queue.advance(PROCESS, &claim.claim_id, stage, At::Redis).await.expect("advanced");
                assert_eq!(advanced, Advance::Done);
            }
        }
        let options = RecoverOptions {
            unknown: UnknownOutcome::Hold,
            fence_changed: false,
            crashed: false,
            out_of_memory: false,
        };
        self.queue.recover(PROCESS, &options, At::Redis).await.expect("recovered");
        claimed.into_iter().map(|claim| claim.header.message_id).collect()
    }

    /// Sends a message with this Message-ID to Postfix, or breaks off in the middle of it.
    async fn send(&self, message_id: &str, complete: bool) {
        let mut stream = BufReader::new(TcpStream::connect(self.postfix.address()).await.expect("connected"));
        for line in ["", "EHLO test", "MAIL FROM:<me@example.com>", "RCPT TO:<you@example.com>", "DATA"] {
            if !line.is_empty() {
                stream.write_all(format!("{line}\r\n").as_bytes()).await.expect("written");
            }
            reply(&mut stream).await;
        }
        let message = format!("From: <me@example.com>\r\nMessage-ID: {message_id}\r\n\r\nhello\r\n");
        stream.write_all(message.as_bytes()).await.expect("written");
        if complete {
            stream.write_all(b".\r\n").await.expect("written");
            assert!(reply(&mut stream).await.starts_with("250"));
        }
    }

    fn run(&self, more: &[&str], logs: &[&Path]) -> (Option<i32>, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrelay"));
        command.args(["held", "resolve", "-o", "json"]).args(more).env_clear();
        for log in logs {
            command.arg("--log").arg(log);
        }
        let output = command.env("MAILRELAY_REDIS_URL", self.redis.url()).output().expect("the binary runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    }

    /// What `held resolve` says of each mail, by id.
    fn resolve(&self, more: &[&str], logs: &[&Path]) -> Vec<(String, String)> {
        let (code, out, err) = self.run(more, logs);
        assert_eq!(code, Some(0), "{err}");
        let rows: Vec<Value> = serde_json::from_str(&out).expect("JSON");
        let word = |row: &Value, name: &str| row[name].as_str().expect("a word").to_owned();
        let mut said: Vec<_> = rows.iter().map(|row| (word(row, "id"), word(row, "outcome"))).collect();
        said.sort();
        said
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).expect("written");
        path
    }

    /// A log that reaches from before the mails to long after them.
    fn long_log(&self, now: UnixMillis) -> PathBuf {
        let line = |at: u64| format!("{} mx postfix/qmgr[1]: statistics\n", UnixMillis(at));
        self.file("long.log", &(line(now.0 - 3_600_000) + &line(now.0 + 3_600_000)))
    }
}

async fn reply(stream: &mut BufReader<TcpStream>) -> String {
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.expect("a line");
        if line.as_bytes().get(3) == Some(&b' ') {
            return line;
        }
    }
}

fn said(outcomes: &[(&str, &str)]) -> Vec<(String, String)> {
    outcomes.iter().map(|(id, outcome)| ((*id).to_owned(), (*outcome).to_owned())).collect()
}

#[tokio::test]
async fn what_postfix_took_is_delivered_and_what_it_never_took_is_sent_again() {
    let scene = Scene::new();
    let ids = scene.hold(&["broken-off", "missing", "taken"]).await;
    let of = |id: &str| ids.iter().find(|message_id| message_id.contains(id)).expect("held").clone();
    scene.send(&of("taken"), true).await;
    scene.send(&of("broken-off"), false).await;
    let log = scene.folder.path().join("mail.log");
    let text = eventually("Postfix has logged both", async || {
        let text = scene.postfix.log();
        let both = text.contains("queue active") && text.contains("lost connection after DATA");
        if both { Ok(text) } else { Err(text) }
    })
    .await;
    fs::write(&log, &text).expect("written");
    // Its own log does not reach far enough yet to say that something is missing.
    let open = said(&[("broken-off", "held"), ("missing", "held"), ("taken", "delivered")]);
    let zone = ["--log-zone", "UTC", "--release-missing"];
    assert_eq!(scene.resolve(&[&zone[..], &["--dry-run"]].concat(), &[&log]), open);
    assert_eq!(scene.queue.held_list(&Filter::default(), 10).await.expect("listed").len(), 3, "a dry run does nothing");
    assert_eq!(scene.resolve(&zone, &[&log]), open);
    let spanning = scene.long_log(scene.queue.ask_time().await.expect("a time"));
    let open = said(&[("broken-off", "held"), ("missing", "held")]);
    assert_eq!(scene.resolve(&[], &[&log, &spanning]), open, "nobody said that there is no other server");
    let released = said(&[("broken-off", "released"), ("missing", "released")]);
    assert_eq!(scene.resolve(&["--release-missing"], &[&log, &spanning]), released);
    let audit = scene.queue.audit().await.expect("an audit");
    assert_eq!((audit.delivered, audit.queued, audit.held, audit.difference), (1, 2, 0, 0), "{audit:?}");
    assert_eq!(scene.queue.status("taken").await.expect("a record").expect("known").state, "delivered");
    let again = scene.queue.claim(PROCESS, "pod", 5, At::Redis).await.expect("claimed").mails;
    assert!(again.iter().all(|claim| ids.contains(&claim.header.message_id)), "with the same Message-ID");
}

#[tokio::test]
async fn what_the_server_refused_is_a_dead_letter_in_its_words() {
    let scene = Scene::new();
    let ids = scene.hold(&["refused"]).await;
    let line = json!({"msgid": ids[0], "event": "rejected", "reason": "5.7.1 a virus"}).to_string();
    let log = scene.file("log.json", &line);
    assert_eq!(scene.resolve(&[], &[&log]), said(&[("refused", "dead")]));
    let letters = scene.queue.dead_list(&Filter::default(), 5).await.expect("listed");
    assert_eq!((&*letters[0].id, &*letters[0].reply), ("refused", "5.7.1 a virus"));
    assert_eq!(scene.queue.audit().await.expect("an audit").difference, 0);
}

#[tokio::test]
async fn a_file_that_is_no_log_changes_nothing_and_says_so() {
    let scene = Scene::new();
    scene.hold(&["one"]).await;
    let (code, _, err) = scene.run(&["--release-missing"], &[&scene.file("notes", "buy milk\n")]);
    assert_eq!(code, Some(1));
    assert!(err.contains("Postfix"), "{err}");
    let (code, _, err) = scene.run(&[], &[Path::new("/nowhere/mail.log")]);
    assert_eq!(code, Some(1));
    assert!(err.contains("/nowhere/mail.log"), "{err}");
    assert_eq!(scene.queue.held_list(&Filter::default(), 10).await.expect("listed").len(), 1);
}

#[tokio::test]
async fn a_held_mail_is_shown_with_all_that_is_known_of_it() {
    let scene = Scene::new();
    let ids = scene.hold(&["one"]).await;
    let shown = scene.queue.held_show("one").await.expect("read").expect("held");
    assert_eq!((shown.mail.message_id, shown.mail.stage), (ids[0].clone(), Some(Stage::Committing)));
    assert!(shown.payload.contains("hello") && shown.mail.first_seen > UnixMillis(0));
    assert!(scene.queue.held_show("two").await.expect("read").is_none());
}
