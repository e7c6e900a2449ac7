//! The sink as a program: its flags, its HTTP, its end.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::Path,
    process::{Child, Command, Stdio},
};

/// Starts it with a journal and the given address, and returns it with the addresses of SMTP and HTTP.
fn start(journal: &Path, smtp: &str) -> (Child, String, String) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_mailsink"))
        .args(["--smtp", smtp, "--control", "127.0.0.1:0", "--limit", "2", "--journal"])
        .arg(journal)
        .stdout(Stdio::piped())
        .spawn()
        .expect("the sink starts");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let value = |name: &str| {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name));
        word.unwrap_or_else(|| panic!("no {name} in {line}")).to_owned()
    };
    (child, value("smtp="), value("control="))
}

fn converse(address: &str, text: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(text.as_bytes()).expect("all is written");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn mail(address: &str, id: &str) -> String {
    let text = format!(
        "EHLO me\r\nMAIL FROM:<a@test>\r\nRCPT TO:<b@test>\r\nDATA\r\nMessage-ID: <{id}>\r\n\r\nHello\r\n.\r\nQUIT\r\n"
    );
    converse(address, &text)
}

fn get(address: &str, path: &str) -> serde_json::Value {
    let answer = converse(address, &format!("GET {path} HTTP/1.1\r\nHost: sink\r\n\r\n"));
    let (_, body) = answer.split_once("\r\n\r\n").expect("a body");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn a_killed_sink_comes_back_on_its_port_with_its_journal_and_ends_on_sigterm() {
    let folder = std::env::temp_dir().join(format!("mailsink-test-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let journal = folder.join("journal");
    let (mut child, smtp, control) = start(&journal, "127.0.0.1:0");
    assert!(mail(&smtp, "one").contains("250 2.0.0 ok: queued"));
    let stats = get(&control, "/stats");
    assert_eq!(
        (&stats["accepted"], &stats["open"], &stats["peak"], &stats["limit"]),
        (&1.into(), &0.into(), &1.into(), &2.into())
    );
    let behaviour = r#"{"failures": [{"stage": "mail", "reply": "451 4.3.0 not now", "times": 1}]}"#;
    let request = format!("POST /behaviour HTTP/1.1\r\nContent-Length: {}\r\n\r\n{behaviour}", behaviour.len());
    assert!(converse(&control, &request).starts_with("HTTP/1.1 200"));
    assert!(mail(&smtp, "two").contains("451 4.3.0 not now"));
    assert!(
        converse(&control, "POST /behaviour HTTP/1.1\r\nContent-Length: 9\r\n\r\n{\"no\": 1}")
            .starts_with("HTTP/1.1 400")
    );
    child.kill().expect("it is killed");
    child.wait().expect("it ends");

    let (mut child, again, control) = start(&journal, &smtp);
    assert_eq!(again, smtp);
    mail(&smtp, "one");
    let stats = get(&control, "/stats");
    assert_eq!(
        (&stats["accepted"], &stats["unique_message_ids"], &stats["duplicates"]),
        (&2.into(), &1.into(), &1.into())
    );
    assert_eq!(get(&control, "/journal")[0]["message_id"], "one");
    assert!(Command::new("kill").arg(child.id().to_string()).status().expect("kill runs").success());
    assert!(child.wait().expect("it ends").success());
    std::fs::remove_dir_all(folder).expect("the folder goes");
}
