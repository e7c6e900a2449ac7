//! Log lines: one event each, dotted fields with units, on standard error.

use std::io::IsTerminal;

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

/// Starts logging to standard error. A second call changes nothing.
///
/// Redis, TLS and Kubernetes client libraries are kept at `warn` unless the filter names them.
pub fn init(format: Format) {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_| EnvFilter::new("warn,mailrelay=info"));
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
