//! What older processes of this pod left: connections that a server may still count.

use std::{sync::Arc, time::Duration};

use crate::lease::{BootTime, ConnectionTable, Inheritance, Predecessor, SlotPool, Timing};

/// How often it is looked whether the supervisor has proven the end of a connection.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// What is known of the older processes of this pod in one pool; without a table nothing is, so that the ledger withholds
/// whatever they had claimed. `hold` is how long a server may count a connection after the death of its process.
pub fn of(
    table: Option<&dyn ConnectionTable>,
    pool: &str,
    hold: Duration,
    timing: &Timing,
    now: BootTime,
) -> Inheritance {
    let predecessors = table.map(ConnectionTable::predecessors).transpose().unwrap_or_else(|error| {
        tracing::error!(%error, "what an older worker left cannot be read; all of it is withheld");
        None
    });
    sort(&predecessors.unwrap_or_default(), pool, hold, timing, now)
}

fn sort(predecessors: &[Predecessor], pool: &str, hold: Duration, timing: &Timing, now: BootTime) -> Inheritance {
    let accounts = predecessors.iter().filter(|older| older.complete).map(|older| older.process.clone()).collect();
    let mut unproven = Vec::new();
    for older in predecessors {
        // What the server has forgotten by now need not be withheld again by each successor.
        let is_over = older.died.is_some_and(|died| now >= died + timing.quarantine_watch(hold));
        for left in older.connections.iter().filter(|left| left.pool == pool && !is_over) {
            let rest = left.until.map_or(hold, |until| until.saturating_since(now));
            if !rest.is_zero() {
                unproven.push((left.id.clone(), rest));
            }
        }
    }
    Inheritance { accounts, unproven }
}

/// Tells the pool of each connection whose end is proven, until all are, or until they are withheld no longer.
pub async fn prove(table: Arc<dyn ConnectionTable>, pool: SlotPool, mut pending: Vec<String>, hold: Duration) {
    let proving = async {
        while !pending.is_empty() {
            tokio::time::sleep(LOOK_EVERY).await;
            // What cannot be read proves nothing.
            let Ok(predecessors) = table.predecessors() else { continue };
            for id in proven(&pending, &predecessors) {
                pending.retain(|other| *other != id);
                pool.prove(&id);
            }
        }
    };
    let _ = tokio::time::timeout(hold, proving).await;
}

/// Those of `pending` that the supervisor has struck out. A process that is not listed any more proves nothing.
fn proven(pending: &[String], predecessors: &[Predecessor]) -> Vec<String> {
    let is_ended = |id: &&String| {
        predecessors.iter().any(|older| {
            id.strip_prefix(&*older.process).is_some_and(|rest| rest.starts_with('/'))
                && older.connections.iter().all(|left| left.id != **id)
        })
    };
    pending.iter().filter(is_ended).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::Left;

    fn at(seconds: u64) -> BootTime {
        BootTime::after_boot(Duration::from_secs(seconds))
    }

    fn older(process: &str, complete: bool, died: Option<u64>, pools: &[&str]) -> Predecessor {
        let left =
            |(n, pool): (u64, &&str)| Left { id: Left::id_of(process, n), pool: (*pool).to_owned(), until: None };
        let connections = (0..).zip(pools).map(left).collect();
        Predecessor { process: process.to_owned(), complete, died: died.map(at), connections }
    }

    #[test]
    fn only_what_a_server_may_still_count_is_withheld_and_only_who_wrote_down_all_is_accounted_for() {
        let hold = Duration::from_secs(330);
        let known = [
            older("recent", true, Some(900), &["mx", "other", "mx"]),
            older("partly", false, Some(990), &["mx"]),
            older("long-ago", true, Some(100), &["mx"]),
            older("unknown-when", true, None, &["mx"]),
        ];
        let found = sort(&known, "mx", hold, &Timing::default(), at(1_000));
        assert_eq!(found.accounts, ["recent", "long-ago", "unknown-when"]);
        let ids: Vec<&str> = found.unproven.iter().map(|(id, _)| &**id).collect();
        assert_eq!(ids, ["recent/0", "recent/2", "partly/0", "unknown-when/0"]);
        assert!(found.unproven.iter().all(|(_, rest)| *rest == hold));
    }

    #[test]
    fn what_its_process_withheld_is_withheld_for_the_rest_of_its_time() {
        let hold = Duration::from_secs(330);
        let mut known = older("a", true, Some(900), &["mx", "mx", "mx"]);
        known.connections[0].until = Some(at(950));
        known.connections[1].until = Some(at(1_020));
        let found = sort(&[known], "mx", hold, &Timing::default(), at(1_000));
        assert_eq!(found.unproven, [("a/1".to_owned(), Duration::from_secs(20)), ("a/2".to_owned(), hold)]);
    }

    #[test]
    fn only_a_connection_that_was_struck_out_of_a_process_that_is_still_known_is_proven() {
        let pending = ["a/0", "a/1", "gone/0"].map(str::to_owned);
        let known = [older("a", true, Some(1), &["mx"])];
        assert_eq!(proven(&pending, &known), ["a/1"]);
        assert!(proven(&pending, &[]).is_empty());
    }
}
