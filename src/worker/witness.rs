//! What the kernel proves about the connections of a dead worker, pure.
//!
//! The supervisor outlives its worker and shares its network namespace. It looks at the kernel's table about twenty times
//! a second: a connection that stands where it can only be after both sides have the other's FIN has ended for the server
//! too, so its slot is free. A connection that is gone from the table without that was reset, by our kernel (unread answers) or by
//! somebody else; a reset may be lost and is never sent again, so that nothing is ever known of it any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::kernel_sockets::{Ends, TcpState};
use crate::lease::{BootTime, Entry};

/// The connections of dead workers that may still be proven to have ended.
#[derive(Clone, Debug, Default)]
pub struct Witness {
    watched: BTreeMap<Entry, Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    ends: Ends,
    /// When the server's end was first seen.
    ended: Option<BootTime>,
}

impl Witness {
    /// A worker has died that had this connection. To be followed by a [`Witness::look`] at once, before anybody else in
    /// the network namespace can have got the same port.
    pub fn watch(&mut self, entry: Entry, ends: Ends) {
        self.watched.insert(entry, Watched { ends, ended: None });
    }

    /// Whether there is anything to look for.
    pub fn is_idle(&self) -> bool {
        self.watched.is_empty()
    }

    /// Takes in what the kernel shows now. Returns whose slots are free: their server's end was seen `settle` ago, since a
    /// server that counts processes needs that long after its close. What has vanished without proof is forgotten.
    ///
    /// `used` are the connections of the living worker: a port that it was given cannot speak for a dead one any more.
    pub fn look(
        &mut self,
        kernel: &BTreeMap<Ends, TcpState>,
        used: &BTreeSet<Ends>,
        settle: Duration,
        now: BootTime,
    ) -> Vec<Entry> {
        self.watched.retain(|_, watched| {
            if watched.ended.is_some() {
                return true;
            }
            match kernel.get(&watched.ends) {
                _ if used.contains(&watched.ends) => return false,
                None => return false,
                Some(TcpState::ServerOpen) => {}
                Some(TcpState::ServerEnded) => watched.ended = Some(now),
            }
            true
        });
        let is_free = |watched: &Watched| watched.ended.is_some_and(|ended| now.saturating_since(ended) >= settle);
        let free: Vec<Entry> =
            self.watched.iter().filter(|(_, watched)| is_free(watched)).map(|(entry, _)| *entry).collect();
        for entry in &free {
            self.watched.remove(entry);
        }
        free
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use super::*;

    const SETTLE: Duration = Duration::from_millis(100);

    fn ends(port: u16) -> Ends {
        (format!("10.0.0.1:{port}").parse().unwrap(), "10.0.0.9:25".parse().unwrap())
    }

    fn at(millis: u64) -> BootTime {
        BootTime::after_boot(Duration::from_millis(10_000 + millis))
    }

    /// Entries that are free after each look of the connection with port 1.
    fn free_after(looks: &[(u64, Option<TcpState>)]) -> Vec<usize> {
        let mut witness = Witness::default();
        witness.watch(Entry { line: 7, slot: 1 }, ends(1));
        let look = |(millis, state): &(u64, Option<TcpState>)| {
            let kernel = state.map(|state| (ends(1), state)).into_iter().collect();
            witness.look(&kernel, &BTreeSet::new(), SETTLE, at(*millis)).len()
        };
        looks.iter().map(look).collect()
    }

    #[test]
    fn a_slot_is_free_when_the_servers_end_has_come_and_settled() {
        let (open, ended) = (Some(TcpState::ServerOpen), Some(TcpState::ServerEnded));
        assert_eq!(free_after(&[(0, open), (50, open), (100, ended), (150, ended), (200, ended)]), [0, 0, 0, 0, 1]);
        assert_eq!(free_after(&[(0, ended), (99, ended), (100, ended), (150, ended)]), [0, 0, 1, 0], "told once");
        assert_eq!(free_after(&[(0, ended), (200, None)]), [0, 1], "what was proven stays proven");
    }

    #[test]
    fn a_port_that_vanished_proves_nothing_whatever_comes_after_it() {
        let (open, ended) = (Some(TcpState::ServerOpen), Some(TcpState::ServerEnded));
        assert_eq!(free_after(&[(0, None), (50, ended), (500, ended)]), [0, 0, 0]);
        assert_eq!(free_after(&[(0, open), (50, None), (100, ended), (500, ended)]), [0, 0, 0, 0]);
    }

    #[test]
    fn the_end_of_a_living_workers_connection_is_not_taken_for_a_dead_ones() {
        let mut witness = Witness::default();
        witness.watch(Entry { line: 7, slot: 1 }, ends(1));
        let kernel = BTreeMap::from([(ends(1), TcpState::ServerEnded)]);
        assert!(witness.look(&kernel, &BTreeSet::from([ends(1)]), SETTLE, at(0)).is_empty());
        assert!(witness.is_idle());
        assert!(witness.look(&kernel, &BTreeSet::new(), SETTLE, at(500)).is_empty());
    }
}
