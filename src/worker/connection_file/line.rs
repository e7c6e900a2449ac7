//! The lines of the file: what each says, and how it is read.

use std::time::Duration;

use crate::{
    lease::{BootTime, Entry},
    worker::kernel_sockets::Ends,
};

/// The length of a line; a divisor of the page size, so that none lies on two pages.
pub(super) const LINE: usize = 512;
/// Lines for processes. A worker that dies in a loop is started once a second; the oldest are forgotten then.
pub(super) const PROCESSES: u32 = 256;
/// Lines for connections: more than a budget can be, several times over.
pub(super) const MOST: u32 = 8192;
/// Stands for no moment.
pub(super) const NEVER: &str = "-";

/// What a line is about; its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Free,
    /// A process all of whose connections are here.
    Complete,
    /// A process that could not write one of them down.
    Incomplete,
    /// A slot without a connection, or whose ends are not known.
    Reserved,
    /// A connection with both ends.
    Connected,
}

impl Kind {
    pub(super) const fn byte(self) -> u8 {
        match self {
            Self::Free => 0,
            Self::Complete => b'P',
            Self::Incomplete => b'I',
            Self::Reserved => b'R',
            Self::Connected => b'C',
        }
    }

    pub(super) fn of(byte: u8) -> Self {
        [Self::Complete, Self::Incomplete, Self::Reserved, Self::Connected]
            .into_iter()
            .find(|kind| kind.byte() == byte)
            .unwrap_or(Self::Free)
    }
}

/// A line: its kind and its words. For a process: id, network namespace, and when it died. For a connection: process, slot,
/// pool, until when the slot is withheld or [`NEVER`], ends. Moments are milliseconds after boot.
#[derive(Clone, Debug)]
pub(super) struct Line {
    pub(super) kind: Kind,
    pub(super) words: Vec<String>,
}

/// One connection, or slot of which no connection is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The process that opened it.
    pub(super) process: String,
    /// The number of its slot.
    pub(super) slot: u64,
    /// The budget whose slot it is.
    pub(super) pool: String,
    /// Until when its process, alive, withholds the slot, if it does.
    pub(super) until: Option<BootTime>,
    /// Its ends, once known.
    pub(super) ends: Option<Ends>,
}

impl Written {
    /// The line for it.
    pub(super) fn words(&self) -> (Kind, String) {
        let until = self.until.map_or_else(|| NEVER.to_owned(), moment);
        let (kind, ends) = match self.ends {
            Some((local, remote)) => (Kind::Connected, format!(" {local} {remote}")),
            None => (Kind::Reserved, String::new()),
        };
        (kind, format!("{} {} {} {until}{ends}", self.process, self.slot, self.pool))
    }
}

pub(super) fn moment(at: BootTime) -> String {
    at.since_boot().as_millis().to_string()
}

pub(super) fn parse_moment(word: &str) -> Option<BootTime> {
    word.parse().ok().map(Duration::from_millis).map(BootTime::after_boot)
}

/// A process that is written down.
pub(super) struct Process {
    pub(super) index: u32,
    pub(super) kind: Kind,
    pub(super) id: String,
    pub(super) namespace: String,
    pub(super) died: Option<BootTime>,
}

pub(super) fn processes(lines: &[Line]) -> Vec<Process> {
    let known = (0..PROCESSES).zip(lines).filter(|(_, line)| matches!(line.kind, Kind::Complete | Kind::Incomplete));
    known
        .filter_map(|(index, line)| {
            let [id, namespace, died @ ..] = &line.words[..] else { return None };
            let died = died.first().and_then(|died| parse_moment(died));
            Some(Process { index, kind: line.kind, id: id.clone(), namespace: namespace.clone(), died })
        })
        .collect()
}

pub(super) fn written(lines: &[Line]) -> Vec<(Entry, Written)> {
    let connections = lines.iter().enumerate().skip(PROCESSES as usize);
    connections
        .filter_map(|(index, line)| {
            if !matches!(line.kind, Kind::Reserved | Kind::Connected) {
                return None;
            }
            let [process, slot, pool, until, ends @ ..] = &line.words[..] else { return None };
            let ends = match ends {
                [local, remote] => local.parse().ok().zip(remote.parse().ok()),
                _ => None,
            };
            let entry = Entry { line: u32::try_from(index).ok()? - PROCESSES, slot: slot.parse().ok()? };
            let (process, pool, until) = (process.clone(), pool.clone(), parse_moment(until));
            Some((entry, Written { process, slot: entry.slot, pool, until, ends }))
        })
        .collect()
}
