//! Ports that nobody uses.

use std::{
    mem,
    net::{Ipv4Addr, TcpListener, UdpSocket},
    process,
    sync::atomic::{AtomicU16, Ordering},
};

/// Where ports are looked for: none of them is given to a connection, nor to who asks for port 0
/// (`net.ipv4.ip_local_port_range` begins at 32768).
///
/// A port among those is free only until somebody connects to anything. Worse: who connects to a server on such a port
/// before it listens may meet himself (TCP's simultaneous open), and keeps the server from it.
const PORTS: std::ops::Range<u16> = 10_000..32_000;

/// A port, free on all addresses, which stays this process's own: no other call gives it, in no process.
///
/// # Panics
/// When the machine has no free port left.
pub fn free_port() -> u16 {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let count = PORTS.end - PORTS.start;
    // Test programs that run side by side begin in different places.
    let start = process::id().wrapping_mul(7_919) % u32::from(count);
    let start = u16::try_from(start).expect("less than the count");
    let mut candidates = (0..count).map(|_| {
        let offset = TAKEN.fetch_add(1, Ordering::Relaxed) % count;
        PORTS.start + (start + offset) % count
    });
    candidates.find(|port| claim(*port)).expect("a free port")
}

/// Whether nobody listens there, and nobody is about to: the UDP port of the same number, kept until this process ends,
/// is the claim.
fn claim(port: u16) -> bool {
    let Ok(claim) = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)) else { return false };
    let free = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok();
    if free {
        mem::forget(claim);
    }
    free
}

#[cfg(test)]
mod tests {
    use std::{collections::HashSet, net::TcpListener};

    use super::free_port;

    #[test]
    fn a_port_is_given_once_and_never_to_a_connection() {
        let ports: HashSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").expect("the kernel's range");
        let first: u16 = range.split_whitespace().next().expect("two numbers").parse().expect("a port");
        assert!(ports.iter().all(|port| *port < first), "{ports:?}, and connections get ports from {first} on");
        let taken = *ports.iter().next().expect("fifty");
        let _listener = TcpListener::bind(("127.0.0.1", taken)).expect("nobody else has it");
    }
}
