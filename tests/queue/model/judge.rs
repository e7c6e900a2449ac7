//! What must hold when everything has come to rest: by recipient, and by the sum.

use std::collections::{BTreeMap, BTreeSet};

use mailrelay::queue::{Audit, DeadLetter, Filter, POISON_FROM};
use redis::cmd;
use testkit::recipients;

use super::{super::support::*, life::Life, names::key_of, people::recipients_of_letter, posts::mark};

impl Life<'_> {
    /// What is wrong; each begins with a word for the promise.
    pub async fn judge(mut self) -> Vec<String> {
        let audits = self.audits().await;
        if difference(&audits) != self.removed {
            self.wrong.push(format!("audit: {} were removed: {audits:?}", self.removed));
        }
        if audits.iter().any(|audit| audit.queued + audit.in_flight + audit.delayed > 0) {
            self.wrong.push(format!("waits: {audits:?}"));
        }
        let parked = self.parked().await;
        self.judge_recipients(&parked).await;
        self.judge_places().await;
        self.judge_removed(&parked).await;
        self.judge_mask().await;
        self.wrong
    }

    /// For whom mails are parked.
    async fn parked(&mut self) -> BTreeSet<String> {
        let mut parked = BTreeSet::new();
        for letter in self.letters().await {
            let who = recipients_of_letter(&letter);
            let groundless = match &*letter.reason {
                "Poison" => self.crashes < POISON_FROM,
                "InvalidMail" => !who.is_empty(),
                _ => who.iter().any(|recipient| !self.judged.contains(recipient)),
            };
            if groundless {
                self.wrong.push(format!("groundless: {} for {who:?}", letter.reason));
            }
            parked.extend(who);
        }
        for queue in &self.queues {
            for held in queue.held_list(&Filter::default(), usize::MAX).await.expect("held") {
                if let Some(details) = queue.held_show(&held.claim_id).await.expect("held") {
                    parked.extend(details.remaining.unwrap_or_else(|| recipients(details.payload.as_bytes())));
                    // Those who were refused become a dead letter when the others have an outcome.
                    parked.extend(details.refused.into_iter().map(|refusal| refusal.recipient));
                }
            }
        }
        parked
    }

    async fn judge_recipients(&mut self, parked: &BTreeSet<String>) {
        let mut untold = Vec::new();
        for (number, made) in self.made.iter().enumerate() {
            let shares = |other: &super::posts::Made| {
                (made.id.is_some() && made.id == other.id) || (made.key.is_some() && made.key == other.key)
            };
            let conflicts = self.made.iter().enumerate().any(|(other, with)| other != number && shares(with));
            let mut lacks = false;
            for recipient in &made.recipients {
                let has = self.has.get(recipient).copied().unwrap_or(0);
                if has > 1 && !self.risked.contains(recipient) {
                    self.wrong.push(format!("twice: {recipient} has it {has} times: {made:?}"));
                }
                let told = parked.contains(recipient) || self.dropped.contains(recipient);
                if has == 0 && !told && made.accepted {
                    lacks = true;
                    if !conflicts {
                        self.wrong.push(format!("lost: {recipient} has it not, and nobody is told: {made:?}"));
                    }
                }
            }
            untold.extend(lacks.then_some(made));
        }
        // Another mail under its id or key stands for it, and that is told.
        let mut told = 0;
        for queue in &self.queues {
            told += queue.counters().await.expect("counters").get("duplicates.other").copied().unwrap_or(0);
        }
        if i64::try_from(untold.len()).is_ok_and(|untold| untold > told) {
            self.wrong.push(format!("lost: {told} mails were said to give way to others, and these did: {untold:?}"));
        }
    }

    /// No entry lies in two places.
    async fn judge_places(&mut self) {
        let mut places: BTreeMap<String, u32> = BTreeMap::new();
        let mut held: Vec<Vec<u8>> = Vec::new();
        for queue in &self.queues {
            let mails: Vec<Vec<u8>> =
                self.fixture.store.query(cmd("HVALS").arg(key_of(queue, "held")), LIMIT).await.expect("HVALS");
            held.extend(mails);
        }
        let letters = self.letters().await.into_iter().filter_map(|letter| letter.payload_bytes());
        for mark in held.into_iter().chain(letters).filter_map(|entry| mark(&entry)) {
            *places.entry(mark).or_default() += 1;
        }
        places.retain(|_, count| *count > 1);
        if !places.is_empty() {
            self.wrong.push(format!("twice: entries lie in several places: {places:?}"));
        }
    }

    /// The id and key of a mail that was removed by hand are free: all lists were seen empty since.
    async fn judge_removed(&mut self, parked: &BTreeSet<String>) {
        for number in 0..self.made.len() {
            let made = &self.made[number];
            let is_removed = |recipient: &String| {
                self.dropped.contains(recipient)
                    && !self.discarded.contains(recipient)
                    && !self.has.contains_key(recipient)
                    && !parked.contains(recipient)
            };
            let is_alone = self.made.iter().all(|other| {
                other.recipients == made.recipients
                    || ((made.id.is_none() || other.id != made.id) && (made.key.is_none() || other.key != made.key))
            });
            if made.is_named() && is_alone && made.recipients.iter().all(is_removed) && self.is_blocked(number).await {
                let made = &self.made[number];
                self.wrong.push(format!("blocked: it was removed, and is called a duplicate: {made:?}"));
            }
        }
    }

    /// Raw mail that waits stands in for nothing that was removed.
    async fn judge_mask(&mut self) {
        for _ in 0..30 {
            for queue in &self.queues {
                self.fixture.push(queue.names().queue(), mail("raw")).await;
            }
        }
        let audits = self.audits().await;
        if difference(&audits) != self.removed {
            self.wrong.push(format!("audit: {} were removed, and raw mail waits: {audits:?}", self.removed));
        }
    }

    /// The dead letters of all queues.
    async fn letters(&self) -> Vec<DeadLetter> {
        let mut letters = Vec::new();
        for queue in &self.queues {
            letters.extend(self.fixture.letters_of(queue).await);
        }
        letters
    }
}

fn difference(audits: &[Audit]) -> i64 {
    audits.iter().map(|audit| audit.difference).sum()
}
