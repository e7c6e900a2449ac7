//! The sink.
fn main() {}
