//! The sockets that an older process of the pod left behind (R5a): `/proc/net/tcp` and `tcp6`.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use tokio::time::{Instant, sleep};

/// How long a new process looks for the sockets of the one before.
pub const SEARCH_LIMIT: Duration = Duration::from_secs(2);
const SEARCH_PAUSE: Duration = Duration::from_millis(50);

/// A line of the table that matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Socket {
    remote: SocketAddr,
    state: u8,
    inode: u64,
}

const ESTABLISHED: u8 = 0x01;
/// `FIN_WAIT1`, `LAST_ACK`, CLOSING: our FIN was not acknowledged.
const UNANSWERED: [u8; 3] = [0x04, 0x09, 0x0b];

/// How many sockets to `servers` an older, dead process of this pod may still have open there. Looks again until none is
/// left, for [`SEARCH_LIMIT`] at most: a kernel that closes a dead process's sockets needs a moment. To be called after
/// [`super::bind_pod`] and before this process opens any connection to a server. Cancelling loses nothing.
///
/// # Errors
/// When /proc cannot be read.
pub async fn older_sockets(servers: &[SocketAddr]) -> io::Result<u32> {
    let end = Instant::now() + SEARCH_LIMIT;
    loop {
        let mut left = 0;
        for path in ["/proc/self/net/tcp", "/proc/self/net/tcp6"] {
            match fs::read_to_string(path) {
                Ok(table) => left += left_behind(&table, servers, &owned_inodes()?),
                // A kernel without IPv6 has no such table.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        if left == 0 || Instant::now() >= end {
            return Ok(u32::try_from(left).unwrap_or(u32::MAX));
        }
        sleep(SEARCH_PAUSE).await;
    }
}

/// Inodes of the sockets that some visible process has open: those are not left behind.
fn owned_inodes() -> io::Result<BTreeSet<u64>> {
    let mut inodes = BTreeSet::new();
    for process in fs::read_dir("/proc")?.flatten() {
        let is_process = process.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit());
        // Processes end while we look, and those of other users are closed to us.
        let Some(files) = is_process.then(|| fs::read_dir(process.path().join("fd")).ok()).flatten() else { continue };
        for target in files.flatten().filter_map(|file| fs::read_link(file.path()).ok()) {
            let name = target.to_string_lossy().into_owned();
            inodes.extend(name.strip_prefix("socket:[").and_then(|n| n.strip_suffix(']')?.parse::<u64>().ok()));
        }
    }
    Ok(inodes)
}

fn left_behind(table: &str, servers: &[SocketAddr], owned: &BTreeSet<u64>) -> usize {
    let open = |socket: &Socket| {
        UNANSWERED.contains(&socket.state) || (socket.state == ESTABLISHED && !owned.contains(&socket.inode))
    };
    parse(table).filter(|socket| servers.contains(&socket.remote) && open(socket)).count()
}

/// The lines of the table; those that make no sense are skipped.
fn parse(table: &str) -> impl Iterator<Item = Socket> {
    table.lines().skip(1).filter_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (address, port) = fields.get(2)?.split_once(':')?;
        let remote = SocketAddr::new(address_of(address)?, u16::from_str_radix(port, 16).ok()?);
        let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
        Some(Socket { remote, state, inode: fields.get(9)?.parse().ok()? })
    })
}

/// The kernel prints addresses as 32-bit words in the byte order of the machine.
fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut octets = [0; 16];
            for n in 0..4 {
                octets[n * 4..n * 4 + 4].copy_from_slice(&word(n * 8)?);
            }
            // A socket of family IPv6 that talks IPv4 is the same to the server.
            Some(Ipv6Addr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use std::net::{TcpListener, TcpStream};

    use super::*;

    const TABLE: &str = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 11 1 0 100 0 0 10 0
   1: 0A00580A:C001 0500580A:0019 01 00000000:00000000 00:00000000 00000000     0        0 21 1 0 20 4 30 10 -1
   2: 0A00580A:C002 0500580A:0019 01 00000000:00000000 00:00000000 00000000     0        0 22 1 0 20 4 30 10 -1
   3: 0A00580A:C003 0500580A:0019 04 00000001:00000000 01:00000014 00000000     0        0 0 1 0 20 4 30 10 -1
   4: 0A00580A:C004 0500580A:0019 05 00000000:00000000 03:00000014 00000000     0        0 0 3 0
   5: 0A00580A:C005 0500580A:0019 09 00000001:00000000 01:00000014 00000000     0        0 0 1 0
   6: 0A00580A:C006 0600580A:0019 04 00000001:00000000 01:00000014 00000000     0        0 0 1 0
   7: rubbish
";

    #[test]
    #[cfg(target_endian = "little")]
    fn sockets_without_an_owner_or_without_an_answer_to_fin_are_left_behind() {
        let server: SocketAddr = "10.88.0.5:25".parse().unwrap();
        // 22 without owner, 3 in FIN_WAIT1, 5 in LAST_ACK; not: owned 21, FIN_WAIT2, another server.
        assert_eq!(left_behind(TABLE, &[server], &BTreeSet::from([21])), 3);
        assert_eq!(left_behind(TABLE, &[server], &BTreeSet::from([21, 22])), 2);
        assert_eq!(left_behind(TABLE, &[], &BTreeSet::new()), 0);
        assert_eq!(left_behind("", &[server], &BTreeSet::new()), 0);
    }

    #[test]
    #[cfg(target_endian = "little")]
    fn an_ipv4_address_inside_ipv6_is_the_same_server() {
        let mapped = "0000000000000000FFFF00000500580A";
        assert_eq!(address_of(mapped), Some("10.88.0.5".parse().unwrap()));
        assert_eq!(address_of("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(address_of("zz"), None);
    }

    #[tokio::test]
    async fn the_real_table_is_understood_and_our_own_sockets_are_not_left_behind() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap();
        let _client = TcpStream::connect(server).unwrap();
        let table = fs::read_to_string("/proc/self/net/tcp").unwrap();
        assert_eq!(left_behind(&table, &[server], &BTreeSet::new()), 1, "it is there");
        assert_eq!(older_sockets(&[server]).await.unwrap(), 0, "and it is ours");
    }
}
