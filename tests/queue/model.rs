//! The life of mails as a state machine: random operations of producers, workers, a server and people, while single commands
//! come late, twice, or unanswered. Judged by recipient: each has each mail once, or is told.

mod judge;
mod life;
mod names;
mod people;
mod posts;
mod rest;

use life::{Broken, Life, Manners};

use super::{courier::Disorder, support::*};

/// How many steps a case has before everything comes to rest.
const STEPS: usize = 160;

/// One case; what is wrong with it.
async fn case(fixture: &Fixture, seed: u64, manners: Manners, broken: Broken) -> Vec<String> {
    let _: () = fixture.store.query(&redis::cmd("FLUSHALL"), LIMIT).await.expect("FLUSHALL");
    let mut life = Life::new(fixture, seed, manners, broken).await;
    for _ in 0..STEPS {
        life.step().await;
    }
    life.rest().await;
    life.judge().await
}

/// What befalls commands in every second case.
const DISORDER: Disorder = Disorder { late: 40, again: 40, unanswered: 40, spoiled: 0 };

fn manners(seed: u64) -> Manners {
    let disorder = if seed.is_multiple_of(2) { DISORDER } else { Disorder::default() };
    // Keys of a wrong type, in every fifth case.
    let spoiled = if seed % 5 == 4 { 40 } else { 0 };
    Manners { disorder: Disorder { spoiled, ..disorder }, edits: seed % 3 == 2, renames: seed % 4 > 1 }
}

#[tokio::test]
async fn whatever_happens_each_recipient_has_each_mail_once_or_is_told() {
    let fixture = fixture();
    for seed in 0..24 {
        let wrong = case(&fixture, seed, manners(seed), &[]).await;
        assert!(wrong.is_empty(), "seed {seed}: {wrong:#?}");
    }
}

/// A rule that is left out is noticed within so many cases.
macro_rules! noticed {
    ($($name:ident: $from:literal => $to:literal, $oracle:literal, $within:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            let fixture = fixture();
            for seed in 0..$within {
                let wrong = case(&fixture, seed, manners(seed), &[($from, $to)]).await;
                if let Some(wrong) = wrong.iter().find(|wrong| wrong.starts_with($oracle)) {
                    println!("seed {seed}: {wrong}");
                    return;
                }
            }
            panic!("not noticed in {} cases", $within);
        }
    )*};
}

noticed! {
    a_raw_mail_that_is_another_at_each_look_is_noticed:
        "  local own, other, has = records[1], nil, nil\n" =>
        "  local function is_of() return true end\n  if envelope == 'raw' and stage == 'claimed' then serial = 'another look' end\n  local own, other, has = records[1], nil, nil\n",
        "lost", 400;
    recipients_who_have_a_mail_and_are_forgotten_are_noticed:
        "join(found.has, has), sum" => "'', sum", "twice", 400;
    a_held_mail_that_is_discarded_as_if_nobody_had_it_is_noticed:
        "local state, has = 'discarded', '*'" => "local state, has = 'discarded', nil", "twice", 600;
    headers_of_producers_that_are_believed_are_noticed:
        "(not own or own.serial ~= serial)" => "false", "", 400;
    other_mails_under_one_id_that_end_in_silence_are_noticed:
        "return found.sum ~= NO_SUM and sum ~= '' and found.sum ~= sum" => "return false", "lost", 400;
    ids_that_a_lost_list_blocks_are_noticed:
        "local function doubtful(found)\n" => "local function doubtful(found)\n  if true then return false end\n",
        "blocked", 400;
    entries_that_yield_nothing_and_are_not_told_are_noticed:
        "table.insert(answers, answer)\n  first = first + #records + (parts and 1 or 0)\nend\nreturn answers" =>
        "table.insert(answers, answer == 'kept' and answer or 'gone')\n  first = first + #records + (parts and 1 or 0)\nend\nreturn answers",
        "waits", 400;
    a_move_that_takes_away_before_it_puts_down_is_noticed:
        "  redis.call('HSET', KEYS[14], ARGV[at], 'taken ' .. now .. ' ' .. letter)\n  redis.call('HSET', KEYS[13], ARGV[at], entry)\n  remove(list, place)\n" =>
        "  remove(list, place)\n  redis.call('HSET', KEYS[14], ARGV[at], 'taken ' .. now .. ' ' .. letter)\n  redis.call('HSET', KEYS[13], ARGV[at], entry)\n",
        "lost", 400;
    an_audit_that_takes_raw_mail_for_lost_mail_is_noticed:
        "audits and recount() or ''" => "''", "audit", 400;
}
