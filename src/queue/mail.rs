//! The wire form: what producers push, and the mail it stands for.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use bytes::Bytes;
use lettre::message::Mailbox;
use serde::{
    Deserialize, Deserializer as _, Serialize,
    de::{IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::UnknownOutcome;

use super::{
    Encoded, Raw, Text, UnixMillis, json,
    wire::{Fields, check_folding, one_line},
};

/// How many recipients one mail may have: `to`, `cc` and `bcc` together. RFC 5321 section 4.5.3.1.8 lets every server
/// take 100 in one transaction.
pub const MAX_RECIPIENTS: usize = 100;
/// How large a composed message may be, in bytes: with files of 25 MiB in base64. Servers say how much they take (SIZE);
/// many take 25 to 35 MB.
pub const MAX_MESSAGE: usize = 36 * 1024 * 1024;
/// How large the JSON of a mail may be, in bytes.
pub const MAX_PAYLOAD: usize = 36 * 1024 * 1024;

/// Urgent mail overtakes bulk; no priority starves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// Taken first.
    High,
    /// The plain list.
    #[default]
    Normal,
    /// Bulk.
    Low,
}

impl Priority {
    /// As the scripts know it.
    pub(super) fn letter(self) -> u8 {
        match self {
            Self::High => b'h',
            Self::Normal => b'n',
            Self::Low => b'l',
        }
    }
}

/// Why a payload is not a mail. The message names the field and says what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct MailError {
    /// The field, as `to[2]` or `headers.Subject`; `mail` for the whole.
    pub field: String,
    /// What is wrong with it and what to do.
    pub problem: String,
}

/// A mail as its producer described it, checked.
#[derive(Clone, Debug, PartialEq)]
pub struct Mail {
    /// The producer's id, when it gave one.
    pub id: Option<String>,
    /// Where refusals go: `returnPath`, or the address in `from`. Empty: nowhere.
    pub reverse_path: String,
    /// Envelope recipients from `to`, `cc` and `bcc`, each address once, in that order.
    pub recipients: Vec<String>,
    /// Which list it belongs to.
    pub priority: Priority,
    /// Not to be sent earlier.
    pub not_before: Option<UnixMillis>,
    /// Useless afterwards.
    pub expires_at: Option<UnixMillis>,
    /// A second mail with the same key is not sent.
    pub idempotency_key: Option<String>,
    /// W3C trace context of the producer.
    pub traceparent: Option<String>,
    /// What becomes of it when its final answer is lost, unless that is the relay's to say.
    pub unknown_outcome: Option<UnknownOutcome>,
    /// What is sent.
    pub content: Content,
}

/// What is sent.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A complete RFC 5322 message, as the producer made it.
    Raw(Raw),
    /// Parts that [`compose()`](super::compose()) makes a message of.
    Parts(Box<Parts>),
}

/// The parts of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Parts {
    /// `From`.
    pub from: Mailbox,
    /// `To`.
    pub to: Vec<Mailbox>,
    /// `Cc`.
    pub cc: Vec<Mailbox>,
    /// `Reply-To`.
    pub reply_to: Vec<Mailbox>,
    /// `Subject`.
    pub subject: Option<String>,
    /// The plain text.
    pub text: Option<Text>,
    /// The HTML.
    pub html: Option<Text>,
    /// An invitation or the like in iCalendar (RFC 5545), as one more way to read the mail.
    pub calendar: Option<String>,
    /// Other headers, names checked, values free of line ends.
    pub headers: Vec<(String, String)>,
    /// Files.
    pub attachments: Vec<Attachment>,
}

/// A file that goes with a mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    /// Its name.
    pub filename: String,
    /// Its media type.
    pub content_type: String,
    /// Its bytes.
    pub content: Encoded,
    /// What the HTML names it by (`cid:`); it is shown there then, and not beside it.
    pub cid: Option<String>,
}

/// The fields of a mail; others are ignored.
const FIELDS: [&str; 21] = [
    "attachments",
    "bcc",
    "calendar",
    "cc",
    "expiresAt",
    "from",
    "headers",
    "html",
    "id",
    "idempotencyKey",
    "notBefore",
    "priority",
    "raw",
    "replyTo",
    "returnPath",
    "subject",
    "text",
    "to",
    "traceparent",
    "unknownOutcome",
    "version",
];

/// Reads a producer's JSON. Liberal: unknown fields are ignored, `to` may be one string or a list, addresses may carry
/// display names, times may be RFC 3339 or numbers. What can't be sent as it is meant is refused, field by field.
///
/// Contents stay in the payload, which the mail shares from then on.
pub fn parse(payload: impl Into<Bytes>) -> Result<Mail, MailError> {
    let payload = json::mended(payload.into());
    if payload.len() > MAX_PAYLOAD {
        return Err(MailError::new("mail", format!("{} bytes; at most {MAX_PAYLOAD} are taken", payload.len())));
    }
    let object = json::check(&payload)
        .map_err(|error| MailError::new("mail", format!("not JSON: {error}; push an object with from, to and text")))?;
    let fields = Fields::of(&payload, object, &FIELDS)
        .ok_or_else(|| MailError::new("mail", "not a JSON object; push an object with from, to and text"))?;
    refuse_other_versions(&fields)?;
    let return_path = fields.return_path()?;
    let nobody = fields.is_empty_text("from");
    let from = if nobody { None } else { fields.mailboxes("from")?.into_iter().next() };
    // A message that is complete has its own From; an answer that must not be answered has no address for refusals.
    let reverse_path = match (&from, return_path) {
        (_, Some(path)) => path,
        (Some(from), None) => from.email.to_string(),
        (None, None) if nobody && fields.has("raw") => String::new(),
        (None, None) => return Err(MailError::new("from", "missing; give the sender's address")),
    };
    let (to, cc, bcc) = (fields.mailboxes("to")?, fields.mailboxes("cc")?, fields.mailboxes("bcc")?);
    let recipients = recipients(&[&to, &cc, &bcc])?;
    let id = fields.id()?;
    let mail = Mail {
        id,
        reverse_path,
        recipients,
        priority: fields.priority()?,
        not_before: fields.time("notBefore")?,
        expires_at: fields.time("expiresAt")?,
        idempotency_key: fields.text("idempotencyKey")?.filter(|key| !key.is_empty()),
        traceparent: fields.text("traceparent").ok().flatten().filter(|text| is_traceparent(text)),
        unknown_outcome: fields.unknown_outcome()?,
        content: content(&fields, from, to, cc)?,
    };
    if mail.idempotency_key.as_ref().is_some_and(|key| key.len() > MAX_KEY) {
        return Err(MailError::new("idempotencyKey", format!("longer than {MAX_KEY} bytes")));
    }
    Ok(mail)
}

/// The id in a payload that is no mail: of the outermost object, when it comes before the place where the JSON breaks.
/// Whoever looks after dead letters finds the mail by it.
pub(super) fn id_of_invalid(payload: &[u8]) -> Option<String> {
    struct Outermost<'a>(&'a mut Option<String>);

    impl<'de> Visitor<'de> for Outermost<'_> {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
            while let Some(field) = fields.next_key::<String>()? {
                if field == "id" {
                    *self.0 = match fields.next_value::<Value>()? {
                        Value::String(text) => Some(text),
                        Value::Number(number) => Some(number.to_string()),
                        _ => None,
                    };
                } else {
                    fields.next_value::<IgnoredAny>()?;
                }
            }
            Ok(())
        }
    }

    let mut id = None;
    // What breaks after the id does not matter.
    let payload = payload.strip_prefix(json::BYTE_ORDER_MARK).unwrap_or(payload);
    let _ = serde_json::Deserializer::from_slice(payload).deserialize_map(Outermost(&mut id));
    id.filter(|id| is_id(id))
}

impl MailError {
    pub(super) fn new(field: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { field: field.into(), problem: problem.into() }
    }
}

impl Mail {
    /// The Message-ID for a mail of this id: the raw message's own, or one derived from the id and the sender's domain.
    pub fn message_id(&self, id: &str) -> String {
        if let Content::Raw(message) = &self.content
            && let Some(own) = message.message_id()
        {
            return own;
        }
        let domain = match &self.content {
            Content::Parts(parts) => parts.from.email.domain(),
            Content::Raw(_) => self.reverse_path.rsplit_once('@').map_or("", |(_, domain)| domain),
        };
        let domain = if is_dot_atom(domain) { domain } else { "mailrelay.invalid" };
        // An id with other characters gives a digest instead: still the same for the same id.
        let left = if is_dot_atom(id) { id.to_owned() } else { super::names::digest(id) };
        format!("<{left}@{domain}>")
    }
}

impl Mail {
    /// Whether a header names an address that only SMTPUTF8 knows (RFC 6531).
    pub fn has_utf8_addresses(&self) -> bool {
        let Content::Parts(parts) = &self.content else { return false };
        let Parts { from, to, cc, reply_to, .. } = &**parts;
        let mut others = [to, cc, reply_to].into_iter().flatten();
        !from.email.user().is_ascii() || others.any(|mailbox| !mailbox.email.user().is_ascii())
    }

    /// Tells this mail from another of the same id or key: 18 bits of SHA-256 over what is sent to whom, as three letters of
    /// base64. Two that differ and look alike only miss a warning.
    pub(super) fn fingerprint(&self) -> String {
        let mut digest = Sha256::new();
        let add = |digest: &mut Sha256, bytes: &str| {
            digest.update((bytes.len() as u64).to_le_bytes());
            digest.update(bytes);
        };
        let add_file = |digest: &mut Sha256, file: &Encoded| {
            digest.update((file.len() as u64).to_le_bytes());
            file.decoded().for_each(|block| digest.update(block));
        };
        add(&mut digest, &self.reverse_path);
        self.recipients.iter().for_each(|recipient| add(&mut digest, recipient));
        match &self.content {
            Content::Raw(message) => add_file(&mut digest, message.encoded()),
            Content::Parts(parts) => {
                add(&mut digest, parts.subject.as_deref().unwrap_or_default());
                for text in [&parts.text, &parts.html] {
                    let length = text.as_ref().map_or(0, Text::len);
                    digest.update((length as u64).to_le_bytes());
                    text.iter().flat_map(Text::pieces).for_each(|piece| digest.update(piece));
                }
                for (name, value) in &parts.headers {
                    add(&mut digest, name);
                    add(&mut digest, value);
                }
                add(&mut digest, parts.calendar.as_deref().unwrap_or_default());
                for file in &parts.attachments {
                    add(&mut digest, &file.filename);
                    add_file(&mut digest, &file.content);
                }
            }
        }
        STANDARD_NO_PAD.encode(&digest.finalize()[..3])[..3].to_owned()
    }
}

/// How long an idempotency key may be.
const MAX_KEY: usize = 1_024;

fn refuse_other_versions(fields: &Fields) -> Result<(), MailError> {
    let version = match fields.value("version")? {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().trim_start_matches('v').parse().ok(),
        _ => None,
    };
    match version {
        Some(version) if version >= 2.0 => {
            Err(MailError::new("version", format!("{version} is not known here; this release reads version 1")))
        }
        _ => Ok(()),
    }
}

fn recipients(lists: &[&Vec<Mailbox>]) -> Result<Vec<String>, MailError> {
    let mut recipients: Vec<String> = Vec::new();
    for mailbox in lists.iter().copied().flatten() {
        let address = mailbox.email.to_string();
        if !recipients.contains(&address) {
            recipients.push(address);
        }
    }
    match recipients.len() {
        0 => Err(MailError::new("to", "missing; give at least one recipient in to, cc or bcc")),
        1..=MAX_RECIPIENTS => Ok(recipients),
        count => {
            Err(MailError::new("to", format!("{count} recipients; split it into mails of {MAX_RECIPIENTS} at most")))
        }
    }
}

fn content(fields: &Fields, from: Option<Mailbox>, to: Vec<Mailbox>, cc: Vec<Mailbox>) -> Result<Content, MailError> {
    if let Some(raw) = fields.content("raw")? {
        return Ok(Content::Raw(Raw::read(raw)?));
    }
    let from = from.ok_or_else(|| MailError::new("from", "missing; give the sender's address"))?;
    let parts = Parts {
        from,
        to,
        cc,
        reply_to: fields.mailboxes("replyTo")?,
        subject: fields.text("subject")?.map(|subject| one_line(&subject)),
        text: fields.content("text")?,
        html: fields.content("html")?,
        calendar: fields.text("calendar")?.filter(|calendar| !calendar.trim().is_empty()),
        headers: fields.headers()?,
        attachments: fields.attachments()?,
    };
    if let Some(subject) = &parts.subject {
        check_folding("subject", subject)?;
    }
    let nothing = parts.text.is_none() && parts.html.is_none() && parts.calendar.is_none();
    // A subject may say it all.
    if nothing && parts.attachments.is_empty() && parts.subject.as_deref().unwrap_or_default().is_empty() {
        return Err(MailError::new("text", "nothing to send; give subject, text, html, attachments or raw"));
    }
    let size = parts.text.as_ref().map_or(0, Text::len)
        + parts.html.as_ref().map_or(0, Text::len)
        + parts.attachments.iter().map(|file| file.content.len() / 3 * 4).sum::<usize>();
    if size > MAX_MESSAGE {
        return Err(MailError::new("mail", format!("about {size} bytes composed; at most {MAX_MESSAGE} are sent")));
    }
    Ok(Content::Parts(Box::new(parts)))
}

/// Whether a text may name a mail: what is printable and needs no quoting in keys, logs or shells.
pub(super) fn is_id(id: &str) -> bool {
    (1..=MAX_ID).contains(&id.len())
        && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._:@+=/-".contains(&byte))
}

/// How long an id may be, in bytes.
const MAX_ID: usize = 200;

/// Whether a text may stand in a `Message-ID` header: printable, in angle brackets, one `@`, no folding needed.
pub(super) fn is_message_id(id: &str) -> bool {
    id.len() <= 500
        && id.strip_prefix('<').and_then(|id| id.strip_suffix('>')).is_some_and(|inner| {
            inner.contains('@') && inner.bytes().all(|byte| byte.is_ascii_graphic() && !b"<>".contains(&byte))
        })
}

fn is_dot_atom(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= 250
        && text.split('.').all(|atom| {
            !atom.is_empty() && atom.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_+=".contains(&byte))
        })
}

fn is_traceparent(text: &str) -> bool {
    (55..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

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
        let mail =
            parse(b"\xef\xbb\xbf{\"from\":\"a@x.org\",\"to\":\"b@x.org\",\"subject\":\"Great \\ud83d\"}".as_slice());
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
                let message = super::super::compose(&mail, "<id@x>", UnixMillis(0)).expect("what is parsed composes");
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
}
