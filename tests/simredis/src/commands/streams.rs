//! Commands on streams.

use bytes::Bytes;

use super::{keys::unsigned, option};
use crate::{
    failure::{Failure, fixed, wrong_arity},
    keyspace::Stream,
    node::Node,
    resp::Reply,
};

/// `XADD key [MAXLEN [~|=] n] * field value ...`. A limit that need not be kept exactly (`~`) is kept exactly, which Redis
/// may do too.
pub(super) fn xadd(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let mut rest = &words[2..];
    let mut most = None;
    if option(&rest[0]) == "MAXLEN" {
        rest = if rest[1] == "~"[..] || rest[1] == "="[..] { &rest[2..] } else { &rest[1..] };
        most = Some(unsigned(rest.first().ok_or(wrong_arity("xadd"))?)?);
        rest = &rest[1..];
    }
    let Some((id, pairs)) = rest.split_first() else { return Err(wrong_arity("xadd")) };
    if id != "*".as_bytes() {
        return Err(fixed("ERR Invalid stream ID specified as stream command argument"));
    }
    if pairs.is_empty() || !pairs.len().is_multiple_of(2) {
        return Err(wrong_arity("xadd"));
    }
    let now = (node.wall)();
    let id = node.keys.edit(&words[1], |stream: &mut Stream| {
        // Ids only grow, whatever the clock does.
        stream.last = if now > stream.last.0 { (now, 0) } else { (stream.last.0, stream.last.1 + 1) };
        stream.entries.push_back((stream.last, pairs.to_vec()));
        while most.is_some_and(|most| stream.entries.len() > most) {
            stream.entries.pop_front();
        }
        stream.last
    })?;
    Ok(Reply::bulk(format!("{}-{}", id.0, id.1)))
}

pub(super) fn xlen(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let stream: Option<&Stream> = node.keys.read(&words[1])?;
    Ok(Reply::count(stream.map_or(0, |stream| stream.entries.len())))
}

/// `XREVRANGE key end start [COUNT n]`: the newest first. A bound is `+`, `-`, an id, or `(` and an id.
pub(super) fn xrevrange(node: &mut Node, words: &[Bytes]) -> Result<Reply, Failure> {
    let (end, start) = (bound(&words[2])?, bound(&words[3])?);
    let most = match &words[4..] {
        [] => usize::MAX,
        [word, count] if option(word) == "COUNT" => unsigned(count)?,
        _ => return Err(fixed("ERR syntax error")),
    };
    let stream: Option<&Stream> = node.keys.read(&words[1])?;
    let entries = stream.into_iter().flat_map(|stream| stream.entries.iter().rev());
    let within = entries.filter(|(id, _)| {
        let ((end, open_end), (start, open_start)) = (end, start);
        (*id < end || (!open_end && *id == end)) && (*id > start || (!open_start && *id == start))
    });
    let shown = within.take(most).map(|(id, pairs)| {
        let pairs = pairs.iter().map(|word| Reply::bulk(word.clone())).collect();
        Reply::Array(vec![Reply::bulk(format!("{}-{}", id.0, id.1)), Reply::Array(pairs)])
    });
    Ok(Reply::Array(shown.collect()))
}

/// An id, and whether it is itself left out.
fn bound(word: &Bytes) -> Result<((u64, u64), bool), Failure> {
    let invalid = || fixed("ERR Invalid stream ID specified as stream command argument");
    let text = std::str::from_utf8(word).map_err(|_| invalid())?;
    let (text, open) = text.strip_prefix('(').map_or((text, false), |text| (text, true));
    match text {
        "+" => Ok(((u64::MAX, u64::MAX), open)),
        "-" => Ok(((0, 0), open)),
        id => {
            let (time, number) = id.split_once('-').ok_or_else(invalid)?;
            Ok(((time.parse().map_err(|_| invalid())?, number.parse().map_err(|_| invalid())?), open))
        }
    }
}
