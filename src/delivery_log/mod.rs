//! What the log of a mail server says of messages, by their Message-ID. Pure: lines go in, findings come out.
//!
//! A mail is held when nobody knows whether the server took it. The server's own log knows: Postfix's, Exim's (main log and
//! reject log), or JSON with one object on each line, as mail services export it. Lines of all three may be mixed; whatever
//! else stands between them is passed over. See [`json`] for the fields of the third.
//!
//! # Time
//! That a message is *not* in a log says something only if the log covers the time at which it would have been written.
//! Lines whose time has no zone (Postfix under syslog, Exim) say when only together with a zone that somebody vouches for;
//! those of the classic syslog have no year either: they get the latest one that does not lie in the future.

mod exim;
mod finding;
pub mod json;
mod postfix;

use std::{collections::BTreeMap, time::Duration};

use jiff::{Timestamp, civil::DateTime, tz::TimeZone};

use self::{exim::Exim, finding::bare, postfix::Postfix};

pub use finding::Finding;

/// Reads logs line by line and remembers what they say of the messages it was asked about.
#[derive(Debug)]
pub struct DeliveryLog {
    /// The messages, each with the moment before which no line can be about it.
    wanted: BTreeMap<String, Timestamp>,
    found: BTreeMap<String, Finding>,
    zone: Option<TimeZone>,
    now: Timestamp,
    postfix: Postfix,
    exim: Exim,
    /// From when to when each log reaches, in the order in which they were read.
    spans: Vec<Option<(Timestamp, Timestamp)>>,
    understood: u64,
}

impl DeliveryLog {
    /// Logs whose lines are further apart than this do not follow each other.
    pub const LONGEST_GAP: Duration = Duration::from_secs(600);

    /// A reader that looks for these Message-IDs, with or without their angle brackets; a line from before the moment that
    /// is given with one is about an earlier message. `zone`: what times without one are in; without it they cover nothing.
    /// `now` tells the year of times without one.
    pub fn new<'a>(
        wanted: impl IntoIterator<Item = (&'a str, Timestamp)>,
        zone: Option<TimeZone>,
        now: Timestamp,
    ) -> Self {
        let wanted = wanted.into_iter().map(|(id, since)| (bare(id).to_owned(), since));
        Self {
            wanted: wanted.filter(|(id, _)| !id.is_empty()).collect(),
            found: BTreeMap::new(),
            zone,
            now,
            postfix: Postfix::default(),
            exim: Exim::default(),
            spans: Vec::new(),
            understood: 0,
        }
    }

    /// Another log begins: what was said before does not go on in it.
    pub fn begin(&mut self) {
        (self.postfix, self.exim) = (Postfix::default(), Exim::default());
        self.spans.push(None);
    }

    /// Takes in one line, without its end.
    pub fn line(&mut self, line: &str) {
        if self.spans.is_empty() {
            self.begin();
        }
        let line = line.trim_end_matches('\r');
        let (when, said) = if let Some(read) = json::read(line) {
            (read.when, read.said)
        } else if let Some(entry) = postfix::Entry::of(line) {
            (self.postfix_time(line), self.postfix.read(&entry, &self.wanted))
        } else if let Some(entry) = exim::Entry::of(line) {
            (self.zoned(entry.time, entry.offset), self.exim.read(&entry))
        } else {
            // A header in Exim's reject log has no time of its own.
            let said = self.exim.header(line);
            if said.is_some() {
                self.understood += 1;
            }
            return self.remember(said, None);
        };
        self.understood += 1;
        if let (Some(when), Some(span)) = (when, self.spans.last_mut()) {
            let (from, to) = span.unwrap_or((when, when));
            *span = Some((from.min(when), to.max(when)));
        }
        self.remember(said, when);
    }

    fn remember(&mut self, said: Option<(String, Finding)>, when: Option<Timestamp>) {
        let Some((id, finding)) = said else { return };
        if self.wanted.get(&id).is_some_and(|since| when.is_none_or(|when| when >= *since)) {
            // The same message may have been tried several times: that it was taken once is what counts.
            let known = self.found.entry(id).or_insert(Finding::Seen);
            *known = finding.max(known.clone());
        }
    }

    /// What the logs say of a message; `None` when they do not name it.
    pub fn finding(&self, message_id: &str) -> Option<&Finding> {
        self.found.get(bare(message_id))
    }

    /// How many lines were of a mail server.
    pub fn understood(&self) -> u64 {
        self.understood
    }

    /// Whether the logs reach from one moment to another without a gap.
    pub fn covers(&self, from: Timestamp, to: Timestamp) -> bool {
        let mut spans: Vec<_> = self.spans.iter().flatten().copied().collect();
        spans.sort();
        let mut reached: Option<Timestamp> = None;
        for (begin, end) in spans {
            reached = match reached {
                Some(so_far) if begin <= so_far.saturating_add(Self::LONGEST_GAP).unwrap_or(so_far) => {
                    Some(so_far.max(end))
                }
                // Nothing before this log covers the beginning, or there is a gap after it.
                _ if begin <= from => Some(end),
                other => other,
            };
        }
        reached.is_some_and(|reached| to <= reached)
    }

    /// `2026-11-28T10:00:00.123+01:00` or `Nov 28 10:00:00` at the beginning of the line.
    fn postfix_time(&self, line: &str) -> Option<Timestamp> {
        let first = line.split_whitespace().next()?;
        if let Ok(time) = first.parse() {
            return Some(time);
        }
        let mut words = line.split_whitespace();
        let (month, day, clock) = (words.next()?, words.next()?, words.next()?);
        let year = i32::from(self.now.to_zoned(self.zone.clone()?).year());
        let of_year = |year: i32| {
            let text = format!("{year} {month} {day} {clock}");
            let time = DateTime::strptime("%Y %b %d %H:%M:%S", text).ok()?;
            self.zoned(time, None)
        };
        let tomorrow = self.now.saturating_add(Duration::from_secs(86_400)).unwrap_or(self.now);
        // The 29th of February is there once in four years.
        (year - 4..=year + 1).rev().filter_map(of_year).find(|time| *time <= tomorrow)
    }

    fn zoned(&self, time: DateTime, offset: Option<jiff::tz::Offset>) -> Option<Timestamp> {
        if let Some(offset) = offset {
            return offset.to_timestamp(time).ok();
        }
        Some(time.to_zoned(self.zone.clone()?).ok()?.timestamp())
    }
}

#[cfg(test)]
mod tests;
