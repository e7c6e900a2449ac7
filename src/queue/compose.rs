//! From a mail to the bytes of RFC 5322.

use lettre::{
    Message,
    address::{Address, Envelope},
    message::{
        Body, Mailboxes, MultiPart, SinglePart,
        header::{self, ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};

use super::{
    Attachment, Content, Mail, MailError, Parts, UnixMillis,
    mail::{MAX_MESSAGE, is_message_id},
    raw,
};

/// The message to send: CRLF line ends throughout, the last line's included, dots not stuffed (the SMTP part does that), never a `Bcc`.
///
/// A raw message keeps its bytes, but for line ends, a `Bcc`, and a missing `Message-ID` or `Date`.
pub fn compose(mail: &Mail, message_id: &str, date: UnixMillis) -> Result<Vec<u8>, MailError> {
    if !is_message_id(message_id) {
        return Err(MailError::new("id", "gives no Message-ID that can be sent"));
    }
    let message = match &mail.content {
        Content::Raw(message) => raw::prepare(message, message_id, date),
        Content::Parts(parts) => raw::normalise(&build(mail, parts, message_id, date)?.formatted()),
    };
    if message.len() > MAX_MESSAGE {
        return Err(MailError::new(
            "mail",
            format!("{} bytes composed; at most {MAX_MESSAGE} are sent", message.len()),
        ));
    }
    Ok(message)
}

fn build(mail: &Mail, parts: &Parts, message_id: &str, date: UnixMillis) -> Result<Message, MailError> {
    let mut builder = Message::builder()
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
        builder = builder.subject(subject.clone());
    }
    for (name, value) in &parts.headers {
        let name = HeaderName::new_from_ascii(name.clone())
            .map_err(|_| MailError::new(format!("headers.{name}"), "not a header name"))?;
        builder = builder.raw_header(HeaderValue::new(name, value.clone()));
    }
    let built = match (text_part(parts), parts.attachments.split_first()) {
        (Some(TextPart::Single(part)), None) => builder.singlepart(part),
        (Some(TextPart::Multi(part)), None) => builder.multipart(part),
        (None, None) => builder.singlepart(SinglePart::plain(String::new())),
        (body, Some((first, others))) => {
            let mixed = MultiPart::mixed();
            let mut mixed = match body {
                Some(TextPart::Single(part)) => mixed.singlepart(part).singlepart(file(first)?),
                Some(TextPart::Multi(part)) => mixed.multipart(part).singlepart(file(first)?),
                None => mixed.singlepart(file(first)?),
            };
            for other in others {
                mixed = mixed.singlepart(file(other)?);
            }
            builder.multipart(mixed)
        }
    };
    built.map_err(|error| MailError::new("mail", format!("can't be composed: {error}")))
}

enum TextPart {
    Single(SinglePart),
    Multi(MultiPart),
}

fn text_part(parts: &Parts) -> Option<TextPart> {
    match (&parts.text, &parts.html) {
        (Some(text), Some(html)) => Some(TextPart::Multi(
            MultiPart::alternative()
                .singlepart(SinglePart::plain(lines(text)))
                .singlepart(SinglePart::html(lines(html))),
        )),
        (Some(text), None) => Some(TextPart::Single(SinglePart::plain(lines(text)))),
        (None, Some(html)) => Some(TextPart::Single(SinglePart::html(lines(html)))),
        (None, None) => None,
    }
}

/// CRLF throughout before the encoding is chosen: a bare CR would otherwise travel inside quoted-printable.
fn lines(text: &str) -> String {
    String::from_utf8(raw::normalise(text.as_bytes())).unwrap_or_else(|_| text.to_owned())
}

fn file(file: &Attachment) -> Result<SinglePart, MailError> {
    let problem = |what: &str| MailError::new("attachments", format!("{}: {what}", file.filename));
    let content_type = ContentType::parse(&file.content_type).map_err(|_| problem("not a media type"))?;
    // Always base64: a text file must arrive with the line ends it has.
    let body = Body::new_with_encoding(file.content.clone(), ContentTransferEncoding::Base64)
        .map_err(|_| problem("can't be encoded"))?;
    Ok(lettre::message::Attachment::new(file.filename.clone()).body(body, content_type))
}

fn envelope(mail: &Mail) -> Result<Envelope, MailError> {
    let parse = |field: &str, address: &str| {
        address.parse::<Address>().map_err(|error| MailError::new(field, format!("not an address: {error}")))
    };
    let to = mail.recipients.iter().map(|address| parse("to", address)).collect::<Result<_, _>>()?;
    Envelope::new(Some(parse("from", &mail.reverse_path)?), to).map_err(|error| MailError::new("to", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(json: &str) -> String {
        let mail = crate::queue::parse(json.as_bytes()).expect("a mail");
        let message = compose(&mail, "<id@example.com>", UnixMillis(1_763_683_734_123)).expect("a message");
        String::from_utf8(message).expect("text")
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

    #[test]
    fn a_message_id_that_is_none_is_refused() {
        let mail = crate::queue::parse(br#"{"from":"a@example.com","to":"b@x.org","text":""}"#).expect("a mail");
        assert!(compose(&mail, "<a@b>\r\nBcc: x@y", UnixMillis(0)).is_err());
    }
}
