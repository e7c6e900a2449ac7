//! How a message goes: by DATA, or in chunks by BDAT.

use crate::smtp::{
    reply::Reply,
    session::{Chunking, Session},
    transaction::Transaction,
};

/// How a message goes.
#[derive(Clone, Copy, Debug)]
pub(super) enum Way {
    /// After DATA, up to the dot.
    Data,
    /// In chunks, by BDAT; so many bytes of it are with the server before the last chunk.
    Chunks { sent: usize },
}

impl Session {
    pub(super) fn pipelining(&self) -> bool {
        self.offers.pipelining && self.features.pipelining
    }

    pub(super) fn chunking(&self) -> bool {
        self.offers.chunking && self.features.chunking != Chunking::Off
    }

    /// How the message goes, when not with everything else in one write; and the command before it, if there is one.
    pub(super) fn way(&self, transaction: &Transaction<'_>) -> (Way, Option<String>) {
        if self.chunking() && self.features.chunking == Chunking::Proven {
            return (Way::Chunks { sent: 0 }, None);
        }
        match self.chunking().then(|| transaction.harmless_line()).flatten() {
            Some(line) => {
                let (sent, line) = (line.len(), line.trim_end_matches("\r\n"));
                (Way::Chunks { sent }, Some(format!("BDAT {sent}\r\n{line}")))
            }
            None => (Way::Data, Some("DATA".into())),
        }
    }
}

/// A server, or a box before it, that offers CHUNKING and cannot do it takes BDAT for a mistake.
pub(super) fn knows_no_bdat(reply: &Reply) -> bool {
    matches!(reply.code, 500..=504)
}
