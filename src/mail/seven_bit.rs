//! Messages for servers that take less than the message needs: text in 8 bits, or lines that are too long, in
//! quoted-printable (RFC 2045 section 6.7), as RFC 6152 section 3 asks for.
//!
//! Only parts that need it are touched, and none that is signed. The message is read twice: once to find those parts, and
//! once to send it; it is never in memory as a whole.

use std::borrow::Cow;

/// The longest line of a message, without its end (RFC 5322 section 2.1.1).
pub(super) const LONGEST_LINE: usize = 998;
/// Lines are looked at in pieces of this length at most.
const PIECE: usize = 4096;
/// A part whose headers are longer than this is passed on as it is.
const LONGEST_HEAD: usize = 256 * 1024;
/// Encoded lines are no longer than this, `=` included.
const ENCODED_LINE: usize = 76;

/// What is in the parts of a message, in their order. Only parts whose content is written as it is are parts here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parts(Vec<Part>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Part {
    eight_bit: bool,
    long: bool,
}

impl Parts {
    /// Reads a message with CRLF line ends.
    pub fn of<'a>(blocks: impl Iterator<Item = Cow<'a, [u8]>>) -> Self {
        let mut reader = Reader::new(None);
        blocks.for_each(|block| drop(reader.read(&block)));
        Self(reader.found)
    }

    /// Those that have too long lines, and, when `eight_bit`, those that need 8 bits.
    pub fn to_encode(&self, eight_bit: bool) -> Vec<bool> {
        self.0.iter().map(|part| part.long || (eight_bit && part.eight_bit)).collect()
    }
}

/// The message again, with these parts in quoted-printable.
pub(super) fn encoded<'a>(
    blocks: impl Iterator<Item = Cow<'a, [u8]>> + Send,
    parts: &[bool],
) -> impl Iterator<Item = Vec<u8>> + Send {
    let mut reader = Reader::new(Some(parts.to_vec()));
    let blocks = blocks.map(Some).chain(std::iter::once(None));
    let read = blocks.map(move |block| match block {
        Some(block) => reader.read(&block),
        None => reader.end(),
    });
    read.filter(|block| !block.is_empty())
}

/// Where in the message the next line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Among the headers of a part; `top` when it is the message itself.
    Head { top: bool },
    /// What is passed on as it is: between parts, or encoded already, or not to be touched.
    Other,
    /// The content of this part.
    Content(usize),
}

struct Reader {
    /// Which parts to encode; none while the parts are looked for.
    encode: Option<Vec<bool>>,
    found: Vec<Part>,
    place: Place,
    /// The headers read so far.
    head: Vec<u8>,
    /// The delimiters of the multiparts around this place, with their dashes; whether they are signed or encrypted.
    around: Vec<(Vec<u8>, bool)>,
    /// The line so far, as long as no more than a piece of it has come.
    line: Vec<u8>,
    /// Bytes of the line that were passed on before.
    passed: usize,
    /// Characters of the encoded line.
    column: usize,
    out: Vec<u8>,
}

impl Reader {
    fn new(encode: Option<Vec<bool>>) -> Self {
        Self {
            encode,
            found: Vec::new(),
            place: Place::Head { top: true },
            head: Vec::new(),
            around: Vec::new(),
            line: Vec::new(),
            passed: 0,
            column: 0,
            out: Vec::new(),
        }
    }

    /// What comes out for this block.
    fn read(&mut self, block: &[u8]) -> Vec<u8> {
        for part in block.split_inclusive(|byte| *byte == b'\n') {
            for piece in part.chunks(PIECE) {
                self.line.extend_from_slice(piece);
                let ended = self.line.ends_with(b"\n");
                if ended || self.line.len() >= PIECE {
                    self.take_line(ended);
                }
            }
        }
        std::mem::take(&mut self.out)
    }

    /// What is left when the message ends among headers, or in the middle of a line.
    fn end(&mut self) -> Vec<u8> {
        let mut rest = std::mem::take(&mut self.head);
        rest.append(&mut self.line);
        rest
    }

    /// A line, or the next piece of a long one. A CR may wait for its LF.
    fn take_line(&mut self, ended: bool) {
        let mut line = std::mem::take(&mut self.line);
        if !ended && line.ends_with(b"\r") {
            line.pop();
            self.line.push(b'\r');
        }
        let first = self.passed == 0;
        let in_head = matches!(self.place, Place::Head { .. });
        let delimits = first && !in_head && line.starts_with(b"--") && self.meets_delimiter(&line);
        match self.place {
            _ if delimits => self.out.extend_from_slice(&line),
            Place::Head { top } => {
                self.head.extend_from_slice(&line);
                if first && line == b"\r\n" {
                    self.end_head(top);
                } else if self.head.len() > LONGEST_HEAD {
                    self.place = Place::Other;
                    self.out.append(&mut self.head);
                }
            }
            Place::Other => self.out.extend_from_slice(&line),
            Place::Content(number) => self.content(number, &line, ended),
        }
        self.passed = if ended { 0 } else { self.passed + line.len() };
    }

    /// A delimiter of a multipart around here ends whatever is inside of it.
    fn meets_delimiter(&mut self, line: &[u8]) -> bool {
        let line = line.trim_ascii_end();
        let found = self.around.iter().rposition(|(delimiter, _)| {
            line.strip_prefix(&**delimiter).is_some_and(|rest| rest.is_empty() || rest == b"--")
        });
        let Some(at) = found else { return false };
        let is_last = line.len() > self.around[at].0.len();
        self.around.truncate(if is_last { at } else { at + 1 });
        self.place = if is_last { Place::Other } else { Place::Head { top: false } };
        true
    }

    fn end_head(&mut self, top: bool) {
        let head = std::mem::take(&mut self.head);
        let kind = field(&head, b"content-type").unwrap_or_default();
        let kind = String::from_utf8_lossy(&kind).into_owned();
        let main = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let sealed = self.around.iter().any(|(_, sealed)| *sealed);
        let encoding = field(&head, b"content-transfer-encoding").unwrap_or_default();
        let encoding = encoding.trim_ascii().to_ascii_lowercase();
        let is_plain = matches!(&*encoding, b"" | b"7bit" | b"8bit" | b"binary");
        if let Some(boundary) = boundary(&kind).filter(|_| main.starts_with("multipart/")) {
            let seals = matches!(&*main, "multipart/signed" | "multipart/encrypted");
            self.around.push(([b"--", boundary.as_bytes()].concat(), seals));
            self.place = Place::Other;
        } else if main == "message/rfc822" && is_plain {
            self.place = Place::Head { top: false };
        } else if sealed || !is_plain || main.starts_with("message/") || main.starts_with("multipart/") {
            self.place = Place::Other;
        } else {
            let number = self.found.len();
            self.found.push(Part::default());
            self.place = Place::Content(number);
            self.column = 0;
            if self.is_encoded(number) {
                return self.announce(&head, top, main.is_empty());
            }
        }
        self.out.extend_from_slice(&head);
    }

    fn is_encoded(&self, part: usize) -> bool {
        self.encode.as_ref().is_some_and(|parts| parts.get(part).copied().unwrap_or_default())
    }

    /// The headers of a part that is encoded from here on.
    fn announce(&mut self, head: &[u8], top: bool, untyped: bool) {
        let (fields, rest) = head.split_at(head.len().saturating_sub(2));
        for field in fields_of(fields) {
            if name_of(field) != b"content-transfer-encoding" {
                self.out.extend_from_slice(field);
            }
        }
        if top && field(head, b"mime-version").is_none() {
            self.out.extend_from_slice(b"MIME-Version: 1.0\r\n");
        }
        if untyped {
            // Whoever wrote 8 bits without a word most likely meant this.
            self.out.extend_from_slice(b"Content-Type: text/plain; charset=utf-8\r\n");
        }
        self.out.extend_from_slice(b"Content-Transfer-Encoding: quoted-printable\r\n");
        self.out.extend_from_slice(rest);
    }

    fn content(&mut self, number: usize, line: &[u8], ended: bool) {
        let text = line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line));
        let part = &mut self.found[number];
        part.eight_bit |= !text.is_ascii();
        part.long |= self.passed + text.len() > LONGEST_LINE;
        if !self.is_encoded(number) {
            return self.out.extend_from_slice(line);
        }
        for (at, byte) in text.iter().enumerate() {
            let last = at + 1 == text.len();
            let plain = match byte {
                b'=' => false,
                // At the end of a line, white space would be lost on the way; a piece's end may be one.
                b' ' | b'\t' => !last,
                byte => byte.is_ascii_graphic(),
            };
            let width = if plain { 1 } else { 3 };
            if self.column + width > ENCODED_LINE - 1 {
                self.out.extend_from_slice(b"=\r\n");
                self.column = 0;
            }
            if plain {
                self.out.push(*byte);
            } else {
                self.out.extend_from_slice(format!("={byte:02X}").as_bytes());
            }
            self.column += width;
        }
        if ended {
            self.out.extend_from_slice(b"\r\n");
            self.column = 0;
        }
    }
}

/// The fields of a head, each with its folded lines.
fn fields_of(head: &[u8]) -> Vec<&[u8]> {
    let mut fields: Vec<&[u8]> = Vec::new();
    let mut start = 0;
    let mut at = 0;
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        if at > start && !matches!(line.first(), Some(b' ' | b'\t')) {
            fields.push(&head[start..at]);
            start = at;
        }
        at += line.len();
    }
    if at > start {
        fields.push(&head[start..at]);
    }
    fields
}

fn name_of(field: &[u8]) -> Vec<u8> {
    let colon = field.iter().position(|byte| *byte == b':').unwrap_or_default();
    field[..colon].trim_ascii().to_ascii_lowercase()
}

/// The value of the first field of this name, unfolded.
fn field(head: &[u8], name: &[u8]) -> Option<Vec<u8>> {
    let field = fields_of(head).into_iter().find(|field| name_of(field) == name)?;
    let colon = field.iter().position(|byte| *byte == b':')?;
    Some(field[colon + 1..].iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect())
}

/// The parameter `boundary` of a multipart's type.
fn boundary(kind: &str) -> Option<String> {
    let (_, mut rest) = kind.split_once(';')?;
    loop {
        let (name, after) = rest.split_once('=')?;
        let after = after.trim_start();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.split_at(after.find([';', ' ', '\t']).unwrap_or(after.len())),
        };
        if name.trim().eq_ignore_ascii_case("boundary") {
            return Some(value.to_owned()).filter(|value| !value.is_empty());
        }
        rest = next.trim_start_matches([';', ' ', '\t']);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seven_bit(message: &str, block: usize) -> String {
        let blocks = || message.as_bytes().chunks(block).map(Cow::Borrowed);
        let parts = Parts::of(blocks()).to_encode(true);
        let bytes: Vec<u8> = encoded(blocks(), &parts).flatten().collect();
        String::from_utf8(bytes).expect("text")
    }

    const MIXED: &str = "From: a@x\r\nMIME-Version: 1.0\r\nContent-Type: multipart/mixed;\r\n\tboundary=\"b 1\"\r\n\r\nPreamble ü\r\n\
        --b 1\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\nX: y\r\n\r\nGrüße = \r\n.\r\n\
        --b 1\r\nContent-Type: text/plain\r\n\r\nseven = bits \r\n\
        --b 1\r\nContent-Type: application/pdf\r\nContent-Transfer-Encoding: base64\r\n\r\nJVBERg==\r\n\
        --b 1\r\nContent-Type: message/rfc822\r\n\r\nSubject: inner\r\n\r\nä\r\n\
        --b 1--\r\nEpilogue\r\n";

    #[test]
    fn only_parts_that_need_it_are_encoded() {
        for block in [1, 7, 4096] {
            let sent = seven_bit(MIXED, block);
            assert!(sent.contains("\r\nX: y\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe =3D=20\r\n.\r\n--b 1\r\n"), "{sent}");
            assert!(sent.contains("Content-Type: text/plain\r\n\r\nseven = bits \r\n"), "{sent}");
            assert!(sent.contains("base64\r\n\r\nJVBERg==\r\n"), "{sent}");
            assert!(sent.contains("Subject: inner\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n=C3=A4\r\n--b 1--\r\nEpilogue\r\n"), "{sent}");
            // What stands between parts is nobody's text.
            assert_eq!(sent.matches(|c: char| !c.is_ascii()).count(), 1, "{sent}");
        }
    }

    #[test]
    fn a_message_without_a_word_about_itself_gets_one() {
        let sent = seven_bit("From: a@x\r\n\r\nGrüße\r\n", 3);
        assert_eq!(
            sent,
            "From: a@x\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n\
             Content-Transfer-Encoding: quoted-printable\r\n\r\nGr=C3=BC=C3=9Fe\r\n"
        );
    }

    #[test]
    fn what_is_signed_stays_as_it_is() {
        let signed = MIXED.replace("multipart/mixed", "multipart/signed");
        assert_eq!(seven_bit(&signed, 100), signed);
    }

    #[test]
    fn long_lines_are_cut_and_their_parts_are_read_as_before() {
        let long = "z".repeat(30_000);
        let message = format!("From: a@x\r\n\r\n{long}\r\nend\r\n");
        let blocks = || message.as_bytes().chunks(997).map(Cow::Borrowed);
        let parts = Parts::of(blocks()).to_encode(false);
        assert_eq!(parts, [true]);
        let sent: Vec<u8> = encoded(blocks(), &parts).flatten().collect();
        let sent = String::from_utf8(sent).expect("text");
        assert!(sent.lines().all(|line| line.len() <= 76));
        let body = sent.split_once("\r\n\r\n").expect("a body").1.replace("=\r\n", "");
        assert_eq!(body, format!("{long}\r\nend\r\n"));
    }

    /// As a reader does it.
    fn decode(text: &str) -> Vec<u8> {
        let text = text.replace("=\r\n", "");
        let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
        while let [first, after @ ..] = rest {
            if *first == b'=' {
                let digits = std::str::from_utf8(&after[..2]).expect("digits");
                bytes.push(u8::from_str_radix(digits, 16).expect("hexadecimal"));
                rest = &after[2..];
            } else {
                bytes.push(*first);
                rest = after;
            }
        }
        bytes
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_written(lines in proptest::collection::vec("[ä= \t.a-z-]{0,200}", 0..20), block in 1_usize..300) {
            let body = lines.iter().flat_map(|line| [line.as_str(), "\r\n"]).collect::<String>();
            let sent = seven_bit(&format!("From: a@x\r\n\r\n{body}"), block);
            prop_assert!(sent.is_ascii());
            let sent_body = sent.split_once("\r\n\r\n").expect("a body").1;
            if body.is_ascii() {
                prop_assert_eq!(sent_body, body);
            } else {
                prop_assert!(sent_body.split("\r\n").all(|line| line.len() <= 76));
                prop_assert_eq!(decode(sent_body), body.into_bytes());
            }
        }
    }
}
