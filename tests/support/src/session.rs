//! The server's side of one SMTP session, for servers that count sessions as real ones do.

use std::{
    io::{self, Read, Write},
    thread,
    time::Duration,
};

/// Bytes that are read at once where nothing is slow.
const CHUNK: usize = 1 << 14;
/// How often a slow reader reads in a second.
const READS: u64 = 5;

/// How a session is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Manners {
    /// Between the end of a message and its reply: a filter at work, say.
    pub pause: Duration,
    /// Bytes of each message that are read in a second; none: as fast as they come.
    pub rate: Option<u64>,
}

/// How a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client said QUIT and was answered.
    Quit,
    /// The client closed its side.
    Closed,
}

/// Serves one session; `manners` is asked for each piece of work, and `taken` is told the Message-ID of each mail before
/// its reply is sent.
///
/// # Errors
/// When the connection was reset, or was silent for as long as its time-outs allow.
pub fn serve(
    input: impl Read,
    mut output: impl Write,
    manners: impl Fn() -> Manners,
    mut taken: impl FnMut(&str),
) -> io::Result<End> {
    let mut input = Lines { input, buffer: Vec::new() };
    output.write_all(b"220 counting ESMTP\r\n")?;
    loop {
        let Some(line) = input.line(None)? else { return Ok(End::Closed) };
        let verb = line.get(..4).unwrap_or_default().to_ascii_uppercase();
        match &*verb {
            b"EHLO" => output.write_all(b"250-counting\r\n250-PIPELINING\r\n250 8BITMIME\r\n")?,
            b"DATA" => {
                output.write_all(b"354 go on\r\n")?;
                let Some(id) = content(&mut input, &manners)? else { return Ok(End::Closed) };
                thread::sleep(manners().pause);
                taken(&id);
                output.write_all(b"250 taken\r\n")?;
            }
            b"QUIT" => {
                output.write_all(b"221 bye\r\n")?;
                return Ok(End::Quit);
            }
            _ => output.write_all(b"250 ok\r\n")?,
        }
    }
}

/// Reads a message to its dot; its Message-ID, or nothing when the client closed before.
fn content(input: &mut Lines<impl Read>, manners: &impl Fn() -> Manners) -> io::Result<Option<String>> {
    let (mut id, mut in_header) = (String::new(), true);
    loop {
        let Some(line) = input.line(manners().rate)? else { return Ok(None) };
        if line == b".\r\n" {
            return Ok(Some(id));
        }
        in_header &= line != b"\r\n";
        let text = String::from_utf8_lossy(&line);
        if let Some((name, value)) = text.split_once(':').filter(|_| in_header)
            && name.eq_ignore_ascii_case("message-id")
        {
            value.trim().trim_matches(['<', '>']).clone_into(&mut id);
        }
    }
}

struct Lines<R> {
    input: R,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// The next line with its end, or nothing at the end of the input; read slowly where a rate is given.
    fn line(&mut self, rate: Option<u64>) -> io::Result<Option<Vec<u8>>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
                return Ok(Some(self.buffer.drain(..=end).collect()));
            }
            let most = rate.map_or(CHUNK, |rate| usize::try_from(rate / READS).unwrap_or(CHUNK).clamp(1, CHUNK));
            let mut chunk = vec![0; most];
            let read = self.input.read(&mut chunk)?;
            if read == 0 {
                return Ok(None);
            }
            self.buffer.extend(&chunk[..read]);
            if let Some(rate) = rate {
                let micros = 1_000_000 * u64::try_from(read).unwrap_or(u64::MAX) / rate.max(1);
                thread::sleep(Duration::from_micros(micros));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mail_is_taken_with_its_message_id_before_the_reply() {
        let talk = b"EHLO x\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\nMessage-ID: <1@x>\r\n\r\nmessage-id: no\r\n.\r\nQUIT\r\n";
        let (mut said, mut ids) = (Vec::new(), Vec::new());
        let end = serve(&talk[..], &mut said, Manners::default, |id| ids.push(id.to_owned())).expect("it ends well");
        assert_eq!((end, ids), (End::Quit, vec!["1@x".to_owned()]));
        assert!(String::from_utf8_lossy(&said).ends_with("354 go on\r\n250 taken\r\n221 bye\r\n"));
    }

    #[test]
    fn a_client_that_closes_in_mid_mail_leaves_nothing_behind() {
        let talk = b"DATA\r\nMessage-ID: <1@x>\r\n\r\nhalf a";
        let end = serve(&talk[..], Vec::new(), Manners::default, |_| panic!("taken")).expect("it ends well");
        assert_eq!(end, End::Closed);
    }
}
