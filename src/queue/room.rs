//! Memory for the bodies of claimed mails: how much may be in a process's hands at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How often the bytes of a payload are in memory at most while its mail is read, composed and sent.
const COPIES: usize = 7;
/// What every claim may take, however little is left: small mail is not held up by large mail.
const LEAST: usize = 64 * 1024;

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
    /// A long mail waits in Redis that did not fit.
    awaited: bool,
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
    /// Bytes of payloads that are in it before anything is taken.
    found: usize,
    /// Whether something was found that did not fit.
    left: bool,
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
    /// room goes without another long one; small mail holds up none, as it is held up by none. While a long mail waits, one
    /// claim at a time may take one, so that there comes a time when it may.
    pub(super) fn reserve(&self) -> (Grant, Share) {
        let mut share = Share { room: self.clone(), ..Share::default() };
        let Some(inner) = &self.0 else { return (Grant { most: usize::MAX, first: None }, share) };
        let mut state = inner.state();
        // Half of it, so that another claim meanwhile gets some, too.
        let left = inner.total.saturating_sub(state.used) / 2;
        let mut grant = Grant { most: (left / COPIES).max(LEAST), first: None };
        if state.long > 0 {
            if state.awaited {
                grant = Grant::least();
            }
            grant.first = Some(grant.most);
        }
        share.long = grant.first.is_none_or(|first| first > LEAST);
        share.bytes = if share.long { left } else { LEAST * COPIES };
        state.used += share.bytes;
        state.long += usize::from(share.long);
        (grant, share)
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
    /// Payloads of such lengths are in it; whether there are more that did not fit.
    pub(super) fn found(&mut self, lengths: impl Iterator<Item = usize>, left: bool) {
        (self.found, self.left) = (lengths.sum(), left);
    }

    /// For what was found and payloads of such lengths more; whether one was left that was too long.
    pub(super) fn cut(&mut self, lengths: impl Iterator<Item = usize>, left: bool) {
        let (mut bytes, mut long) = (self.found, self.found > LEAST);
        for length in lengths {
            bytes += length;
            long |= length > LEAST;
        }
        self.set(bytes * COPIES, long);
        let Some(inner) = &self.room.0 else { return };
        let mut state = inner.state();
        state.awaited = left || self.left;
        if state.awaited && state.long == 0 {
            // What it did not fit beside has gone meanwhile.
            inner.freed.notify_one();
        }
    }

    /// Moves the part for one payload into a share of its own, which is larger when the payload came from elsewhere.
    pub(super) fn split(&mut self, payload: usize) -> Self {
        let mut part = Self { room: self.room.clone(), is_of_mail: true, ..Self::default() };
        part.set(payload * COPIES, payload > LEAST);
        self.set(self.bytes.saturating_sub(payload * COPIES), self.long);
        part
    }

    fn set(&mut self, bytes: usize, long: bool) {
        let Some(inner) = &self.room.0 else { return };
        let mut state = inner.state();
        state.used = state.used.saturating_sub(self.bytes).saturating_add(bytes);
        state.long = (state.long + usize::from(long)).saturating_sub(usize::from(self.long));
        let is_free = self.long && !long && (self.is_of_mail || (state.awaited && state.long == 0));
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

    #[test]
    fn large_mails_share_the_room_and_one_that_is_too_large_goes_alone() {
        let room = Room::of(200 * LEAST * COPIES);
        let (grant, mut first) = room.reserve();
        assert_eq!(grant, Grant { most: 100 * LEAST, first: None }, "of any length while nothing is there");
        first.cut([100 * LEAST, 20 * LEAST].into_iter(), false);
        let (grant, mut second) = room.reserve();
        assert_eq!(grant, Grant { most: 40 * LEAST, first: Some(40 * LEAST) });
        second.cut(NONE.into_iter(), false);
        drop(second);
        let part = first.split(100 * LEAST);
        drop(first);
        assert_eq!(room.reserve().0.most, 50 * LEAST);
        drop(part);
        assert_eq!(room.reserve().0, Grant { most: 100 * LEAST, first: None });
    }

    #[test]
    fn small_mail_is_claimed_while_a_large_one_fills_the_room() {
        let room = Room::of(10 * LEAST);
        let (_, mut large) = room.reserve();
        large.cut([1_000 * LEAST].into_iter(), false);
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
            claim.cut([1_000].into_iter(), false);
            claim.split(1_000)
        };
        let _flying: Vec<Share> = (0..100).map(|_| small(&room)).collect();
        assert_eq!(room.reserve().0.first, None, "small mail in hand holds up nothing");
        // Claims that overlap all the time: one may be any length, the next may not and leaves a large one.
        let (_, mut any) = room.reserve();
        let (grant, mut limited) = room.reserve();
        assert!(grant.first.is_some_and(|first| first > LEAST));
        limited.cut(NONE.into_iter(), true);
        drop(limited);
        assert_eq!(room.reserve().0, Grant::least(), "no more of those that could keep it waiting");
        any.cut(NONE.into_iter(), true);
        assert!(room.freed().now_or_never().is_some(), "now it fits");
        assert_eq!(room.reserve().0.first, None);
    }

    #[test]
    fn a_claim_that_ends_in_any_way_gives_its_room_back() {
        let room = Room::of(100 * LEAST * COPIES);
        drop(room.reserve());
        let (_, mut claim) = room.reserve();
        claim.found([30 * LEAST].into_iter(), false);
        claim.cut([10].into_iter(), false);
        // Its body lay elsewhere, and counts as well.
        let (fetched, mail) = (claim.split(30 * LEAST), claim.split(10 * LEAST));
        drop(claim);
        assert_eq!(room.reserve().0.most, 30 * LEAST);
        drop((fetched, mail));
        let inner = room.0.as_ref().expect("it has a bound");
        let state = inner.state();
        assert_eq!((state.used, state.long), (0, 0));
    }
}
