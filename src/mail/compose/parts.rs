//! The parts of a message (RFC 2045): texts, what the HTML shows, invitations, files.

use lettre::message::{
    Body, MessageBuilder, MultiPart, MultiPartBuilder, SinglePart,
    header::{ContentTransferEncoding, ContentType},
};

use super::{
    headers::folded,
    long_text::{LongText, SHORT},
    message::{Message, Piece},
};
use crate::mail::{
    error::MailError,
    json::Text,
    model::{Attachment, Parts},
    raw,
};

/// A part of a message, as long as it may yet become.
enum Part<'a> {
    /// With its content in it, or without when that is long: it comes in between then.
    Single(SinglePart, Option<Piece<'a>>),
    Multi(MultiPart, Vec<Self>),
}

pub(super) fn build(parts: &Parts, builder: MessageBuilder) -> Result<Message<'_>, MailError> {
    let problem = |error: lettre::error::Error| MailError::new("mail", format!("can't be composed: {error}"));
    // What the HTML shows belongs to it (RFC 2387); without HTML nothing can show it.
    let shown = |file: &&Attachment| file.cid.is_some() && parts.html.is_some();
    let (shown, beside): (Vec<_>, Vec<_>) = parts.attachments.iter().partition(shown);
    let text = parts.text.as_ref().map(|text| text_part(text, ContentType::TEXT_PLAIN));
    let html = parts.html.as_ref().map(|html| text_part(html, ContentType::TEXT_HTML));
    let html = html.map(|html| joined(MultiPart::related(), html, shown.into_iter().map(file))).transpose()?;
    let calendar = parts.calendar.as_deref().map(calendar_part).transpose()?;
    // From the plainest to the richest (RFC 2046 section 5.1.4).
    let mut ways = text.into_iter().chain(html).chain(calendar);
    let first = ways.next().unwrap_or_else(|| Part::Single(SinglePart::plain(String::new()), None));
    let text = joined(MultiPart::alternative(), first, ways.map(Ok))?;
    let said = parts.text.is_some() || parts.html.is_some() || parts.calendar.is_some();
    let files = beside.into_iter().map(file);
    let whole = if said || parts.attachments.is_empty() {
        joined(MultiPart::mixed(), text, files)?
    } else {
        Part::Multi(MultiPart::mixed().build(), files.collect::<Result<_, _>>()?)
    };
    // The headers of the message and of its outermost part, which has nothing in it yet.
    match whole {
        Part::Single(part, long) => {
            let built = builder.singlepart(part).map_err(problem)?;
            let mut message = Message::of(folded(raw::normalise(&built.formatted())));
            insert(&mut message, long);
            Ok(message)
        }
        Part::Multi(part, inner) => {
            let boundary = part.boundary();
            let built = builder.multipart(part).map_err(problem)?;
            let mut message = Message::of(folded(raw::normalise(&built.formatted())));
            append(&mut message, &boundary, inner);
            Ok(message)
        }
    }
}

/// A part and those that belong to it, or the part alone when none do.
fn joined<'a>(
    kind: MultiPartBuilder,
    first: Part<'a>,
    others: impl Iterator<Item = Result<Part<'a>, MailError>>,
) -> Result<Part<'a>, MailError> {
    let mut parts = vec![first];
    for other in others {
        parts.push(other?);
    }
    if parts.len() > 1 { Ok(Part::Multi(kind.build(), parts)) } else { Ok(parts.swap_remove(0)) }
}

/// Puts parts into a multipart that ends with `message` and has none yet: its last line ends it, and comes after them.
fn append<'a>(message: &mut Message<'a>, boundary: &str, parts: Vec<Part<'a>>) {
    let end = format!("--{boundary}--\r\n");
    if let Some(Piece::Bytes(bytes)) = message.pieces.last_mut() {
        bytes.truncate(bytes.len().saturating_sub(end.len()));
    }
    for part in parts {
        message.push(format!("--{boundary}\r\n").as_bytes());
        match part {
            Part::Single(part, long) => {
                message.push(&raw::normalise(&part.formatted()));
                insert(message, long);
            }
            Part::Multi(part, inner) => {
                message.push(&raw::normalise(&part.formatted()));
                append(message, &part.boundary(), inner);
            }
        }
    }
    message.push(end.as_bytes());
}

/// What comes in where an empty part ends with its line end.
fn insert<'a>(message: &mut Message<'a>, long: Option<Piece<'a>>) {
    let Some(long) = long else { return };
    if let Some(Piece::Bytes(bytes)) = message.pieces.last_mut() {
        bytes.truncate(bytes.len().saturating_sub(2));
    }
    message.pieces.push(long);
    message.push(b"\r\n");
}

fn text_part(text: &Text, kind: ContentType) -> Part<'_> {
    let builder = SinglePart::builder().header(kind);
    if text.len() <= SHORT {
        return Part::Single(builder.body(short_body(&text.to_text())), None);
    }
    let text = LongText::of(text);
    let body = Body::dangerous_pre_encoded(Vec::new(), text.encoding());
    Part::Single(builder.body(body), Some(Piece::Text(text)))
}

/// How an invitation is to be taken (RFC 6047 section 2.4) stands in it.
fn calendar_part(calendar: &str) -> Result<Part<'_>, MailError> {
    let method = calendar.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.trim().eq_ignore_ascii_case("METHOD").then(|| value.trim().to_ascii_uppercase())
    });
    let sound = |method: &String| !method.is_empty() && method.bytes().all(|byte| byte.is_ascii_alphabetic());
    let method = method.filter(sound).map(|method| format!("; method={method}")).unwrap_or_default();
    let kind = ContentType::parse(&format!("text/calendar; charset=utf-8{method}"))
        .map_err(|_| MailError::new("calendar", "its METHOD is no word"))?;
    Ok(Part::Single(SinglePart::builder().header(kind).body(short_body(calendar)), None))
}

/// In the encoding that fits it best; NUL is not to be sent as it is (RFC 5321 section 4.5.2).
fn short_body(text: &str) -> Body {
    let lines = lines(text);
    if !lines.contains('\0') {
        return Body::new(lines);
    }
    let encoded = Body::new_with_encoding(lines, ContentTransferEncoding::QuotedPrintable);
    encoded.unwrap_or_else(Body::new)
}

/// CRLF throughout before the encoding is chosen: a bare CR would otherwise travel inside quoted-printable.
fn lines(text: &str) -> String {
    String::from_utf8(raw::normalise(text.as_bytes())).unwrap_or_else(|_| text.to_owned())
}

fn file(file: &Attachment) -> Result<Part<'_>, MailError> {
    let problem = |what: &str| MailError::new("attachments", format!("{}: {what}", file.filename));
    let content_type = ContentType::parse(&file.content_type).map_err(|_| problem("not a media type"))?;
    // Always base64: a text file must arrive with the line ends it has.
    let body = Body::dangerous_pre_encoded(Vec::new(), ContentTransferEncoding::Base64);
    let name = file.filename.clone();
    let attachment = match &file.cid {
        Some(cid) => lettre::message::Attachment::new_inline_with_name(cid.clone(), name),
        None => lettre::message::Attachment::new(name),
    };
    let part = attachment.body(body, content_type);
    Ok(Part::Single(part, Some(Piece::File(&file.content))))
}
