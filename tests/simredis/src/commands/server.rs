//! Commands on the server itself.
#![expect(clippy::unnecessary_wraps, reason = "all commands have the same signature")]

use bytes::Bytes;

use crate::{
    failure::{Failure, NOT_AN_INTEGER, failure, fixed, wrong_arity},
    node::Node,
    number::integer,
    resp::Reply,
};

fn lower(word: &Bytes) -> String {
    String::from_utf8_lossy(word).to_lowercase()
}

fn unknown(words: &[Bytes]) -> Failure {
    let (command, sub) = (lower(&words[0]).to_uppercase(), String::from_utf8_lossy(&words[1]));
    failure(format!("ERR unknown subcommand '{sub}'. Try {command} HELP."))
}

pub(super) fn info(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::bulk(node.info(&words[1..])))
}

pub(super) fn config(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    match lower(&words[1]).as_str() {
        "get" if words.len() < 3 => Err(wrong_arity("config|get")),
        "get" => {
            let pairs = node.config.matching(&words[2..]);
            Ok(Reply::Array(
                pairs.into_iter().flat_map(|(name, value)| [Reply::bulk(name), Reply::bulk(value)]).collect(),
            ))
        }
        "set" if words.len() < 4 || !words.len().is_multiple_of(2) => Err(wrong_arity("config|set")),
        "set" => {
            for pair in words[2..].chunks(2) {
                node.config.set(&String::from_utf8_lossy(&pair[0]), &String::from_utf8_lossy(&pair[1]))?;
            }
            Ok(Reply::OK)
        }
        _ => Err(unknown(words)),
    }
}

/// Only a name can be set: SETINFO came after 7.0, and clients take its refusal in their stride.
pub(crate) fn client(words: &[Bytes]) -> Result<Reply, Failure> {
    match lower(&words[1]).as_str() {
        "setname" if words.len() == 3 => Ok(Reply::OK),
        "setname" => Err(wrong_arity("client|setname")),
        _ => Err(unknown(words)),
    }
}

pub(super) fn select(_: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    match integer(&words[1]) {
        Ok(0) => Ok(Reply::OK),
        Ok(_) => Err(fixed("ERR DB index is out of range")),
        Err(_) => Err(NOT_AN_INTEGER),
    }
}

pub(super) fn publish(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::count(node.publish(&words[1], &words[2])))
}

pub(super) fn echo(_: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    Ok(Reply::Bulk(words[1].clone()))
}

pub(super) fn time(node: &mut Node, _: &[Bytes]) -> Result<Reply, Failure> {
    let now = (node.wall)();
    Ok(Reply::Array(vec![Reply::bulk((now / 1000).to_string()), Reply::bulk((now % 1000 * 1000).to_string())]))
}
