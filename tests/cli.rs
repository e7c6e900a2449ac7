//! The command line's contracts: exit codes, JSON, and errors that say what to do.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use testkit::{Persistence, RedisServer, free_port, output_of};

struct Cli {
    url: String,
}

impl Cli {
    fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_mailrelay"));
        output_of(command.args(arguments).env_clear().env("MAILRELAY_REDIS_URL", &self.url), input)
    }

    fn json(&self, arguments: &[&str]) -> Value {
        let output = self.run(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {}", text(&output.stdout)))
    }

    fn send_one(&self) -> String {
        let flags = ["--from", "app@example.com", "--to", "a@example.org", "--subject", "Hello", "--text", "Hi"];
        let output = self.run(&[&["send"], &flags[..]].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        text(&output.stdout).trim().to_owned()
    }
}

#[test]
fn a_dead_letter_of_any_length_is_shown_and_a_long_list_is_one_document() {
    let (redis, cli) = redis();
    for number in 0..230 {
        let text = if number == 7 { "t".repeat(70_000) } else { "x".into() };
        let letter = json!({"id": format!("m{number}"), "reason": "Policy", "at": 1, "stage": null, "reply": "554 no", "attempts": 0, "deferrals": 0,
            "crashes": 0, "firstSeen": 1, "priority": "normal", "payload": text});
        let _ = redis.command(&["LPUSH", "mail_dead_letter_queue", &letter.to_string()]).expect("LPUSH");
    }
    let shown = cli.run(&["dead", "show", "m7"]);
    assert!(shown.status.success(), "{}", text(&shown.stderr));
    assert!(text(&shown.stdout).contains("70000 bytes in all") && shown.stdout.len() < 20_000);
    assert_eq!(cli.json(&["dead", "show", "m7"])["payload"], "t".repeat(70_000));
    let listed = cli.json(&["dead", "list", "--limit", "220"]);
    assert_eq!((listed[0]["id"].as_str(), listed.as_array().map(Vec::len)), (Some("m0"), Some(220)));
    let listed = text(&cli.run(&["dead", "list", "--limit", "220"]).stdout);
    assert_eq!((listed.lines().count(), listed.matches("REASON").count()), (221, 1), "{listed}");
    assert!(cli.run(&["dead", "discard", "--all"]).status.success());
    assert_eq!(cli.json(&["dead", "list"]), json!([]));
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn redis() -> (RedisServer, Cli) {
    let redis = RedisServer::start(Persistence::Off);
    let cli = Cli { url: redis.url() };
    (redis, cli)
}

fn mail(to: &str) -> Value {
    json!({ "from": "app@example.com", "to": to, "subject": "Hello", "text": "Hi" })
}

#[test]
fn without_redis_send_fails_at_once_and_says_what_to_do() {
    let cli = Cli { url: format!("redis://127.0.0.1:{}", free_port()) };
    let start = Instant::now();
    let output = cli.run_with(&["send"], &mail("a@example.org").to_string());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("not reachable") && message.contains("MAILRELAY_REDIS_URL"), "{message}");
    assert!(output.stdout.is_empty());
}

#[test]
fn a_redis_that_hangs_makes_send_fail_within_a_second() {
    let (redis, cli) = redis();
    redis.pause();
    let start = Instant::now();
    let output = cli.run_with(&["send"], &mail("a@example.org").to_string());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    redis.unpause();
}

#[test]
fn wrong_usage_is_exit_code_2() {
    let (_redis, cli) = redis();
    for arguments in [
        &["nonsense"][..],
        &["send", "--from", "a@example.com"],
        &["send", "--relay", "no-slash"],
        &["dead", "discard"],
        &["worker"],
        &["send", "--lines", "--from", "a@example.com", "--to", "b@example.org"],
    ] {
        let output = cli.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty());
    }
}

#[test]
fn a_mail_from_flags_waits_in_the_queue_under_its_id() {
    let (_redis, cli) = redis();
    let id = cli.send_one();
    assert_eq!(cli.json(&["status", &id])["state"], "queued");
    assert_eq!(cli.json(&["queue"])["pending"], 1);
    let audit = cli.json(&["audit"]);
    assert_eq!((&audit["accepted"], &audit["difference"]), (&json!(1), &json!(0)), "{audit}");
    assert_eq!(cli.json(&["status"])["depths"]["pending"], 1);
    assert_eq!(cli.run(&["status", "unknown-id"]).status.code(), Some(1));
}

#[test]
fn attachments_headers_and_raw_messages_are_taken_from_files() {
    let (_redis, cli) = redis();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("report.csv");
    std::fs::write(&file, "a,b\n").expect("written");
    let attach = format!("{}:text/csv", file.display());
    let base = ["send", "--from", "app@example.com", "--to", "a@example.org"];
    let output =
        cli.run(&[&base[..], &["--attach", &attach, "--header", "X-Team: ops", "--text", "see file"]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let raw = folder.path().join("raw.eml");
    std::fs::write(&raw, "From: app@example.com\r\nTo: a@example.org\r\nSubject: raw\r\n\r\nHi\r\n").expect("written");
    let output = cli.run(&[&base[..], &["--raw", raw.to_str().expect("UTF-8")]].concat());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let output = cli.run(&[&base[..], &["--attach", "/no/such/file"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("/no/such/file"), "{}", text(&output.stderr));
    assert_eq!(cli.json(&["queue"])["pending"], 2);
}

#[test]
fn two_hundred_lines_are_sent_in_order_in_well_under_a_second() {
    let (_redis, cli) = redis();
    let mut lines = String::new();
    for number in 0..200 {
        let mut mail = mail("a@example.org");
        mail["id"] = format!("m-{number}").into();
        lines.push_str(&mail.to_string());
        lines.push('\n');
    }
    let start = Instant::now();
    let output = cli.run_with(&["send", "--lines"], &lines);
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert!(output.status.success(), "{}", text(&output.stderr));
    let ids: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
    assert_eq!(ids, (0..200).map(|number| format!("m-{number}")).collect::<Vec<_>>());
    assert_eq!(cli.json(&["queue"])["pending"], 200);
}

#[test]
fn lines_are_sent_and_told_of_as_they_come() {
    let (_redis, cli) = redis();
    let mut child = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
        .args(["send", "--lines"])
        .env_clear()
        .env("MAILRELAY_REDIS_URL", &cli.url)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut input = child.stdin.take().expect("piped");
    let mut output = std::io::BufReader::new(child.stdout.take().expect("piped"));
    for number in 1..=3 {
        writeln!(input, "{}", mail("a@example.org")).expect("written");
        let mut id = String::new();
        std::io::BufRead::read_line(&mut output, &mut id).expect("told");
        assert_eq!(cli.json(&["status", id.trim()])["state"], "queued");
        assert_eq!(cli.json(&["queue"])["pending"], number);
    }
    drop(input);
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn a_batch_tells_how_far_it_is_and_may_be_sent_again() {
    let (_redis, cli) = redis();
    let mut other = mail("a@example.org");
    other["idempotencyKey"] = "k".into();
    assert!(cli.run_with(&["send"], &other.to_string()).status.success());
    let good = mail("a@example.org").to_string();
    let with_id = good.replacen('{', "{\"id\":\"own\",", 1);
    let lines = format!("{good}\n\nnonsense\n{good}\n{with_id}\n{other}\n");
    for _ in 0..2 {
        let output = cli.run_with(&["send", "--lines", "--batch", "news"], &lines);
        assert_eq!(output.status.code(), Some(1), "two are refused");
        let ids: Vec<String> = text(&output.stdout).lines().map(str::to_owned).collect();
        assert_eq!((&*ids[0], &*ids[1], ids.len()), ("news-1", "news-3", 3), "{ids:?}");
        let progress = cli.json(&["progress", "news"]);
        let expected =
            json!({"mails": 5, "refused": 2, "duplicates": 1, "isWhole": true, "states": {"queued": 2}, "unknown": 0});
        assert_eq!(progress, expected);
    }
    assert_eq!(cli.json(&["queue"])["pending"], 3, "each is queued once");
    assert!(text(&cli.run(&["progress", "news"]).stdout).contains("queued       2\n"));
    assert_eq!(cli.run(&["progress", "other"]).status.code(), Some(1));
    assert_eq!(cli.run(&["send", "--batch", "x"]).status.code(), Some(2), "it takes --lines");
}

#[test]
fn a_line_that_is_refused_does_not_stop_the_others() {
    let (_redis, cli) = redis();
    let good = mail("a@example.org").to_string();
    let output = cli.run_with(&["send", "--lines", "-o", "json"], &format!("{good}\nnonsense\n\n{good}\n"));
    assert_eq!(output.status.code(), Some(1));
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let results = results.as_array().expect("a list");
    assert_eq!(results.len(), 3);
    assert!(results[0]["id"].is_string() && results[2]["id"].is_string(), "{results:?}");
    assert_eq!((&results[1]["line"], &results[2]["line"]), (&json!(2), &json!(4)));
    assert!(results[1]["error"].as_str().is_some_and(|error| error.contains("JSON")), "{results:?}");
    let output = cli.run_with(&["send", "--lines"], "nonsense\n");
    assert!(text(&output.stderr).contains("line=1") || text(&output.stderr).contains("line 1"));
}

#[test]
fn the_same_idempotency_key_is_one_mail() {
    let (_redis, cli) = redis();
    let mut mail = mail("a@example.org");
    mail["idempotencyKey"] = "order-1".into();
    let send = || {
        let output = cli.run_with(&["send", "-o", "json"], &mail.to_string());
        serde_json::from_slice::<Value>(&output.stdout).expect("JSON")
    };
    let (first, second) = (send(), send());
    assert_eq!((&first["duplicate"], &second["duplicate"]), (&json!(false), &json!(true)));
    assert_eq!(first["id"], second["id"]);
}

/// A way to this Redis that carries a script's call and loses its answer, with the connection.
fn loses_answers(redis: &RedisServer) -> Cli {
    let (listener, target) = (TcpListener::bind("127.0.0.1:0").expect("a port"), redis.port());
    let url = format!("redis://{}", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for near in listener.incoming() {
            let mut near = near.expect("a client");
            let mut far = TcpStream::connect(("127.0.0.1", target)).expect("Redis is there");
            let mut bytes = vec![0; 1 << 16];
            while let Ok(length @ 1..) = near.read(&mut bytes) {
                far.write_all(&bytes[..length]).expect("sent");
                let is_call = bytes[..length].windows(7).any(|words| words == b"EVALSHA");
                let length = far.read(&mut bytes).expect("it took effect");
                if is_call {
                    let _ = near.shutdown(Shutdown::Both);
                } else {
                    near.write_all(&bytes[..length]).expect("answered");
                }
            }
        }
    });
    Cli { url }
}

#[test]
fn a_send_whose_answer_is_lost_names_the_id_to_repeat_it_with() {
    let (redis, cli) = redis();
    cli.send_one();
    let output = loses_answers(&redis).run_with(&["send"], &mail("a@example.org").to_string());
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("whether the mail was queued is not known"), "{message}");
    assert_eq!(cli.json(&["queue"])["pending"], 2, "it was");
    let id = message.split("--id ").nth(1).and_then(|rest| rest.split([' ', ',']).next()).expect("an id").to_owned();
    let mut again = mail("a@example.org");
    again["id"] = id.clone().into();
    let output = cli.run_with(&["send", "-o", "json"], &again.to_string());
    let sent: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&sent["id"], &sent["duplicate"], &sent["differs"]), (&json!(id), &json!(true), &Value::Null), "{sent}");
    assert_eq!(cli.json(&["queue"])["pending"], 2);
}

#[test]
fn lines_whose_answers_are_lost_are_named_with_the_ids_to_repeat_them_with() {
    let (redis, cli) = redis();
    cli.send_one();
    let lines = format!("{}\n", mail("a@example.org")).repeat(3);
    let output = loses_answers(&redis).run_with(&["send", "--lines", "-o", "json"], &lines);
    assert_eq!(output.status.code(), Some(1));
    let results: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let results = results.as_array().expect("a list");
    assert_eq!((results.len(), &results[0]["line"]), (1, &json!(1)), "no more was begun: {results:?}");
    let id = results[0]["id"].as_str().expect("an id");
    let message = text(&output.stderr);
    assert!(message.contains(&format!("line 1: {id}")) && message.contains("lines after 1 were not sent"), "{message}");
    assert_eq!(cli.json(&["status", id])["state"], "queued");
}

#[test]
fn a_duplicate_that_is_another_mail_is_told() {
    let (_redis, cli) = redis();
    let mut order = mail("a@example.org");
    order["id"] = "order-7".into();
    assert!(cli.run_with(&["send"], &order.to_string()).status.success());
    order["subject"] = "Shipped".into();
    let output = cli.run_with(&["send", "-o", "json"], &order.to_string());
    let sent: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&sent["duplicate"], &sent["differs"]), (&json!(true), &json!(true)));
    assert!(text(&output.stderr).contains("it is another mail"), "{}", text(&output.stderr));
}

#[test]
fn an_audit_that_cannot_verify_its_figures_fails_and_says_so() {
    let (redis, cli) = redis();
    cli.send_one();
    assert_eq!(cli.run(&["audit"]).status.code(), Some(0));
    let mut connection = TcpStream::connect(("127.0.0.1", redis.port())).expect("Redis is there");
    connection.write_all(b"DEL {mail_queue}:counters\r\n").expect("sent");
    assert!(connection.read(&mut [0; 16]).expect("answered") > 0);
    let output = cli.run(&["audit"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stdout).contains("not verified: 1 waiting mails look counted"), "{}", text(&output.stdout));
}

#[test]
fn a_difference_is_accepted_by_somebody_and_only_as_it_was_seen() {
    let (redis, cli) = redis();
    cli.send_one();
    redis.command(&["DEL", "mail_queue"]).expect("DEL");
    assert_eq!(cli.run(&["audit"]).status.code(), Some(1));
    assert_eq!(cli.run(&["audit", "--accept", "1"]).status.code(), Some(2), "nobody says who");
    let wrong = cli.run(&["audit", "--accept", "2", "--by", "ann"]);
    assert!(text(&wrong.stderr).contains("the difference is 1 and not 2"), "{}", text(&wrong.stderr));
    let accepted = cli.run(&["audit", "--accept", "1", "--by", "ann"]);
    assert_eq!(accepted.status.code(), Some(0), "{}", text(&accepted.stderr));
    assert!(
        text(&accepted.stdout).contains("a difference of 1 was accepted by ann on 2"),
        "{}",
        text(&accepted.stdout)
    );
    assert_eq!(cli.json(&["audit"])["corrections"][0]["by"], "ann");
}

#[test]
fn a_bulk_decision_holds_its_rate_and_ends_between_two_letters() {
    let (redis, cli) = redis();
    for number in 0..40 {
        let letter = json!({"id": format!("m{number}"), "reason": "Policy", "at": 1, "payload": "{}"}).to_string();
        redis.command(&["LPUSH", "mail_dead_letter_queue", &letter]).expect("LPUSH");
    }
    let start = Instant::now();
    assert_eq!(
        cli.json(&["dead", "discard", "--all", "--limit", "6", "--rate", "10/s"]),
        json!({"done": 6, "skipped": 0})
    );
    assert!(start.elapsed() >= Duration::from_millis(450), "{:?}", start.elapsed());
    let child = Command::new(env!("CARGO_BIN_EXE_mailrelay"))
        .args(["dead", "discard", "--text", "m", "--rate", "5/s", "-o", "json"])
        .env_clear()
        .env("MAILRELAY_REDIS_URL", &cli.url)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let left = || cli.json(&["queue"])["dead"].as_u64().expect("a number");
    while left() > 32 {}
    let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("Ctrl-C");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "not all was done");
    let told: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!((&told["stopped"], told["done"].as_u64()), (&json!(true), Some(34 - left())), "{told}");
    assert_eq!(cli.run(&["dead", "discard", "--all", "--rate", "fast"]).status.code(), Some(2));
}

#[test]
fn parked_mail_must_be_named_or_all_of_it() {
    let (_redis, cli) = redis();
    assert_eq!(cli.json(&["dead", "list"]), json!([]));
    assert_eq!(cli.json(&["held", "list"]), json!([]));
    assert_eq!(cli.json(&["dead", "discard", "--all"])["done"], 0);
    for command in [&["dead", "requeue", "nobody"][..], &["held", "release", "nobody"], &["dead", "show", "nobody"]] {
        let output = cli.run(command);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", text(&output.stderr));
    }
    assert_eq!(cli.json(&["leases"]), json!([]));
}

#[test]
fn the_queue_may_be_named_before_or_after_the_subcommand() {
    let (_redis, cli) = redis();
    for arguments in [["dead", "--queue", "other", "list"], ["dead", "list", "--queue", "other"]] {
        assert_eq!(cli.json(&arguments), json!([]));
    }
    let output = cli.run(&["held", "list", "--relay", "mail/corporate"]);
    assert!(text(&output.stderr).contains("mail/corporate"), "{}", text(&output.stderr));
}

#[test]
fn a_relay_that_nobody_published_is_named_in_the_error() {
    let (_redis, cli) = redis();
    let output = cli.run(&["queue", "--relay", "mail/corporate"]);
    assert_eq!(output.status.code(), Some(1));
    let message = text(&output.stderr);
    assert!(message.contains("mail/corporate") && message.contains("kubectl get mailrelay"), "{message}");
}

#[test]
fn the_crd_is_printed_as_yaml() {
    let output = Cli { url: "redis://127.0.0.1:1".into() }.run(&["crd"]);
    assert!(output.status.success());
    assert!(text(&output.stdout).contains("name: mailrelays.mailrelay.dev"));
}

#[test]
fn the_status_of_a_mail_reads_the_stream_of_outcomes_once() {
    let (redis, cli) = redis();
    let id = cli.send_one();
    let key = "{mail_queue}:events";
    redis.command(&["XADD", key, "*", "id", &id, "outcome", "delayed", "at", "1", "reply", "451"]).expect("XADD");
    assert_eq!(cli.json(&["status", &id])["history"].as_array().map(Vec::len), Some(1));
    let statistics = redis.command(&["INFO", "commandstats"]).expect("INFO");
    let line = statistics.lines().find(|line| line.starts_with("cmdstat_xrevrange:")).expect("it was read");
    assert!(line.contains("calls=1,"), "{line}");
}

#[test]
fn the_status_of_a_mail_tells_what_became_of_it_until_now_oldest_first() {
    let (redis, cli) = redis();
    let id = cli.send_one();
    for (outcome, reason, reply) in [("delayed", "Greylisted", "451 later"), ("held", "OutcomeUnknown", "")] {
        let event = ["XADD", "{mail_queue}:events", "*", "id", &id, "outcome", outcome, "at", "1000"];
        let more = ["reason", reason, "reply", reply, "messageId", "<1@example.com>"];
        let _ = redis.command(&[&event[..], &more].concat()).expect("XADD");
    }
    let status = cli.json(&["status", &id]);
    assert_eq!((&status["state"], &status["messageId"]), (&json!("queued"), &json!("<1@example.com>")));
    let outcomes: Vec<&Value> = status["history"].as_array().expect("a list").iter().map(|e| &e["outcome"]).collect();
    assert_eq!(outcomes, ["delayed", "held"]);
    let table = text(&cli.run(&["status", &id]).stdout);
    let (first, second) =
        (table.find("Greylisted").expect("the first"), table.find("OutcomeUnknown").expect("the second"));
    assert!(first < second && table.contains("451 later"), "{table}");
}
