//! Whether a server refuses us or only some of our mail. Pure: the clock is an argument.
//!
//! A refusal that may judge us is held against the server only together with others: different mails, none taken
//! meanwhile. When all of them have one sender or one recipient in common, and the server took mail of another one not
//! long ago, then it judged that one.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use super::breaker::Generation;

/// How many mails are remembered.
const REMEMBERED: usize = 64;
/// For how long a refusal counts when nothing is heard of its mail any more: a suspect mail is tried again sooner.
const REFUSAL_COUNTS: Duration = Duration::from_secs(900);
/// For how long a mail that was taken shows that the server has nothing against us.
const TAKEN_COUNTS: Duration = Duration::from_secs(600);
/// How long the server is left alone between two probes.
pub const PAUSE: Duration = Duration::from_secs(4);
/// The same while only mail of one sender, or to one recipient, was refused: that of others should not wait for long.
const SHORT_PAUSE: Duration = Duration::from_secs(1);

/// Who a refusal was about, should it not be us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Party {
    /// The sender, whose address this is.
    Sender(String),
    /// The recipient.
    Recipient(String),
}

/// A mail that was offered in a session of the server.
pub struct Offered<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its sender and its first recipient.
    pub sender: &'a str,
    /// See `sender`.
    pub recipient: &'a str,
    /// When.
    pub began: Instant,
    /// The session.
    pub session: Generation,
    /// Whether the transaction got as far as a recipient and no further.
    pub at_recipient: bool,
    /// Whether a refusal that may judge us is known to judge this mail.
    pub is_to_blame: bool,
}

impl Offered<'_> {
    /// Whom a refusal was about, should it not be us.
    pub fn party(&self) -> Party {
        if self.at_recipient {
            Party::Recipient(self.recipient.to_owned())
        } else {
            Party::Sender(self.sender.to_owned())
        }
    }
}

#[derive(Debug)]
struct Refusal {
    party: Party,
    at: Instant,
}

/// What a server refused since it took a mail last.
#[derive(Debug)]
pub struct Suspects {
    /// So many different mails make a pause.
    enough: usize,
    refused: BTreeMap<String, Refusal>,
    taken: Option<Instant>,
    /// The last two senders, and the last two recipients, of which mail was taken, and when.
    senders: Vec<(String, Instant)>,
    recipients: Vec<(String, Instant)>,
}

impl Suspects {
    /// Nothing known; `enough` different mails make a pause.
    pub fn new(enough: usize) -> Self {
        Self { enough, refused: BTreeMap::new(), taken: None, senders: Vec::new(), recipients: Vec::new() }
    }

    /// The server refused a mail for a reason that may lie with us. For how long it should be left alone, if it should.
    pub fn refused(&mut self, mail: &str, party: Party, now: Instant) -> Option<Duration> {
        self.refused.retain(|_, refusal| now.duration_since(refusal.at) < REFUSAL_COUNTS);
        if self.refused.len() >= REMEMBERED && !self.refused.contains_key(mail) {
            let oldest = self.refused.iter().min_by_key(|(_, refusal)| refusal.at).map(|(mail, _)| mail.clone());
            oldest.map(|oldest| self.refused.remove(&oldest));
        }
        self.refused.insert(mail.to_owned(), Refusal { party, at: now });
        if self.refused.len() < self.enough {
            return None;
        }
        match self.common_party() {
            None => Some(PAUSE),
            Some(party) if self.took_others(party, now) => None,
            Some(_) => Some(SHORT_PAUSE),
        }
    }

    /// The server took a mail that was offered at `began`. That says nothing of what it refused since then: it may have
    /// made up its mind about us in between.
    pub fn taken(&mut self, sender: &str, recipient: &str, began: Instant) {
        self.refused.retain(|_, refusal| refusal.at > began);
        self.taken = self.taken.max(Some(began));
        remember(&mut self.senders, sender, began);
        remember(&mut self.recipients, recipient, began);
    }

    /// When the last mail that the server took was offered.
    pub fn last_taken(&self) -> Option<Instant> {
        self.taken
    }

    /// Whether no other mail is refused.
    pub fn is_lone(&self, mail: &str) -> bool {
        self.refused.keys().all(|refused| refused == mail)
    }

    fn common_party(&self) -> Option<&Party> {
        let mut parties = self.refused.values().map(|refusal| &refusal.party);
        let first = parties.next()?;
        parties.all(|party| party == first).then_some(first)
    }

    fn took_others(&self, party: &Party, now: Instant) -> bool {
        let (known, name) = match party {
            Party::Sender(name) => (&self.senders, name),
            Party::Recipient(name) => (&self.recipients, name),
        };
        known.iter().any(|(other, at)| other != name && now.duration_since(*at) < TAKEN_COUNTS)
    }
}

/// Two are enough: one of them is always another one.
fn remember(known: &mut Vec<(String, Instant)>, name: &str, now: Instant) {
    known.retain(|(other, _)| other != name);
    known.insert(0, (name.to_owned(), now));
    known.truncate(2);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn to(number: usize) -> Party {
        Party::Recipient(format!("ann{number}@example.org"))
    }

    #[test]
    fn five_different_mails_make_a_pause_and_one_mail_never_does() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        for _ in 0..20 {
            assert_eq!(suspects.refused("one", to(1), now), None);
        }
        assert!(suspects.is_lone("one"));
        for number in 2..5 {
            assert_eq!(suspects.refused(&number.to_string(), to(number), now), None);
        }
        assert!(!suspects.is_lone("one"));
        assert_eq!(suspects.refused("five", to(5), now), Some(PAUSE));
        assert_eq!(suspects.refused("five", to(5), now), Some(PAUSE), "a probe that is refused");
    }

    #[test]
    fn a_mail_that_is_taken_meanwhile_begins_the_count_anew() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        for number in 0..20 {
            assert_eq!(suspects.refused(&number.to_string(), to(number), now), None);
            if number % 4 == 3 {
                suspects.taken("app@example.com", "ann@example.org", now);
            }
        }
        assert_eq!(suspects.last_taken(), Some(now));
    }

    #[test]
    fn a_mail_that_was_offered_before_the_refusals_excuses_nothing() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        let began = now.checked_sub(Duration::from_secs(1)).expect("a second ago");
        for number in 0..4 {
            suspects.refused(&number.to_string(), to(number), now);
        }
        suspects.taken("app@example.com", "ann@example.org", began);
        assert_eq!(suspects.last_taken(), Some(began));
        assert_eq!(suspects.refused("4", to(4), now), Some(PAUSE));
    }

    #[test]
    fn one_sender_stops_nobody_else_once_the_server_took_mail_of_another() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        let bad = || Party::Sender("bad@tenant.example".into());
        suspects.taken("app@example.com", "ann@example.org", now);
        for number in 0..50 {
            assert_eq!(suspects.refused(&number.to_string(), bad(), now), None);
        }
        // With a second sender it is us.
        assert_eq!(suspects.refused("x", Party::Sender("app@example.com".into()), now), Some(PAUSE));
    }

    #[test]
    fn one_sender_alone_is_probed_often() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        let mine = || Party::Sender("app@example.com".into());
        suspects.taken("app@example.com", "ann@example.org", now);
        for number in 0..4 {
            assert_eq!(suspects.refused(&number.to_string(), mine(), now), None);
        }
        assert_eq!(suspects.refused("4", mine(), now), Some(SHORT_PAUSE), "it takes nobody's mail");
    }

    #[test]
    fn what_nothing_is_heard_of_any_more_counts_no_longer() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        for number in 0..4 {
            suspects.refused(&number.to_string(), to(number), now);
        }
        let later = now + REFUSAL_COUNTS;
        assert_eq!(suspects.refused("4", to(4), later), None);
        assert!(suspects.is_lone("4"));
    }

    #[test]
    fn few_are_remembered() {
        let (mut suspects, now) = (Suspects::new(5), Instant::now());
        for number in 0..10_000 {
            suspects.refused(&number.to_string(), to(number), now);
        }
        assert_eq!(suspects.refused.len(), REMEMBERED);
    }
}
