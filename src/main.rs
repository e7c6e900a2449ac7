//! mailrelay: see the library.
fn main() {}
