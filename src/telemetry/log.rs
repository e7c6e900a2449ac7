//! Log lines: one event each, dotted fields with units, on standard error.

use std::{borrow::Cow, io::IsTerminal};

use sha2::{Digest as _, Sha256};
use tracing_subscriber::EnvFilter;

/// The environment variable that selects what is logged, such as `info` or `mailrelay::lease=debug`.
pub const FILTER_VARIABLE: &str = "MAILRELAY_LOG";

/// How a log line is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For collectors: one JSON object a line.
    Json,
}

/// What is logged when nobody says: Redis, TLS and Kubernetes client libraries are kept at `warn`.
pub const USUAL: &str = "warn,mailrelay=info";

/// What is logged where people look at something else.
pub const QUIET: &str = "warn";

/// Starts logging to standard error, `usual` unless the environment says otherwise. A second call changes nothing.
pub fn init(format: Format, usual: &str) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new(usual));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    // A failure means that someone (a test, an embedding program) chose a subscriber already: theirs stays.
    let _ = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// A text of somebody else's, such as a server's reply, with every mail address made unreadable.
pub fn mask(text: &str) -> String {
    let ends_word = |c: char| c.is_whitespace() || "<>()[]{},;\"'".contains(c);
    text.split_inclusive(ends_word)
        .map(|word| match (word.contains('@'), word.chars().next_back().filter(|c| ends_word(*c))) {
            (false, _) => word.to_owned(),
            (true, None) => "…".to_owned(),
            (true, Some(end)) => format!("…{end}"),
        })
        .collect()
}

/// An id of somebody else's, for a log line: one that holds an address is given by its digest, which finds it again all
/// the same.
pub fn mask_id(id: &str) -> Cow<'_, str> {
    if !id.contains('@') {
        return Cow::Borrowed(id);
    }
    let digest = Sha256::digest(id);
    Cow::Owned(digest[..8].iter().fold("sha256:".to_owned(), |text, byte| format!("{text}{byte:02x}")))
}

#[cfg(test)]
mod tests {
    use super::{mask, mask_id};

    #[test]
    fn an_id_with_an_address_in_it_is_a_digest() {
        assert_eq!(mask_id("order-4711"), "order-4711");
        // printf %s ann@example.org | sha256sum
        assert_eq!(mask_id("ann@example.org"), "sha256:438c4c7afe600cdf");
    }

    #[test]
    fn addresses_are_masked_and_all_else_stays() {
        let reply = "550 5.1.1 <a.b+c@example.org>: user=\"x@y\", try host:25, z@example.com";
        assert_eq!(mask(reply), "550 5.1.1 <…>: user=\"…\", try host:25, …");
        assert_eq!(mask("421 4.7.0 too many connections"), "421 4.7.0 too many connections");
    }
}
