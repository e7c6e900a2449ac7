//! Texts that are too long to be in memory once more for each step of their encoding.

use std::borrow::Cow;

use lettre::message::header::ContentTransferEncoding;

use crate::mail::{
    encoded::{encode_lines, lines_len},
    json::Text,
    raw,
    seven_bit::LONGEST_LINE,
};

/// Up to this length a text is encoded as a whole, in the way that fits it best.
pub(super) const SHORT: usize = 64 * 1024;

/// A text that is too long to be in memory once more for each step of its encoding.
#[derive(Clone, Copy, Debug)]
pub(super) struct LongText<'a> {
    text: &'a Text,
    /// As it is, or in base64.
    plain: bool,
    /// Bytes with CRLF line ends.
    length: usize,
}

impl<'a> LongText<'a> {
    pub(super) fn of(text: &'a Text) -> Self {
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

    pub(super) fn encoding(&self) -> ContentTransferEncoding {
        if self.plain { ContentTransferEncoding::SevenBit } else { ContentTransferEncoding::Base64 }
    }

    pub(super) fn len(&self) -> usize {
        if self.plain { self.length } else { lines_len(self.length) }
    }

    pub(super) fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'a, [u8]>> + Send + 'a> {
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
