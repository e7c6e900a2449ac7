//! People: they decide on parked mail, and remove what no script removed.

use std::time::Duration;

use mailrelay::queue::{DeadLetter, Entry, Filter};
use rand::RngExt;
use redis::cmd;
use testkit::recipients;

use super::{
    super::support::*,
    life::{Life, again},
    names::{key_of, lists},
};

impl Life<'_> {
    /// A person decides on parked mail.
    pub async fn decide(&mut self) {
        // They name a queue, be it the relay's or one that it had before.
        let (queue, now, all) = (self.any_queue(), self.now, Filter::default());
        let held = again(async || queue.held_list(&all, 1).await).await.pop();
        match self.random.random_range(0..8) {
            0..=2 => drop(queue.dead_requeue(&all, 2, now).await),
            3 => {
                let letters = self.fixture.letters_of(&queue).await;
                if let Some(letter) = letters.last().filter(|letter| !letter.id.is_empty()) {
                    let of_it = Filter::id(letter.id.clone());
                    let alike = letters.iter().filter(|other| other.id == letter.id);
                    self.discard(alike.flat_map(recipients_of_letter).collect());
                    let _ = queue.dead_discard(&of_it, 1, now).await;
                }
            }
            _ if held.is_none() => {}
            choice => {
                let Some(held) = held else { return };
                let of_it = Filter::id(held.claim_id.clone());
                let details = again(async || queue.held_show(&held.claim_id).await).await;
                let Some(details) = details else { return };
                let mut who = details.remaining.unwrap_or_else(|| recipients(details.payload.as_bytes()));
                who.extend(details.refused.into_iter().map(|refusal| refusal.recipient));
                let has_it = who.iter().any(|recipient| self.has.contains_key(recipient));
                if choice == 4 {
                    // Without a look at the server's log.
                    self.risked.extend(who);
                    let _ = queue.held_release(&of_it, 1, now).await;
                } else if has_it {
                    // It was delivered, and that is all there is to it.
                    self.discard(who);
                    let _ = queue.held_discard(&of_it, 1, now).await;
                } else {
                    let _ = queue.held_release(&of_it, 1, now).await;
                }
            }
        }
    }

    fn discard(&mut self, who: Vec<String>) {
        self.dropped.extend(who.iter().cloned());
        self.discarded.extend(who);
    }

    /// A person removes what no script removed, or has records kept for another time, longer than all this takes.
    pub async fn edit(&mut self) {
        let store = &self.fixture.store;
        if self.random.random_range(0..4) == 0 {
            let hours = self.random.random_range(1..100);
            let _ = self.queue.keep_records(Duration::from_secs(hours * 3_600)).await;
            return;
        }
        let lists = lists(&self.queue);
        let list = &*lists[self.random.random_range(0..lists.len())];
        let entries: Vec<Vec<u8>> = store.query(cmd("LRANGE").arg(list).arg(0).arg(-1), LIMIT).await.expect("LRANGE");
        let delayed = ["delayed", "delayed:mails"].map(|key| key_of(&self.queue, key));
        let put_off: Vec<Vec<u8>> = store.query(cmd("HVALS").arg(&delayed[1]), LIMIT).await.expect("HVALS");
        let gone = match self.random.random_range(0..3) {
            0 => {
                let _: i64 = store.query(cmd("DEL").arg(list), LIMIT).await.expect("DEL");
                entries
            }
            1 if !entries.is_empty() => {
                let entry = entries[self.random.random_range(0..entries.len())].clone();
                let removed: usize = store.query(cmd("LREM").arg(list).arg(1).arg(&entry), LIMIT).await.expect("LREM");
                vec![entry; removed]
            }
            _ => {
                let _: i64 = store.query(cmd("DEL").arg(&delayed), LIMIT).await.expect("DEL");
                put_off
            }
        };
        for entry in &gone {
            let decoded = Entry::decode(entry);
            // What a producer forged was never counted, though it looks so.
            let counted = matches!(&decoded, Entry::Sealed(header, _) if header.first_seen >= NOW);
            self.removed += i64::from(counted);
            self.dropped.extend(recipients(decoded.payload()));
        }
    }
}

/// For whom a dead letter is dead.
pub fn recipients_of_letter(letter: &DeadLetter) -> Vec<String> {
    letter.remaining.clone().unwrap_or_else(|| recipients(&letter.payload_bytes().unwrap_or_default()))
}
