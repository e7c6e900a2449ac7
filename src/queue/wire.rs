//! Reading single fields of a producer's JSON, liberally.

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use lettre::{Address, message::Mailbox};
use serde_json::{Map, Value};

use super::{Attachment, MailError, Priority, UnixMillis, mail::is_id};

/// The fields of the object; those with large texts are taken out as they are read.
pub(super) struct Fields(pub Map<String, Value>);

/// Headers that are made from other fields, that the MIME structure owns, or that only servers write.
const RESERVED: [&str; 17] = [
    "from",
    "sender",
    "to",
    "cc",
    "bcc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "mime-version",
    "return-path",
    "received",
    "content-type",
    "content-transfer-encoding",
    "content-disposition",
    "content-id",
    "content-length",
];

/// The longest word that a header line may hold: lines end at 998 bytes (RFC 5322 section 2.1.1) and words can't be cut.
const MAX_WORD: usize = 900;

impl Fields {
    /// A text, or a number as text; absent and null are the same.
    pub fn text(&mut self, field: &str) -> Result<Option<String>, MailError> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(Value::Number(number)) => Ok(Some(number.to_string())),
            Some(_) => Err(MailError::new(field, "not a text; write a JSON string")),
        }
    }

    pub fn id(&mut self) -> Result<Option<String>, MailError> {
        match self.text("id")?.filter(|id| !id.is_empty()) {
            Some(id) if !is_id(&id) => {
                Err(MailError::new("id", "use at most 200 letters, digits and . _ : @ + = / - , or leave it out"))
            }
            id => Ok(id),
        }
    }

    pub fn priority(&mut self) -> Result<Priority, MailError> {
        match self.text("priority")?.as_deref().map(str::to_ascii_lowercase).as_deref() {
            None | Some("" | "normal") => Ok(Priority::Normal),
            Some("high") => Ok(Priority::High),
            Some("low") => Ok(Priority::Low),
            Some(_) => Err(MailError::new("priority", "write high, normal or low")),
        }
    }

    /// RFC 3339, or a number: milliseconds since 1970 when it is that large, otherwise seconds.
    pub fn time(&mut self, field: &str) -> Result<Option<UnixMillis>, MailError> {
        let problem =
            || MailError::new(field, "not a time; write RFC 3339 such as 2026-11-21T08:30:00Z, or seconds since 1970");
        let Some(text) = self.text(field)? else { return Ok(None) };
        let text = text.trim();
        if let Ok(number) = text.parse::<f64>() {
            if !(0.0..=1e15).contains(&number) {
                return Err(problem());
            }
            let milliseconds = if number >= 1e11 { number } else { number * 1_000.0 };
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
            return Ok(Some(UnixMillis(milliseconds as u64)));
        }
        let stamp: jiff::Timestamp = text.parse().map_err(|_| problem())?;
        Ok(Some(UnixMillis(u64::try_from(stamp.as_millisecond()).map_err(|_| problem())?)))
    }

    /// One address or a list; each a text with or without a display name, or an object with `name` and `address`.
    pub fn mailboxes(&mut self, field: &str) -> Result<Vec<Mailbox>, MailError> {
        match self.0.remove(field) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(items)) => {
                let mut mailboxes = Vec::new();
                for (index, item) in items.iter().enumerate() {
                    mailboxes.extend(item_mailboxes(&format!("{field}[{index}]"), item)?);
                }
                Ok(mailboxes)
            }
            Some(item) => item_mailboxes(field, &item),
        }
    }

    /// Custom headers, in the object's order.
    pub fn headers(&mut self) -> Result<Vec<(String, String)>, MailError> {
        let object = match self.0.remove("headers") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Object(object)) => object,
            Some(_) => return Err(MailError::new("headers", "not an object; write {\"X-Name\": \"value\"}")),
        };
        object.into_iter().map(|(name, value)| header(name, value)).collect()
    }

    pub fn attachments(&mut self) -> Result<Vec<Attachment>, MailError> {
        let items = match self.0.remove("attachments") {
            None | Some(Value::Null) => return Ok(Vec::new()),
            Some(Value::Array(items)) => items,
            Some(_) => return Err(MailError::new("attachments", "not a list")),
        };
        items.into_iter().enumerate().map(|(index, item)| attachment(&format!("attachments[{index}]"), item)).collect()
    }
}

fn header(name: String, value: Value) -> Result<(String, String), MailError> {
    let field = format!("headers.{}", one_line(&name));
    let lower = name.to_ascii_lowercase();
    if name.is_empty() || name.len() > 76 || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
        return Err(MailError::new(
            field,
            "not a header name; use at most 76 printable ASCII characters without a colon",
        ));
    }
    if RESERVED.contains(&lower.as_str()) || lower.starts_with("resent-") {
        return Err(MailError::new(field, "reserved; use the mail's own field for it, or raw for a whole message"));
    }
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return Err(MailError::new(field, "not a text; write a JSON string")),
    };
    let text = one_line(&text);
    check_folding(&field, &text)?;
    Ok((name, text))
}

fn attachment(field: &str, item: Value) -> Result<Attachment, MailError> {
    let Value::Object(object) = item else { return Err(MailError::new(field, "not an object")) };
    let mut file = Fields(object);
    let within = |error: MailError| MailError::new(format!("{field}.{}", error.field), error.problem);
    let filename = one_line(&file.text("filename").map_err(within)?.unwrap_or_else(|| "attachment".into()));
    if filename.len() > 255 {
        return Err(MailError::new(format!("{field}.filename"), "longer than 255 bytes"));
    }
    let content_type = file.text("contentType").map_err(within)?.unwrap_or_else(|| "application/octet-stream".into());
    // A multipart or message type needs a structure that base64 of opaque bytes is not.
    let lower = content_type.to_ascii_lowercase();
    let opaque = !lower.starts_with("multipart/") && !lower.starts_with("message/");
    if !opaque || content_type.len() > 200 || !content_type.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(MailError::new(format!("{field}.contentType"), "write a media type such as application/pdf"));
    }
    lettre::message::header::ContentType::parse(&content_type)
        .map_err(|_| MailError::new(format!("{field}.contentType"), "write a media type such as application/pdf"))?;
    let content = file
        .text("content")
        .map_err(within)?
        .ok_or_else(|| MailError::new(format!("{field}.content"), "missing; give the file in base64"))?;
    Ok(Attachment { filename, content_type, content: decode_base64(&format!("{field}.content"), &content)? })
}

/// Base64 in either alphabet, with or without padding and line ends.
pub(super) fn decode_base64(field: &str, text: &str) -> Result<Vec<u8>, MailError> {
    const CONFIG: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let engine = GeneralPurpose::new(&base64::alphabet::STANDARD, CONFIG);
    let compact: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => other,
        })
        .collect();
    engine.decode(compact).map_err(|error| MailError::new(field, format!("not base64: {error}")))
}

/// The text with every control character, line ends above all, made a space: nothing can begin a header of its own.
pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().trim().to_owned()
}

pub(super) fn check_folding(field: &str, text: &str) -> Result<(), MailError> {
    if text.is_ascii() && text.split(' ').any(|word| word.len() > MAX_WORD) {
        return Err(MailError::new(
            field,
            format!("a word of more than {MAX_WORD} bytes can't be folded; put spaces in"),
        ));
    }
    Ok(())
}

fn item_mailboxes(field: &str, item: &Value) -> Result<Vec<Mailbox>, MailError> {
    match item {
        Value::String(text) => {
            split_list(text).into_iter().filter(|part| !part.is_empty()).map(|part| mailbox(field, part)).collect()
        }
        Value::Object(object) => {
            let text = |name: &str| object.get(name).and_then(Value::as_str);
            let address = text("address").or_else(|| text("email")).ok_or_else(|| {
                MailError::new(field, "an object without address; write {\"name\": .., \"address\": ..}")
            })?;
            Ok(vec![named(text("name"), address_of(field, address)?)])
        }
        _ => Err(MailError::new(field, "not an address; write user@example.com or Name <user@example.com>")),
    }
}

/// Splits at commas outside of quotes and angle brackets.
fn split_list(text: &str) -> Vec<&str> {
    let (mut parts, mut start, mut quoted, mut escaped, mut angle) = (Vec::new(), 0, false, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            '<' if !quoted => angle = true,
            '>' if !quoted => angle = false,
            ',' if !quoted && !angle => {
                parts.push(text[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(text[start..].trim());
    parts
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, MailError> {
    let Some(inner) = text.strip_suffix('>') else { return Ok(Mailbox::new(None, address_of(field, text)?)) };
    let (name, address) = inner.rsplit_once('<').ok_or_else(|| MailError::new(field, "a > without its <"))?;
    Ok(named(Some(name), address_of(field, address)?))
}

fn named(name: Option<&str>, address: Address) -> Mailbox {
    let name = one_line(name.unwrap_or_default());
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => one_line(&quoted.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => name,
    };
    Mailbox::new(Some(name).filter(|name| !name.is_empty() && name.len() <= 500), address)
}

/// An address that can't break out of `MAIL FROM:<...>`: no control bytes, spaces, angle brackets, quotes.
fn address_of(field: &str, text: &str) -> Result<Address, MailError> {
    let text = text.trim();
    let tame =
        |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '<' | '>' | '"' | '\\' | ',' | ';' | '(' | ')');
    if text.len() > 254 || !text.chars().all(tame) {
        return Err(MailError::new(
            field,
            "not an address that can be sent to; write user@example.com without spaces or quotes",
        ));
    }
    text.parse().map_err(|_| MailError::new(field, "not an address; write user@example.com or Name <user@example.com>"))
}
