//! Deciding on dead letters, one or a million: at a rate, in bounded memory, and never for ever.

use redis::cmd;
use serde::Serialize;

use super::{
    DeadLetter, Filter,
    look::{Head, WITH_PAGE, Walk},
};
use crate::{
    mail::UnixMillis,
    queue::{
        At, Queue, SCRIPT_LIMIT,
        records::{Records, short},
        scripts,
    },
    store::StoreError,
    telemetry::log::mask_id,
};

/// How many are decided on in one script.
const BATCH: usize = 32;
/// How many bytes of letters one script takes at most, unless the first alone has more.
const BATCH_BYTES: usize = 1024 * 1024;

/// What is decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the end of its list, counters at zero, same id.
    Requeue,
    /// For good; counted as discarded.
    Discard,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Requeue => "requeue",
            Self::Discard => "discard",
        }
    }
}

/// What a bulk operation did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Bulk {
    /// Entries that fit and were acted on.
    pub done: u64,
    /// Entries that fit but were gone when it was their turn, or that can't be acted on.
    pub skipped: u64,
}

impl Queue {
    /// [`Queue::dead_decide`] at no rate: sends dead letters that fit again.
    pub async fn dead_requeue(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.dead_decide(Action::Requeue, filter, limit, at, async |_| usize::MAX).await
    }

    /// [`Queue::dead_decide`] at no rate: discards dead letters that fit.
    pub async fn dead_discard(&self, filter: &Filter, limit: usize, at: impl Into<At>) -> Result<Bulk, StoreError> {
        self.dead_decide(Action::Discard, filter, limit, at, async |_| usize::MAX).await
    }

    /// Decides on the dead letters that fit and lie there now, oldest first, at most `limit`. What dies meanwhile is left
    /// alone, so that this ends. Entries that are no dead letters of ours are not sent again, but skipped.
    ///
    /// `pace` hears what is done and answers how many may follow at once; it waits as long as it likes, and 0 ends it.
    /// Cancelling, or an error, leaves each letter in one place: decided on or not.
    pub async fn dead_decide(
        &self,
        action: Action,
        filter: &Filter,
        limit: usize,
        at: impl Into<At>,
        mut pace: impl AsyncFnMut(Bulk) -> usize,
    ) -> Result<Bulk, StoreError> {
        let at = at.into();
        let whole = if action == Action::Requeue { WITH_PAGE } else { 0 };
        let mut decision = Decision {
            queue: self,
            action,
            at,
            began: self.time(at).await?,
            left: self.store.query(cmd("LLEN").arg(self.names.dead_letter()), SCRIPT_LIMIT).await?,
            walk: Walk::new(self, whole),
            batch: Vec::new(),
            bulk: Bulk::default(),
        };
        'pages: loop {
            let mut allowed = pace(decision.bulk).await.min(BATCH);
            let seen = decision.walk.page().await?;
            if seen.anew {
                decision.forget();
            }
            let is_last = seen.heads.is_empty();
            // What goes moves all that are newer one place towards the end.
            let mut gone = 0;
            let mut ends = is_last || allowed == 0;
            for mut head in seen.heads {
                head.place += gone;
                ends |= head.place.unsigned_abs() > decision.left || decision.taken() >= limit as u64;
                if ends {
                    break;
                }
                if !head.letter.fits(filter) || head.letter.at > decision.began {
                    continue;
                }
                if action == Action::Requeue && !head.letter.is_ours() {
                    decision.bulk.skipped += 1;
                    continue;
                }
                let is_long = whole > 0 && !head.is_whole();
                // A long one is in memory alone, and no script runs long: each looks at the letters that it takes.
                let is_full = decision.batch.len() >= allowed || decision.bytes() + head.length > BATCH_BYTES;
                if is_long || is_full {
                    let Some(moved) = decision.carry_out().await? else { continue 'pages };
                    gone += moved;
                    head.place += moved;
                    allowed = pace(decision.bulk).await.min(BATCH);
                    if allowed == 0 {
                        ends = true;
                        break;
                    }
                }
                decision.batch.push(head);
                if is_long {
                    let Some(moved) = decision.carry_out().await? else { continue 'pages };
                    gone += moved;
                    allowed = pace(decision.bulk).await.min(BATCH);
                }
            }
            if allowed == 0 {
                return Ok(decision.bulk);
            }
            if ends && decision.carry_out().await?.is_some() {
                return Ok(decision.bulk);
            }
        }
    }
}

/// A decision on many letters, half-way.
struct Decision<'a> {
    queue: &'a Queue,
    action: Action,
    at: At,
    /// Letters that are younger are none of its business.
    began: UnixMillis,
    /// How many of those that lay there then are left. Beyond them lies what died meanwhile.
    left: usize,
    walk: Walk<'a>,
    /// Letters that fit, oldest first.
    batch: Vec<Head>,
    bulk: Bulk,
}

impl Decision<'_> {
    /// How many of the limit are used up.
    fn taken(&self) -> u64 {
        self.bulk.done + self.bulk.skipped + self.batch.len() as u64
    }

    /// How many bytes the letters of the next script have.
    fn bytes(&self) -> usize {
        self.batch.iter().map(|head| head.length).sum()
    }

    /// The walk comes by again.
    fn forget(&mut self) {
        self.batch.clear();
        self.bulk.skipped = 0;
    }

    /// Decides on the batch; how many places all that are newer have moved. Nothing when one of them was not where it had
    /// been, and the walk begins anew.
    async fn carry_out(&mut self) -> Result<Option<isize>, StoreError> {
        let batch = std::mem::take(&mut self.batch);
        let (mut done, mut has_moved) = (Vec::new(), false);
        let mut letters = Vec::new();
        for head in batch {
            let (place, length, begin) = (head.place, head.length, head.begin.clone());
            if self.action == Action::Discard {
                letters.push(Letter { place, length, begin, content: head.letter, entry: Vec::new() });
                continue;
            }
            let Some(letter) = self.queue.whole(head).await? else {
                has_moved = true;
                continue;
            };
            match letter.revived(self.queue.estimate(self.at)) {
                Some(entry) => letters.push(Letter { place, length, begin, content: letter, entry }),
                None => self.bulk.skipped += 1,
            }
        }
        if !letters.is_empty() {
            let answers = self.queue.dead_batch(self.action, &letters, self.at).await?;
            for (letter, answer) in letters.iter().zip(&answers) {
                if answer == "done" {
                    done.push(letter.place);
                    let id = &*mask_id(&letter.content.id);
                    // There may be a million; the stream of outcomes tells of each.
                    tracing::debug!(mail.id = id, action = self.action.as_str(), "a dead letter was decided on");
                } else {
                    has_moved = true;
                }
            }
        }
        self.bulk.done += done.len() as u64;
        self.left = self.left.saturating_sub(done.len());
        if has_moved && self.walk.begin_anew() {
            self.forget();
            return Ok(None);
        }
        if has_moved {
            self.bulk.skipped += (letters.len() - done.len()) as u64;
        }
        self.walk.gone(&done);
        Ok(Some(done.len().cast_signed()))
    }
}

/// A letter that is decided on.
struct Letter {
    place: isize,
    length: usize,
    begin: Vec<u8>,
    content: DeadLetter,
    /// What goes back to the queue.
    entry: Vec<u8>,
}

impl Queue {
    /// One word for each.
    async fn dead_batch(&self, action: Action, letters: &[Letter], at: At) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        let mut arguments: Vec<Vec<u8>> = vec![action.as_str().into(), at.word().into()];
        for Letter { place, length, begin, content: letter, entry } in letters {
            let Records { buckets, fields } = self.records(&letter.id, letter.key.as_deref());
            keys.extend(buckets);
            arguments.extend([
                begin.clone(),
                entry.clone(),
                letter.id.clone().into(),
                short(&letter.serial).into(),
                fields,
                place.to_string().into(),
                length.to_string().into(),
                letter.message_id.clone().into(),
            ]);
        }
        let arguments: Vec<&[u8]> = arguments.iter().map(Vec::as_slice).collect();
        let lengths = letters.iter().map(|letter| letter.length).sum();
        self.run_moving(&scripts::DEAD, &keys, &arguments, lengths).await
    }
}
