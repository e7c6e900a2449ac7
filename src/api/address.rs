//! One way to write a mail server's address, so that two spellings of one server are seen to be one.

use std::net::{IpAddr, Ipv4Addr};

/// A host in lower case without a trailing dot, and an IP address in its usual form: an IPv4 address inside an IPv6 one as
/// what it is.
pub fn canonical(host: &str) -> String {
    let host = host.trim_end_matches('.').to_ascii_lowercase();
    match host.parse::<IpAddr>().ok().or_else(|| Some(short_ipv4(&host)?.into())) {
        Some(address) => address.to_canonical().to_string(),
        None => host,
    }
}

/// `host:port`, the same for each way to write one address.
pub fn address(host: &str, port: u16) -> String {
    let host = canonical(host);
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// What `inet_aton(3)` takes for an IPv4 address, and with it every resolver: up to four numbers, decimal, octal or
/// hexadecimal, of which the last one fills what is left.
fn short_ipv4(host: &str) -> Option<Ipv4Addr> {
    let number = |text: &str| match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None if text.len() > 1 && text.starts_with('0') => u32::from_str_radix(text, 8).ok(),
        None => text.parse().ok(),
    };
    let numbers: Vec<u32> = host.split('.').map(number).collect::<Option<_>>()?;
    let (last, first) = numbers.split_last()?;
    let left = u32::try_from(first.len()).ok().filter(|count| *count < 4)?;
    let mut bits = u64::from(*last);
    if bits >> (32 - 8 * left) != 0 {
        return None;
    }
    for (place, part) in (0..left).zip(first) {
        bits |= u64::from(u8::try_from(*part).ok()?) << (24 - 8 * place);
    }
    u32::try_from(bits).ok().map(Ipv4Addr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_host_is_one_host() {
        let rows = [
            ("MX.Example.com", "mx.example.com"),
            ("mx.example.com.", "mx.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("::FFFF:0a00:0001", "10.0.0.1"),
            ("10.1", "10.0.0.1"),
            ("0xa.0.1", "10.0.0.1"),
            ("012.0.0.1", "10.0.0.1"),
            ("167772161", "10.0.0.1"),
            ("2001:DB8:0:0::25", "2001:db8::25"),
            ("1.2.3.256", "1.2.3.256"),
            ("1.2.3.4.5", "1.2.3.4.5"),
            ("300.1", "300.1"),
            ("10.0x1000000", "10.0x1000000"),
            ("0x", "0x"),
            ("mail.10", "mail.10"),
        ];
        for (host, expected) in rows {
            assert_eq!(canonical(host), expected, "{host}");
        }
    }
}
