//! Exim: its main log says `<=` and the Message-ID of what it took; its reject log shows the header of what it refused.

use jiff::{civil::DateTime, tz::Offset};

use super::finding::{Finding, bare};

/// One line with a time.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) time: DateTime,
    pub(super) offset: Option<Offset>,
    text: &'a str,
}

impl<'a> Entry<'a> {
    /// `2026-11-28 10:00:00 1abCDe-0000XX-2a <= a@b.example ... id=X@b.example`, with milliseconds, zone and process where
    /// `log_selector` says so.
    pub(super) fn of(line: &'a str) -> Option<Self> {
        let (date, rest) = line.split_once(' ')?;
        let (clock, mut text) = rest.split_once(' ')?;
        if date.len() != 10 || clock.len() < 8 {
            return None;
        }
        let time = format!("{date}T{clock}").parse().ok()?;
        let mut offset = None;
        if let Some((zone, rest)) = text.split_once(' ')
            && let Some(known) = parse_offset(zone)
        {
            (offset, text) = (Some(known), rest);
        }
        if text.starts_with('[')
            && let Some((_, rest)) = text.split_once("] ")
        {
            text = rest;
        }
        Some(Self { time, offset, text })
    }
}

fn parse_offset(zone: &str) -> Option<Offset> {
    let (sign, digits) = match zone.split_at_checked(1)? {
        ("+", digits) => (1, digits),
        ("-", digits) => (-1, digits),
        _ => return None,
    };
    if digits.len() != 4 {
        return None;
    }
    let number = |range: std::ops::Range<usize>| digits.get(range)?.parse::<i32>().ok();
    Offset::from_seconds(sign * (number(0..2)? * 3_600 + number(2..4)? * 60)).ok()
}

/// What the header lines that come now belong to.
#[derive(Debug, Default)]
pub(super) struct Exim {
    refused: Option<Finding>,
}

impl Exim {
    pub(super) fn read(&mut self, entry: &Entry<'_>) -> Option<(String, Finding)> {
        self.refused = None;
        let (_, text) = entry.text.split_once(' ')?;
        if text.starts_with("<= ") {
            let id = text.split(' ').find_map(|word| word.strip_prefix("id="))?;
            return Some((bare(id).to_owned(), Finding::Taken));
        }
        if text.contains(" temporarily rejected after DATA") {
            self.refused = Some(Finding::Seen);
        } else if let Some((_, words)) = text.split_once(" rejected after DATA") {
            self.refused = Some(Finding::Refused(words.trim_start_matches(':').trim().to_owned()));
        }
        None
    }

    /// A line without a time: in the reject log, a header of what was refused just before.
    pub(super) fn header(&self, line: &str) -> Option<(String, Finding)> {
        let finding = self.refused.clone()?;
        Some((message_id(line)?.to_owned(), finding))
    }
}

/// `I Message-ID: <x>`: Exim puts a letter before the headers that it knows.
fn message_id(line: &str) -> Option<&str> {
    let (name, value) = line.split_once(':')?;
    let name = name.trim().rsplit(' ').next()?;
    name.eq_ignore_ascii_case("message-id").then(|| bare(value))
}
