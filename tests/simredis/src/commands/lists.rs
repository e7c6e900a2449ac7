//! Commands on lists. BLMOVE is the session's; it tries `shift` first.

use std::time::Duration;

use bytes::Bytes;

use super::{keys::unsigned, option};
use crate::{
    failure::{Failure, SYNTAX, fixed},
    keyspace::List,
    node::{End, Node},
    number::{float, integer},
    resp::Reply,
};

pub(crate) fn end(word: &Bytes) -> Result<End, Failure> {
    match option(word).as_str() {
        "LEFT" => Ok(End::Left),
        "RIGHT" => Ok(End::Right),
        _ => Err(SYNTAX),
    }
}

/// Seconds; `None` is for ever.
pub(crate) fn timeout(word: &Bytes) -> Result<Option<Duration>, Failure> {
    let seconds = float(word).ok_or(fixed("ERR timeout is not a float or out of range"))?;
    // Milliseconds that do not fit overflow there, and are called negative.
    let time = Duration::try_from_secs_f64(seconds).ok().filter(|time| i64::try_from(time.as_millis()).is_ok());
    let time = time.ok_or(fixed("ERR timeout is negative"))?;
    Ok((!time.is_zero()).then_some(time))
}

pub(super) fn llen(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.keys.read(&words[1])?.map_or(0, List::len)))
}

/// Where a place that may count from the end lies; `None` before the beginning.
fn place(at: i64, length: usize) -> Option<usize> {
    if at >= 0 {
        return Some(usize::try_from(at).unwrap_or(usize::MAX));
    }
    usize::try_from(at.unsigned_abs()).ok().and_then(|back| length.checked_sub(back))
}

pub(super) fn lindex(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let Some(list) = node.keys.read::<List>(&words[1])? else { return Ok(Reply::Nil) };
    let at = integer(&words[2])?;
    let element = place(at, list.len()).and_then(|at| list.get(at));
    Ok(element.map_or(Reply::Nil, |element| Reply::Bulk(element.clone())))
}

pub(super) fn lrange(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let (begin, end) = (integer(&words[2])?, integer(&words[3])?);
    let Some(elements) = node.keys.read::<List>(&words[1])? else { return Ok(Reply::Array(Vec::new())) };
    let begin = place(begin, elements.len()).unwrap_or(0);
    let Some(end) = place(end, elements.len()) else { return Ok(Reply::Array(Vec::new())) };
    let end = end.min(elements.len() - 1);
    Ok(Reply::bulks(elements.iter().take(end + 1).skip(begin).cloned()))
}

pub(super) fn lpush(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.push(&words[1], End::Left, &words[2..])?))
}

pub(super) fn rpush(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.push(&words[1], End::Right, &words[2..])?))
}

/// Without a count: nobody uses it.
pub(super) fn rpop(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let [_, key] = words else { return Err(SYNTAX) };
    Ok(node.pop(key, End::Right)?.map_or(Reply::Nil, Reply::Bulk))
}

pub(super) fn lmove(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let (from, to) = (end(&words[3])?, end(&words[4])?);
    Ok(node.shift(&words[1], &words[2], from, to)?.map_or(Reply::Nil, Reply::Bulk))
}

pub(super) fn lset(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let Some(length) = node.keys.read::<List>(&words[1])?.map(List::len) else { return Err(fixed("ERR no such key")) };
    let at = place(integer(&words[2])?, length).filter(|at| *at < length);
    let at = at.ok_or(fixed("ERR index out of range"))?;
    node.keys.edit(&words[1], |list: &mut List| list[at] = words[3].clone())?;
    Ok(Reply::OK)
}

/// How many come before the place that is meant: from the front when `count` is positive, from the back when negative.
pub(super) fn lrem(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let count = integer(&words[2])?;
    if node.keys.read::<List>(&words[1])?.is_none() {
        return Ok(Reply::Integer(0));
    }
    let most = if count == 0 { usize::MAX } else { usize::try_from(count.unsigned_abs()).unwrap_or(usize::MAX) };
    let remove = |list: &mut List| {
        let equal: Vec<usize> = (0..list.len()).filter(|at| list[*at] == words[3]).collect();
        let chosen: Vec<usize> = if count < 0 {
            equal.into_iter().rev().take(most).collect()
        } else {
            equal.into_iter().take(most).rev().collect()
        };
        // From the back to the front, so that the places stay right.
        for at in &chosen {
            list.remove(*at);
        }
        chosen.len()
    };
    Ok(Reply::count(node.keys.edit(&words[1], remove)?))
}

/// With RANK at most: nobody uses the other options.
pub(super) fn lpos(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let rank = match &words[3..] {
        [] => 1,
        [name, rank] if option(name) == "RANK" => integer(rank)?,
        _ => return Err(SYNTAX),
    };
    let zero = "ERR RANK can't be zero: use 1 to start from the first match, 2 from the second ... or use negative to start \
                from the end of the list";
    let skipped = unsigned(&rank.unsigned_abs().to_string().into())?.checked_sub(1).ok_or(fixed(zero))?;
    let Some(list) = node.keys.read::<List>(&words[1])? else { return Ok(Reply::Nil) };
    let mut equal = (0..list.len()).filter(|at| list[*at] == words[2]);
    let found = if rank > 0 { equal.nth(skipped) } else { equal.rev().nth(skipped) };
    Ok(found.map_or(Reply::Nil, Reply::count))
}
