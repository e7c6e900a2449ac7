//! How many mails, and recipients, a server takes in a time from all pods together: token buckets in Redis.
//!
//! Whoever claims mail takes tokens for it just before and gives back what it found no mail for; nobody keeps any. So in
//! any span of `interval` at most `count + burst` are used, however many pods there are and however often they come and go;
//! a mail of more recipients than `burst` takes a full bucket, and the next one waits for what is missing. Time is Redis'.
//! A bucket that was never there, has other figures than before, or was lost with the store, begins empty.

use std::{sync::LazyLock, time::Duration};

use redis::Script;

use crate::{
    api::{RateLimit, Unit},
    store::{Grant, Names, Store, StoreError},
};

static TAKE: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!("#!lua flags=allow-oom\n", include_str!("take.lua"))));

/// What the script does with the buckets.
const COMMANDS: [&str; 7] = ["evalsha", "hdel", "hget", "hincrby", "hkeys", "hset", "pexpire"];

/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// The buckets of one mail server's budget.
#[derive(Clone)]
pub struct Buckets {
    store: Store,
    key: String,
}

/// What an item costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cost {
    /// Mails.
    pub messages: u32,
    /// Recipients.
    pub recipients: u32,
}

/// A mail with one recipient.
pub const ONE: Cost = Cost { messages: 1, recipients: 1 };

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// So many items, one at least.
    Granted(usize),
    /// Nothing; when it is worth to ask again, and how many others asked in vain.
    Wait {
        /// When the next item is there.
        wait: Duration,
        /// How many wait with us, more or less.
        askers: u32,
    },
}

impl Buckets {
    /// Those of this budget; nothing is asked for yet.
    pub fn new(store: Store, budget: &str) -> Self {
        Self { store, key: key_of(budget) }
    }

    /// Takes up to `most` items, one at least, or nothing. An answer that is lost costs what was taken.
    pub async fn take(&self, limits: &[RateLimit], cost: Cost, most: usize) -> Result<Taken, StoreError> {
        if limits.is_empty() {
            return Ok(Taken::Granted(most));
        }
        let (granted, wait, askers): (usize, u64, u32) =
            self.run(limits, cost, i64::try_from(most.max(1)).unwrap_or(i64::MAX)).await?;
        Ok(match granted {
            0 => Taken::Wait { wait: Duration::from_micros(wait), askers },
            granted => Taken::Granted(granted),
        })
    }

    /// Gives back items that no mail was sent for. To be called once: a lost answer must not give them back twice.
    pub async fn give_back(&self, limits: &[RateLimit], cost: Cost, items: usize) -> Result<(), StoreError> {
        if limits.is_empty() || items == 0 {
            return Ok(());
        }
        let items = i64::try_from(items).unwrap_or(i64::MAX);
        let _: (usize, u64, u32) = self.run(limits, cost, -items).await?;
        Ok(())
    }

    async fn run(&self, limits: &[RateLimit], cost: Cost, items: i64) -> Result<(usize, u64, u32), StoreError> {
        let mut words = vec![items.to_string()];
        for limit in limits {
            words.extend(figures(limit, cost));
        }
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        self.store.invoke(&TAKE, &[&self.key], &words, LIMIT).await
    }
}

fn key_of(budget: &str) -> String {
    format!("mailrelay:{{{budget}}}:rate")
}

/// What a worker needs of the buckets of a budget; also where there are no limits yet, which come while it runs.
pub fn worker_access(budget: &str) -> Grant {
    Grant::of(&COMMANDS).on([Names::One(key_of(budget))])
}

/// A limit as the script knows it.
fn figures(limit: &RateLimit, cost: Cost) -> [String; 4] {
    let (count, burst) = (limit.count.max(1), limit.burst.max(1));
    let interval = limit.interval.as_millis();
    let (unit, tokens) = match limit.unit {
        Unit::Message => ("m", cost.messages),
        Unit::Recipient => ("r", cost.recipients),
    };
    #[expect(clippy::cast_precision_loss, reason = "at most a day, in milliseconds")]
    let token = interval as f64 * 1_000.0 / f64::from(count);
    [format!("{unit}{count}/{interval}/{burst}"), format!("{token:.3}"), burst.to_string(), tokens.to_string()]
}

/// When to ask again: so many askers are spread over about as many milliseconds, so that they do not come all at once, and
/// the first of them comes hardly late. `random` is from 0 to 1.
pub fn ask_again(wait: Duration, askers: u32, random: f64) -> Duration {
    wait + Duration::from_secs_f64(f64::from(askers.min(5_000)) / 1_000.0 * random)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_in_figures() {
        let limit = RateLimit { unit: Unit::Message, count: 30, interval: "1m".parse().expect("a time"), burst: 1 };
        let cost = Cost { messages: 1, recipients: 7 };
        assert_eq!(figures(&limit, cost), ["m30/60000/1", "2000000.000", "1", "1"]);
        let limit = RateLimit { unit: Unit::Recipient, ..limit };
        assert_eq!(figures(&limit, cost)[3], "7");
    }

    #[test]
    fn many_askers_come_one_after_the_other() {
        let wait = Duration::from_secs(2);
        assert_eq!(ask_again(wait, 1, 0.0), wait);
        assert!(ask_again(wait, 16, 1.0) <= wait + Duration::from_millis(16));
        assert!(ask_again(wait, u32::MAX, 1.0) <= wait + Duration::from_secs(5));
    }
}
