//! Complete messages that producers made themselves: the bytes stay, but for what must not be sent as it is.

use std::ops::Range;

use super::{
    encoded::Encoded,
    error::MailError,
    ids::is_message_id,
    json::{BYTE_ORDER_MARK, Text},
    limits::MAX_MESSAGE,
    seven_bit::LONGEST_LINE,
    time::UnixMillis,
};

/// How long the headers of a message may be. Servers take 100 KB or so.
const MAX_HEAD: usize = 1024 * 1024;

/// A complete message as its producer made it. Its headers are in memory; its body is read from the payload block by block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Raw {
    encoded: Encoded,
    /// Up to the first empty line, that included, with CRLF line ends; all of it when there is none.
    head: Vec<u8>,
    /// Bytes of what follows, with CRLF line ends.
    body_len: usize,
    /// Whether the last line has an end.
    is_ended: bool,
    /// Whether there are lines that no server need take.
    long_lines: bool,
    /// Bytes before the headers that are none: a byte order mark.
    mark: usize,
}

impl Raw {
    /// The message, when it can be sent as one.
    pub(super) fn read(text: Text) -> Result<Self, MailError> {
        let problem = |what: String| MailError::new("raw", what);
        let encoded = Encoded::read("raw", text)?;
        if encoded.len() > MAX_MESSAGE {
            return Err(problem(format!("{} bytes; at most {MAX_MESSAGE} are sent", encoded.len())));
        }
        let (mut head, mut head_end, mut length, mut last) = (Vec::new(), None, 0, [0; 2]);
        let (mut mark, mut line, mut longest) = (0, 0, 0);
        for mut block in crlf(encoded.decoded()) {
            if length == 0 && block.starts_with(BYTE_ORDER_MARK) {
                mark = BYTE_ORDER_MARK.len();
                block.drain(..mark);
            }
            if block.contains(&0) {
                return Err(problem(
                    "holds a NUL byte, which no mail may; encode it in base64 inside the message".into(),
                ));
            }
            length += block.len();
            for text in block.split_inclusive(|byte| *byte == b'\n') {
                line += text.len();
                longest = longest.max(line);
                line = if text.ends_with(b"\n") { 0 } else { line };
            }
            for &byte in &block[block.len().saturating_sub(2)..] {
                last = [last[1], byte];
            }
            if head_end.is_none() {
                let looked = head.len();
                head.extend(block);
                head_end = end_of_head(&head, looked);
                if head_end.unwrap_or(head.len()) > MAX_HEAD {
                    return Err(problem(format!(
                        "its headers are longer than {MAX_HEAD} bytes; put an empty line behind them"
                    )));
                }
            }
        }
        head.truncate(head_end.unwrap_or(head.len()));
        if let Some(at) = hidden_bcc(&head) {
            return Err(problem(format!(
                "line {at} names hidden recipients, but a line before it is no header: others would see them; mend the headers"
            )));
        }
        if fields(&head).next().is_none() {
            return Err(problem("not a message: its first line is no header; begin with headers such as From".into()));
        }
        let long_lines = longest > LONGEST_LINE + 2;
        Ok(Self { body_len: length - head.len(), encoded, head, is_ended: last == *b"\r\n", long_lines, mark })
    }

    /// As the producer wrote it.
    pub(super) fn encoded(&self) -> &Encoded {
        &self.encoded
    }

    /// The headers without `Bcc`, with a `Message-ID` and a `Date`, and the empty line behind them.
    pub(super) fn head(&self, own_message_id: &str, date: UnixMillis) -> Vec<u8> {
        prepare(&self.head, own_message_id, date)
    }

    /// Bytes of [`Raw::body`].
    pub(super) fn body_len(&self) -> usize {
        if self.body_len > 0 && !self.is_ended { self.body_len + 2 } else { self.body_len }
    }

    /// What follows the headers: CRLF line ends throughout, the last line's included.
    pub(super) fn body(&self) -> impl Iterator<Item = Vec<u8>> + Send {
        let mut skip = self.mark + self.head.len();
        let blocks = crlf(self.encoded.decoded()).map(move |mut block| {
            let skipped = skip.min(block.len());
            skip -= skipped;
            block.drain(..skipped);
            block
        });
        let end = (self.body_len > 0 && !self.is_ended).then(|| b"\r\n".to_vec());
        blocks.filter(|block| !block.is_empty()).chain(end)
    }

    /// Whether there are lines longer than a server need take.
    pub(super) fn has_long_lines(&self) -> bool {
        self.long_lines
    }

    /// Its own id, when it has a sound one.
    pub(super) fn message_id(&self) -> Option<String> {
        message_id(&self.head)
    }
}

/// Where the headers end that begin here, when their end is in it; up to `looked` there is none.
fn end_of_head(message: &[u8], looked: usize) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    if message.starts_with(b"\r\n") {
        return Some(2);
    }
    let from = looked.saturating_sub(END.len());
    message[from..].windows(END.len()).position(|window| window == END).map(|at| from + at + END.len())
}

/// The line, from 1, with a `Bcc` among what was meant as headers, behind something that is none. Servers take what
/// follows such a line for the body, so that it would be sent to everybody.
fn hidden_bcc(message: &[u8]) -> Option<usize> {
    let begin = fields(message).last().map_or(0, |field| field.end);
    let lines = message[begin..].split_inclusive(|&byte| byte == b'\n');
    let before = message[..begin].split(|&byte| byte == b'\n').count() - 1;
    lines.take_while(|line| *line != b"\r\n").position(looks_like_bcc).map(|at| before + at + 1)
}

/// Whatever stands around the letters, such as a byte order mark, white space or dashes.
fn looks_like_bcc(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return false };
    let letters: Vec<u8> =
        line[..colon].iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    letters == b"bcc" || letters == b"resentbcc"
}

/// The headers without `Bcc`, with a `Message-ID` and a `Date`.
fn prepare(head: &[u8], own_message_id: &str, date: UnixMillis) -> Vec<u8> {
    let mut message = head.to_vec();
    if !message.ends_with(b"\r\n") {
        // A last line without an end, perhaps a header's, must not run into what follows it.
        message.extend_from_slice(b"\r\n");
    }
    let (mut has_id, mut has_date, mut end) = (false, false, 0);
    let mut kept = Vec::with_capacity(message.len() + 160);
    for field in fields(&message) {
        end = field.end;
        let bytes = &message[field];
        match name(bytes).as_deref() {
            Some(b"bcc" | b"resent-bcc") => continue,
            Some(b"message-id") => has_id = true,
            Some(b"date") => has_date = true,
            _ => {}
        }
        kept.extend_from_slice(bytes);
    }
    if !has_id {
        kept.extend_from_slice(format!("Message-ID: {own_message_id}\r\n").as_bytes());
    }
    if !has_date {
        kept.extend_from_slice(format!("Date: {}\r\n", rfc2822(date)).as_bytes());
    }
    // What follows the headers is the empty line and the body, or something that is no header: that begins the body.
    let rest = &message[end..];
    if !rest.starts_with(b"\r\n") {
        kept.extend_from_slice(b"\r\n");
    }
    kept.extend_from_slice(rest);
    kept
}

fn message_id(message: &[u8]) -> Option<String> {
    let field = fields(message).find(|field| name(&message[field.clone()]).as_deref() == Some(b"message-id"))?;
    let text = std::str::from_utf8(&message[field]).ok()?;
    let value: String = text.split_once(':')?.1.split_whitespace().collect();
    is_message_id(&value).then_some(value)
}

/// Every bare CR and bare LF made CRLF: what one server takes for a line end and another does not is how mail is
/// smuggled (CVE-2023-51764).
pub(super) fn normalise(bytes: &[u8]) -> Vec<u8> {
    normalise_after(&mut 0, bytes)
}

/// The same for text that comes in blocks.
pub(super) fn crlf<B: AsRef<[u8]>>(blocks: impl Iterator<Item = B> + Send) -> impl Iterator<Item = Vec<u8>> + Send {
    let mut previous = 0;
    blocks.map(move |block| normalise_after(&mut previous, block.as_ref()))
}

fn normalise_after(previous: &mut u8, bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    for &byte in bytes {
        match byte {
            b'\n' if *previous == b'\r' => {}
            b'\r' | b'\n' => lines.extend_from_slice(b"\r\n"),
            other => lines.push(other),
        }
        *previous = byte;
    }
    lines
}

/// RFC 5322 section 3.3, in UTC.
fn rfc2822(date: UnixMillis) -> String {
    let stamp = i64::try_from(date.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.unwrap_or_default().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// The header fields at the beginning, each with its folded lines and its last line end.
fn fields(message: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        name(&message[start..])?;
        let mut end = line_end(message, start);
        while matches!(message.get(end), Some(b' ' | b'\t')) {
            end = line_end(message, end);
        }
        let field = start..end;
        start = end;
        Some(field)
    })
}

fn line_end(message: &[u8], start: usize) -> usize {
    message[start..].iter().position(|&byte| byte == b'\n').map_or(message.len(), |at| start + at + 1)
}

/// The name of the field that begins here, in lower case; none when no field does.
fn name(bytes: &[u8]) -> Option<Vec<u8>> {
    let colon = bytes.iter().position(|&byte| byte == b':' || byte == b'\n')?;
    // White space before the colon is obsolete, but read by servers as part of the syntax.
    let name = bytes[..colon].trim_ascii_end();
    (bytes[colon] == b':' && !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
        .then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use proptest::prelude::*;

    use super::*;

    const DATE: UnixMillis = UnixMillis(1_763_683_734_123);

    fn read(message: &[u8]) -> Result<Raw, MailError> {
        Raw::read(Text::of(base64::engine::general_purpose::STANDARD.encode(message)))
    }

    fn sent(raw: &Raw) -> Vec<u8> {
        let body: Vec<u8> = raw.body().flatten().collect();
        assert_eq!(body.len(), raw.body_len());
        [raw.head("<id@x>", DATE), body].concat()
    }

    fn prepared(message: &str) -> String {
        String::from_utf8(sent(&read(message.as_bytes()).expect("a message"))).expect("text")
    }

    #[test]
    fn bcc_goes_with_its_folded_lines_and_what_is_missing_comes() {
        let message = "From: a@x\nBCC: secret@x,\n\tother@x\nTo: b@x\n\nBcc: this is body\n";
        let prepared = prepared(message);
        assert_eq!(
            prepared,
            "From: a@x\r\nTo: b@x\r\nMessage-ID: <id@x>\r\nDate: Fri, 21 Nov 2025 00:08:54 +0000\r\n\r\nBcc: this is body\r\n"
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_message() {
        let message = "Message-ID: <own@y>\r\nDate: today\r\n\r\nbody\r\n";
        assert_eq!(prepared(&format!("\u{feff}{message}")), message);
    }

    #[test]
    fn what_the_producer_set_stays() {
        let message = "Message-ID: <own@y>\r\nDate: today\r\nSubject : x\r\n\r\nbody";
        assert_eq!(prepared(message), format!("{message}\r\n"));
        assert_eq!(read(message.as_bytes()).expect("a message").message_id(), Some("<own@y>".into()));
        assert_eq!(message_id(b"Message-ID: <own@y> <b@c>\n\n"), None);
    }

    #[test]
    fn headers_alone_and_bodies_without_an_empty_line_are_messages_too() {
        assert!(prepared("From: a@x").starts_with("From: a@x\r\nMessage-ID: <id@x>\r\nDate: "));
        assert!(prepared("From: a@x").ends_with("\r\n\r\n"));
        assert!(prepared("From: a@x\nhello there\n").ends_with("+0000\r\n\r\nhello there\r\n"));
        assert!(read(b"hello there").is_err());
        assert!(read(b"From: a@x\n\n\0").is_err());
    }

    #[test]
    fn hidden_recipients_behind_a_line_that_is_no_header_are_not_sent_to_everybody() {
        for message in [
            "From: a@x\nthis is no header\nBcc: secret@x\n\nbody\n",
            "From: a@x\n: no name\nbCC : secret@x\n\nbody\n",
            "From: a@x\n\u{feff}Bcc: secret@x\n\nbody\n",
            "From: a@x\n\u{a0}Resent-Bcc: secret@x\n\nbody\n",
            "From: a@x\rno header\rBcc: secret@x",
            "From: a@x\nno header\n folded\n\tBcc: secret@x\nTo: b@x\n\n",
        ] {
            let error = read(message.as_bytes()).expect_err(message);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for message in ["From: a@x\n\nBcc: this is body\n", "From: a@x\nno header\n\nBcc: this is body\n"] {
            assert!(read(message.as_bytes()).is_ok(), "{message}");
        }
    }

    #[test]
    fn a_long_body_is_read_block_by_block_and_the_headers_are_not_endless() {
        let body = "a line of text\nand a bare\rone\r\n".repeat(20_000);
        let message = prepared(&format!("From: a@x\n\n{body}"));
        let (_, sent) = message.split_once("\r\n\r\n").expect("head and body");
        assert!(sent == String::from_utf8(normalise(body.as_bytes())).expect("text"));
        let error =
            read(&[b"From: a@x\n".as_slice(), &b"X-More: and more\n".repeat(70_000)].concat()).expect_err("endless");
        assert!(error.to_string().contains("headers are longer"), "{error}");
    }

    proptest! {
        #[test]
        fn no_hidden_recipient_is_in_what_is_sent(pieces in proptest::collection::vec(
            prop_oneof![Just("Bcc:"), Just(" bcc :"), Just("Resent-Bcc:"), Just("To:"), Just(" "), Just("\t"), Just("x"), Just("\u{feff}"), Just(":"),
                Just(" secret@x"), Just("\n"), Just("\r\n"), Just("\r")], 0..30)) {
            let message = format!("From: a@x\n{}", pieces.concat());
            prop_assume!(read(message.as_bytes()).is_ok());
            let out = prepared(&message);
            let head = out.split("\r\n\r\n").next().unwrap_or_default();
            prop_assert!(!head.split("\r\n").any(|line| looks_like_bcc(line.as_bytes()) && !line.starts_with([' ', '\t'])), "{out:?}");
        }

        #[test]
        fn no_bare_cr_or_lf_and_no_bcc_survives(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'b'), Just(b'c'), any::<u8>()], 0..200)) {
            let mut message = b"From: a@x\r\n".to_vec();
            message.extend(bytes);
            let Ok(raw) = read(&message) else { return Ok(()) };
            let out = sent(&raw);
            prop_assert!(out.ends_with(b"\r\n"));
            for (at, byte) in out.iter().enumerate() {
                if *byte == b'\n' {
                    prop_assert!(at > 0 && out[at - 1] == b'\r');
                }
                if *byte == b'\r' {
                    prop_assert_eq!(out.get(at + 1), Some(&b'\n'));
                }
            }
            prop_assert!(fields(&out).all(|field| name(&out[field]).as_deref() != Some(b"bcc")));
            prop_assert_eq!(fields(&out).filter(|field| name(&out[field.clone()]).as_deref() == Some(b"message-id")).count().min(1), 1);
        }
    }
}
