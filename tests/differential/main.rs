//! The simulated Redis answers as the real one does: the same words to both, and the replies must be the same bytes.
//!
//! What may differ is masked: ids of runs, times, the order of large hashes (a real one forgets it), fields of INFO and
//! settings that the simulated one does not know. `SEED=n` runs one seed.

mod compare;
mod events;
mod lua;
mod plain;
mod scripts;
mod wire;

use std::collections::BTreeMap;

use compare::{same, same_state};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use simredis::SimRedis;
use testkit::{Persistence, RedisServer};
use wire::{Pair, shown, shown_words};

fn seeds(most: u64) -> Vec<u64> {
    match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().expect("SEED is a number")],
        Err(_) => (0..most).collect(),
    }
}

/// A real one and a simulated one, both empty, with the same settings.
fn servers(seed: u64) -> (RedisServer, SimRedis) {
    let simulated = SimRedis::new(seed);
    for (name, value) in [("appendonly", "no"), ("appendfsync", "no"), ("save", "")] {
        simulated.configure(name, value);
    }
    (RedisServer::start(Persistence::Off), simulated)
}

#[tokio::test]
async fn commands_are_answered_alike() {
    let mut kinds: BTreeMap<String, u32> = BTreeMap::new();
    for seed in seeds(6) {
        let (real, simulated) = servers(seed);
        let mut pair = Pair::connect(&real, &simulated).await;
        let mut random = StdRng::seed_from_u64(seed);
        for step in 0..4_000 {
            let words = plain::draw(&mut random);
            let (expected, answer) = pair.ask(&words).await;
            let place = || format!("SEED={seed} step {step}: {}", shown_words(&words));
            if let Err(why) = same(&mut pair, &words, &expected, &answer).await {
                panic!("{}\n{why}\nreal      {}\nsimulated {}", place(), shown(&expected), shown(&answer));
            }
            let error = expected.strip_prefix(b"-").map_or_else(
                || "fine".to_owned(),
                |text| String::from_utf8_lossy(text).split(' ').take(3).collect::<Vec<_>>().join(" "),
            );
            *kinds.entry(error).or_default() += 1;
            if step % 500 == 499 {
                same_state(&mut pair).await.unwrap_or_else(|why| panic!("{}: the data differ: {why}", place()));
            }
        }
    }
    // A refusal that was never seen was never compared.
    for error in
        ["fine", "WRONGTYPE Operation against", "ERR unknown command", "ERR wrong number", "ERR syntax error\r\n"]
    {
        assert!(kinds.contains_key(error), "never seen: {error:?} in {kinds:?}");
    }
}

#[tokio::test]
async fn the_products_scripts_do_the_same() {
    let mut answers: BTreeMap<String, u32> = BTreeMap::new();
    for seed in seeds(6) {
        let (real, simulated) = servers(seed);
        let mut pair = Pair::connect(&real, &simulated).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut generator = scripts::Generator::new();
        for step in 0..3_000 {
            let (name, words) = generator.draw(&mut random);
            let (mut expected, mut answer) = pair.ask(&words).await;
            let place = || format!("SEED={seed} step {step}: {name} {}", shown_words(&words));
            if let Err(why) = same(&mut pair, &words, &expected, &answer).await {
                panic!("{}\n{why}\nreal      {}\nsimulated {}", place(), shown(&expected), shown(&answer));
            }
            if expected.starts_with(b"-NOSCRIPT") {
                generator.load(name, &mut pair).await;
                (expected, answer) = pair.ask(&words).await;
                if let Err(why) = same(&mut pair, &words, &expected, &answer).await {
                    panic!("{}\n{why}\nreal      {}\nsimulated {}", place(), shown(&expected), shown(&answer));
                }
            }
            *answers.entry(scripts::kind(name, &expected)).or_default() += 1;
            if step % 250 == 249 {
                same_state(&mut pair).await.unwrap_or_else(|why| panic!("{}: the data differ: {why}", place()));
            }
            if random.random_bool(0.003) {
                let flushed = pair.ask(&wire::words(&["SCRIPT", "FLUSH"])).await;
                assert_eq!(flushed.0, flushed.1);
            }
        }
    }
    let missing: Vec<_> = scripts::ANSWERS.iter().filter(|answer| !answers.contains_key(**answer)).collect();
    assert!(missing.is_empty(), "never seen: {missing:?} in {answers:#?}");
}
