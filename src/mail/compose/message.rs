//! A message that is made of a mail's payload while it is read.

use std::borrow::Cow;

use super::long_text::LongText;
use crate::mail::{encoded::Encoded, raw::Raw, seven_bit};

/// A message that is ready to be sent: CRLF line ends throughout, the last line's included, dots not stuffed (the SMTP part
/// does that), never a `Bcc`. What is long in it is made of the mail's payload while it is read.
#[derive(Clone, Debug)]
pub struct Message<'a> {
    pub(super) pieces: Vec<Piece<'a>>,
}

#[derive(Clone, Debug)]
pub(super) enum Piece<'a> {
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
pub(super) struct EncodedParts<'a> {
    message: Message<'a>,
    parts: Vec<bool>,
    length: usize,
}

impl Message<'_> {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self { pieces: vec![Piece::Bytes(bytes)] }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
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
    pub(super) fn encoded(self, eight_bit: bool) -> Self {
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
