use base64::{Engine as _, engine::general_purpose::STANDARD};

use super::{headers::FOLDED_LINE, *};
use crate::mail::{raw, seven_bit::LONGEST_LINE};

fn composed(json: &str) -> String {
    let mail = crate::mail::parse(json.to_owned()).expect("a mail");
    let message = compose(&mail, "<id@example.com>", UnixMillis(1_763_683_734_123)).expect("a message");
    let bytes = message.to_vec();
    assert_eq!(bytes.len(), message.len());
    String::from_utf8(bytes).expect("text")
}

#[test]
fn text_alone_is_one_part_with_all_headers() {
    let message = composed(
        r#"{"from":"Änn <a@example.com>","to":["b@x.org"],"cc":"c@x.org","bcc":"d@x.org","replyTo":"r@x.org",
            "subject":"Grüße","text":"one\ntwo\rthree\r\n.","headers":{"X-Tag":"a\r\nBcc: e@x.org"}}"#,
    );
    let (head, body) = message.split_once("\r\n\r\n").expect("head and body");
    for line in [
        "To: b@x.org",
        "Cc: c@x.org",
        "Reply-To: r@x.org",
        "Message-ID: <id@example.com>",
        "Date: Fri, 21 Nov 2025 00:08:54 +0000",
        "X-Tag: a  Bcc: e@x.org",
        "MIME-Version: 1.0",
    ] {
        assert!(head.lines().any(|found| found == line), "{line} in {head}");
    }
    assert!(head.contains("From: =?utf-8?") && head.contains("Subject: =?utf-8?"), "{head}");
    assert!(!message.contains("d@x.org"));
    assert_eq!(body, "one\r\ntwo\r\nthree\r\n.\r\n", "dots are not stuffed here");
}

#[test]
fn text_and_html_are_alternatives_and_files_are_mixed_in() {
    let message = composed(
        r#"{"from":"a@example.com","bcc":["d@x.org"],"text":"t","html":"<p>h",
            "attachments":[{"filename":"ä.txt","contentType":"text/plain","content":"YQpiDQpj"}]}"#,
    );
    let (mixed, alternative) = (message.find("multipart/mixed"), message.find("multipart/alternative"));
    assert!(mixed.expect("mixed") < alternative.expect("alternative"));
    assert!(message.contains("YQpiDQpj"), "line ends of files stay: {message}");
    assert!(!message.contains("d@x.org") && !message.contains("\r\nTo:"));
}

/// The content of a part.
fn decoded(body: &str, encoding: &str) -> Vec<u8> {
    match encoding {
        "base64" => STANDARD.decode(body.replace("\r\n", "")).expect("base64"),
        _ => body.as_bytes().to_vec(),
    }
}

#[test]
fn long_texts_and_files_are_the_same_after_all() {
    let html = "<p>Größe \\\"x\\\"\\n</p>".repeat(10_000);
    let text = "a line of text\\n.\\r".repeat(10_000);
    let file = "QUJD\\/+Zm".repeat(30_000);
    let message = composed(&format!(
        r#"{{"from":"a@example.com","to":"b@x.org","text":"{text}","html":"{html}","attachments":[{{"filename":"f","content":"{file}"}},{{"content":"YQ"}}]}}"#
    ));
    assert!(!message.replace("\r\n", "").contains(['\r', '\n']) && message.ends_with("--\r\n"));
    assert!(message.split("\r\n").all(|line| line.len() <= LONGEST_LINE));
    let mut found = Vec::new();
    for part in message.split("\r\n--").filter(|part| part.contains("Content-Transfer-Encoding: ")) {
        let (head, body) = part.rsplit_once("\r\n\r\n").expect("head and body");
        let encoding = head.rsplit_once("Content-Transfer-Encoding: ").expect("one").1;
        found.push(decoded(body, encoding));
    }
    let unescaped = |text: &str| serde_json::from_str::<String>(&format!("\"{text}\"")).expect("JSON");
    let crlf = |text: &str| raw::normalise(unescaped(text).as_bytes());
    assert!(found[0] == crlf(&text) && found[1] == crlf(&html));
    assert!(found[2] == decoded(&unescaped(&file), "base64"));
    assert_eq!(found[3], b"a");
    assert_eq!(found.len(), 4);
}

/// The types of the parts in their order, each with what it hangs in.
fn kinds(message: &str) -> Vec<String> {
    let lines = message.split("\r\n");
    lines
        .filter_map(|line| line.strip_prefix("Content-Type: "))
        .map(|kind| kind.split(';').next().unwrap_or_default().to_owned())
        .collect()
}

#[test]
fn pictures_of_the_html_belong_to_it_and_other_files_lie_beside_it() {
    let message = composed(
        r#"{"from":"a@x.org","to":"b@x.org","text":"x","html":"<img src='cid:logo@1'>","attachments":[
            {"filename":"a.pdf","contentType":"application/pdf","content":"JVBERg=="},
            {"filename":"logo.png","contentType":"image/png","content":"iVBORw==","cid":"logo@1"}]}"#,
    );
    assert_eq!(
        kinds(&message),
        [
            "multipart/mixed",
            "multipart/alternative",
            "text/plain",
            "multipart/related",
            "text/html",
            "image/png",
            "application/pdf"
        ]
    );
    for line in ["Content-ID: <logo@1>\r\n", "Content-Disposition: inline; filename=\"logo.png\"\r\n"] {
        assert!(message.contains(line), "{line} in {message}");
    }
    // Without HTML there is nothing that shows it.
    let message =
        composed(r#"{"from":"a@x.org","to":"b@x.org","text":"x","attachments":[{"content":"iVBORw==","cid":"logo"}]}"#);
    assert_eq!(kinds(&message), ["multipart/mixed", "text/plain", "application/octet-stream"]);
}

#[test]
fn an_invitation_is_one_more_way_to_read_the_mail() {
    let message = composed(
        r#"{"from":"a@x.org","to":"b@x.org","text":"x","calendar":"BEGIN:VCALENDAR\nMETHOD:request\nEND:VCALENDAR\n"}"#,
    );
    assert_eq!(kinds(&message), ["multipart/alternative", "text/plain", "text/calendar"]);
    assert!(message.contains("Content-Type: text/calendar; charset=utf-8; method=REQUEST\r\n"), "{message}");
}

#[test]
fn a_subject_may_be_all_that_is_said() {
    let message = composed(r#"{"from":"a@x.org","to":"b@x.org","subject":"Hello"}"#);
    assert!(message.contains("Subject: Hello\r\n") && message.ends_with("\r\n\r\n\r\n"), "{message:?}");
    assert!(crate::mail::parse(r#"{"from":"a@x.org","to":"b@x.org"}"#.to_owned()).is_err());
}

#[test]
fn nul_is_never_on_the_wire_as_it_is() {
    let message = composed(r#"{"from":"a@x.org","to":"b@x.org","subject":"a\u0000b","text":"a\u0000b\u001b[1m"}"#);
    assert!(!message.contains('\0') && message.contains("a=00b"), "{message}");
}

#[test]
fn odd_addresses_stand_in_the_headers_as_in_the_envelope() {
    let long = format!("reply+{}@reply.example.org", "a1b2c3d4e5".repeat(7));
    let mail = serde_json::json!({
        "from": "a@x.org", "to": ["a..b@docomo.example", "info@bücher.example", &long], "replyTo": "x@bücher.example", "text": "x",
    });
    let message = composed(&mail.to_string());
    for line in ["info@xn--bcher-kva.example", "a..b@docomo.example", "Reply-To: x@xn--bcher-kva.example\r\n", &long] {
        assert!(message.contains(line), "{line}: {message}");
    }
    assert!(message.split("\r\n").all(|line| line.len() <= LONGEST_LINE));
}

#[test]
fn blanks_in_a_row_are_kept_between_words_that_are_encoded() {
    let text = "ä  ö   ü ".repeat(20);
    let message = composed(&format!(r#"{{"from":"a@x.org","to":"b@x.org","subject":"{text}","text":"x"}}"#));
    let subject = message.split("Subject: ").nth(1).expect("a subject").split("\r\nMIME").next().expect("its end");
    assert!(subject.split("\r\n ").all(|word| word.len() <= 75), "{subject}");
    let words = subject.split("\r\n ").map(|word| word.strip_prefix("=?utf-8?b?")?.strip_suffix("?="));
    let bytes: Vec<u8> = words.flat_map(|word| STANDARD.decode(word.expect("a word")).expect("base64")).collect();
    assert_eq!(String::from_utf8(bytes).expect("text"), text.trim());
}

#[test]
fn many_recipients_stand_in_lines_that_every_server_takes() {
    let to: Vec<String> = (0..60).map(|number| format!("somebody.with.a.long.name{number}@mail.example.org")).collect();
    let named = r#"{"name": "Smith, (Ann), and, others", "address": "s@x.org"}"#;
    let json = format!(
        r#"{{"from":"a@x.org","to":{},"cc":[{named},"c@x.org"],"text":"x"}}"#,
        serde_json::to_string(&to).expect("JSON")
    );
    let message = composed(&json);
    let head = message.split("\r\n\r\n").next().expect("a head");
    assert!(head.split("\r\n").all(|line| line.len() <= FOLDED_LINE && !line.trim().is_empty()), "{head}");
    let unfolded = head.replace("\r\n ", " ");
    assert!(unfolded.contains(&format!("To: {}\r\n", to.join(", "))), "{head}");
    assert!(unfolded.contains("?= <s@x.org>, c@x.org\r\n"), "{head}");
}

#[test]
fn raw_mail_with_endless_lines_is_encoded_and_only_then() {
    let raw = |message: &str| {
        let raw = STANDARD.encode(message);
        composed(&serde_json::json!({ "from": "a@x.org", "to": "b@x.org", "raw": raw }).to_string())
    };
    let long = raw(&format!("From: a@x.org\nDKIM-Signature: x\n\n{}\nend", "z".repeat(3_000)));
    assert!(long.split("\r\n").all(|line| line.len() <= 76), "{long}");
    assert!(long.contains("Content-Transfer-Encoding: quoted-printable\r\n"));
    let well = format!("From: a@x.org\n\n{}\nend\n", "z".repeat(998));
    assert!(raw(&well).ends_with(&well.split_once("\n\n").expect("a body").1.replace('\n', "\r\n")));
}

#[test]
fn a_long_text_alone_is_one_part() {
    let message =
        composed(&format!(r#"{{"from":"a@example.com","to":"b@x.org","text":"{}"}}"#, "word ".repeat(20_000)));
    let (head, body) = message.split_once("\r\n\r\n").expect("head and body");
    assert!(head.ends_with("Content-Transfer-Encoding: base64") && body.ends_with("\r\n"), "{head}");
    assert_eq!(decoded(body, "base64"), "word ".repeat(20_000).as_bytes());
}

#[test]
fn a_message_id_that_is_none_is_refused() {
    let mail = crate::mail::parse(r#"{"from":"a@example.com","to":"b@x.org","text":""}"#).expect("a mail");
    assert!(compose(&mail, "<a@b>\r\nBcc: x@y", UnixMillis(0)).is_err());
}
