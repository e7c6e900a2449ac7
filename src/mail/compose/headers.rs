//! The headers of a message, in lines that every server takes.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::{
    Message as Built,
    address::{Address, Envelope},
    message::{
        Mailboxes, MessageBuilder,
        header::{self, HeaderName, HeaderValue},
    },
};

use crate::mail::{
    error::MailError,
    model::{Mail, Parts},
    time::UnixMillis,
};

/// How long a line of the headers should be (RFC 5322 section 2.1.1).
pub(super) const FOLDED_LINE: usize = 78;

/// Bytes of an encoded word: with what is around it, it is no longer than 75 characters.
const ENCODED_WORD: usize = 45;

pub(super) fn headers(
    mail: &Mail,
    parts: &Parts,
    message_id: &str,
    date: UnixMillis,
) -> Result<MessageBuilder, MailError> {
    let mut builder = Built::builder()
        .envelope(envelope(mail)?)
        .header(header::From::from(Mailboxes::from(parts.from.clone())))
        .date(date.system_time())
        .message_id(Some(message_id.to_owned()));
    // Set at once: adding one by one makes lettre read back what it wrote, and forget what it can't read.
    if !parts.to.is_empty() {
        builder = builder.header(header::To::from(Mailboxes::from(parts.to.clone())));
    }
    if !parts.cc.is_empty() {
        builder = builder.header(header::Cc::from(Mailboxes::from(parts.cc.clone())));
    }
    if !parts.reply_to.is_empty() {
        builder = builder.header(header::ReplyTo::from(Mailboxes::from(parts.reply_to.clone())));
    }
    if let Some(subject) = &parts.subject {
        builder = builder.raw_header(unstructured(HeaderName::new_from_ascii_str("Subject"), subject));
    }
    for (name, value) in &parts.headers {
        let name = HeaderName::new_from_ascii(name.clone())
            .map_err(|_| MailError::new(format!("headers.{name}"), "not a header name"))?;
        builder = builder.raw_header(unstructured(name, value));
    }
    Ok(builder)
}

/// A header of any text. lettre encodes word by word; what stands between two encoded words is lost to the reader (RFC 2047
/// section 6.2), so that blanks in a row have to be in the words.
fn unstructured(name: HeaderName, text: &str) -> HeaderValue {
    if text.is_ascii() || !text.contains("  ") {
        return HeaderValue::new(name, text.to_owned());
    }
    let (mut words, mut word) = (Vec::new(), String::new());
    for c in text.chars() {
        if word.len() + c.len_utf8() > ENCODED_WORD {
            words.push(std::mem::take(&mut word));
        }
        word.push(c);
    }
    words.push(word);
    let encoded: Vec<String> = words.iter().map(|word| format!("=?utf-8?b?{}?=", STANDARD.encode(word))).collect();
    HeaderValue::dangerous_new_pre_encoded(name, text.to_owned(), encoded.join("\r\n "))
}

/// The message with the headers' lines no longer than need be: lettre puts addresses without names into one line, however
/// many there are. They are cut behind commas (RFC 5322 section 2.2.3).
pub(super) fn folded(message: Vec<u8>) -> Vec<u8> {
    let end = message.windows(4).position(|window| window == b"\r\n\r\n").map_or(message.len(), |at| at + 2);
    let (head, rest) = message.split_at(end);
    if head.split(|byte| *byte == b'\n').all(|line| line.len() <= FOLDED_LINE + 1) {
        return message;
    }
    let mut lines = Vec::with_capacity(message.len() + message.len() / 16);
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let mut line = line;
        while line.len() > FOLDED_LINE + 2 {
            let commas = line.windows(2).enumerate().filter(|(_, pair)| *pair == b", ").map(|(at, _)| at + 1);
            // The last one that keeps the line short, or the first one of all.
            let mut cut = None;
            for at in commas {
                if cut.is_some() && at > FOLDED_LINE {
                    break;
                }
                cut = Some(at);
            }
            let Some(cut) = cut else { break };
            lines.extend_from_slice(&line[..cut]);
            lines.extend_from_slice(b"\r\n");
            line = &line[cut..];
        }
        lines.extend_from_slice(line);
    }
    lines.extend_from_slice(rest);
    lines
}

fn envelope(mail: &Mail) -> Result<Envelope, MailError> {
    let address = |text: &String| {
        let (local, domain) = text.rsplit_once('@')?;
        Some(Address::new_dangerous(local, domain))
    };
    let to = mail.recipients.iter().filter_map(address).collect();
    Envelope::new(address(&mail.reverse_path), to).map_err(|error| MailError::new("to", error.to_string()))
}
