//! Memory for the bodies of claimed mails: how much may be in a process's hands at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::mail::MAX_PAYLOAD;

/// How often the bytes of a short payload are in memory at most while its mail is read, composed and sent. Those of a long one
/// are there once: its contents are read where they lie, block by block.
const COPIES: usize = 7;
/// What every claim may take, however little is left: small mail is not held up by large mail. No payload up to this length
/// is a long one.
const LEAST: usize = 64 * 1024;
/// What the largest mail takes.
const LARGEST: usize = cost(MAX_PAYLOAD);

/// Memory for a mail whose payload has so many bytes.
const fn cost(payload: usize) -> usize {
    payload + if payload < LEAST { payload } else { LEAST } * (COPIES - 1)
}

/// The longest payload of a mail that so much memory is enough for.
const fn payload_within(memory: usize) -> usize {
    if memory < cost(LEAST) { memory / COPIES } else { memory - LEAST * (COPIES - 1) }
}

/// How many bytes of mail a process may hold; clones are the same room. The default has no bound.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    total: usize,
    state: Mutex<State>,
    freed: Notify,
}

#[derive(Debug, Default)]
struct State {
    used: usize,
    /// How many long mails are here, or may be on their way.
    long: usize,
    /// Bytes of a long payload that waits in Redis since it did not fit; 0 for none.
    awaited: usize,
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the room, given back when dropped. The default is for a mail that takes none.
#[derive(Debug, Default)]
pub(super) struct Share {
    room: Room,
    bytes: usize,
    /// What the payloads cost that are in it before anything is taken.
    found: usize,
    /// Whether one of them is long.
    found_long: bool,
    /// Bytes of something that was found and did not fit.
    left: usize,
    /// Whether a long mail is in it, or may come into it.
    long: bool,
    /// Whether it is for a mail, whose end others may wait for; not for a claim on its way.
    is_of_mail: bool,
}

/// What a claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Bytes of payloads.
    pub most: usize,
    /// Bytes of the first payload; `None` when it may have any length, since nothing else that is long is in memory.
    pub first: Option<usize>,
}

impl Grant {
    /// What every claim may take.
    pub(super) fn least() -> Self {
        Self { most: LEAST, first: Some(LEAST) }
    }
}

impl Room {
    /// A room of so many bytes, for everything that is made of the mails as well.
    pub fn of(total: usize) -> Self {
        Self(Some(Arc::new(Inner { total, state: Mutex::default(), freed: Notify::new() })))
    }

    /// What may be claimed now, and the room for it, to be cut to what was claimed. A mail that is larger than all the
    /// room goes without another long one; small mail holds up none, as it is held up by none. While a long mail waits that
    /// does not fit beside those that are here, no other long one is taken, so that there comes a time when it does.
    pub(super) fn reserve(&self) -> (Grant, Share) {
        let mut share = Share { room: self.clone(), ..Share::default() };
        let Some(inner) = &self.0 else { return (Grant { most: usize::MAX, first: None }, share) };
        let mut state = inner.state();
        let left = inner.total.saturating_sub(state.used);
        // Half of it, so that another claim meanwhile gets some, too; but not so little that no large mail fits.
        let half = (left / 2).max(left.min(LARGEST));
        let mut grant = Grant { most: (left / 2 / COPIES).max(LEAST), first: None };
        if state.long > 0 {
            if state.awaited > 0 && cost(state.awaited) > left {
                grant = Grant::least();
            } else {
                grant.first = Some(payload_within(half).max(grant.most));
            }
        }
        share.long = grant.first.is_none_or(|first| first > LEAST);
        share.bytes = if share.long { half } else { LEAST * COPIES };
        state.used += share.bytes;
        state.long += usize::from(share.long);
        (grant, share)
    }

    /// Room for one long payload more, of a mail that was claimed already; none when it does not fit now.
    pub(super) fn admit(&self, payload: usize) -> Option<Share> {
        let mut share = Share { room: self.clone(), is_of_mail: true, ..Share::default() };
        if let Some(inner) = &self.0 {
            let mut state = inner.state();
            if state.long > 0 && state.used + cost(payload) > inner.total {
                state.awaited = payload;
                return None;
            }
        }
        share.set(cost(payload), payload > LEAST);
        Some(share)
    }

    /// Resolves when room was given back, since this was last asked, that a long mail may have waited for.
    pub async fn freed(&self) {
        match &self.0 {
            Some(inner) => inner.freed.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Share {
    /// Payloads of such lengths are in it; and one of `left` bytes was found that did not fit, 0 for none.
    pub(super) fn found(&mut self, lengths: impl Iterator<Item = usize>, left: usize) {
        for length in lengths {
            self.found += cost(length);
            self.found_long |= length > LEAST;
        }
        self.left = left;
    }

    /// For what was found and payloads of such lengths more; and one of `left` bytes was left that was too long, 0 for none.
    pub(super) fn cut(&mut self, lengths: impl Iterator<Item = usize>, left: usize) {
        let (mut bytes, mut long) = (self.found, self.found_long);
        for length in lengths {
            bytes += cost(length);
            long |= length > LEAST;
        }
        self.set(bytes, long);
        let Some(inner) = &self.room.0 else { return };
        let mut state = inner.state();
        state.awaited = left.max(self.left);
        if state.awaited > 0 && state.long == 0 {
            // What it did not fit beside has gone meanwhile.
            inner.freed.notify_one();
        }
    }

    /// Moves the part for one payload into a share of its own, which is larger when the payload came from elsewhere.
    pub(super) fn split(&mut self, payload: usize) -> Self {
        let mut part = Self { room: self.room.clone(), is_of_mail: true, ..Self::default() };
        part.set(cost(payload), payload > LEAST);
        self.set(self.bytes.saturating_sub(cost(payload)), self.long);
        part
    }

    fn set(&mut self, bytes: usize, long: bool) {
        let Some(inner) = &self.room.0 else { return };
        let mut state = inner.state();
        state.used = state.used.saturating_sub(self.bytes).saturating_add(bytes);
        state.long = (state.long + usize::from(long)).saturating_sub(usize::from(self.long));
        let is_free = self.long && !long && (self.is_of_mail || (state.awaited > 0 && state.long == 0));
        drop(state);
        (self.bytes, self.long) = (bytes, long);
        if is_free {
            inner.freed.notify_one();
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0, false);
    }
}

/// Two claims are equal whatever room they take.
impl PartialEq for Share {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const NONE: [usize; 0] = [];
    const MIB: usize = 1024 * 1024;

    #[test]
    fn two_of_the_largest_fit_into_a_small_sidecar_and_a_third_waits_for_one_of_them() {
        // As worker/memory.rs has it for 128 MiB.
        let room = Room::of(88 * MIB);
        let large = |room: &Room| {
            let (grant, mut claim) = room.reserve();
            let fits = grant.first.is_none_or(|first| first >= 34 * MIB);
            claim.cut(fits.then_some(34 * MIB).into_iter(), if fits { 0 } else { 34 * MIB });
            fits.then(|| claim.split(34 * MIB))
        };
        let (first, second) = (large(&room).expect("of any length"), large(&room).expect("beside it"));
        assert!(large(&room).is_none());
        assert_eq!(room.reserve().0, Grant::least(), "nothing else that is long while that one waits");
        assert!(room.admit(34 * MIB).is_none());
        drop(first);
        assert!(room.freed().now_or_never().is_some());
        let third = large(&room).expect("in its place");
        drop((second, third));
        assert!(room.admit(100 * MIB).is_some(), "larger than all the room, and alone");
        assert_eq!(room.reserve().0.first, None);
    }

    #[test]
    fn small_mail_is_claimed_while_a_large_one_fills_the_room() {
        let room = Room::of(10 * LEAST);
        let (_, mut large) = room.reserve();
        large.cut([1_000 * LEAST].into_iter(), 0);
        assert_eq!(room.reserve().0, Grant::least());
        assert!(room.freed().now_or_never().is_none(), "claims on their way are nobody's news");
        let mail = large.split(1_000 * LEAST);
        drop((large, mail));
        assert!(room.freed().now_or_never().is_some());
        assert_eq!(room.reserve().0.first, None);
    }

    #[test]
    fn a_large_mail_has_its_turn_though_small_ones_never_end() {
        let room = Room::of(1_000 * LEAST);
        let small = |room: &Room| {
            let (_, mut claim) = room.reserve();
            claim.cut([1_000].into_iter(), 0);
            claim.split(1_000)
        };
        let _flying: Vec<Share> = (0..100).map(|_| small(&room)).collect();
        assert_eq!(room.reserve().0.first, None, "small mail in hand holds up nothing");
        // Claims that overlap all the time: one may be any length, the next may not and leaves a large one.
        let (_, mut any) = room.reserve();
        let (grant, mut limited) = room.reserve();
        assert!(grant.first.is_some_and(|first| first > LEAST));
        limited.cut(NONE.into_iter(), 2_000 * LEAST);
        drop(limited);
        assert_eq!(room.reserve().0, Grant::least(), "no more of those that could keep it waiting");
        any.cut(NONE.into_iter(), 2_000 * LEAST);
        assert!(room.freed().now_or_never().is_some(), "now it fits");
        assert_eq!(room.reserve().0.first, None);
    }

    #[test]
    fn a_claim_that_ends_in_any_way_gives_its_room_back() {
        let room = Room::of(4 * LARGEST);
        drop(room.reserve());
        let (_, mut claim) = room.reserve();
        claim.found([30 * LEAST].into_iter(), 0);
        claim.cut([10].into_iter(), 0);
        let used = |room: &Room| {
            let state = room.0.as_ref().expect("it has a bound").state();
            (state.used, state.long)
        };
        assert_eq!(used(&room), (cost(30 * LEAST) + cost(10), 1));
        // Its body lay elsewhere, and counts as well.
        let (fetched, mail) = (room.admit(40 * LEAST), claim.split(30 * LEAST));
        drop(claim);
        assert_eq!(used(&room), (cost(30 * LEAST) + cost(40 * LEAST), 2));
        drop((fetched, mail));
        assert_eq!(used(&room), (0, 0));
    }
}
