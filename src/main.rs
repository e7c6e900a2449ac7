//! mailrelay: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before anything else may use TLS: with two providers in the tree, rustls does not choose by itself.
    let _ = rustls::crypto::ring::default_provider().install_default();
    mailrelay::cli::main()
}
