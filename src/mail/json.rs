//! A producer's JSON as it lies in the payload: where its values begin and end, and texts that are read where they are.
//!
//! An attachment of 24 MiB is 32 MiB of base64 inside of a JSON string. It stays there: a [`Text`] is a range of the
//! payload, and whoever needs its characters reads them piece by piece. Syntax is `serde_json`'s to judge.

use std::borrow::Cow;

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;

/// A text inside of a payload, with its escapes; clones share the payload.
#[derive(Clone, PartialEq, Eq)]
pub struct Text {
    /// What stands between the quotes.
    inner: Bytes,
    escaped: bool,
    /// Bytes of the text itself.
    length: usize,
}

impl std::fmt::Debug for Text {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Text").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Text {
    /// A text that lies nowhere yet.
    pub fn of(text: impl Into<String>) -> Self {
        let inner = Bytes::from(text.into());
        Self { length: inner.len(), inner, escaped: false }
    }

    /// The string whose JSON this is, a part of `payload`; none when an escape stands for no character.
    pub(super) fn read(payload: &Bytes, json: &str) -> Option<Self> {
        let inner = json.strip_prefix('"')?.strip_suffix('"')?;
        let inner = payload.slice_ref(inner.as_bytes());
        let escaped = inner.contains(&b'\\');
        let mut text = Self { length: inner.len(), inner, escaped };
        if escaped {
            let mut pieces = text.pieces();
            let length = pieces.by_ref().map(|piece| piece.len()).sum();
            if pieces.odd {
                return None;
            }
            text.length = length;
        }
        Some(text)
    }

    /// Bytes of the text, in UTF-8.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The text piece by piece; long where nothing is escaped.
    pub(super) fn pieces(&self) -> Pieces<'_> {
        Pieces { rest: &self.inner, escaped: self.escaped, odd: false }
    }

    /// All of it, in memory once more.
    pub fn to_text(&self) -> String {
        let mut all = Vec::with_capacity(self.length);
        self.pieces().for_each(|piece| all.extend_from_slice(&piece));
        // What was read is UTF-8, as is what escapes stand for.
        String::from_utf8(all).unwrap_or_default()
    }
}

/// A text without its escapes.
pub(super) struct Pieces<'a> {
    rest: &'a [u8],
    escaped: bool,
    /// Whether an escape stood for no character; U+FFFD comes in its place.
    odd: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Cow<'a, [u8]>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        if self.escaped && self.rest[0] == b'\\' {
            let letter = self.rest.get(1).copied().unwrap_or_default();
            if !matches!(letter, b'"' | b'\\' | b'/') {
                return Some(self.escape(letter));
            }
            // The letter stands for itself, and goes with what follows it.
            return Some(Cow::Borrowed(self.run(1)));
        }
        Some(Cow::Borrowed(self.run(0)))
    }
}

impl<'a> Pieces<'a> {
    /// From this place up to the next escape behind it.
    fn run(&mut self, from: usize) -> &'a [u8] {
        let text = &self.rest[from..];
        let end = if self.escaped { text[1..].iter().position(|byte| *byte == b'\\') } else { None };
        let (run, rest) = text.split_at(end.map_or(text.len(), |end| end + 1));
        self.rest = rest;
        run
    }

    fn escape(&mut self, letter: u8) -> Cow<'a, [u8]> {
        let plain: &'static [u8] = match letter {
            b'n' => b"\n",
            b'r' => b"\r",
            b't' => b"\t",
            b'b' => b"\x08",
            b'f' => b"\x0c",
            _ => b"",
        };
        if !plain.is_empty() {
            self.rest = &self.rest[2..];
            return Cow::Borrowed(plain);
        }
        let unit = |at: usize| {
            let digits = self.rest.get(at..at + 6)?.strip_prefix(b"\\u")?;
            u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
        };
        let (high, low) = (unit(0), unit(6));
        let pair = high.into_iter().chain(low);
        let (c, used) = if let Some(Ok(c)) = char::decode_utf16(pair).next() {
            (c, if c.len_utf16() == 2 { 12 } else { 6 })
        } else {
            self.odd = true;
            (char::REPLACEMENT_CHARACTER, 6)
        };
        self.rest = self.rest.get(used..).unwrap_or_default();
        Cow::Owned(c.to_string().into_bytes())
    }
}

/// The payload without what some writers put into it and JSON does not know: a byte order mark in front, and halves of
/// characters, where a text was cut between the two escapes of one (U+FFFD comes in their place).
pub(super) fn mended(mut payload: Bytes) -> Bytes {
    if payload.starts_with(BYTE_ORDER_MARK) {
        payload = payload.slice(BYTE_ORDER_MARK.len()..);
    }
    let halves = halves(&payload);
    if halves.is_empty() {
        return payload;
    }
    let mut bytes = Vec::from(payload);
    for at in halves {
        bytes[at..at + 4].copy_from_slice(b"fffd");
    }
    bytes.into()
}

/// Where the digits are of escapes that stand for half a character.
fn halves(payload: &[u8]) -> Vec<usize> {
    let unit = |at: usize| {
        let digits = payload.get(at..at + 6)?.strip_prefix(b"\\u")?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(next) = payload[at..].iter().position(|byte| *byte == b'\\') {
        at += next;
        at += match (unit(at), unit(at + 6)) {
            (Some(0xd800..=0xdbff), Some(0xdc00..=0xdfff)) => 12,
            (Some(0xd800..=0xdfff), _) => {
                found.push(at + 2);
                6
            }
            _ => 2,
        };
        if at >= payload.len() {
            break;
        }
    }
    found
}

/// In UTF-8.
pub(super) const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// The payload as text, when it is one JSON value; else what is wrong with it.
pub(super) fn check(payload: &[u8]) -> Result<&str, String> {
    let text = std::str::from_utf8(payload).map_err(|error| format!("byte {} is no UTF-8", error.valid_up_to()))?;
    serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())?;
    Ok(text.trim_ascii())
}

/// The members of an object, its braces around them, name and value as they stand; nothing for any other value. The JSON
/// must have been checked.
pub(super) fn members(object: &str) -> impl Iterator<Item = (Cow<'_, str>, &str)> {
    let mut rest = inside(object, ['{', '}']);
    std::iter::from_fn(move || {
        let (name, after) = value(rest?)?;
        let (value, after) = value(after.trim_ascii_start().strip_prefix(':')?)?;
        rest = after.trim_ascii_start().strip_prefix(',');
        // Most names have no escape.
        let plain = name.strip_prefix('"')?.strip_suffix('"')?;
        let name = if plain.contains('\\') {
            Cow::Owned(serde_json::from_str(name).unwrap_or_default())
        } else {
            Cow::Borrowed(plain)
        };
        Some((name, value))
    })
}

/// The items of a list, as [`members`].
pub(super) fn items(list: &str) -> impl Iterator<Item = &str> {
    let mut rest = inside(list, ['[', ']']);
    std::iter::from_fn(move || {
        let (item, after) = value(rest?)?;
        rest = after.trim_ascii_start().strip_prefix(',');
        Some(item)
    })
}

fn inside(json: &str, [open, close]: [char; 2]) -> Option<&str> {
    let inside = json.strip_prefix(open)?.strip_suffix(close)?;
    (!inside.trim_ascii().is_empty()).then_some(inside)
}

/// The first value of a checked text, and what follows it.
fn value(text: &str) -> Option<(&str, &str)> {
    let text = text.trim_ascii_start();
    let bytes = text.as_bytes();
    let end = match bytes.first()? {
        b'"' => string_end(bytes, 0)?,
        b'{' | b'[' => {
            let (mut depth, mut at) = (0_usize, 0);
            loop {
                match bytes.get(at)? {
                    b'"' => {
                        at = string_end(bytes, at)?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    break at;
                }
            }
        }
        _ => bytes.iter().position(|byte| b",]}: \t\r\n".contains(byte)).unwrap_or(bytes.len()),
    };
    Some(text.split_at(end))
}

/// Behind the closing quote of the string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        let rest = bytes.get(at..)?;
        let found = rest.iter().position(|byte| *byte == b'"' || *byte == b'\\')?;
        if rest[found] == b'"' {
            return Some(at + found + 1);
        }
        at += found + 2;
    }
}

/// A value that is small, whole.
pub(super) fn small(json: &str) -> Result<Value, String> {
    serde_json::from_str(json).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
            r#"["\\\\/\n,:{}\[\] ]{0,6}"#.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("\\PC{0,4}", inner, 0..4)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    fn rebuilt(json: &str) -> Value {
        match json.as_bytes()[0] {
            b'{' => Value::Object(members(json).map(|(name, value)| (name.into_owned(), rebuilt(value))).collect()),
            b'[' => items(json).map(rebuilt).collect::<Vec<_>>().into(),
            b'"' => {
                let payload = Bytes::from(json.to_owned());
                let text = std::str::from_utf8(&payload).expect("text");
                let read = Text::read(&payload, text).expect("sound escapes");
                assert_eq!(read.to_text().len(), read.len());
                read.to_text().into()
            }
            _ => small(json).expect("a value"),
        }
    }

    proptest! {
        #[test]
        fn what_is_read_piece_by_piece_is_what_serde_json_reads(value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.expect("JSON");
            prop_assert_eq!(rebuilt(check(format!(" {text}\n").as_bytes()).expect("sound")), value);
        }
    }

    #[test]
    fn escapes_are_read_where_they_are() {
        let json = r#""a\/b\"c\\d\n\u002b\u00e4\ud83d\ude00\\""#.to_owned();
        let payload = Bytes::from(json.clone());
        let text = Text::read(&payload, std::str::from_utf8(&payload).expect("text")).expect("a text");
        assert_eq!(text.to_text(), serde_json::from_str::<String>(&json).expect("JSON"));
        assert!(text.pieces().all(|piece| !piece.is_empty()));
    }

    #[test]
    fn what_is_half_a_character_or_a_byte_order_mark_does_no_harm() {
        let mend = |text: &str| String::from_utf8(mended(Bytes::from(text.to_owned())).to_vec()).expect("text");
        assert_eq!(mend("\u{feff}{\"a\":1}"), "{\"a\":1}");
        for (cut, whole) in [
            (r#""\ud83d""#, r#""\ufffd""#),
            (r#""\ude00x""#, r#""\ufffdx""#),
            (r#""\ud83dx\ude00""#, r#""\ufffdx\ufffd""#),
            (r#""\ud83d\u0041\ud83d\ude00""#, r#""\ufffd\u0041\ud83d\ude00""#),
            (r#""\\ud83d \\\ud83d""#, r#""\\ud83d \\\ufffd""#),
            (r#""\ud83d\ud83d\ude00\\""#, r#""\ufffd\ud83d\ude00\\""#),
        ] {
            assert_eq!(mend(cut), whole);
            assert!(serde_json::from_str::<String>(&mend(cut)).is_ok(), "{cut}");
        }
        assert_eq!(mend("\\"), "\\");
    }

    #[test]
    fn half_a_pair_is_no_character() {
        for json in [r#""\ud83d""#, r#""\ude00x""#, r#""\ud83dx\ude00""#, r#""\ud83d\u0041""#] {
            let payload = Bytes::from(json);
            assert!(Text::read(&payload, std::str::from_utf8(&payload).expect("text")).is_none(), "{json}");
            assert!(serde_json::from_str::<String>(json).is_err());
        }
    }

    #[test]
    fn what_is_no_json_says_where() {
        assert!(check(br#"{"a":}"#).expect_err("no value").contains("column 6"));
        assert_eq!(check(b"{\"a\":\"\xff\"}"), Err("byte 6 is no UTF-8".into()));
        assert_eq!(members("[1]").count() + items("{}").count(), 0);
        assert_eq!(check(json!({}).to_string().as_bytes()), Ok("{}"));
    }
}
