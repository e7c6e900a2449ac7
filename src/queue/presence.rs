//! Which of many queues have anything in them: one question for hundreds of keys.

use std::time::Duration;

use crate::store::{Store, StoreError};

use super::QueueNames;

/// How many keys one command names.
const AT_ONCE: usize = 500;
/// How long the answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What of a queue is there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is there or not")]
pub struct Presence {
    /// Mail that waits to be taken.
    pub waiting: bool,
    /// That, or mail that waits for its time, or that a process has, or had until a moment ago.
    pub moving: bool,
    /// Mail that is parked.
    pub held: bool,
    /// Dead letters.
    pub dead: bool,
}

impl Presence {
    /// Asks for each of these queues: four commands each.
    pub async fn of(store: &Store, queues: &[&QueueNames]) -> Result<Vec<Self>, StoreError> {
        let mut found = Vec::with_capacity(queues.len());
        for queues in queues.chunks(AT_ONCE) {
            let mut commands = redis::pipe();
            for names in queues {
                commands.cmd("EXISTS").arg(&waiting(names));
                commands.cmd("EXISTS").arg(&[&names.delayed, &names.processes]);
                commands.cmd("EXISTS").arg(&names.held);
                commands.cmd("EXISTS").arg(names.dead_letter());
            }
            let counts: Vec<u64> = store.query_all(&commands, LIMIT).await?;
            let some = counts.chunks_exact(4).map(|counts| counts.iter().map(|count| *count > 0).collect::<Vec<_>>());
            found.extend(some.map(|some| Self {
                waiting: some[0],
                moving: some[0] || some[1],
                held: some[2],
                dead: some[3],
            }));
        }
        Ok(found)
    }

    /// Of which of these queues it is not sure that they still are as they were: few commands for all, of which none tells
    /// whose key it was that came or went. `queues` are their names and what was there.
    pub async fn doubtful(store: &Store, queues: &[(&QueueNames, Self)]) -> Result<Vec<usize>, StoreError> {
        let (mut there, mut absent) = (Vec::new(), Vec::new());
        for (number, (names, before)) in queues.iter().enumerate() {
            absent.extend(moving(names).map(|key| (key, number)));
            for (key, was_there) in [(names.held.as_str(), before.held), (names.dead_letter(), before.dead)] {
                (if was_there { &mut there } else { &mut absent }).push((key, number));
            }
        }
        let chunks =
            there.chunks(AT_ONCE).map(|keys| (keys, keys.len())).chain(absent.chunks(AT_ONCE).map(|keys| (keys, 0)));
        let chunks: Vec<(&[(&str, usize)], usize)> = chunks.collect();
        let mut commands = redis::pipe();
        for (keys, _) in &chunks {
            commands.cmd("EXISTS").arg(keys.iter().map(|(key, _)| *key).collect::<Vec<_>>());
        }
        let counts: Vec<usize> = if chunks.is_empty() { Vec::new() } else { store.query_all(&commands, LIMIT).await? };
        let odd = chunks.iter().zip(counts).filter(|((_, expected), count)| count != expected);
        let mut doubtful: Vec<usize> = odd.flat_map(|((keys, _), _)| keys.iter().map(|(_, number)| *number)).collect();
        doubtful.sort_unstable();
        doubtful.dedup();
        Ok(doubtful)
    }
}

/// The keys that are there while mail waits to be taken.
fn waiting(names: &QueueNames) -> [&str; 4] {
    [&names.arrived, &names.high, names.queue(), &names.low]
}

/// The keys that are there while mail is on its way.
fn moving(names: &QueueNames) -> impl Iterator<Item = &str> {
    waiting(names).into_iter().chain([names.delayed.as_str(), names.processes.as_str()])
}
