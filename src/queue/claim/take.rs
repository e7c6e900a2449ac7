//! The first step of a claim: entries into the hands of the process, and what earlier calls took and could not hand out.

use std::collections::BTreeMap;

use bytes::Bytes;
use redis::cmd;

use super::pending::Pending;
use crate::{
    mail::{Priority, UnixMillis},
    queue::{
        At, ClaimId, Queue, SCRIPT_LIMIT, StageMark,
        long::LONG,
        room::{Grant, Share},
        scripts::{self, number},
    },
    store::StoreError,
};

/// How many bytes one claim takes before it stops: a batch of large mails must fit into a small sidecar.
const BATCH_BYTES: usize = 32 * 1024 * 1024;

/// An entry that was taken from a list.
#[derive(Clone)]
pub(super) struct Taken {
    pub id: ClaimId,
    /// The list it lay in.
    pub source: Priority,
    /// When it was taken, by Redis' clock.
    pub since: UnixMillis,
    pub entry: Bytes,
}

impl Queue {
    /// Claims whose answer was lost, as far as Redis has them and they fit, with the time and the list that they were taken
    /// at.
    pub(super) async fn found_again(
        &self,
        process: &str,
        pending: &mut Pending<'_>,
        grant: Grant,
    ) -> Result<Vec<Taken>, StoreError> {
        if pending.old.is_empty() {
            return Ok(Vec::new());
        }
        let mut marks = cmd("HMGET");
        marks.arg(self.names.stages(process));
        for orphan in &pending.old {
            marks.arg(orphan.id.as_str());
        }
        let marks: Vec<Option<String>> = self.store.query(&marks, SCRIPT_LIMIT).await?;
        let ids: Vec<String> = pending.old.iter().map(|orphan| orphan.id.0.clone()).collect();
        let marks: BTreeMap<&String, Option<String>> = ids.iter().zip(marks).collect();
        let claims = self.names.claims(process);
        let mut taken = Vec::new();
        let heads = self.heads_of(&claims, &ids, 0).await?;
        // What was seen is not forgotten before it is read.
        pending.seen = heads.iter().map(|head| ClaimId(head.field.clone())).collect();
        let mut bytes = 0;
        for head in heads {
            // One that may be long, and short ones beside it: the others are left to the next call.
            let first = taken.is_empty() && grant.first.is_none_or(|first| head.length <= first);
            if !first && (head.length > LONG || bytes + head.length > grant.most) {
                pending.unread = pending.unread.max(head.length);
                continue;
            }
            let Some(entry) = self.entry(&claims, &head.field, head.length).await? else { continue };
            bytes += head.length;
            let mark = marks.get(&head.field).cloned().flatten().unwrap_or_default();
            let source = priority_of(mark.rsplit(' ').next().unwrap_or_default().as_bytes());
            let since = mark.parse::<StageMark>().map_or_else(|()| UnixMillis::default(), |mark| mark.since);
            taken.push(Taken { id: ClaimId(head.field), source, since, entry: entry.into() });
        }
        pending.found = taken.iter().map(|taken| taken.id.clone()).collect();
        Ok(taken)
    }

    /// Takes what is granted, and cuts the share to it and what was found.
    pub(super) async fn take(
        &self,
        process: &str,
        pod: &str,
        ids: &[ClaimId],
        at: At,
        grant: Grant,
        share: &mut Share,
    ) -> Result<Vec<Taken>, StoreError> {
        let first = grant.first.map_or_else(String::new, |first| format!(" {first}"));
        let (at, most) = (at.word(), format!("{}{first}", grant.most.min(BATCH_BYTES)));
        let turn = self.take_number();
        let mut arguments = vec![process.as_bytes(), pod.as_bytes(), at.as_bytes(), most.as_bytes(), turn.as_bytes()];
        arguments.extend(ids.iter().map(|id| id.as_str().as_bytes()));
        let keys = [self.names.claims(process), self.names.stages(process)];
        let answer: Vec<Vec<u8>> = self.run(&scripts::TAKE, &keys, &arguments).await?;
        let length = |word: &[u8]| number(word).unwrap_or(0);
        // A word more is the length of one that was left. From here on others may claim what this one left.
        let left = answer.last().filter(|_| answer.len() % 4 == 2).map_or(0, |word| length(word));
        share.cut(answer.iter().skip(3).step_by(4).map(|word| length(word)), left);
        let mut words = answer.into_iter();
        let since = words.next().and_then(|now| number(&now)).map(UnixMillis);
        let since = since.ok_or_else(|| self.garbled("take answered without a time".into()))?;
        self.heard(since);
        let mut taken = Vec::new();
        while let (Some(id), Some(letter), Some(bytes), Some(mut entry)) =
            (words.next(), words.next(), words.next(), words.next())
        {
            let id = ClaimId(String::from_utf8_lossy(&id).into_owned());
            let length = length(&bytes);
            if entry.len() != length {
                match self.entry(&keys[0], id.as_str(), length).await? {
                    Some(whole) => entry = whole,
                    // Resolved by somebody else meanwhile: no claim of ours any more.
                    None => continue,
                }
            }
            taken.push(Taken { id, source: priority_of(&letter), since, entry: entry.into() });
        }
        Ok(taken)
    }
}

fn priority_of(letter: &[u8]) -> Priority {
    match letter {
        b"h" => Priority::High,
        b"l" => Priority::Low,
        _ => Priority::Normal,
    }
}
