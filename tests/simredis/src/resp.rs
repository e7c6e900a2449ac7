//! The wire form: requests in, replies out (RESP2, the only version that the product's client asks for).

use std::borrow::Cow;

use bytes::{Buf, Bytes, BytesMut};

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Status(Cow<'static, str>),
    /// The whole text, its code first.
    Error(Cow<'static, str>),
    Integer(i64),
    Bulk(Bytes),
    /// A bulk that is not there.
    Nil,
    /// An array that is not there: the end of a blocking command.
    NilArray,
    Array(Vec<Reply>),
}

impl Reply {
    pub(crate) const OK: Self = Self::Status(Cow::Borrowed("OK"));

    pub(crate) fn bulk(bytes: impl AsRef<[u8]>) -> Self {
        Self::Bulk(Bytes::copy_from_slice(bytes.as_ref()))
    }

    pub(crate) fn count(n: usize) -> Self {
        Self::Integer(i64::try_from(n).unwrap_or(i64::MAX))
    }

    pub(crate) fn bulks<T: Into<Bytes>>(items: impl IntoIterator<Item = T>) -> Self {
        Self::Array(items.into_iter().map(|item| Self::Bulk(item.into())).collect())
    }

    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        match self {
            // A line break inside would end the reply early.
            Self::Status(text) => line(out, b'+', text.replace(['\r', '\n'], " ").as_bytes()),
            Self::Error(text) => line(out, b'-', text.replace(['\r', '\n'], " ").as_bytes()),
            Self::Integer(n) => line(out, b':', n.to_string().as_bytes()),
            Self::Bulk(bytes) => {
                line(out, b'$', bytes.len().to_string().as_bytes());
                out.extend_from_slice(bytes);
                out.extend_from_slice(b"\r\n");
            }
            Self::Nil => out.extend_from_slice(b"$-1\r\n"),
            Self::NilArray => out.extend_from_slice(b"*-1\r\n"),
            Self::Array(items) => {
                line(out, b'*', items.len().to_string().as_bytes());
                for item in items {
                    item.encode(out);
                }
            }
        }
    }
}

fn line(out: &mut Vec<u8>, kind: u8, text: &[u8]) {
    out.push(kind);
    out.extend_from_slice(text);
    out.extend_from_slice(b"\r\n");
}

/// The client does not speak the protocol; the text is the last it hears.
#[derive(Debug)]
pub(crate) struct ProtocolError(pub(crate) &'static str);

/// Takes one request off the front: its words, none for an empty line, or `None` while it is not complete.
pub(crate) fn take_request(input: &mut BytesMut) -> Result<Option<Vec<Bytes>>, ProtocolError> {
    let Some((first, mut at)) = line_at(input, 0) else { return Ok(None) };
    if input[0] != b'*' {
        // An inline command, as people type it.
        let words = input[..first].split(u8::is_ascii_whitespace).filter(|word| !word.is_empty());
        let words = words.map(Bytes::copy_from_slice).collect();
        input.advance(at);
        return Ok(Some(words));
    }
    let number = decimal(&input[1..first]).ok_or(ProtocolError("invalid multibulk length"))?;
    let mut spans = Vec::with_capacity(number.min(64));
    for _ in 0..number {
        let Some((end, start)) = line_at(input, at) else { return Ok(None) };
        if input[at] != b'$' {
            return Err(ProtocolError("expected '$'"));
        }
        let length = decimal(&input[at + 1..end]).ok_or(ProtocolError("invalid bulk length"))?;
        if input.len() < start + length + 2 {
            return Ok(None);
        }
        spans.push(start..start + length);
        at = start + length + 2;
    }
    let whole = input.split_to(at).freeze();
    Ok(Some(spans.into_iter().map(|span| whole.slice(span)).collect()))
}

/// Where the line that begins at `from` ends, and where the next one begins.
fn line_at(input: &[u8], from: usize) -> Option<(usize, usize)> {
    let feed = from + input.get(from..)?.iter().position(|&byte| byte == b'\n')?;
    let end = if feed > from && input[feed - 1] == b'\r' { feed - 1 } else { feed };
    // An empty line has no first byte to look at, so it counts as a word-less inline command.
    Some((end, feed + 1))
}

fn decimal(digits: &[u8]) -> Option<usize> {
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(request: Option<Vec<Bytes>>) -> Option<Vec<String>> {
        request.map(|words| words.iter().map(|word| String::from_utf8_lossy(word).into_owned()).collect())
    }

    #[test]
    fn a_request_is_taken_only_when_it_is_complete() {
        let whole = b"*2\r\n$3\r\nGET\r\n$4\r\na\r\nb\r\nPING x\r\n\r\n";
        for cut in 0..23 {
            let mut input = BytesMut::from(&whole[..cut]);
            assert_eq!(words(take_request(&mut input).expect("no error")), None, "{cut}");
            assert_eq!(input.len(), cut, "nothing is taken");
        }
        let mut input = BytesMut::from(&whole[..]);
        assert_eq!(words(take_request(&mut input).expect("whole")), Some(vec!["GET".into(), "a\r\nb".into()]));
        assert_eq!(words(take_request(&mut input).expect("inline")), Some(vec!["PING".into(), "x".into()]));
        assert_eq!(words(take_request(&mut input).expect("empty")), Some(vec![]));
        assert!(input.is_empty());
        assert!(take_request(&mut BytesMut::from(&b"*1\r\n+GET\r\n"[..])).is_err());
        assert!(take_request(&mut BytesMut::from(&b"*x\r\n"[..])).is_err());
    }
}
