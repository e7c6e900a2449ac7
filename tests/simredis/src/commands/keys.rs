//! Commands on keys of any kind, and on plain text.
#![expect(clippy::unnecessary_wraps, reason = "all commands have the same signature")]

use std::time::Duration;

use bytes::Bytes;

use super::option;
use crate::{
    failure::{Failure, NOT_AN_INTEGER, SYNTAX, fixed},
    glob,
    keyspace::{self, Value},
    node::Node,
    number::integer,
    resp::Reply,
};

pub(super) fn get(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(node.keys.read::<Bytes>(&words[1])?.map_or(Reply::Nil, |text| Reply::Bulk(text.clone())))
}

pub(super) fn getrange(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let (begin, end) = (integer(&words[2])?, integer(&words[3])?);
    let Some(text) = node.keys.read::<Bytes>(&words[1])? else { return Ok(Reply::Bulk(Bytes::new())) };
    let length = i64::try_from(text.len()).unwrap_or(i64::MAX);
    if begin < 0 && end < 0 && begin > end {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    let place = |at: i64| if at < 0 { (length + at).max(0) } else { at };
    let (begin, end) = (place(begin), place(end).min(length - 1));
    if begin > end || length == 0 {
        return Ok(Reply::Bulk(Bytes::new()));
    }
    let range = usize::try_from(begin).unwrap_or(0)..=usize::try_from(end).unwrap_or(0);
    Ok(Reply::Bulk(text.slice(range)))
}

pub(super) fn mget(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    // What is no text counts as missing.
    let text = |key| node.keys.read::<Bytes>(key).ok().flatten().map_or(Reply::Nil, |text| Reply::Bulk(text.clone()));
    Ok(Reply::Array(words[1..].iter().map(text).collect()))
}

pub(super) fn strlen(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.keys.read::<Bytes>(&words[1])?.map_or(0, Bytes::len)))
}

pub(super) fn setrange(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let from = usize::try_from(integer(&words[2])?).map_err(|_| fixed("ERR offset is out of range"))?;
    let part = &words[3];
    if part.is_empty() {
        return strlen(node, words);
    }
    node.keys.edit::<Bytes, _>(&words[1], |text| {
        let mut whole = text.to_vec();
        whole.resize(whole.len().max(from + part.len()), 0);
        whole[from..from + part.len()].copy_from_slice(part);
        *text = whole.into();
        Reply::count(text.len())
    })
}

/// Without options: nobody uses them.
pub(super) fn set(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let [_, key, text] = words else { return Err(SYNTAX) };
    node.keys.put(key, Value::Text(text.clone()));
    Ok(Reply::OK)
}

pub(super) fn del(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(words[1..].iter().filter(|key| node.keys.remove(key)).count()))
}

pub(super) fn exists(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(words[1..].iter().filter(|key| node.keys.get(key).is_some()).count()))
}

pub(super) fn kind(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::Status(node.keys.get(&words[1]).map_or("none", Value::kind).into()))
}

/// ENCODING of texts alone: nobody asks for more.
pub(super) fn object(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let [_, what, key] = words else { return Err(SYNTAX) };
    if option(what) != "ENCODING" {
        return Err(SYNTAX);
    }
    Ok(node.keys.encoding(key)?.map_or(Reply::Nil, |encoding| Reply::Bulk(encoding.into())))
}

pub(super) fn rename(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    if !node.keys.rename(&words[1], &words[2]) {
        return Err(fixed("ERR no such key"));
    }
    node.has_grown(&words[2]);
    Ok(Reply::OK)
}

pub(super) fn flushall(node: &mut Node, _: &[Bytes]) -> Result<Reply, Failure> {
    node.keys.clear();
    Ok(Reply::OK)
}

pub(super) fn dbsize(node: &mut Node, _: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.keys.len()))
}

pub(super) fn keys(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::bulks(node.keys.keys().filter(|key| glob::fits(&words[1], key)).cloned()))
}

/// Without options: nobody uses them.
pub(super) fn pexpire(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let [_, key, time] = words else { return Err(SYNTAX) };
    let time = integer(time)?;
    // Redis keeps the end as milliseconds since 1970.
    let ends = i64::try_from((node.wall)()).ok().and_then(|now| now.checked_add(time));
    let invalid = fixed("ERR invalid expire time in 'pexpire' command");
    ends.ok_or(invalid.clone())?;
    if node.keys.get(key).is_none() {
        return Ok(Reply::Integer(0));
    }
    let Ok(time) = u64::try_from(time) else {
        node.keys.remove(key);
        return Ok(Reply::Integer(1));
    };
    let Some(at) = node.now.checked_add(Duration::from_millis(time)) else {
        return Err(invalid);
    };
    node.keys.expire_at(key, at);
    node.keys.expire(node.now);
    Ok(Reply::Integer(1))
}

pub(super) fn persist(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::Integer(node.keys.persist(&words[1]).into()))
}

/// Milliseconds, or -1 for ever, or -2 when it is not there.
fn left(node: &Node, key: &Bytes) -> i64 {
    match node.keys.expiry(key) {
        None if node.keys.get(key).is_none() => -2,
        None => -1,
        Some(at) => i64::try_from((at - node.now).as_millis()).unwrap_or(i64::MAX),
    }
}

pub(super) fn pttl(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::Integer(left(node, &words[1])))
}

pub(super) fn ttl(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let left = left(node, &words[1]);
    Ok(Reply::Integer(if left < 0 { left } else { (left + 500) / 1000 }))
}

pub(super) fn cursor(word: &Bytes) -> Result<u64, Failure> {
    // As C's `strtoul`, for which nothing is 0.
    let cursor = std::str::from_utf8(word).ok();
    let cursor = cursor.and_then(|text| if text.is_empty() { Some(0) } else { text.parse().ok() });
    cursor.ok_or(fixed("ERR invalid cursor"))
}

/// How a scan goes.
pub(super) struct ScanOptions {
    pub(super) cursor: u64,
    pub(super) count: usize,
    pub(super) pattern: Option<Bytes>,
}

impl ScanOptions {
    pub(super) fn read(cursor: u64, words: &[Bytes]) -> Result<Self, Failure> {
        let mut options = Self { cursor, count: 10, pattern: None };
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(SYNTAX) };
            match option(name).as_str() {
                "COUNT" => {
                    let count = usize::try_from(integer(value)?).map_err(|_| SYNTAX)?;
                    options.count = if count == 0 { return Err(SYNTAX) } else { count };
                }
                "MATCH" => options.pattern = Some(value.clone()),
                _ => return Err(SYNTAX),
            }
        }
        Ok(options)
    }

    pub(super) fn fits(&self, name: &[u8]) -> bool {
        self.pattern.as_ref().is_none_or(|pattern| glob::fits(pattern, name))
    }

    pub(super) fn reply(next: u64, items: Vec<Reply>) -> Reply {
        Reply::Array(vec![Reply::bulk(next.to_string()), Reply::Array(items)])
    }
}

pub(super) fn scan(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let options = ScanOptions::read(cursor(&words[1])?, &words[2..])?;
    let (next, page) = keyspace::scan(node.keys.keys().map(|key| (key, ())), options.cursor, options.count);
    let page = page.into_iter().filter(|(key, ())| options.fits(key)).map(|(key, ())| Reply::Bulk(key.clone()));
    Ok(ScanOptions::reply(next, page.collect()))
}

/// A whole number that is not negative.
pub(super) fn unsigned(word: &Bytes) -> Result<usize, Failure> {
    usize::try_from(integer(word)?).map_err(|_| NOT_AN_INTEGER)
}
