//! What befalls single commands between a process and Redis: they come late, overtake each other, come twice, or their answer
//! is lost.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use rand::{RngExt, SeedableRng, rngs::SmallRng};
use simredis::Fate;

use crate::{
    cluster::OBSERVER,
    net::Place,
    process::{Time, now},
    trace::Trace,
};

/// How often something befalls a command, per ten thousand; and how late commands are at most.
#[derive(Clone, Copy, Debug, Default)]
pub struct Disorder {
    pub late: u32,
    pub overtaken: u32,
    pub again: u32,
    pub unanswered: u32,
    pub most_ms: u64,
}

impl Disorder {
    /// What befalls one command.
    fn fate(&self, chance: &mut SmallRng) -> Fate {
        let Self { late, overtaken, again, unanswered, most_ms } = *self;
        let drawn = chance.random_range(0..10_000);
        if drawn >= late + overtaken + again + unanswered {
            return Fate::Prompt;
        }
        let after = Duration::from_millis(chance.random_range(20..most_ms));
        match drawn {
            drawn if drawn < late => Fate::Late(after),
            drawn if drawn < late + overtaken => Fate::Overtaken(after),
            drawn if drawn < late + overtaken + again => Fate::Again(after),
            _ => Fate::Unanswered,
        }
    }
}

struct Inner {
    disorder: Disorder,
    /// Nothing befalls a command from then on.
    calm: Time,
    chance: SmallRng,
    trace: Trace,
    met: BTreeMap<String, u64>,
}

/// Decides on all commands of a world; clones are the same.
#[derive(Clone)]
pub struct Courier(Arc<Mutex<Inner>>);

impl Courier {
    pub fn new(disorder: Disorder, calm: Time, seed: u64, trace: Trace) -> Self {
        let chance = SmallRng::seed_from_u64(seed);
        Self(Arc::new(Mutex::new(Inner { disorder, calm, chance, trace, met: BTreeMap::new() })))
    }

    /// What becomes of a command that comes from this place.
    pub fn fate(&self, from: Place, words: &[Bytes]) -> Fate {
        let mut inner = self.0.lock().expect("no panic inside");
        // A plain LPUSH that comes twice is two mails, and the producers know it. Its scripts know better.
        let is_spared = from == OBSERVER && !words[0].to_ascii_uppercase().starts_with(b"EVAL");
        if is_spared || now() >= inner.calm {
            return Fate::Prompt;
        }
        let Inner { disorder, chance, trace, met, .. } = &mut *inner;
        let fate = disorder.fate(chance);
        if fate != Fate::Prompt {
            let kind = format!("{fate:?}").split('(').next().unwrap_or_default().to_lowercase();
            trace.note(|| {
                let words: Vec<_> = words.iter().take(2).map(|word| String::from_utf8_lossy(word)).collect();
                format!("redis: {fate:?}: {} from {from}", words.join(" "))
            });
            *met.entry(format!("commands {kind}")).or_default() += 1;
        }
        fate
    }

    /// How often what befell commands.
    pub fn met(&self) -> BTreeMap<String, u64> {
        self.0.lock().expect("no panic inside").met.clone()
    }
}
