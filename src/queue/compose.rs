//! From a mail to the bytes of RFC 5322.

use super::{Mail, MailError, UnixMillis};

/// The message: CRLF line ends throughout, dots not stuffed, never a `Bcc`.
pub fn compose(_mail: &Mail, _message_id: &str, _date: UnixMillis) -> Result<Vec<u8>, MailError> {
    todo!()
}
