//! Base64 as producers write it, read and written anew block by block: a file is never decoded as a whole.

use std::borrow::Cow;

use base64::{
    Engine as _,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    error::MailError,
    json::{Pieces, Text},
};

/// Characters of a line of base64 in a message (RFC 2045 section 6.8).
const LINE: usize = 76;
/// Characters that are read at once: whole lines, and whole groups of four.
const BLOCK: usize = LINE * 512;

const ENGINE: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Bytes in base64 inside of a payload, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    text: Text,
    /// Bytes that it stands for.
    length: usize,
}

impl Encoded {
    /// Base64 in either alphabet, with or without padding and white space.
    pub(super) fn read(field: &str, text: Text) -> Result<Self, MailError> {
        let problem = |what: &str| MailError::new(field, format!("not base64: {what}"));
        let (mut length, mut ended) = (0, false);
        for block in Symbols::of(&text) {
            if ended {
                return Err(problem("something follows the padding"));
            }
            ended = block.ends_with(b"=");
            length += ENGINE.decode(&block).map_err(|error| problem(&error.to_string()))?.len();
        }
        Ok(Self { text, length })
    }

    /// How many bytes it stands for.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether it stands for none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes that it stands for, block by block.
    pub fn decoded(&self) -> impl Iterator<Item = Vec<u8>> + Send {
        // It was decoded once already.
        Symbols::of(&self.text).map(|block| ENGINE.decode(block).unwrap_or_default())
    }

    /// How many bytes [`Encoded::lines`] are.
    pub(super) fn lines_len(&self) -> usize {
        lines_len(self.length)
    }

    /// The same in base64 as a message has it: lines of 76 characters, CRLF between them, padded.
    pub(super) fn lines(&self) -> impl Iterator<Item = Vec<u8>> + Send {
        let mut first = true;
        Symbols::of(&self.text).map(move |mut block| {
            while block.len() % 4 != 0 {
                block.push(b'=');
            }
            let lines = in_lines(&block, first);
            first = false;
            lines
        })
    }
}

/// Bytes of the lines that so many bytes become.
pub(super) fn lines_len(bytes: usize) -> usize {
    let characters = bytes.div_ceil(3) * 4;
    characters + characters.saturating_sub(1) / LINE * 2
}

/// Lines of a block that begins with a line, which is the `first` or follows others.
fn in_lines(block: &[u8], first: bool) -> Vec<u8> {
    let mut lines = Vec::with_capacity(block.len() + block.len() / LINE * 2 + 2);
    for (at, line) in block.chunks(LINE).enumerate() {
        if at > 0 || !first {
            lines.extend_from_slice(b"\r\n");
        }
        lines.extend_from_slice(line);
    }
    lines
}

/// Any bytes in base64 as a message has it, from blocks of any length.
pub(super) fn encode_lines<'a>(
    blocks: impl Iterator<Item = Vec<u8>> + Send + 'a,
) -> impl Iterator<Item = Vec<u8>> + Send + 'a {
    let (mut blocks, mut pending, mut first, mut over) = (blocks, Vec::new(), true, false);
    std::iter::from_fn(move || {
        while !over && pending.len() < BLOCK / 4 * 3 {
            match blocks.next() {
                Some(block) => pending.extend(block),
                None => over = true,
            }
        }
        if pending.is_empty() {
            return None;
        }
        let whole = if over { pending.len() } else { pending.len() / (LINE / 4 * 3) * (LINE / 4 * 3) };
        let text = ENGINE.encode(&pending[..whole]);
        pending.drain(..whole);
        let lines = in_lines(text.as_bytes(), first);
        first = false;
        Some(lines)
    })
}

/// The characters of base64 without white space, of the usual alphabet, [`BLOCK`] at once and fewer at the end. What is of
/// no alphabet stays, for the decoder to find.
struct Symbols<'a> {
    pieces: Pieces<'a>,
    /// What of a piece did not fit into the last block.
    rest: Cow<'a, [u8]>,
    used: usize,
}

impl<'a> Symbols<'a> {
    fn of(text: &'a Text) -> Self {
        Self { pieces: text.pieces(), rest: Cow::Borrowed(&[]), used: 0 }
    }
}

impl Iterator for Symbols<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut block = Vec::new();
        loop {
            let left = &self.rest[self.used..];
            if block.capacity() == 0 && !left.is_empty() {
                block.reserve_exact(BLOCK.min(left.len().max(256)));
            }
            let taken = left.len().min(BLOCK - block.len());
            block.extend(left[..taken].iter().filter(|byte| !byte.is_ascii_whitespace()).map(|byte| match byte {
                b'-' => b'+',
                b'_' => b'/',
                other => *other,
            }));
            self.used += taken;
            if block.len() == BLOCK {
                return Some(block);
            }
            if self.used == self.rest.len() {
                match self.pieces.next() {
                    Some(piece) => (self.rest, self.used) = (piece, 0),
                    None => return (!block.is_empty()).then_some(block),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn joined(blocks: impl Iterator<Item = Vec<u8>>) -> Vec<u8> {
        blocks.flatten().collect()
    }

    fn expected_lines(bytes: &[u8]) -> Vec<u8> {
        let text = STANDARD.encode(bytes);
        text.as_bytes().chunks(LINE).collect::<Vec<_>>().join(&b"\r\n"[..])
    }

    proptest! {
        #[test]
        fn what_is_encoded_in_any_way_is_written_in_one(
            bytes in any::<Vec<u8>>(), repeat in prop_oneof![Just(1_usize), Just(500), Just(2_000)],
            every in 1_usize..200, web: bool, padded: bool, cut in 1_usize..5_000,
        ) {
            let bytes = bytes.repeat(repeat);
            let mut text = STANDARD.encode(&bytes);
            if web {
                text = text.replace('+', "-").replace('/', "_");
            }
            if !padded {
                text = text.trim_end_matches('=').to_owned();
            }
            let text: Vec<String> = text.as_bytes().chunks(every).map(|line| String::from_utf8_lossy(line).into_owned()).collect();
            let encoded = Encoded::read("content", Text::of(text.join("\r\n "))).expect("base64");
            prop_assert_eq!(encoded.len(), bytes.len());
            prop_assert!(joined(encoded.decoded()) == bytes);
            let lines = expected_lines(&bytes);
            prop_assert!(joined(encoded.lines()) == lines);
            prop_assert_eq!(encoded.lines_len(), lines.len());
            prop_assert!(joined(encode_lines(bytes.chunks(cut).map(<[u8]>::to_vec))) == lines);
        }

        #[test]
        fn what_is_taken_is_what_a_decoder_of_the_whole_takes(text in "[ABQgw=!\\-_\n ]{0,12}") {
            let compact: String = text.chars().filter(|c| !c.is_ascii_whitespace()).map(|c| match c { '-' => '+', '_' => '/', c => c }).collect();
            prop_assert_eq!(Encoded::read("content", Text::of(text)).is_ok(), ENGINE.decode(compact).is_ok());
        }
    }

    #[test]
    fn padding_in_the_middle_of_a_long_text_is_found() {
        let text = format!("{}YQ=={}", "A".repeat(BLOCK - 4), "A".repeat(8));
        assert!(Encoded::read("content", Text::of(text)).is_err());
    }
}
