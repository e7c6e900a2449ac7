//! Which keys and commands of a queue each login needs (`mailrelay redis-acl`). The tests here hold the lists to the scripts,
//! and `tests/tenants` holds them to whole lives of mail.

use super::QueueNames;
use crate::store::{Grant, Names};

/// What a worker does with the keys of its queue, in scripts and beside them.
const WORKER: [&str; 33] = [
    "blmove",
    "del",
    "get",
    "hdel",
    "hexists",
    "hget",
    "hgetall",
    "hincrby",
    "hkeys",
    "hlen",
    "hmget",
    "hscan",
    "hset",
    "hvals",
    "lindex",
    "llen",
    "lpush",
    "lrem",
    "lset",
    "persist",
    "pexpire",
    "pttl",
    "rpop",
    "rpush",
    "setrange",
    "strlen",
    "xadd",
    "zadd",
    "zcard",
    "zrangebyscore",
    "zrem",
    "zscore",
    "evalsha",
];

/// What people and the controller do beside that.
const PEOPLE: [&str; 4] = ["exists", "expire", "lrange", "xrevrange"];

/// All that anybody does with the keys of a queue.
pub fn every_command() -> Vec<&'static str> {
    WORKER.into_iter().chain(PEOPLE).chain(["publish"]).collect()
}

impl QueueNames {
    /// What a worker needs: all keys of its queue. It adds dead letters and never reads one, and reads payloads and never
    /// writes one.
    pub fn worker_access(&self) -> Vec<Grant> {
        let channels = [&self.arrived, &self.delayed].map(|channel| one(channel));
        vec![
            self.scripts(),
            Grant::of(&WORKER).on(self.own()),
            Grant::of(&["lpush"]).writing([one(self.dead_letter())]),
            Grant::of(&["getrange", "strlen"]).reading([self.payloads()]),
            Grant::of(&["publish", "subscribe", "unsubscribe"]).channels(channels),
        ]
    }

    /// What a producer needs that pushes: it can't read what waits, nor take it out.
    pub fn push_access(&self) -> Vec<Grant> {
        vec![
            Grant::of(&["lpush"]).writing([self.queue(), &self.high, &self.low].map(one)),
            Grant::of(&["set"]).writing([self.payloads()]),
        ]
    }

    /// What `mailrelay send` and `progress` need beside that: the script that refuses what does not fit writes records and
    /// counters. It can't read a mail either.
    pub fn send_access(&self) -> Vec<Grant> {
        let records = self.under("records:");
        vec![
            self.scripts(),
            Grant::of(&["hexists", "hlen", "llen", "zcard"]).writing(self.own()),
            Grant::of(&["hdel", "hget", "hgetall", "hset", "pexpire", "pttl"]).on([records]),
            Grant::of(&["hget", "hincrby", "hmget", "hset"]).on([one(&self.counters)]),
            Grant::of(&["zadd", "zrangebyscore"]).on([one(&self.delayed)]),
            Grant::of(&["hset", "xadd", "zadd"])
                .writing([&self.delayed_mails, &self.put_off, &self.events].map(|k| one(k))),
            Grant::of(&["expire", "hmget", "hset"]).on([self.under("batch:")]),
            Grant::of(&["publish"]).channels([one(&self.delayed)]),
        ]
    }

    /// What the commands of the command line need: mail, dead letters and held mail may be read, driven again and discarded.
    pub fn operator_access(&self) -> Vec<Grant> {
        let keys = self.own().into_iter().chain([one(self.dead_letter())]);
        let channels = [&self.arrived, &self.delayed].map(|channel| one(channel));
        vec![
            Grant::of(&every_command()[..WORKER.len() + PEOPLE.len()]).on(keys),
            Grant::of(&["publish"]).channels(channels),
        ]
    }

    /// Where its mail lies and what is known of it, by the fields of `spec.queue` that say so.
    pub fn places(&self) -> [(&'static str, Names); 4] {
        let [list, internal] = self.own();
        let dead_letters = one(self.dead_letter());
        [("name", list), ("name", internal), ("deadLetterName", dead_letters), ("payloadPrefix", self.payloads())]
    }

    /// Each script names the keys that all scripts know.
    fn scripts(&self) -> Grant {
        Grant::of(&["evalsha", "llen"]).on(self.own().into_iter().chain([one(self.dead_letter())]))
    }

    fn own(&self) -> [Names; 2] {
        [one(self.queue()), self.under("")]
    }

    fn payloads(&self) -> Names {
        Names::Under(self.payload(""))
    }
}

fn one(name: &str) -> Names {
    Names::One(name.to_owned())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    macro_rules! lua {
        ($($name:literal),*) => { [$(($name, include_str!(concat!("lua/", $name, ".lua")))),*] };
    }

    /// The commands that a script calls, in small letters.
    fn called(script: &str) -> BTreeSet<String> {
        let calls = script.split("redis.call(").chain(script.split("redis.pcall(")).skip(1);
        let quoted = calls.filter_map(|call| call.strip_prefix('\'')?.split_once('\''));
        quoted.map(|(command, _)| command.to_lowercase()).collect()
    }

    fn missing(script: &str, permitted: &[&str]) -> Vec<String> {
        // These name neither keys nor a channel of the queue's hash tag alone; they are permitted elsewhere.
        let elsewhere = ["time", "publish"];
        let has = |command: &String| permitted.contains(&&**command) || elsewhere.contains(&&**command);
        called(script).into_iter().filter(|command| !has(command)).collect()
    }

    #[test]
    fn a_worker_may_do_what_its_scripts_do() {
        let scripts = lua!(
            "prelude", "take", "admit", "advance", "settle", "recover", "promote", "rest", "bring", "lost", "depths",
            "heads", "part"
        );
        for (name, script) in scripts {
            assert_eq!(missing(script, &WORKER), [""; 0], "{name}");
        }
        assert!(called(scripts[0].1).len() > 15, "the calls are found");
    }

    #[test]
    fn people_may_do_what_their_scripts_do() {
        for (name, script) in lua!("enqueue", "dead", "release", "letters", "accept") {
            assert_eq!(missing(script, &every_command()), [""; 0], "{name}");
        }
        assert_eq!(missing("redis.call('FLUSHALL')", &every_command()), ["flushall"]);
    }

    #[test]
    fn a_worker_reaches_its_own_queue_and_nothing_beside_it() {
        let names = QueueNames::new("a", "a-dead").with_payload_prefix("a-body:");
        let rules: Vec<String> = names.worker_access().iter().map(ToString::to_string).collect();
        assert_eq!(rules[0], "(+evalsha +llen ~a ~{a}:* ~a-dead)");
        assert_eq!(
            rules[2..],
            [
                "(+lpush %W~a-dead)",
                "(+getrange +strlen %R~a-body:*)",
                "(+publish +subscribe +unsubscribe &{a}:arrived &{a}:delayed)",
            ]
        );
        let other = QueueNames::new("ab", "b-dead").with_payload_prefix("b-body:");
        let reached = |names: &QueueNames, other: &QueueNames| {
            let grants = names.worker_access();
            other.places().iter().any(|(_, place)| grants.iter().any(|grant| grant.reaches(place)))
        };
        assert!(!reached(&names, &other) && !reached(&other, &names));
        assert!(reached(&names, &QueueNames::new("c", "{a}:dead")), "a list with the tag of another's queue");
    }

    #[test]
    fn a_producer_reads_no_list_and_no_place_where_mail_lies() {
        let names = QueueNames::new("q", "dead");
        let reading = ["lindex", "lrange", "blmove", "rpop", "hvals", "hscan", "get", "getrange", "hkeys", "del"];
        for grant in names.push_access().into_iter().chain(names.send_access()) {
            let text = grant.to_string();
            assert!(!reading.iter().any(|command| text.contains(&format!("+{command} "))), "{text}");
        }
    }
}
