//! Commands on hashes.

use bytes::Bytes;

use super::keys::{ScanOptions, cursor};
use crate::{
    failure::{Failure, fixed, wrong_arity},
    keyspace::{self, Hash},
    node::Node,
    number::integer,
    resp::Reply,
};

fn field(hash: Option<&Hash>, name: &Bytes) -> Reply {
    hash.and_then(|hash| hash.fields.get(name)).map_or(Reply::Nil, |value| Reply::Bulk(value.clone()))
}

pub(super) fn hget(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(field(node.keys.read(&words[1])?, &words[2]))
}

pub(super) fn hmget(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash = node.keys.read(&words[1])?;
    Ok(Reply::Array(words[2..].iter().map(|name| field(hash, name)).collect()))
}

pub(super) fn hexists(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    Ok(Reply::Integer(hash.is_some_and(|hash| hash.fields.contains_key(&words[2])).into()))
}

pub(super) fn hlen(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    Ok(Reply::count(hash.map_or(0, |hash| hash.fields.len())))
}

pub(super) fn hgetall(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    let pairs = hash.into_iter().flat_map(|hash| &hash.fields);
    Ok(Reply::bulks(pairs.flat_map(|(name, value)| [name.clone(), value.clone()])))
}

pub(super) fn hkeys(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    Ok(Reply::bulks(hash.into_iter().flat_map(|hash| hash.fields.keys()).cloned()))
}

pub(super) fn hvals(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    Ok(Reply::bulks(hash.into_iter().flat_map(|hash| hash.fields.values()).cloned()))
}

pub(super) fn hset(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let pairs = &words[2..];
    if !pairs.len().is_multiple_of(2) {
        return Err(wrong_arity("hset"));
    }
    let set = |hash: &mut Hash| pairs.chunks(2).filter(|pair| hash.set(pair[0].clone(), pair[1].clone())).count();
    Ok(Reply::count(node.keys.edit(&words[1], set)?))
}

pub(super) fn hdel(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    if node.keys.read::<Hash>(&words[1])?.is_none() {
        return Ok(Reply::Integer(0));
    }
    let remove = |hash: &mut Hash| words[2..].iter().filter(|name| hash.fields.shift_remove(*name).is_some()).count();
    Ok(Reply::count(node.keys.edit(&words[1], remove)?))
}

pub(super) fn hincrby(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let by = integer(&words[3])?;
    let hash: Option<&Hash> = node.keys.read(&words[1])?;
    let old = match hash.and_then(|hash| hash.fields.get(&words[2])) {
        None => 0,
        Some(text) => integer(text).map_err(|_| fixed("ERR hash value is not an integer"))?,
    };
    let new = old.checked_add(by).ok_or(fixed("ERR increment or decrement would overflow"))?;
    node.keys.edit(&words[1], |hash: &mut Hash| hash.set(words[2].clone(), new.to_string().into()))?;
    Ok(Reply::Integer(new))
}

pub(super) fn hscan(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let cursor = cursor(&words[2])?;
    let Some(hash) = node.keys.read::<Hash>(&words[1])? else { return Ok(ScanOptions::reply(0, Vec::new())) };
    let options = ScanOptions::read(cursor, &words[3..])?;
    let (next, page) = if hash.large {
        keyspace::scan(hash.fields.iter(), options.cursor, options.count)
    } else {
        (0, hash.fields.iter().collect())
    };
    let page = page.into_iter().filter(|(name, _)| options.fits(name));
    let page = page.flat_map(|(name, value)| [Reply::Bulk(name.clone()), Reply::Bulk(value.clone())]);
    Ok(ScanOptions::reply(next, page.collect()))
}
