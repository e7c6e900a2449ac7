//! Ports that nobody uses.

use std::net::TcpListener;

/// A loopback port that was free a moment ago.
///
/// # Panics
/// When the machine has no free port left.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free loopback port");
    listener.local_addr().expect("the address of a bound socket").port()
}
