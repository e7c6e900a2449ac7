//! Whether so much mail dies that something must be wrong which no reply tells. Pure.
//!
//! A server may say of every recipient that it does not exist, since its user database is away; a reply may be read wrongly.
//! When most of the last mails went to the dead letters, the relay rests and asks with one mail at a time, ever less often,
//! until one is taken or a person looks.

use std::{collections::VecDeque, time::Duration};

/// How many different mails are looked at.
const MAILS: usize = 20;
/// So many of them are most.
const MOST: usize = MAILS / 2 + 1;
/// How long the relay rests before the first probe; twice as long before each further one.
const FIRST_REST: Duration = Duration::from_secs(4);
/// The longest rest.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// The last mails that came to an end.
#[derive(Debug, Default)]
pub struct DeathGuard {
    /// The first recipient of each that died; nothing of one that was taken.
    last: VecDeque<Option<String>>,
    rests: u32,
}

impl DeathGuard {
    /// A server took a mail.
    pub fn taken(&mut self) {
        if self.rests > 0 {
            *self = Self::default();
        }
        self.push(None);
    }

    /// A mail went to the dead letters since a server refused it. How long the relay should rest, if it should; to be told by
    /// [`DeathGuard::rested`] when it does. Mails to one recipient count as one.
    pub fn died(&mut self, recipient: &str) -> Option<Duration> {
        let dead = Some(recipient.to_owned());
        if !self.last.contains(&dead) {
            self.push(dead);
        }
        if self.last.iter().flatten().count() < MOST {
            return None;
        }
        Some(FIRST_REST.saturating_mul(2_u32.saturating_pow(self.rests)).min(LONGEST_REST))
    }

    /// The relay rests. Mails that were under way meanwhile may still die: that is one rest all the same.
    pub fn rested(&mut self) {
        self.rests = self.rests.saturating_add(1);
    }

    fn push(&mut self, mail: Option<String>) {
        self.last.truncate(MAILS - 1);
        self.last.push_front(mail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn die(guard: &mut DeathGuard, mails: std::ops::Range<usize>) -> Vec<Option<u64>> {
        let die = |number: usize| {
            let rest = guard.died(&number.to_string())?;
            guard.rested();
            Some(rest.as_secs())
        };
        mails.map(die).collect()
    }

    #[test]
    fn row_38_most_of_twenty_make_the_relay_rest_ever_longer() {
        let mut guard = DeathGuard::default();
        assert_eq!(die(&mut guard, 0..10), [None; 10]);
        assert_eq!(die(&mut guard, 10..16), [4, 8, 16, 32, 60, 60].map(Some));
    }

    #[test]
    fn fewer_than_most_do_not() {
        let mut guard = DeathGuard::default();
        for number in 0..200 {
            assert_eq!(guard.died(&number.to_string()), None, "mail {number}");
            guard.taken();
        }
    }

    #[test]
    fn one_bad_recipient_is_one_however_often_he_is_written_to() {
        let mut guard = DeathGuard::default();
        assert!((0..100).all(|_| guard.died("bad@example.org").is_none()));
    }

    #[test]
    fn a_mail_that_is_taken_ends_it() {
        let mut guard = DeathGuard::default();
        die(&mut guard, 0..14);
        guard.taken();
        assert_eq!(die(&mut guard, 14..24), [None; 10]);
        assert_eq!(die(&mut guard, 24..25), [Some(4)]);
    }
}
