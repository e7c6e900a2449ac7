//! A mail, apart from any queue: what producers write, and the message that is sent.
//!
//! [`parse()`] reads a producer's JSON into a [`Mail`], field by field, and refuses what can't be sent as it is meant with the
//! name of the field ([`MailError`]). [`compose()`] makes the message of RFC 5322. Both are pure: no clock, no connection.
//! Whatever any bytes are, they are a mail that composes, or an error; tests try that with random ones.
//!
//! | file | what |
//! |---|---|
//! | `parse`, `fields` | the JSON of a mail, and single fields of it |
//! | `json` | reading JSON where it lies, piece by piece |
//! | `address`, `header`, `ids` | what may be an address, a header, an id |
//! | `model` | a mail, checked |
//! | `raw` | a whole message that its producer made |
//! | `compose` | the message: headers, parts, long texts, and the bytes of all of it |
//! | `encoded`, `seven_bit` | base64 and quoted-printable, block by block |
//!
//! # Memory
//!
//! A payload is in memory once: contents are ranges of it ([`Text`], [`Encoded`], [`Raw`]), and the message is made of them
//! while it is sent ([`Message`]).

mod address;
mod compose;
mod encoded;
mod error;
mod fields;
mod header;
mod ids;
mod json;
mod limits;
mod model;
mod parse;
mod raw;
mod seven_bit;
mod time;

pub use compose::{Message, compose};
pub use encoded::Encoded;
pub use error::MailError;
pub(crate) use ids::{digest, fresh_id, is_id, is_message_id, sortable_id};
pub use json::Text;
pub use limits::{MAX_MESSAGE, MAX_PAYLOAD, MAX_RECIPIENTS};
pub use model::{Attachment, Content, Mail, Parts, Priority};
pub(crate) use parse::id_of_invalid;
pub use parse::parse;
pub use raw::Raw;
pub use time::UnixMillis;
