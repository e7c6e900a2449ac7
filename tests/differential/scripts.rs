//! Draws calls of the product's scripts, as they lie in `src`, with arguments from small pools so that they meet.

mod ledger;
mod queue;

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, rngs::StdRng};

use crate::wire::{Pair, Words};

macro_rules! ledger {
    ($flags:literal, $name:literal) => {
        (
            $name,
            concat!(
                "#!lua flags=",
                $flags,
                "\n",
                include_str!("../../src/lease/scripts/prelude.lua"),
                include_str!(concat!("../../src/lease/scripts/", $name, ".lua"))
            ),
        )
    };
}

macro_rules! controller {
    ($name:literal) => {
        (
            $name,
            concat!(
                "#!lua flags=allow-oom\n",
                include_str!(concat!("../../src/controller/publish/scripts/", $name, ".lua"))
            ),
        )
    };
}

macro_rules! queue {
    ($header:literal, $name:literal) => {
        (
            $name,
            concat!(
                $header,
                "\n",
                include_str!("../../src/queue/lua/prelude.lua"),
                include_str!(concat!("../../src/queue/lua/", $name, ".lua"))
            ),
        )
    };
}

const FILES: &[(&str, &str)] = &[
    ledger!("allow-oom", "sync"),
    ledger!("allow-oom", "leave"),
    ledger!("allow-oom", "policy"),
    ledger!("allow-oom", "reap"),
    ledger!("allow-oom", "init"),
    ledger!("allow-oom", "open"),
    ledger!("allow-oom", "clear"),
    ledger!("allow-oom", "condemn"),
    ledger!("allow-oom", "good"),
    ledger!("allow-oom", "discard"),
    ledger!("no-writes", "snapshot"),
    queue!("#!lua", "enqueue"),
    queue!("#!lua flags=allow-oom", "take"),
    queue!("#!lua flags=allow-oom", "admit"),
    queue!("#!lua flags=allow-oom", "advance"),
    queue!("#!lua flags=allow-oom", "settle"),
    queue!("#!lua flags=allow-oom", "recover"),
    queue!("#!lua flags=allow-oom", "promote"),
    queue!("#!lua flags=allow-oom", "release"),
    queue!("#!lua flags=allow-oom", "dead"),
    queue!("#!lua flags=allow-oom", "rest"),
    queue!("#!lua flags=allow-oom", "lost"),
    queue!("#!lua flags=allow-oom", "depths"),
    controller!("publish"),
    controller!("withdraw"),
];

/// What must have been seen, or nothing was compared: the script and the first word of its answer.
pub const ANSWERS: &[&str] = &[
    "admit delayed",
    "admit delivered",
    "admit dead",
    "admit doubtful",
    "admit duplicate",
    "admit expired",
    "admit forged",
    "admit gone",
    "admit kept",
    "admit partly",
    "advance done",
    "advance lost",
    "clear GONE",
    "clear OK",
    "clear TOKEN",
    "clear WAIT",
    "condemn OK",
    "condemn WAIT",
    "dead done",
    "dead gone",
    "depths",
    "discard OK",
    "discard STALE",
    "enqueue doubtful",
    "enqueue duplicate",
    "enqueue expired",
    "enqueue full",
    "enqueue queued",
    "good OK",
    "init EXISTS",
    "init OK",
    "init OLD",
    "init WAIT",
    "leave GONE",
    "leave OK",
    "leave STALE",
    "open ALREADY",
    "open OK",
    "lost",
    "open OLD",
    "policy OK",
    "policy OLD",
    "policy WAIT",
    "promote",
    "publish",
    "reap GONE",
    "reap OK",
    "reap STALE",
    "recover dead",
    "recover held",
    "recover queue",
    "recover resend",
    "recover skipped",
    "release done",
    "release gone",
    "settle done",
    "settle late",
    "settle lost",
    "rest",
    "settle repeated",
    "snapshot",
    "sync GONE",
    "sync OK",
    "sync REGISTER",
    "sync STALE",
    "sync TOKEN",
    "sync WAIT",
    "take",
    "withdraw",
    "error",
];

/// The script and the first word that it answered.
pub fn kind(name: &str, reply: &[u8]) -> String {
    if reply.starts_with(b"-") {
        return "error".into();
    }
    if matches!(name, "snapshot" | "depths" | "lost" | "rest" | "take" | "promote" | "publish" | "withdraw") {
        return name.into();
    }
    let text = String::from_utf8_lossy(reply).into_owned();
    let word = text.lines().find(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    format!("{name} {}", word.unwrap_or_default())
}

pub struct Generator {
    bodies: BTreeMap<&'static str, &'static str>,
    digests: BTreeMap<&'static str, String>,
    /// How many calls there were: takes have growing numbers.
    number: u64,
    /// What comes next, when it is not drawn.
    story: VecDeque<(&'static str, Words)>,
}

impl Generator {
    pub fn new() -> Self {
        let bodies: BTreeMap<_, _> = FILES.iter().copied().collect();
        let digest = |body: &str| sha1_of(body.as_bytes());
        let digests = bodies.iter().map(|(name, body)| (*name, digest(body))).collect();
        Self { bodies, digests, number: 10_000, story: VecDeque::new() }
    }

    /// One call of one script, by its digest.
    pub fn draw(&mut self, random: &mut StdRng) -> (&'static str, Words) {
        // Most of the ledger's calls are SYNC, as in life.
        const NAMES: &[&str] = &[
            "sync", "sync", "sync", "sync", "sync", "sync", "leave", "policy", "reap", "init", "init", "open", "open",
            "clear", "condemn", "good", "discard", "snapshot", "enqueue", "enqueue", "take", "take", "admit", "admit",
            "admit", "advance", "advance", "settle", "settle", "settle", "settle", "recover", "recover", "promote",
            "release", "release", "dead", "dead", "lost", "rest", "depths", "publish", "withdraw", "plain", "plain",
        ];
        if self.story.is_empty() && random.random_bool(0.001) {
            self.late();
        }
        if let Some(call) = self.story.pop_front() {
            return call;
        }
        self.number += 1;
        let mut draw = Draw { random, keys: Vec::new(), arguments: Vec::new(), is_idle: false, number: self.number };
        let name = draw.one(NAMES);
        match name {
            "plain" => return ("plain", draw.plain()),
            "publish" | "withdraw" => draw.record(name),
            "enqueue" | "take" | "admit" | "advance" | "settle" | "recover" | "promote" | "release" | "dead"
            | "lost" | "rest" | "depths" => {
                draw.queue(name);
            }
            _ => draw.ledger(name),
        }
        let Draw { random, keys, mut arguments, .. } = draw;
        // Too few: the script fails half-way, and how it says so must be the same too. What SYNC has done by then depends on
        // the order of its hash, which a real Redis forgets.
        if name != "sync" && random.random_bool(0.03) {
            let left = random.random_range(0..=arguments.len());
            arguments.truncate(left);
        }
        (name, self.call(name, keys, arguments))
    }

    fn call(&self, name: &str, keys: Vec<String>, arguments: Vec<String>) -> Words {
        let digest = self.digests[name].clone();
        let mut words = vec![b"EVALSHA".to_vec(), digest.into_bytes(), keys.len().to_string().into_bytes()];
        words.extend(keys.into_iter().chain(arguments).map(String::into_bytes));
        words
    }

    pub async fn load(&self, name: &str, pair: &mut Pair) {
        let words = vec![b"SCRIPT".to_vec(), b"LOAD".to_vec(), self.bodies[name].as_bytes().to_vec()];
        let (real, simulated) = pair.ask(&words).await;
        assert_eq!(real, simulated, "the digest of {name}");
    }
}

fn sha1_of(body: &[u8]) -> String {
    redis::Script::new(std::str::from_utf8(body).expect("a script is text")).get_hash().to_owned()
}

struct Draw<'a> {
    random: &'a mut StdRng,
    keys: Vec<String>,
    arguments: Vec<String>,
    is_idle: bool,
    /// Of the next take.
    number: u64,
}

impl Draw<'_> {
    fn one(&mut self, from: &[&'static str]) -> &'static str {
        from[self.random.random_range(0..from.len())]
    }

    fn below(&mut self, n: u32) -> u32 {
        self.random.random_range(0..n)
    }

    fn push(&mut self, word: impl Into<String>) {
        self.arguments.push(word.into());
    }

    fn push_one(&mut self, from: &[&'static str]) {
        let word = self.one(from);
        self.push(word);
    }

    fn push_below(&mut self, n: u32) {
        let number = self.below(n);
        self.push(number.to_string());
    }
}
