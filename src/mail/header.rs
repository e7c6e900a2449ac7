//! What may stand in a header: names, values in one line, words that can be folded.

use serde_json::Value;

use super::error::MailError;

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

pub(super) fn check_header(name: &str) -> Result<(), MailError> {
    let field = format!("headers.{}", one_line(name));
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
    Ok(())
}

pub(super) fn header_value(field: &str, value: Value) -> Result<String, MailError> {
    let text = match value {
        Value::String(text) => text,
        Value::Number(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        _ => return Err(MailError::new(field, "not a text; write a JSON string, or a list of them")),
    };
    let text = one_line(&text);
    check_folding(field, &text)?;
    Ok(text)
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
