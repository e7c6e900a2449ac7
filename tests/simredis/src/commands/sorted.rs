//! Commands on sorted sets.

use bytes::Bytes;

use super::option;
use crate::{
    failure::{Failure, NOT_A_FLOAT, SYNTAX, fixed},
    keyspace::Sorted,
    node::Node,
    number::{float, general, integer},
    resp::Reply,
};

/// Without options: nobody uses them.
pub(super) fn zadd(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let pairs = &words[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(SYNTAX);
    }
    // Adding makes -0 a 0.
    let scores: Option<Vec<f64>> = pairs.chunks(2).map(|pair| float(&pair[0]).map(|score| score + 0.0)).collect();
    let scores = scores.ok_or(NOT_A_FLOAT)?;
    let members = pairs.chunks(2).map(|pair| pair[1].clone());
    let add = |set: &mut Sorted| members.zip(scores).filter(|(member, score)| set.set(member.clone(), *score)).count();
    Ok(Reply::count(node.keys.edit(&words[1], add)?))
}

pub(super) fn zrem(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    if node.keys.read::<Sorted>(&words[1])?.is_none() {
        return Ok(Reply::Integer(0));
    }
    let remove = |set: &mut Sorted| words[2..].iter().filter(|member| set.remove(member)).count();
    Ok(Reply::count(node.keys.edit(&words[1], remove)?))
}

pub(super) fn zcard(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let set: Option<&Sorted> = node.keys.read(&words[1])?;
    Ok(Reply::count(set.map_or(0, |set| set.scores.len())))
}

pub(super) fn zscore(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let set: Option<&Sorted> = node.keys.read(&words[1])?;
    let score = set.and_then(|set| set.scores.get(&words[2]));
    Ok(score.map_or(Reply::Nil, |score| Reply::bulk(general(*score))))
}

/// An end of a range: the score, and whether it is left out.
fn bound(word: &Bytes) -> Result<(f64, bool), Failure> {
    let (text, open) = match word.strip_prefix(b"(") {
        Some(text) => (text, true),
        None => (&word[..], false),
    };
    // As C's `strtod`, which skips blanks, and for which nothing is 0.
    let text = text.trim_ascii_start();
    let score = if text.is_empty() { Some(0.0) } else { float(text) };
    Ok((score.ok_or(fixed("ERR min or max is not a float"))?, open))
}

/// With LIMIT at most: nobody uses WITHSCORES.
pub(super) fn zrangebyscore(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let (offset, most) = match &words[4..] {
        [] => (0, -1),
        [name, offset, most] if option(name) == "LIMIT" => (integer(offset)?, integer(most)?),
        _ => return Err(SYNTAX),
    };
    let ((low, low_open), (high, high_open)) = (bound(&words[2])?, bound(&words[3])?);
    let Some(set) = node.keys.read::<Sorted>(&words[1])? else { return Ok(Reply::Array(Vec::new())) };
    let above = |score: f64| if low_open { score > low } else { score >= low };
    let below = |score: f64| if high_open { score < high } else { score <= high };
    let inside =
        set.order.iter().filter(|(score, _)| above(score.0) && below(score.0)).map(|(_, member)| member.clone());
    let Ok(offset) = usize::try_from(offset) else { return Ok(Reply::Array(Vec::new())) };
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Ok(Reply::bulks(inside.skip(offset).take(most)))
}
