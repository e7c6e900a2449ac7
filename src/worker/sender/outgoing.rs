//! A mail of the queue as a session sends it.

use std::borrow::Cow;

use crate::{mail::Message, smtp::MailData};

/// A message of the queue as a session sends it.
pub(super) struct Outgoing<'a>(pub(super) Message<'a>);

impl MailData for Outgoing<'_> {
    fn blocks(&self) -> Box<dyn Iterator<Item = Cow<'_, [u8]>> + Send + '_> {
        Box::new(self.0.blocks())
    }

    fn seven_bit(&self) -> Option<Box<dyn MailData + Send + '_>> {
        Some(Box::new(Outgoing(self.0.seven_bit())))
    }
}
