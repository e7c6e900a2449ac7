//! What the kernel says of TCP connections in this network namespace: `/proc/net/tcp` and `tcp6`.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// Both ends of a connection, ours first; an IPv4 address inside an IPv6 one counts as IPv4.
pub type Ends = (SocketAddr, SocketAddr);

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TcpState {
    /// Both ends have arrived: `TIME_WAIT`. The kernel of a connection that was reset shows nothing at all, so this cannot be
    /// a reset.
    ServerEnded,
    /// Everything else: ESTABLISHED, `FIN_WAIT1`, `FIN_WAIT2`, and the states of a connection that is being made; also
    /// `CLOSE_WAIT`, `LAST_ACK` and CLOSING, where the server's FIN has come and it does not have ours: a server that ends one
    /// direction at a time still counts.
    ServerOpen,
}

impl TcpState {
    /// From the kernel's number (`include/net/tcp_states.h`). A `TIME_WAIT` entry that still waits for the server's FIN
    /// shows as `FIN_WAIT2`.
    fn from_kernel(number: u8) -> Self {
        match number {
            0x06 => Self::ServerEnded,
            _ => Self::ServerOpen,
        }
    }
}

/// All TCP connections of this network namespace.
///
/// # Errors
/// When the kernel's tables cannot be read: then nothing is known.
pub fn connections() -> io::Result<BTreeMap<Ends, TcpState>> {
    let mut all = BTreeMap::new();
    read("/proc/self/net/tcp", &mut all)?;
    match read("/proc/self/net/tcp6", &mut all) {
        // A kernel without IPv6 has no such table.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => other?,
    }
    Ok(all)
}

/// The inode of this process's network namespace.
pub fn network_namespace() -> io::Result<String> {
    Ok(fs::read_link("/proc/self/ns/net")?.to_string_lossy().into_owned())
}

fn read(path: &str, into: &mut BTreeMap<Ends, TcpState>) -> io::Result<()> {
    into.extend(parse(&fs::read_to_string(path)?));
    Ok(())
}

/// The lines of a table; those that make no sense are skipped, so that their connections stay unknown.
fn parse(table: &str) -> impl Iterator<Item = (Ends, TcpState)> {
    table.lines().skip(1).filter_map(|line| {
        let mut fields = line.split_ascii_whitespace().skip(1);
        let ends = (address_of(fields.next()?)?, address_of(fields.next()?)?);
        let state = u8::from_str_radix(fields.next()?, 16).ok()?;
        Some((ends, TcpState::from_kernel(state)))
    })
}

/// `ADDRESS:PORT` in hexadecimal digits; the address in 32-bit words in the byte order of the machine.
fn address_of(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(address.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    let ip: IpAddr = match address.len() {
        8 => Ipv4Addr::from(word(0)?).into(),
        32 => {
            let mut octets = [0; 16];
            for n in 0..4 {
                octets[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            Ipv6Addr::from(octets).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// As this module writes it: without scope, IPv4 as IPv4.
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0A00580A:C001 0500580A:0019 01 00000000:00000000 00:00000000 00000000     0        0 21 1 0 20 4 30 10 -1
   3: 0A00580A:C003 0500580A:0019 04 00000001:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   4: 0A00580A:C004 0500580A:0019 05 00000000:00000000 03:00000014 00000000     0        0 0 3 0
   5: 0A00580A:C005 0500580A:0019 06 00000000:00000000 03:00000014 00000000     0        0 0 3 0
   6: 0A00580A:C006 0500580A:0019 08 00000000:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   7: 0A00580A:C007 0500580A:0019 09 00000001:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   8: 0A00580A:C008 0500580A:0019 0B 00000001:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   9: rubbish
";

    #[test]
    #[cfg(target_endian = "little")]
    fn only_the_state_that_comes_after_both_ends_says_that_the_server_ended() {
        let table: BTreeMap<Ends, TcpState> = parse(TABLE).collect();
        let state = |port: u16| {
            table.get(&(format!("10.88.0.10:{port}").parse().unwrap(), "10.88.0.5:25".parse().unwrap())).copied()
        };
        for (port, expected) in [
            (0xc001, Some(TcpState::ServerOpen)),
            (0xc002, None),
            (0xc003, Some(TcpState::ServerOpen)),
            (0xc004, Some(TcpState::ServerOpen)),
            (0xc005, Some(TcpState::ServerEnded)),
            (0xc006, Some(TcpState::ServerOpen)),
            (0xc007, Some(TcpState::ServerOpen)),
            (0xc008, Some(TcpState::ServerOpen)),
        ] {
            assert_eq!(state(port), expected, "{port:x}");
        }
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_ipv4_address_inside_ipv6_is_the_same() {
        let mapped = "0000000000000000FFFF00000500580A:0019";
        assert_eq!(address_of(mapped), Some("10.88.0.5:25".parse().unwrap()));
        assert_eq!(address_of("00000000000000000000000001000000:0019"), Some("[::1]:25".parse().unwrap()));
        assert_eq!(address_of("zz:0019"), None);
        assert_eq!(canonical("[::ffff:10.88.0.5]:25".parse().unwrap()), "10.88.0.5:25".parse().unwrap());
    }

    #[test]
    fn the_real_table_shows_our_connections_and_those_that_ended_at_both_sides() {
        let connected = || {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let ends = (client.local_addr().unwrap(), client.peer_addr().unwrap());
            (client, listener.accept().unwrap().0, ends)
        };
        let seen = |ends| connections().unwrap().get(&ends).copied();
        let read = |mut socket: &TcpStream| std::io::Read::read(&mut socket, &mut [0]).unwrap();
        let (client, server, ends) = connected();
        assert_eq!(seen(ends), Some(TcpState::ServerOpen));
        server.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&client), 0, "its FIN has come");
        assert_eq!(seen(ends), Some(TcpState::ServerOpen), "a server that ended one direction may count");
        let (client, server, ends) = connected();
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read(&server), 0, "our FIN has come");
        assert_eq!(seen(ends), Some(TcpState::ServerOpen));
        drop(server);
        assert_eq!(read(&client), 0, "its FIN has come");
        assert_eq!(seen(ends), Some(TcpState::ServerEnded));
    }
}
