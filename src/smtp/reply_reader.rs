//! From bytes to replies (RFC 5321 section 4.2).

/// RFC 5321 asks for 512; servers write more.
const LONGEST_LINE: usize = 4096;

/// All lines of one reply.
const LONGEST_REPLY: usize = 64 * 1024;

/// A reply that is not all there, as far as it was read: however small the pieces are in which a server sends it, no byte
/// is looked at twice.
#[derive(Default)]
pub(super) struct ReplyReader {
    /// Where the line begins that has no end yet.
    start: usize,
    /// How far its end was looked for.
    looked: usize,
    code: Option<u16>,
    texts: Vec<String>,
}

impl ReplyReader {
    /// The first reply in `bytes` and its length; `None` when it is not all there: then the same bytes and more must follow.
    ///
    /// Liberal: a line may end with LF alone, and no text, or text that is not UTF-8, is a reply all the same (RFC 5321
    /// section 4.2).
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<Option<(u16, Vec<String>, usize)>, String> {
        loop {
            let Some(end) = bytes[self.looked..].iter().position(|byte| *byte == b'\n') else {
                self.looked = bytes.len();
                let endless = bytes.len() - self.start > LONGEST_LINE;
                return if endless { Err("an endless line".into()) } else { Ok(None) };
            };
            let end = self.looked + end;
            if end > LONGEST_REPLY {
                return Err("an endless reply".into());
            }
            let (code, last, text) = line(&bytes[self.start..end])?;
            if self.code.is_some_and(|known| known != code) {
                return Err("a line with another reply code".into());
            }
            self.code = Some(code);
            self.texts.push(text);
            (self.start, self.looked) = (end + 1, end + 1);
            if last {
                let Self { start, texts, .. } = std::mem::take(self);
                return Ok(Some((code, texts, start)));
            }
        }
    }
}

/// Code, whether it is the last of its reply, and text of a line without its LF.
fn line(line: &[u8]) -> Result<(u16, bool, String), String> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let (digits, text) = line.split_at(line.len().min(3));
    let number = std::str::from_utf8(digits).ok().filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    let number: u16 = number.and_then(|digits| digits.parse().ok()).unwrap_or(0);
    if !(200..600).contains(&number) {
        return Err("a line without a reply code".into());
    }
    let (last, text) = match text {
        [] => (true, text),
        [b' ', text @ ..] => (true, text),
        [b'-', text @ ..] => (false, text),
        _ => return Err("a reply code without a space after it".into()),
    };
    Ok((number, last, String::from_utf8_lossy(text).chars().filter(|c| !c.is_control()).collect()))
}

#[cfg(test)]
mod tests {
    use super::{LONGEST_REPLY, ReplyReader};

    fn parse(bytes: &[u8]) -> Result<Option<(u16, Vec<String>, usize)>, String> {
        ReplyReader::default().read(bytes)
    }

    #[test]
    fn a_reply_in_pieces_is_the_same_reply_and_takes_no_longer_for_that() {
        let reply = [b"250-and more\r\n".repeat(LONGEST_REPLY / 14 - 1), b"250 end\r\n354 go".to_vec()].concat();
        let (mut partial, mut looked) = (ReplyReader::default(), 0);
        let mut read = None;
        for end in 1..=reply.len() {
            let before = partial.looked;
            read = partial.read(&reply[..end]).expect("a reply");
            if read.is_some() {
                break;
            }
            looked += end - before;
        }
        assert_eq!(read, parse(&reply).expect("a reply"));
        assert!(looked <= reply.len(), "{looked} bytes looked at");
    }

    #[test]
    fn whole_replies_are_read_and_no_more() {
        let lines = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(b"250 ok\r\n354 more"), Ok(Some((250, lines(&["ok"]), 8))));
        assert_eq!(parse(b"250-one\r\n250 two\r\n"), Ok(Some((250, lines(&["one", "two"]), 18))));
        assert_eq!(parse(b"250\r\n"), Ok(Some((250, lines(&[""]), 5))));
        assert_eq!(parse(b"250-one\r\n250\r\n"), Ok(Some((250, lines(&["one", ""]), 14))));
        assert_eq!(parse(b"250 \xfcber\x07\r\n"), Ok(Some((250, lines(&["\u{fffd}ber"]), 11))));
    }

    #[test]
    fn half_a_reply_is_none_yet() {
        for bytes in [&b""[..], b"250", b"250 ok", b"250 ok\r", b"250-one\r\n", b"250-one\r\n250 two"] {
            assert_eq!(parse(bytes), Ok(None), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        let odd: [&[u8]; 8] = [
            b"ok\r\n",
            b"25\r\n",
            b"2500 ok\r\n",
            b"250-one\r\n251 two\r\n",
            b"150 hm\r\n",
            b"600 hm\r\n",
            b"\r\n",
            b"250\tok\r\n",
        ];
        for bytes in odd {
            assert!(parse(bytes).is_err(), "{bytes:?}");
        }
        assert!(parse(&[b'2'; 5000]).is_err());
        assert!(parse(&b"250-again and again\r\n".repeat(5000)).is_err());
    }
}
