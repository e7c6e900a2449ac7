use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::mail::{ids::is_message_id, time::UnixMillis};

fn parsed(value: &Value) -> Result<Mail, MailError> {
    parse(value.to_string())
}

fn with(field: &str, value: Value) -> Value {
    let mut mail = json!({"from": "a@example.com", "to": "b@example.org", "text": "x"});
    mail[field] = value;
    mail
}

#[test]
fn refusals_go_where_the_producer_wants_them() {
    let path = |value: Value| parsed(&value).map(|mail| mail.reverse_path).map_err(|error| error.field);
    assert_eq!(path(with("returnPath", json!("b-1=x@bounce.example"))), Ok("b-1=x@bounce.example".into()));
    assert_eq!(path(with("returnPath", json!("<b@x.org>"))), Ok("b@x.org".into()));
    assert_eq!(path(with("returnPath", json!("<>"))), Ok(String::new()));
    assert_eq!(path(with("returnPath", json!(""))), Ok(String::new()));
    assert_eq!(path(with("returnPath", Value::Null)), Ok("a@example.com".into()));
    assert_eq!(path(with("returnPath", json!("nobody"))), Err("returnPath".into()));
    // The id does not depend on it.
    let mail = parsed(&with("returnPath", json!(""))).expect("a mail");
    assert_eq!(mail.message_id("1"), "<1@example.com>");
    // An automatic answer that is a whole message; without one, somebody must have written it.
    let raw = STANDARD_NO_PAD.encode("From: a@example.com\n\nx\n");
    assert_eq!(path(json!({"from": "", "to": "b@x.org", "raw": raw})), Ok(String::new()));
    assert_eq!(path(json!({"from": "<>", "to": "b@x.org", "raw": raw})), Ok(String::new()));
    assert_eq!(path(json!({"to": "b@x.org", "raw": raw})), Err("from".into()));
    assert_eq!(path(json!({"from": "", "to": "b@x.org", "text": "x"})), Err("from".into()));
}

#[test]
fn what_is_no_harm_is_no_error() {
    for mail in [
        with("headers", json!({"X-Trace": null})),
        with("to", json!(["b@example.org", null, ""])),
        with("priority", json!(1)),
        with("priority", json!("urgent")),
        with("expiresAt", json!("2036-11-28 15:00:00+00:00")),
        with("to", json!("b@example.org; c@example.org")),
    ] {
        parsed(&mail).expect("a mail");
    }
    let mail = parsed(&with("headers", json!({"X-Tag": ["a", "b"], "X-Other": 1}))).expect("a mail");
    let Content::Parts(parts) = mail.content else { panic!("parts") };
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(parts.headers, [header("X-Other", "1"), header("X-Tag", "a"), header("X-Tag", "b")]);
    let error = parsed(&with("headers", json!({"X-Tag": ["a", {}]}))).expect_err("an object");
    assert_eq!(error.field, "headers.X-Tag[1]");
    let mail = parse(b"\xef\xbb\xbf{\"from\":\"a@x.org\",\"to\":\"b@x.org\",\"subject\":\"Great \\ud83d\"}".as_slice());
    let Content::Parts(parts) = mail.expect("a mail").content else { panic!("parts") };
    assert_eq!(parts.subject.as_deref(), Some("Great \u{fffd}"));
}

#[test]
fn one_string_lists_names_and_objects_are_all_recipients() {
    let mail = parsed(&json!({
        "from": "Ann <a@example.com>",
        "to": "b@x.org, \"Smith, C.\" <c@x.org>",
        "cc": [{"name": "D", "address": "d@x.org"}, "b@x.org"],
        "bcc": ["e@x.org"],
        "text": "",
        "unknown": {"ignored": true}
    }))
    .expect("a mail");
    assert_eq!(mail.recipients, ["b@x.org", "c@x.org", "d@x.org", "e@x.org"]);
    assert_eq!(mail.reverse_path, "a@example.com");
    let Content::Parts(parts) = mail.content else { panic!("parts") };
    assert_eq!(parts.to[1].name.as_deref(), Some("Smith, C."));
}

#[test]
fn errors_name_the_field() {
    for (field, value, named) in [
        ("to", json!([]), "to"),
        ("to", json!(["b@x.org", "no address"]), "to[1]"),
        ("to", json!("b@x.org>\r\nRCPT TO:<c@x.org"), "to"),
        ("from", json!(null), "from"),
        ("headers", json!({"Bcc": "x@y.z"}), "headers.Bcc"),
        ("headers", json!({"X-A\r\nBcc": "x"}), "headers.X-A  Bcc"),
        ("headers", json!({"Content-Type": "text/html"}), "headers.Content-Type"),
        ("attachments", json!([{"filename": "a", "content": "!"}]), "attachments[0].content"),
        ("attachments", json!([{"contentType": "multipart/mixed", "content": ""}]), "attachments[0].contentType"),
        ("priority", json!("asap"), "priority"),
        ("notBefore", json!("tomorrow"), "notBefore"),
        ("id", json!("a b"), "id"),
        ("raw", json!("%%"), "raw"),
        ("version", json!(2), "version"),
        ("subject", json!({}), "subject"),
    ] {
        let error = parsed(&with(field, value.clone())).expect_err(&value.to_string());
        assert_eq!(error.field, named, "{error}");
    }
    assert_eq!(parsed(&json!({"from": "a@b.c", "to": "a@b.c"})).expect_err("empty").field, "text");
    let many: Vec<String> = (0..101).map(|n| format!("u{n}@x.org")).collect();
    assert_eq!(parsed(&with("to", json!(many))).expect_err("many").field, "to");
}

#[test]
fn what_would_cost_much_more_memory_than_it_has_bytes_is_refused() {
    let many = |item: &str, count| format!("[{}]", vec![item; count].join(","));
    let mail = |more: &str| format!(r#"{{"from":"a@example.com","to":"b@example.org","text":"x",{more}}}"#);
    for (payload, named) in [
        (mail(&format!(r#""attachments":{}"#, many("{\"content\":\"\"}", 1_001))), "attachments"),
        (mail(&format!(r#""bcc":{}"#, many(r#""b@example.org""#, 50_000))), "bcc"),
        (mail(&format!(r#""headers":{{"X-Long":"{}"}}"#, "x ".repeat(300_000))), "headers"),
    ] {
        assert_eq!(parse(payload).expect_err(named).field, named);
    }
    let unknown = mail(&format!(r#""tags":{}"#, many(r#"{"a":1}"#, 100_000)));
    assert!(parse(unknown).is_ok(), "what is ignored costs nothing");
}

#[test]
fn contents_are_the_same_however_their_json_is_written() {
    let plain = r#"{"from":"a@example.com","to":"b@example.org","text":"a/b\u00e4","attachments":[{"filename":"f","content":"+/+/"}]}"#;
    let escaped = r#"{"from":"a@example.com","to":"b@example.org","text":"a\/bä","attachments":[{"filename":"f","content":"\u002b\/-_"}]}"#;
    let [plain, escaped] = [plain, escaped].map(|payload| parse(payload).expect("a mail"));
    assert_eq!(plain.fingerprint(), escaped.fingerprint());
    let Content::Parts(parts) = escaped.content else { panic!("parts") };
    assert_eq!(parts.text.expect("text").to_text(), "a/bä");
    assert_eq!(parts.attachments[0].content.decoded().flatten().collect::<Vec<_>>(), [0xfb, 0xff, 0xbf]);
}

#[test]
fn what_is_no_mail_has_the_id_that_its_producer_gave_it() {
    for (payload, id) in [
        (r#"{"id":"order-7","to":[]}"#, Some("order-7")),
        (r#"{"to":[{"id":"inner"}],"id":17}"#, Some("17")),
        (r#"{"id":"order-7","text":"cut of"#, Some("order-7")),
        (r#"{"id":"order-7"} and more"#, Some("order-7")),
        (r#"{"attachments":[{"id":"inner"}]}"#, None),
        (r#"{"id":"a b"}"#, None),
        (r#"{"text":"cut off","id":"ord"#, None),
        (r#"[{"id":"inner"}]"#, None),
        ("", None),
    ] {
        assert_eq!(id_of_invalid(payload.as_bytes()).as_deref(), id, "{payload}");
    }
}

#[test]
fn addresses_that_could_break_out_are_refused() {
    for address in [
        "a b@x.org",
        "a@x.org>",
        "<a@x.org",
        "\"a b\"@x.org",
        "a@x.org\r\n",
        "a@\u{0}x.org",
        "a\u{a0}b@x.org",
        "@x.org",
        "a@",
        "a@x.org b@y.org",
        "a,b@x.org",
        "",
    ] {
        let value = json!([{"address": address}]);
        // Outer white space is no part of an address.
        assert!(address.trim() == "a@x.org" || parsed(&with("to", value)).is_err(), "{address:?}");
    }
}

#[test]
fn times_are_rfc_3339_or_numbers() {
    for (value, wanted) in [
        (json!("2026-11-21T08:30:00Z"), 1_795_249_800_000),
        (json!("2026-11-21T09:30:00+01:00"), 1_795_249_800_000),
        (json!(1_795_249_800), 1_795_249_800_000),
        (json!(1_795_249_800_000_u64), 1_795_249_800_000),
    ] {
        let mail = parsed(&with("expiresAt", value.clone())).expect("a mail");
        assert_eq!(mail.expires_at, Some(UnixMillis(wanted)), "{value}");
    }
}

#[test]
fn the_message_id_comes_from_the_id() {
    let mail = parsed(&with("id", json!("order-7"))).expect("a mail");
    assert_eq!(mail.message_id("order-7"), "<order-7@example.com>");
    let odd = mail.message_id("a:b");
    assert!(is_message_id(&odd) && odd == mail.message_id("a:b") && odd != mail.message_id("a:c"), "{odd}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_mail_or_an_error(bytes in any::<Vec<u8>>()) {
        let _ = parse(bytes);
    }

    #[test]
    fn any_texts_in_any_field_are_a_mail_that_composes_or_an_error(
        from in ".{0,30}", to in ".{0,30}", name in "\\PC{0,20}", subject in ".{0,80}", text in ".{0,80}", header in "(?s).{0,40}", filename in ".{0,20}",
    ) {
        let values = [
            json!({"from": from, "to": to, "text": text}),
            json!({
                "from": {"name": name, "address": "a@example.com"}, "to": [{"name": header, "address": "b@example.org"}],
                "bcc": "hidden@example.net", "subject": subject, "text": text, "html": text, "headers": {"X-Any": header},
                "attachments": [{"filename": filename, "content": "aGVsbG8="}],
            }),
        ];
        for value in values {
            let Ok(mail) = parsed(&value) else { continue };
            let message = crate::mail::compose(&mail, "<id@x>", UnixMillis(0)).expect("what is parsed composes");
            let text = String::from_utf8(message.to_vec()).expect("ASCII headers, encoded bodies");
            prop_assert!(!text.replace("\r\n", "").contains(['\r', '\n']), "{text:?}");
            prop_assert!(!text.to_ascii_lowercase().contains("hidden@"));
            let head = text.split("\r\n\r\n").next().unwrap_or_default();
            let names: Vec<&str> = head.split("\r\n").filter(|line| !line.starts_with([' ', '\t'])).map(|line| line.split(':').next().unwrap_or_default()).collect();
            let known = ["From", "To", "Subject", "Date", "Message-ID", "MIME-Version", "Content-Type", "Content-Transfer-Encoding", "X-Any"];
            prop_assert!(names.iter().all(|name| known.contains(name)), "{names:?} in {head:?}");
            prop_assert!(text.split("\r\n").all(|line| line.len() <= 998));
        }
    }
}
