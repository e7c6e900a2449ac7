//! Random operations: after each, the audit's difference is 0 and every mail is in exactly one place.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use mailrelay::{
    api::UnknownOutcome,
    queue::{Advance, Claimed, Filter, OperationId, Progress, RecoverOptions, Settled, Settlement, Stage},
};
use rand::{Rng, RngExt, SeedableRng, rngs::StdRng};
use redis::cmd;

use super::support::*;

/// Where the ids of all mails are, read key by key.
async fn places(fixture: &Fixture) -> BTreeMap<String, usize> {
    let mut places = BTreeMap::new();
    let mut see = |bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        let at = text.rfind("id-").expect("every payload ends in its id");
        let id: String = text[at..].chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        *places.entry(id).or_default() += 1;
    };
    for list in ["mail_queue", "{mail_queue}:high", "{mail_queue}:low", "{mail_queue}:arrived"] {
        let entries: Vec<Vec<u8>> =
            fixture.store.query(cmd("LRANGE").arg(list).arg(0).arg(-1), LIMIT).await.expect("LRANGE");
        for entry in &entries {
            see(entry);
        }
    }
    for letter in fixture.letters().await {
        see(&letter.payload_bytes().expect("payload"));
    }
    let mut hashes = vec!["{mail_queue}:held".to_owned(), "{mail_queue}:delayed:mails".to_owned()];
    hashes.extend([ONE, TWO].map(|process| format!("{{mail_queue}}:claims:{process}")));
    for hash in hashes {
        let entries: Vec<Vec<u8>> = fixture.store.query(cmd("HVALS").arg(&hash), LIMIT).await.expect("HVALS");
        for entry in &entries {
            see(entry);
        }
    }
    places
}

fn payload(id: &str, key: Option<u32>) -> String {
    let key = key.map(|key| format!(r#""idempotencyKey":"k{key}","#)).unwrap_or_default();
    format!(r#"{{"from":"a@example.com","to":"b@example.org",{key}"text":"{id}"}}"#)
}

#[derive(Default)]
struct World {
    made: u32,
    claims: Vec<(String, Claimed, Stage)>,
    /// Claims that were taken from a process that believes it still has them.
    stale: Vec<(String, Claimed)>,
    delivered: HashMap<String, u32>,
    ended: u32,
}

async fn step(fixture: &Fixture, world: &mut World, random: &mut StdRng) {
    let queue = &fixture.queue;
    let process = if random.random_bool(0.5) { ONE } else { TWO };
    match random.random_range(0..14) {
        0 | 1 => {
            world.made += 1;
            let id = format!("id-{}", world.made);
            let key = random.random_bool(0.3).then(|| random.random_range(0..5));
            queue.enqueue(payload(&id, key).as_bytes(), NO_LIMITS, NOW).await.expect("enqueued");
        }
        2 | 3 => {
            world.made += 1;
            let list = ["mail_queue", "{mail_queue}:high", "{mail_queue}:low"][random.random_range(0..3)];
            let key = random.random_bool(0.3).then(|| random.random_range(0..5));
            let body = payload(&format!("id-{}", world.made), key);
            fixture.push(list, if random.random_bool(0.1) { body.replace("from", "form") } else { body }).await;
        }
        4 => {
            let command = ["mail_queue", "{mail_queue}:high"][random.random_range(0..2)];
            let mut moving = cmd("LMOVE");
            moving.arg(command).arg("{mail_queue}:arrived").arg("RIGHT").arg("LEFT");
            let _: Option<Vec<u8>> = fixture.store.query(&moving, LIMIT).await.expect("LMOVE");
        }
        5 | 6 => {
            let max = random.random_range(1..5);
            for claim in queue.claim(process, "pod", max, NOW).await.expect("claim").mails {
                world.claims.push((process.to_owned(), claim, Stage::Claimed));
            }
        }
        7 | 8 => {
            if let Some((process, claim, stage)) = pick(&mut world.claims, random) {
                let next = if random.random_bool(0.5) { Stage::Sending } else { Stage::Committing };
                if queue.advance(process, &claim.claim_id, next, NOW).await.expect("advance") == Advance::Done {
                    *stage = next;
                }
            }
        }
        9 | 10 => settle(fixture, world, random).await,
        11 => {
            let unknown = if random.random_bool(0.7) { UnknownOutcome::Hold } else { UnknownOutcome::Resend };
            let options = RecoverOptions {
                unknown,
                fence_changed: random.random_bool(0.2),
                crashed: random.random_bool(0.5),
                out_of_memory: false,
            };
            queue.recover(process, &options, NOW).await.expect("recovered");
            let (taken, kept) = std::mem::take(&mut world.claims).into_iter().partition(|(owner, ..)| owner == process);
            world.claims = kept;
            world.stale.extend(taken.into_iter().map(|(owner, claim, _): (String, Claimed, Stage)| (owner, claim)));
        }
        12 => {
            let later = NOW.after(Duration::from_secs(random.random_range(0..30)));
            queue.promote_due(later, random.random_range(0..4)).await.expect("promoted");
        }
        _ => by_hand(fixture, world, random).await,
    }
}

fn pick<'a, T>(from: &'a mut [T], random: &mut impl Rng) -> Option<&'a mut T> {
    if from.is_empty() {
        return None;
    }
    let at = random.random_range(0..from.len());
    Some(&mut from[at])
}

async fn settle(fixture: &Fixture, world: &mut World, random: &mut StdRng) {
    let stale = random.random_bool(0.2) && !world.stale.is_empty();
    let (process, claim) = if stale {
        let at = random.random_range(0..world.stale.len());
        world.stale.swap_remove(at)
    } else if world.claims.is_empty() {
        return;
    } else {
        let at = random.random_range(0..world.claims.len());
        let (process, claim, _) = world.claims.swap_remove(at);
        (process, claim)
    };
    let outcome = match random.random_range(0..5) {
        0 | 1 => delivered(),
        2 => delayed(Duration::from_secs(random.random_range(0..20))),
        3 => dead("Policy"),
        _ => Settlement::Held { reason: "OutcomeUnknown".into(), reply: String::new() },
    };
    let operation = OperationId::random();
    let mut settled = Settled::Lost;
    for round in 0..random.random_range(1..3) {
        let answer = fixture.queue.settle(&process, &claim, &operation, &outcome, &Progress::default(), NOW).await;
        let answer = answer.expect("settled");
        if round == 0 {
            settled = answer;
        } else {
            assert!(matches!(answer, Settled::Repeated | Settled::Lost), "the second time: {answer:?}");
        }
    }
    if matches!(outcome, Settlement::Delivered { .. }) && matches!(settled, Settled::Done | Settled::Late) {
        *world.delivered.entry(claim.header.serial.clone()).or_default() += 1;
        world.ended += 1;
    }
}

async fn by_hand(fixture: &Fixture, _world: &mut World, random: &mut StdRng) {
    let all = Filter::default();
    let queue = &fixture.queue;
    match random.random_range(0..4) {
        0 => queue.dead_requeue(&all, 2, NOW).await.expect("requeued"),
        1 => queue.dead_discard(&all, 1, NOW).await.expect("discarded"),
        2 => queue.held_release(&all, 2, NOW).await.expect("released"),
        _ => queue.held_discard(&all, 1, NOW).await.expect("discarded"),
    };
}

#[tokio::test]
async fn whatever_happens_every_mail_is_in_exactly_one_place() {
    for seed in 0..6 {
        let fixture = fixture();
        let mut random = StdRng::seed_from_u64(seed);
        let mut world = World::default();
        for number in 0..400 {
            step(&fixture, &mut world, &mut random).await;
            let audit = fixture.queue.audit().await.expect("audit");
            assert_eq!(audit.difference, 0, "seed {seed}, step {number}: {audit:?}");
            if number % 10 == 0 {
                let places = places(&fixture).await;
                assert!(places.values().all(|count| *count == 1), "seed {seed}, step {number}: {places:?}");
                let there = audit.queued + audit.delayed + audit.in_flight + audit.held + audit.dead;
                assert_eq!(places.len() as u64, there, "seed {seed}, step {number}: {audit:?}");
                let gone = audit.delivered + audit.duplicates + audit.expired + audit.discarded;
                assert_eq!(u64::from(world.made), there + gone, "seed {seed}, step {number}: {audit:?}");
            }
        }
        assert!(world.delivered.values().all(|count| *count == 1), "seed {seed}: delivered twice");
        assert!(world.ended > 5, "seed {seed}: the run did something");
    }
}
