//! Memory for the bodies of claimed mails: how much may be in a process's hands at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// How often the bytes of a payload are in memory at most while its mail is read, composed and sent.
const COPIES: usize = 5;
/// What every claim may take, however little is left: small mail is not held up by large mail.
const LEAST: usize = 64 * 1024;

/// How many bytes of mail a process may hold; clones are the same room. The default has no bound.
#[derive(Clone, Debug, Default)]
pub struct Room(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    total: usize,
    used: Mutex<usize>,
    freed: Notify,
}

impl Inner {
    fn used(&self) -> MutexGuard<'_, usize> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A part of the room, given back when dropped.
#[derive(Debug)]
pub(super) struct Share {
    room: Room,
    bytes: usize,
    /// Whether it is for a mail, whose end others may wait for; not for a claim on its way.
    is_of_mail: bool,
}

/// What a claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Grant {
    /// Bytes of payloads.
    pub most: usize,
    /// Bytes of the first payload; `None` when it may have any length, since nothing else is in memory.
    pub first: Option<usize>,
}

impl Room {
    /// A room of so many bytes, for everything that is made of the mails as well.
    pub fn of(total: usize) -> Self {
        Self(Some(Arc::new(Inner { total, used: Mutex::new(0), freed: Notify::new() })))
    }

    /// What may be claimed now, and the room for it, to be cut to what was claimed. A mail that is larger than all the
    /// room goes alone.
    pub(super) fn reserve(&self) -> (Grant, Share) {
        let Some(inner) = &self.0 else {
            return (
                Grant { most: usize::MAX, first: None },
                Share { room: self.clone(), bytes: 0, is_of_mail: false },
            );
        };
        let mut used = inner.used();
        // Half of it, so that another claim meanwhile gets some, too.
        let left = inner.total.saturating_sub(*used) / 2;
        let most = (left / COPIES).max(LEAST);
        let first = (*used > 0).then_some(most);
        *used += left;
        (Grant { most, first }, Share { room: self.clone(), bytes: left, is_of_mail: false })
    }

    /// Resolves when the room of a long mail was given back since this was last asked.
    pub async fn freed(&self) {
        match &self.0 {
            Some(inner) => inner.freed.notified().await,
            None => std::future::pending().await,
        }
    }
}

impl Share {
    /// For payloads of so many bytes in all.
    pub(super) fn cut(&mut self, payloads: usize) {
        self.set(payloads * COPIES);
    }

    /// Moves the part for one payload into a share of its own.
    pub(super) fn split(&mut self, payload: usize) -> Self {
        let bytes = (payload * COPIES).min(self.bytes);
        self.bytes -= bytes;
        Self { room: self.room.clone(), bytes, is_of_mail: true }
    }

    fn set(&mut self, bytes: usize) {
        let Some(inner) = &self.room.0 else { return };
        let mut used = inner.used();
        *used = used.saturating_sub(self.bytes).saturating_add(bytes);
        drop(used);
        self.bytes = bytes;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let was_long = self.is_of_mail && self.bytes > LEAST * COPIES;
        self.set(0);
        if let (true, Some(inner)) = (was_long, &self.room.0) {
            inner.freed.notify_one();
        }
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

    #[test]
    fn large_mails_share_the_room_and_one_that_is_too_large_goes_alone() {
        let room = Room::of(200 * LEAST * COPIES);
        let (grant, mut first) = room.reserve();
        assert_eq!(grant, Grant { most: 100 * LEAST, first: None }, "of any length while nothing is there");
        first.cut(120 * LEAST);
        let (grant, mut second) = room.reserve();
        assert_eq!(grant, Grant { most: 40 * LEAST, first: Some(40 * LEAST) });
        second.cut(0);
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
        large.cut(1_000 * LEAST);
        assert_eq!(room.reserve().0, Grant { most: LEAST, first: Some(LEAST) });
        assert!(room.freed().now_or_never().is_none(), "claims on their way are nobody's news");
        let mail = large.split(1_000 * LEAST);
        drop((large, mail));
        assert!(room.freed().now_or_never().is_some());
        assert_eq!(room.reserve().0.first, None);
    }
}
