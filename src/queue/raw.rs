//! Complete messages that producers made themselves: the bytes stay, but for what must not be sent as it is.

use std::ops::Range;

use super::{
    MailError, UnixMillis,
    mail::{MAX_MESSAGE, is_message_id},
};

/// Whether the bytes can be sent as a message.
pub(super) fn check(message: &[u8]) -> Result<(), MailError> {
    if message.len() > MAX_MESSAGE {
        return Err(MailError::new("raw", format!("{} bytes; at most {MAX_MESSAGE} are sent", message.len())));
    }
    if message.contains(&0) {
        return Err(MailError::new(
            "raw",
            "holds a NUL byte, which no mail may; encode it in base64 inside the message",
        ));
    }
    let message = normalise(message);
    if let Some(at) = hidden_bcc(&message) {
        return Err(MailError::new(
            "raw",
            format!(
                "line {at} names hidden recipients, but a line before it is no header: others would see them; mend the headers"
            ),
        ));
    }
    if fields(&message).next().is_none() {
        return Err(MailError::new(
            "raw",
            "not a message: its first line is no header; begin with headers such as From",
        ));
    }
    Ok(())
}

/// The line, from 1, with a `Bcc` among what was meant as headers, behind something that is none. Servers take what
/// follows such a line for the body, so that it would be sent to everybody.
fn hidden_bcc(message: &[u8]) -> Option<usize> {
    let begin = fields(message).last().map_or(0, |field| field.end);
    let lines = message[begin..].split_inclusive(|&byte| byte == b'\n');
    let before = message[..begin].split(|&byte| byte == b'\n').count() - 1;
    lines.take_while(|line| *line != b"\r\n").position(looks_like_bcc).map(|at| before + at + 1)
}

/// Whatever stands around the letters, such as a byte order mark, white space or dashes.
fn looks_like_bcc(line: &[u8]) -> bool {
    let Some(colon) = line.iter().position(|&byte| byte == b':') else { return false };
    let letters: Vec<u8> =
        line[..colon].iter().filter(|byte| byte.is_ascii_alphanumeric()).map(u8::to_ascii_lowercase).collect();
    letters == b"bcc" || letters == b"resentbcc"
}

/// The message with CRLF line ends, without `Bcc`, with a `Message-ID` and a `Date`.
pub(super) fn prepare(message: &[u8], own_message_id: &str, date: UnixMillis) -> Vec<u8> {
    let mut message = normalise(message);
    if !message.ends_with(b"\r\n") {
        // A last line without an end, perhaps a header's, must not run into what follows it.
        message.extend_from_slice(b"\r\n");
    }
    let (mut has_id, mut has_date, mut end) = (false, false, 0);
    let mut kept = Vec::with_capacity(message.len() + 160);
    for field in fields(&message) {
        end = field.end;
        let bytes = &message[field];
        match name(bytes).as_deref() {
            Some(b"bcc" | b"resent-bcc") => continue,
            Some(b"message-id") => has_id = true,
            Some(b"date") => has_date = true,
            _ => {}
        }
        kept.extend_from_slice(bytes);
    }
    if !has_id {
        kept.extend_from_slice(format!("Message-ID: {own_message_id}\r\n").as_bytes());
    }
    if !has_date {
        kept.extend_from_slice(format!("Date: {}\r\n", rfc2822(date)).as_bytes());
    }
    // What follows the headers is the empty line and the body, or something that is no header: that begins the body.
    let rest = &message[end..];
    if !rest.starts_with(b"\r\n") {
        kept.extend_from_slice(b"\r\n");
    }
    kept.extend_from_slice(rest);
    kept
}

/// The message's own id, when it has a sound one.
pub(super) fn message_id(message: &[u8]) -> Option<String> {
    let message = normalise(message);
    let field = fields(&message).find(|field| name(&message[field.clone()]).as_deref() == Some(b"message-id"))?;
    let text = std::str::from_utf8(&message[field]).ok()?;
    let value: String = text.split_once(':')?.1.split_whitespace().collect();
    is_message_id(&value).then_some(value)
}

/// Every bare CR and bare LF made CRLF: what one server takes for a line end and another does not is how mail is
/// smuggled (CVE-2023-51764).
pub(super) fn normalise(bytes: &[u8]) -> Vec<u8> {
    let mut lines = Vec::with_capacity(bytes.len() + bytes.len() / 32);
    let mut previous = 0;
    for &byte in bytes {
        match byte {
            b'\n' if previous == b'\r' => {}
            b'\r' | b'\n' => lines.extend_from_slice(b"\r\n"),
            other => lines.push(other),
        }
        previous = byte;
    }
    lines
}

/// RFC 5322 section 3.3, in UTC.
fn rfc2822(date: UnixMillis) -> String {
    let stamp = i64::try_from(date.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    stamp.unwrap_or_default().strftime("%a, %d %b %Y %H:%M:%S +0000").to_string()
}

/// The header fields at the beginning, each with its folded lines and its last line end.
fn fields(message: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        name(&message[start..])?;
        let mut end = line_end(message, start);
        while matches!(message.get(end), Some(b' ' | b'\t')) {
            end = line_end(message, end);
        }
        let field = start..end;
        start = end;
        Some(field)
    })
}

fn line_end(message: &[u8], start: usize) -> usize {
    message[start..].iter().position(|&byte| byte == b'\n').map_or(message.len(), |at| start + at + 1)
}

/// The name of the field that begins here, in lower case; none when no field does.
fn name(bytes: &[u8]) -> Option<Vec<u8>> {
    let colon = bytes.iter().position(|&byte| byte == b':' || byte == b'\n')?;
    // White space before the colon is obsolete, but read by servers as part of the syntax.
    let name = bytes[..colon].trim_ascii_end();
    (bytes[colon] == b':' && !name.is_empty() && name.iter().all(u8::is_ascii_graphic))
        .then(|| name.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DATE: UnixMillis = UnixMillis(1_763_683_734_123);

    fn prepared(message: &str) -> String {
        String::from_utf8(prepare(message.as_bytes(), "<id@x>", DATE)).expect("text")
    }

    #[test]
    fn bcc_goes_with_its_folded_lines_and_what_is_missing_comes() {
        let message = "From: a@x\nBCC: secret@x,\n\tother@x\nTo: b@x\n\nBcc: this is body\n";
        let prepared = prepared(message);
        assert_eq!(
            prepared,
            "From: a@x\r\nTo: b@x\r\nMessage-ID: <id@x>\r\nDate: Fri, 21 Nov 2025 00:08:54 +0000\r\n\r\nBcc: this is body\r\n"
        );
    }

    #[test]
    fn what_the_producer_set_stays() {
        let message = "Message-ID: <own@y>\r\nDate: today\r\nSubject : x\r\n\r\nbody";
        assert_eq!(prepared(message), format!("{message}\r\n"));
        assert_eq!(message_id(message.as_bytes()), Some("<own@y>".into()));
        assert_eq!(message_id(b"Message-ID: <own@y> <b@c>\n\n"), None);
    }

    #[test]
    fn headers_alone_and_bodies_without_an_empty_line_are_messages_too() {
        assert!(prepared("From: a@x").starts_with("From: a@x\r\nMessage-ID: <id@x>\r\nDate: "));
        assert!(prepared("From: a@x").ends_with("\r\n\r\n"));
        assert!(prepared("From: a@x\nhello there\n").ends_with("+0000\r\n\r\nhello there\r\n"));
        assert!(check(b"hello there").is_err());
        assert!(check(b"From: a@x\n\n\0").is_err());
    }

    #[test]
    fn hidden_recipients_behind_a_line_that_is_no_header_are_not_sent_to_everybody() {
        for message in [
            "From: a@x\nthis is no header\nBcc: secret@x\n\nbody\n",
            "From: a@x\n: no name\nbCC : secret@x\n\nbody\n",
            "From: a@x\n\u{feff}Bcc: secret@x\n\nbody\n",
            "From: a@x\n\u{a0}Resent-Bcc: secret@x\n\nbody\n",
            "From: a@x\rno header\rBcc: secret@x",
            "From: a@x\nno header\n folded\n\tBcc: secret@x\nTo: b@x\n\n",
        ] {
            let error = check(message.as_bytes()).expect_err(message);
            assert!(!error.to_string().contains("secret"), "{error}");
        }
        for message in ["From: a@x\n\nBcc: this is body\n", "From: a@x\nno header\n\nBcc: this is body\n"] {
            assert_eq!(check(message.as_bytes()), Ok(()), "{message}");
        }
    }

    proptest! {
        #[test]
        fn no_hidden_recipient_is_in_what_is_sent(pieces in proptest::collection::vec(
            prop_oneof![Just("Bcc:"), Just(" bcc :"), Just("Resent-Bcc:"), Just("To:"), Just(" "), Just("\t"), Just("x"), Just("\u{feff}"), Just(":"),
                Just(" secret@x"), Just("\n"), Just("\r\n"), Just("\r")], 0..30)) {
            let message = format!("From: a@x\n{}", pieces.concat());
            prop_assume!(check(message.as_bytes()).is_ok());
            let out = prepared(&message);
            let head = out.split("\r\n\r\n").next().unwrap_or_default();
            prop_assert!(!head.split("\r\n").any(|line| looks_like_bcc(line.as_bytes()) && !line.starts_with([' ', '\t'])), "{out:?}");
        }

        #[test]
        fn no_bare_cr_or_lf_and_no_bcc_survives(bytes in proptest::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b':'), Just(b' '), Just(b'b'), Just(b'c'), any::<u8>()], 0..200)) {
            let mut message = b"From: a@x\r\n".to_vec();
            message.extend(bytes);
            let out = prepare(&message, "<id@x>", DATE);
            for (at, byte) in out.iter().enumerate() {
                if *byte == b'\n' {
                    prop_assert!(at > 0 && out[at - 1] == b'\r');
                }
                if *byte == b'\r' {
                    prop_assert_eq!(out.get(at + 1), Some(&b'\n'));
                }
            }
            prop_assert!(fields(&out).all(|field| name(&out[field]).as_deref() != Some(b"bcc")));
            prop_assert_eq!(fields(&out).filter(|field| name(&out[field.clone()]).as_deref() == Some(b"message-id")).count().min(1), 1);
        }
    }
}
