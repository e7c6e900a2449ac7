//! What real mail servers say of their sessions in their own logs.

use std::{
    collections::{HashMap, HashSet},
    fs::{self, File},
    io::{Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

/// How a real mail server is set up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Sessions at once.
    pub sessions: usize,
    /// Its own time-out, after which it ends a silent session.
    pub timeout: Duration,
    /// What it takes for each mail, in whole seconds.
    pub pause: Duration,
}

/// The id of a user of this machine. Looked up by hand: what the C library loads for that cannot be loaded into the static
/// binaries of `make release`.
pub(crate) fn user_id(name: &str) -> Option<u32> {
    let users = fs::read_to_string("/etc/passwd").ok()?;
    let fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields.filter(|fields| fields.len() > 2 && fields[0] == name).find_map(|fields| fields[2].parse().ok())
}

/// What a log says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogFigures {
    /// The most sessions at once, those that were refused included.
    pub peak: usize,
    /// Sessions so far.
    pub sessions: u64,
    /// Connections that were refused since there were too many.
    pub refused: usize,
    /// Mails taken so far.
    pub taken: u64,
}

/// Reads a log as it grows.
#[derive(Debug, Default)]
pub(crate) struct LogReader {
    /// How far it has read, in bytes.
    offset: u64,
    /// The beginning of a line whose end is not there yet.
    partial: Vec<u8>,
    figures: LogFigures,
    /// Message-IDs of the mails that were taken, in order.
    taken: Vec<String>,
    /// Processes that have a session (Postfix).
    open: HashSet<String>,
    /// Message-IDs of mails that are not whole yet, by queue id (Postfix).
    ids: HashMap<String, String>,
}

impl LogReader {
    /// Takes in what was written since the last time.
    pub fn follow(&mut self, path: &Path, mut line: impl FnMut(&mut Self, &str)) {
        let mut fresh = Vec::new();
        let read = File::open(path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.read_to_end(&mut fresh)
        });
        if read.is_err() {
            return;
        }
        self.offset += u64::try_from(fresh.len()).unwrap_or(0);
        self.partial.extend(fresh);
        let whole = self.partial.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = self.partial.drain(..whole).collect();
        for text in String::from_utf8_lossy(&lines).lines() {
            line(self, text);
        }
    }

    pub fn figures(&self) -> LogFigures {
        LogFigures { taken: self.taken.len().try_into().unwrap_or(u64::MAX), ..self.figures.clone() }
    }

    pub fn taken(&self) -> Vec<String> {
        self.taken.clone()
    }

    /// A line of Exim's main log, with `smtp_connection` among what it logs.
    pub fn exim(&mut self, line: &str, limit: usize) {
        if let Some((_, rest)) = line.split_once("(TCP/IP connection count = ") {
            self.figures.sessions += 1;
            let count = rest.split(')').next().and_then(|count| count.parse().ok()).unwrap_or(0);
            self.figures.peak = self.figures.peak.max(count);
        } else if line.contains("refused: too many connections") {
            self.figures.refused += 1;
            self.figures.peak = self.figures.peak.max(limit + 1);
        } else if line.contains(" <= ")
            && let Some((_, id)) = line.rsplit_once(" id=")
        {
            self.taken.push(id.split(' ').next().unwrap_or(id).to_owned());
        }
    }

    /// A line of Postfix' log.
    pub fn postfix(&mut self, line: &str) {
        let Some((_, entry)) = line.split_once(" postfix/") else { return };
        let Some((process, text)) = entry.split_once(": ") else { return };
        if text.contains("Connection concurrency limit exceeded") {
            self.figures.refused += 1;
        } else if text.starts_with("connect from ") {
            self.figures.sessions += 1;
            self.open.insert(process.to_owned());
            self.figures.peak = self.figures.peak.max(self.open.len());
        } else if text.starts_with("disconnect from ") {
            self.open.remove(process);
        } else if let Some((queue_id, id)) = text.split_once(": message-id=") {
            self.ids.insert(queue_id.to_owned(), id.trim_matches(['<', '>']).to_owned());
        } else if let Some((queue_id, rest)) = text.split_once(": from=<")
            && rest.contains("(queue active)")
            && let Some(id) = self.ids.remove(queue_id)
        {
            self.taken.push(id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_once_and_when_it_is_whole() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let (mut reader, mut lines) = (LogReader::default(), Vec::new());
        for text in ["one\ntw", "o\n", ""] {
            std::io::Write::write_all(&mut file.as_file(), text.as_bytes()).expect("it is written");
            reader.follow(file.path(), |_, line| lines.push(line.to_owned()));
        }
        assert_eq!(lines, ["one", "two"]);
    }

    #[test]
    fn exim_counts_in_its_log() {
        let log = "\
2026-11-28 20:48:46 SMTP connection from [10.88.0.4]:53888 (TCP/IP connection count = 15)
2026-11-28 20:48:46 SMTP connection from [10.88.0.5]:53889 (TCP/IP connection count = 16)
2026-11-28 20:48:47 1xXPLi-0004ON-29 <= a@b.example H=(x) [10.88.0.4]:53888 P=esmtp S=222 id=abc@x
2026-11-28 20:48:47 SMTP connection from (x) [10.88.0.4]:53888 closed by QUIT
";
        let mut reader = LogReader::default();
        log.lines().for_each(|line| reader.exim(line, 16));
        assert_eq!(reader.figures(), LogFigures { peak: 16, sessions: 2, refused: 0, taken: 1 });
        assert_eq!(reader.taken(), ["abc@x"]);
        reader.exim("2026-11-28 20:48:48 Connection from [10.88.0.4]:1 refused: too many connections", 16);
        assert_eq!((reader.figures().peak, reader.figures().refused), (17, 1));
    }

    #[test]
    fn postfix_is_counted_by_its_log() {
        let log = "\
Nov 28 20:00:00 host postfix/smtpd[11]: connect from unknown[10.88.0.4]
Nov 28 20:00:00 host postfix/smtpd[12]: connect from unknown[10.88.0.5]
Nov 28 20:00:00 host postfix/smtpd[11]: 4F1: client=unknown[10.88.0.4]
Nov 28 20:00:00 host postfix/cleanup[13]: 4F1: message-id=<abc@x>
Nov 28 20:00:00 host postfix/qmgr[14]: 4F1: from=<a@b.example>, size=300, nrcpt=1 (queue active)
Nov 28 20:00:00 host postfix/cleanup[13]: 4F2: message-id=<broken-off@x>
Nov 28 20:00:01 host postfix/smtpd[11]: disconnect from unknown[10.88.0.4] ehlo=1 quit=1 commands=2
Nov 28 20:00:01 host postfix/smtpd[11]: connect from unknown[10.88.0.4]
Nov 28 20:00:01 host postfix/smtpd[11]: warning: Connection concurrency limit exceeded: 2 from unknown[10.88.0.4]
";
        let mut reader = LogReader::default();
        log.lines().for_each(|line| reader.postfix(line));
        assert_eq!(reader.figures(), LogFigures { peak: 2, sessions: 3, refused: 1, taken: 1 });
        assert_eq!(reader.taken(), ["abc@x"]);
    }
}
