//! From a mail to the bytes of RFC 5322.

use std::borrow::Cow;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use lettre::{
    Message as Built,
    address::{Address, Envelope},
    message::{
        Body, Mailboxes, MessageBuilder, MultiPart, MultiPartBuilder, SinglePart,
        header::{self, ContentTransferEncoding, ContentType, HeaderName, HeaderValue},
    },
};

use super::{
    Attachment, Content, Encoded, Mail, MailError, Parts, Raw, Text, UnixMillis,
    encoded::{encode_lines, lines_len},
    mail::{MAX_MESSAGE, is_message_id},
    raw,
    seven_bit::{self, LONGEST_LINE},
};

/// How long a line of the headers should be (RFC 5322 section 2.1.1).
const FOLDED_LINE: usize = 78;
/// Bytes of an encoded word: with what is around it, it is no longer than 75 characters.
const ENCODED_WORD: usize = 45;
/// Up to this length a text is encoded as a whole, in the way that fits it best.
const SHORT: usize = 64 * 1024;

/// A message that is ready to be sent: CRLF line ends throughout, the last line's included, dots not stuffed (the SMTP part
/// does that), never a `Bcc`. What is long in it is made of the mail's payload while it is read.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    pieces: Vec<Piece<'a>>,
}

#[derive(Clone, Debug)]
enum Piece<'a> {
    Bytes(Vec<u8>),
    /// Lines of base64.
    File(&'a Encoded),
    Text(LongText<'a>),
    /// What follows the headers.
    Body(&'a Raw),
    Encoded(Box<EncodedParts<'a>>),
}

/// A message of which some parts are encoded while it is read.
#[derive(Clone, Debug)]
struct EncodedParts<'a> {
    message: Message<'a>,
    parts: Vec<bool>,
    length: usize,
}

impl Message<'_> {
    fn of(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![Piece::Bytes(bytes)] }
    }

    fn push(&mut self, bytes: &[u8]) {
        match self.pieces.last_mut() {
            Some(Piece::Bytes(last)) => last.extend_from_slice(bytes),
            _ => self.pieces.push(Piece::Bytes(bytes.to_vec())),
        }
    }

    /// How many bytes it is.
    pub fn len(&self) -> usize {
        self.pieces.iter().map(Piece::len).sum()
    }

    /// It never is: there are headers at least.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its bytes in blocks of about 64 KiB at most, the same each time.
    pub fn blocks(&self) -> impl Iterator<Item = Cow<'_, [u8]>> + Send {
        self.pieces.iter().flat_map(Piece::blocks)
    }

    /// For a server that does not take 8 bits.
    pub fn seven_bit(&self) -> Self {
        self.clone().encoded(true)
    }

    /// With parts in quoted-printable: those with lines that are too long, and, when `eight_bit`, those with 8 bits.
    fn encoded(self, eight_bit: bool) -> Self {
        let parts = seven_bit::Parts::of(self.blocks()).to_encode(eight_bit);
        let length = seven_bit::encoded(self.blocks(), &parts).map(|block| block.len()).sum();
        Self { pieces: vec![Piece::Encoded(Box::new(EncodedParts { message: self, parts, length }))] }
    }

    /// All of it in memory.
    pub fn to_vec(&self) -> Vec<u8> {
        let mut all = Vec::with_capacity(self.len());
        self.blocks().for_each(|block| all.extend_from_slice(&block));
        all
    }
}

impl Piece<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::File(file) => file.lines_len(),
            Self::Text(text) => text.len(),
            Self::Body(raw) => raw.body_len(),
            Self::Encoded(encoded) => encoded.length,
        }
    }

    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        match self {
            Self::Bytes(bytes) => Box::new(std::iter::once(Cow::Borrowed(bytes.as_slice()))),
            Self::File(file) => Box::new(file.lines().map(Cow::Owned)),
            Self::Text(text) => text.blocks(),
            Self::Body(raw) => Box::new(raw.body().map(Cow::Owned)),
            Self::Encoded(encoded) => {
                Box::new(seven_bit::encoded(encoded.message.blocks(), &encoded.parts).map(Cow::Owned))
            }
        }
    }
}

/// A text that is too long to be in memory once more for each step of its encoding.
#[derive(Clone, Copy, Debug)]
struct LongText<'a> {
    text: &'a Text,
    /// As it is, or in base64.
    plain: bool,
    /// Bytes with CRLF line ends.
    length: usize,
}

impl<'a> LongText<'a> {
    fn of(text: &'a Text) -> Self {
        let (mut length, mut line, mut plain) = (0, 0, true);
        for block in raw::crlf(text.pieces()) {
            length += block.len();
            for byte in block {
                line = if byte == b'\n' { 0 } else { line + 1 };
                plain &= byte.is_ascii() && byte != 0 && line <= LONGEST_LINE + 1;
            }
        }
        Self { text, plain: plain && line <= LONGEST_LINE, length }
    }

    fn encoding(&self) -> ContentTransferEncoding {
        if self.plain { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::Base64 }
    }

    fn len(&self) -> usize {
        if self.plain { self.length } else { lines_len(self.length) }
    }

    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'a, [u8]>> + Send + 'a> {
        let lines = raw::crlf(gathered(self.text.pieces()));
        if self.plain { Box::new(lines.map(Cow::Owned)) } else { Box::new(encode_lines(lines).map(Cow::Owned)) }
    }
}

/// Pieces of any length as blocks of [`SHORT`] at most: an escape in a text must not become a packet of its own.
fn gathered<'a>(mut pieces: impl Iterator<Item = Cow<'a, [u8]>> + Send) -> impl Iterator<Item = Vec<u8>> + Send {
    let (mut piece, mut used) = (Cow::Borrowed(&[][..]), 0);
    std::iter::from_fn(move || {
        let mut block = Vec::new();
        loop {
            let taken = (SHORT - block.len()).min(piece.len() - used);
            block.extend_from_slice(&piece[used..used + taken]);
            used += taken;
            if block.len() == SHORT {
                return Some(block);
            }
            match pieces.next() {
                Some(next) => (piece, used) = (next, 0),
                None => return (!block.is_empty()).then_some(block),
            }
        }
    })
}

/// The message of a mail.
///
/// A raw message keeps its bytes, but for line ends, a `Bcc`, a missing `Message-ID` or `Date`, and parts with lines that no
/// server need take.
pub fn compose<'a>(mail: &'a Mail, message_id: &str, date: UnixMillis) -> Result<Message<'a>, MailError> {
    if !is_message_id(message_id) {
        return Err(MailError::new("id", "gives no Message-ID that can be sent"));
    }
    let message = match &mail.content {
        Content::Raw(raw) => {
            let mut message = Message::of(raw.head(message_id, date));
            message.pieces.push(Piece::Body(raw));
            if raw.has_long_lines() { message.encoded(false) } else { message }
        }
        Content::Parts(parts) => build(parts, headers(mail, parts, message_id, date)?)?,
    };
    let length = message.len();
    if length > MAX_MESSAGE {
        return Err(MailError::new("mail", format!("{length} bytes composed; at most {MAX_MESSAGE} are sent")));
    }
    Ok(message)
}

fn headers(mail: &Mail, parts: &Parts, message_id: &str, date: UnixMillis) -> Result<MessageBuilder, MailError> {
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

/// A part of a message, as long as it may yet become.
enum Part<'a> {
    /// With its content in it, or without when that is long: it comes in between then.
    Single(SinglePart, Option<Piece<'a>>),
    Multi(MultiPart, Vec<Self>),
}

fn build(parts: &Parts, builder: MessageBuilder) -> Result<Message<'_>, MailError> {
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

/// The message with the headers' lines no longer than need be: lettre puts addresses without names into one line, however
/// many there are. They are cut behind commas (RFC 5322 section 2.2.3).
fn folded(message: Vec<u8>) -> Vec<u8> {
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

/// What comes in where an empty part ends with its line end.
fn insert<'a>(message: &mut Message<'a>, long: Option<Piece<'a>>) {
    let Some(long) = long else { return };
    if let Some(Piece::Bytes(bytes)) = message.pieces.last_mut() {
        bytes.truncate(bytes.len().saturating_sub(2));
    }
    message.pieces.push(long);
    message.push(b"\r\n");
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

fn envelope(mail: &Mail) -> Result<Envelope, MailError> {
    let address = |text: &String| {
        let (local, domain) = text.rsplit_once('@')?;
        Some(Address::new_dangerous(local, domain))
    };
    let to = mail.recipients.iter().filter_map(address).collect();
    Envelope::new(address(&mail.reverse_path), to).map_err(|error| MailError::new("to", error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn composed(json: &str) -> String {
        let mail = crate::queue::parse(json.to_owned()).expect("a mail");
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
        use base64::{Engine as _, engine::general_purpose::STANDARD};
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
        let message = composed(
            r#"{"from":"a@x.org","to":"b@x.org","text":"x","attachments":[{"content":"iVBORw==","cid":"logo"}]}"#,
        );
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
        assert!(crate::queue::parse(r#"{"from":"a@x.org","to":"b@x.org"}"#.to_owned()).is_err());
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
        for line in
            ["info@xn--bcher-kva.example", "a..b@docomo.example", "Reply-To: x@xn--bcher-kva.example\r\n", &long]
        {
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
        let to: Vec<String> =
            (0..60).map(|number| format!("somebody.with.a.long.name{number}@mail.example.org")).collect();
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
        let mail = crate::queue::parse(r#"{"from":"a@example.com","to":"b@x.org","text":""}"#).expect("a mail");
        assert!(compose(&mail, "<a@b>\r\nBcc: x@y", UnixMillis(0)).is_err());
    }
}
