//! From a mail to the bytes of RFC 5322.

mod headers;
mod long_text;
mod message;
mod parts;

use super::{
    error::MailError,
    ids::is_message_id,
    limits::MAX_MESSAGE,
    model::{Content, Mail},
    time::UnixMillis,
};
use headers::headers;
use message::Piece;
use parts::build;

pub use message::Message;

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

#[cfg(test)]
mod tests;
