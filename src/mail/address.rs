//! Addresses as people and programs write them.
//!
//! What a server can judge is left to it: local parts of any length and with any dots exist. Refused is what cannot be put
//! into an SMTP command, and what is no address by any reading.

use lettre::{Address, message::Mailbox};

use super::{error::MailError, header::one_line};

/// The longest address; a command line takes no more with most servers.
const LONGEST: usize = 500;
/// The longest name that is kept.
const LONGEST_NAME: usize = 500;

/// The addresses in a text: separated by commas or semicolons, with or without names, comments and groups.
pub(super) fn mailboxes(field: &str, text: &str) -> Result<Vec<Mailbox>, MailError> {
    let parts = split_list(text);
    parts.iter().filter(|part| !part.is_empty()).map(|part| mailbox(field, part)).collect()
}

/// An address with a name beside it.
pub(super) fn named(field: &str, name: Option<&str>, address: &str) -> Result<Mailbox, MailError> {
    let name = one_line(name.unwrap_or_default());
    let name = match name.strip_prefix('"').and_then(|name| name.strip_suffix('"')) {
        Some(quoted) => one_line(&quoted.replace("\\\"", "\"").replace("\\\\", "\\")),
        None => name,
    };
    let name = Some(name).filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
    Ok(Mailbox::new(name, address_of(field, address)?))
}

/// Splits at commas, semicolons and what begins a group (RFC 5322 section 3.4), outside of quotes, comments and brackets.
/// The name of a group and comments are nobody's address and go.
fn split_list(text: &str) -> Vec<String> {
    let (mut parts, mut part) = (Vec::new(), String::new());
    let (mut quoted, mut escaped, mut comment, mut bracket) = (false, false, 0_usize, None);
    for c in text.chars() {
        match c {
            _ if escaped => escaped = false,
            '\\' if quoted || comment > 0 => escaped = true,
            '(' if !quoted && bracket != Some('>') => comment += 1,
            ')' if comment > 0 => {
                comment -= 1;
                continue;
            }
            _ if comment > 0 => {}
            '"' if bracket.is_none() => quoted = !quoted,
            _ if quoted => {}
            '<' => bracket = Some('>'),
            '[' if bracket.is_none() => bracket = Some(']'),
            _ if bracket == Some(c) => bracket = None,
            _ if bracket.is_some() => {}
            ',' | ';' => {
                parts.push(std::mem::take(&mut part));
                continue;
            }
            ':' => {
                part.clear();
                continue;
            }
            _ => {}
        }
        if comment == 0 {
            part.push(c);
        }
    }
    parts.push(part);
    parts.iter().map(|part| part.trim().to_owned()).collect()
}

fn mailbox(field: &str, text: &str) -> Result<Mailbox, MailError> {
    let Some(inner) = text.strip_suffix('>') else { return named(field, None, text) };
    let (name, address) = inner.rsplit_once('<').ok_or_else(|| MailError::new(field, "a > without its <"))?;
    named(field, Some(name), address)
}

/// An address that can't break out of `MAIL FROM:<...>`: no control bytes, spaces, angle brackets, quotes. Its domain is
/// ASCII: what is not is written as an A-label (RFC 5890), which every server takes.
pub(super) fn address_of(field: &str, text: &str) -> Result<Address, MailError> {
    let text = text.trim();
    let tame =
        |c: char| !c.is_control() && !c.is_whitespace() && !matches!(c, '<' | '>' | '"' | '\\' | ',' | ';' | '(' | ')');
    if text.len() > LONGEST || !text.chars().all(tame) {
        return Err(MailError::new(
            field,
            "not an address that can be sent to; write user@example.com without spaces or quotes",
        ));
    }
    let parts = text.rsplit_once('@').filter(|(local, _)| !local.is_empty() && !local.contains('@'));
    let domain = parts.and_then(|(_, domain)| domain_of(domain));
    match (parts, domain) {
        (Some((local, _)), Some(domain)) => Ok(Address::new_dangerous(local, domain)),
        _ => Err(MailError::new(field, "not an address; write user@example.com or Name <user@example.com>")),
    }
}

/// A host name, or an address in brackets.
fn domain_of(text: &str) -> Option<String> {
    if let Some(literal) = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')) {
        let tame = literal.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-".contains(&byte));
        return (!literal.is_empty() && tame).then(|| text.to_owned());
    }
    let text = text.strip_suffix('.').unwrap_or(text);
    let ascii = if text.is_ascii() { text.to_owned() } else { idna::domain_to_ascii(text).ok()? };
    let sound = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    (ascii.len() <= 253 && ascii.split('.').all(sound)).then_some(ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, String> {
        let found = mailboxes("to", text).map_err(|error| error.to_string())?;
        Ok(found.iter().map(|mailbox| mailbox.email.to_string()).collect())
    }

    #[test]
    fn what_exists_is_an_address() {
        let long = format!("reply+{}@reply.example.org", "a1b2c3d4e5".repeat(7));
        for address in [
            "x@[IPv6:2001:db8::1]",
            "x@[192.0.2.1]",
            "x@my_host.example",
            "root@localhost",
            "x+y%z@example.com",
            "o'neil@example.ie",
            "x@a--b.example",
            "a..b@docomo.example",
            "ab.@docomo.example",
            ".ab@docomo.example",
            "jö@example.com",
            &long,
        ] {
            assert_eq!(read(address), Ok(vec![address.to_owned()]));
        }
    }

    #[test]
    fn a_domain_is_ascii_on_the_wire() {
        assert_eq!(read("info@bücher.example"), Ok(vec!["info@xn--bcher-kva.example".into()]));
        assert_eq!(read("info@BÜCHER.example."), Ok(vec!["info@xn--bcher-kva.example".into()]));
        assert_eq!(read("x@example.com."), Ok(vec!["x@example.com".into()]));
    }

    #[test]
    fn lists_names_comments_and_groups_are_read() {
        let read = |text: &str| read(text).expect(text);
        assert_eq!(read("a@x.org, \"Smith, C.; (boss)\" <c@x.org>"), ["a@x.org", "c@x.org"]);
        assert_eq!(read("Ann <a@x.org>;b@x.org; "), ["a@x.org", "b@x.org"]);
        assert_eq!(read("a@x.org (Ann, (the) boss), b@x.org"), ["a@x.org", "b@x.org"]);
        assert_eq!(read("Team: a@x.org, B <b@x.org>;, c@x.org"), ["a@x.org", "b@x.org", "c@x.org"]);
        assert_eq!(read("x@[IPv6:2001:db8::1], y@x.org"), ["x@[IPv6:2001:db8::1]", "y@x.org"]);
        assert!(read("undisclosed-recipients:;").is_empty());
        assert!(read("").is_empty());
    }

    #[test]
    fn what_is_no_address_is_refused_by_the_name_of_its_field() {
        for text in [
            "no address",
            "a@",
            "@x.org",
            "a@b@x.org",
            "a@x..org",
            "a@-x.org",
            "a@x org",
            "<a@x.org",
            "a@x.org>",
            "a\0@x.org",
            "a\u{85}b@x.org",
            "a@[x y]",
            "\"a b\"@x.org",
            "a@\u{fdd0}.org",
        ] {
            let error = mailboxes("cc", text).expect_err(text);
            assert_eq!(error.field, "cc");
        }
    }
}
