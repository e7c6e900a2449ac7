//! Why no reply was read, or not all was written.

use std::io;

use super::reply::Event;

/// Why no reply was read, or not all was written.
#[derive(Debug)]
pub(super) enum Fault {
    Garbled(String),
    /// The two sides did not come to terms.
    Tls(String),
    TimedOut,
    Broken(String),
}

impl Fault {
    pub fn event(&self) -> Event<'static> {
        match self {
            Self::Garbled(_) | Self::Tls(_) => Event::Garbled,
            Self::TimedOut => Event::TimedOut,
            Self::Broken(_) => Event::Broken,
        }
    }

    pub fn detail(&self) -> String {
        match self {
            Self::Garbled(detail) => format!("the answer is no SMTP reply: {detail}"),
            Self::Tls(detail) => format!("no agreement on TLS: {detail}"),
            Self::TimedOut => "no answer in time".into(),
            Self::Broken(detail) => format!("the connection broke: {detail}"),
        }
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// A write that failed.
pub(super) struct WriteFault {
    pub fault: Fault,
    /// Whether the last byte may have reached the server all the same.
    pub complete: bool,
}
