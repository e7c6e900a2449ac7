//! Which keys and commands of a ledger each login needs (`mailrelay redis-acl`). The tests here hold the lists to the scripts.

use super::store::key_of;
use crate::store::{Grant, Names};

/// What a worker's scripts do with the ledger, and with what is known of the server's saturation.
const WORKER: [&str; 9] = ["evalsha", "exists", "hdel", "hexists", "hget", "hgetall", "hincrby", "hmget", "hset"];

/// What all scripts do with the twin.
const TWIN: [&str; 4] = ["get", "object|encoding", "set", "setrange"];

/// What the leader does beside that.
const LEADER: [&str; 5] = ["del", "hkeys", "mget", "scan", "xadd"];

/// All that the leader does with ledgers.
pub fn leader_commands() -> Vec<&'static str> {
    WORKER.into_iter().chain(TWIN).chain(LEADER).chain(["info", "publish"]).collect()
}

/// What a worker needs of a budget's ledger. Whoever has this can write anything into it: the ledger is kept by those who
/// share it.
pub fn worker_access(pool: &str) -> Vec<Grant> {
    let key = |what: &str| Names::One(key_of(pool, what));
    vec![
        Grant::of(&["evalsha"]).on(["ledger", "log", "twin", "saturation"].map(key)),
        Grant::of(&WORKER[1..]).on(["ledger", "saturation"].map(key)),
        Grant::of(&TWIN).on([key("twin")]),
        Grant::of(&["xadd"]).writing([key("log")]),
        Grant::of(&["publish", "subscribe", "unsubscribe"]).channels([key("events")]),
    ]
}

/// What people need who look at a budget's ledger and never change it.
pub fn operator_access(pool: &str) -> Vec<Grant> {
    let key = |what: &str| Names::One(key_of(pool, what));
    vec![
        Grant::of(&["evalsha"]).on(["ledger", "log", "twin"].map(key)),
        Grant::of(&["hgetall", "xrevrange"]).reading(["ledger", "log"].map(key)),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    macro_rules! lua {
        ($($name:literal),*) => { [$(($name, include_str!(concat!("scripts/", $name, ".lua")))),*] };
    }

    fn missing(script: &str, permitted: &[&str]) -> BTreeSet<String> {
        let calls =
            script.split("redis.call('").skip(1).filter_map(|call| Some(call.split_once('\'')?.0.to_lowercase()));
        // INFO and PUBLISH name no key.
        let has = |command: &String| matches!(&**command, "info" | "publish") || permitted.contains(&&**command);
        calls
            .map(|command| if command == "object" { "object|encoding".into() } else { command })
            .filter(|c| !has(c))
            .collect()
    }

    #[test]
    fn a_worker_may_do_what_its_scripts_do() {
        let permitted = [&WORKER[..], &TWIN, &["xadd"]].concat();
        for (name, script) in lua!("prelude", "sync", "leave", "clear", "good", "snapshot") {
            // The shares are the leader's to write.
            let left: BTreeSet<String> =
                missing(script, &permitted).into_iter().filter(|command| command != "hkeys").collect();
            assert!(left.is_empty(), "{name}: {left:?}");
        }
    }

    #[test]
    fn the_leader_may_do_what_its_scripts_do() {
        for (name, script) in lua!("init", "open", "policy", "reap", "condemn", "discard", "prelude") {
            assert!(
                missing(script, &leader_commands()).is_empty(),
                "{name}: {:?}",
                missing(script, &leader_commands())
            );
        }
        assert_eq!(missing("redis.call('FLUSHALL')", &leader_commands()).len(), 1);
    }

    #[test]
    fn a_worker_reaches_the_ledger_of_its_budget_alone() {
        let other = ["ledger", "log", "twin", "saturation", "rate"].map(|what| Names::One(key_of("mx2", what)));
        let grants = worker_access("mx");
        assert!(!grants.iter().any(|grant| other.iter().any(|name| grant.reaches(name))));
        assert!(grants.iter().any(|grant| grant.reaches(&Names::One("mailrelay:{mx}:ledger".into()))));
    }
}
