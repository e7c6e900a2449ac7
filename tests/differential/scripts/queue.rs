//! Calls of the queue's scripts, and of the controller's; and what clients do beside them.

use rand::RngExt;

use super::{Draw, Generator};
use crate::wire::{Words, words};

/// The keys that every script of the queue knows.
pub(super) const QUEUE: &[&str] = &[
    "{mail_queue}:counters",
    "{mail_queue}:events",
    "mail_queue",
    "{mail_queue}:high",
    "{mail_queue}:low",
    "{mail_queue}:arrived",
    "{mail_queue}:delayed",
    "{mail_queue}:delayed:mails",
    "{mail_queue}:held",
    "{mail_queue}:processes",
    "mail_dead_letter_queue",
    "{mail_queue}:delayed:since",
];
const CLAIMS: &[&str] = &["c1", "c2", "c3"];
const SERIALS: &[&str] = &["aaaaaaaaaaaa", "bbbbbbbbbbbb"];
/// A mail's own record and that of its key: the buckets they lie in, and their names there.
const BUCKETS: [&str; 2] = ["{mail_queue}:records:1", "{mail_queue}:records:2"];
const FIELDS: [&str; 3] = ["", "name of i1..", "name of i1..name of k1.."];
const IDS: &[&str] = &["i1", "i2"];
const NOW: &[&str] = &["1790000000000", "1790000001000", "1790000300000"];
const DEAD: &[&str] = &["letter 1", "letter 2"];
const SUMS: &[&str] = &["sum", "oth"];
const SOME: &[&str] = &["", "", "a@x", "b@x", "a@x\nb@x"];
const HEADERS: &[&str] = &["", "mailrelay/1 n {\"id\":\"i1\",\"since\":1790000000000}\n", "mailrelay/1 h {}\n"];
const ENTRIES: &[&str] = &[
    "{\"id\":\"i1\"}",
    "plain\nlines",
    "mailrelay/1 h {\"since\":1789999999999}\nurgent",
    "mailrelay/1 l {}\nslow",
    "mailrelay/1 n {}\nnormal",
    "",
];

impl Generator {
    /// A mail that is recovered by sending it again, and turns out to be delivered: chance seldom finds the way.
    pub(super) fn late(&mut self) {
        const RECORD: &str = BUCKETS[0];
        let (serial, fields) = (SERIALS[0], FIELDS[1]);
        let own = ["{mail_queue}:claims:p1", "{mail_queue}:stages:p1"];
        let now = "1790000000000";
        let lists =
            ["mail_queue", "{mail_queue}:high", "{mail_queue}:low", "{mail_queue}:arrived", "{mail_queue}:held"];
        let mut clear = vec!["DEL", RECORD, "{mail_queue}:delayed", "{mail_queue}:delayed:mails"];
        clear.extend(lists.into_iter().chain(own));
        let take = ["p1", "pod", now, "1000", "1", "c1"];
        let next_take = ["p1", "pod", now, "1000", "2", "c1"];
        let admit =
            [now, "c1", "kept", HEADERS[1], "i1", serial, "", "", "", "", "raw", "sum", "", "", fields, "<m@x>", now];
        let resend =
            ["p1", now, "c1", "committing", "resend", "", "", "0", "i1", serial, "ProcessDied", fields, "<m@x>"];
        let settle =
            ["c1", "op9", "delivered", now, HEADERS[1], "", "", serial, "i1", "", "250 ok", "", fields, "<m@x>"];
        self.story.push_back(("plain", words(&clear)));
        self.story.push_back(("plain", words(&["LPUSH", "mail_queue", "plain"])));
        let recorded = [own[0], own[1], RECORD];
        let calls: [(&str, &[&str], &[&str]); 8] = [
            ("take", &own, &take),
            ("admit", &recorded, &admit),
            ("advance", &own, &["c1", "committing", now]),
            ("recover", &recorded, &resend),
            ("promote", &[], &[now, "10"]),
            ("settle", &recorded, &settle),
            ("take", &own, &next_take),
            ("admit", &recorded, &admit),
        ];
        for (name, keys, arguments) in calls {
            let keys: Vec<String> = QUEUE.iter().chain(keys).map(|key| (*key).to_owned()).collect();
            let call = self.call(name, keys, arguments.iter().map(|word| (*word).to_owned()).collect());
            self.story.push_back((name, call));
        }
    }
}

impl Draw<'_> {
    pub(super) fn queue(&mut self, name: &str) {
        self.keys.extend(QUEUE.iter().map(|key| (*key).to_owned()));
        let process = self.one(&["p1", "p2"]);
        if matches!(name, "take" | "admit" | "advance" | "settle" | "recover" | "rest") {
            self.keys.push(format!("{{mail_queue}}:claims:{process}"));
            self.keys.push(format!("{{mail_queue}}:stages:{process}"));
        }
        match name {
            "enqueue" => {
                let fields = self.records(2);
                self.push_one(ENTRIES);
                self.push_one(SERIALS);
                self.push_one(IDS);
                self.push_one(&["1000000", "1000000", "3"]);
                self.push_one(&["0", "100000", "50"]);
                self.push_one(NOW);
                self.push_one(&["", "", "1790000000500"]);
                self.push_one(CLAIMS);
                self.push_one(&["", "", "1790000000000"]);
                self.push_one(SUMS);
                self.push_one(&["", "1"]);
                self.push(fields);
            }
            "take" => {
                self.push(process);
                self.push("pod");
                self.push_one(NOW);
                self.push_one(&["1000000", "20"]);
                let number = if self.below(5) == 0 { self.number - 1 } else { self.number };
                self.push(number.to_string());
                for _ in 0..=self.below(3) {
                    self.push_one(CLAIMS);
                }
            }
            "admit" => self.admit(),
            "advance" => {
                self.push_one(CLAIMS);
                self.push_one(&["sending", "committing", "nonsense"]);
                self.push_one(NOW);
            }
            "settle" => self.settle(),
            "recover" => self.recover(process),
            "promote" => {
                self.push_one(NOW);
                self.push_below(4);
            }
            "release" => {
                let fields = self.records(2);
                self.push_one(CLAIMS);
                self.push_one(&["release", "discard"]);
                self.push_one(NOW);
                self.push_one(IDS);
                self.push_one(SERIALS);
                self.push(fields);
                self.push_one(&["", "taken", "committing"]);
                self.push("<m@x>");
            }
            "dead" => {
                self.push_one(&["requeue", "discard"]);
                self.push_one(NOW);
                for _ in 0..=self.below(2) {
                    self.push_one(DEAD);
                    self.push_one(&ENTRIES[2..5]);
                    self.push_one(IDS);
                    self.push_one(SERIALS);
                    let fields = self.records(2);
                    self.push(fields);
                    self.push_one(&["-1", "-2"]);
                    self.push_one(&["8", "9"]);
                    self.push("<m@x>");
                }
            }
            "rest" => self.push(process),
            "lost" => {
                let fields = self.records(2);
                self.push_one(NOW);
                self.push_one(IDS);
                self.push_one(SERIALS);
                self.push(fields);
                for process in self.one(&["", "p1", "p2", "p1 p2", "p1 p2"]).split_whitespace() {
                    self.keys.push(format!("{{mail_queue}}:claims:{process}"));
                    self.push(process);
                }
            }
            _ => {
                self.keys.push("{mail_queue}:samples".into());
                self.push_one(&["audit", "1790000000000", "1790000009000"]);
                for process in self.one(&["", "p1", "p2", "p1 p2", "p1 p2"]).split_whitespace() {
                    self.keys.push(format!("{{mail_queue}}:claims:{process}"));
                    self.push(process);
                }
            }
        }
    }

    /// Up to so many records; their names.
    fn records(&mut self, most: u32) -> &'static str {
        let number = self.below(most + 1) as usize;
        self.keys.extend(BUCKETS.iter().take(number).map(|bucket| (*bucket).to_owned()));
        FIELDS[number]
    }

    fn admit(&mut self) {
        self.push_one(NOW);
        for _ in 0..=self.below(2) {
            self.push_one(CLAIMS);
            self.push_one(&["kept", "kept", "kept", "dead", "duplicate"]);
            self.push_one(HEADERS);
            self.push_one(IDS);
            self.push_one(SERIALS);
            self.push_one(&["", "", "1790000000000", "1790000500000"]);
            self.push_one(&["", "", "", "1790000000000"]);
            self.push("Policy");
            self.push_one(DEAD);
            self.push_one(&["raw", "raw", "headed", "forged"]);
            self.push_one(SUMS);
            self.push_one(SOME);
            self.push_one(&["", "1"]);
            let fields = self.records(2);
            self.push(fields);
            self.push("<m@x>");
            self.push_one(NOW);
        }
    }

    fn settle(&mut self) {
        let mut fields = self.records(2);
        if fields.is_empty() {
            self.keys.push(BUCKETS[0].into());
            fields = FIELDS[1];
        }
        self.push_one(CLAIMS);
        self.push_one(&["op1", "op2"]);
        self.push_one(&["delivered", "delivered", "delayed", "dead", "held"]);
        self.push_one(NOW);
        self.push_one(&HEADERS[1..]);
        self.push_one(&["0", "100000"]);
        self.push_one(DEAD);
        self.push_one(SERIALS);
        self.push_one(IDS);
        self.push_one(&["", "Greylisted"]);
        self.push_one(&["250 ok", "451 later"]);
        self.push_one(SOME);
        self.push(fields);
        self.push("<m@x>");
    }

    fn recover(&mut self, process: &str) {
        self.push(process);
        self.push_one(NOW);
        for _ in 0..self.below(3) {
            self.push_one(CLAIMS);
            self.push_one(&["early", "early", "claimed", "sending", "committing"]);
            self.push_one(&["queue", "held", "resend", "dead"]);
            self.push_one(HEADERS);
            self.push_one(DEAD);
            self.push_one(&["0", "100000"]);
            self.push_one(IDS);
            self.push_one(SERIALS);
            self.push("ProcessDied");
            let fields = self.records(2);
            self.push(fields);
            self.push("<m@x>");
        }
    }

    pub(super) fn record(&mut self, name: &str) {
        let relay = self.one(&["mailrelay:{mail/a}:relay", "mailrelay:{mail/b}:relay"]);
        self.keys.push(relay.into());
        let (epoch, revision) = (self.below(4), self.below(4));
        if name == "publish" {
            let spec = self.one(&["{}", "[1,2.5,\"x\",null,true]", "\"text\""]);
            let json = format!("{{\"epoch\":{epoch},\"revision\":{revision},\"spec\":{spec}}}");
            let json = if self.below(20) == 0 { "not json".into() } else { json };
            self.push(json);
            self.push(epoch.to_string());
            self.push(revision.to_string());
        } else {
            self.push(epoch.to_string());
        }
    }

    /// What clients do beside the scripts, to the same keys.
    pub(super) fn plain(&mut self) -> Words {
        let claim = self.one(CLAIMS);
        let (entry, list) = (self.one(ENTRIES), self.one(&["mail_queue", "{mail_queue}:high", "{mail_queue}:arrived"]));
        let commands: [&[&str]; 15] = [
            &["HSET", "mailrelay:{smtp}:ledger", "fence", "stale"],
            &["LPUSH", list, entry],
            &["LPUSH", list, entry, entry],
            &["BLMOVE", list, "{mail_queue}:arrived", "RIGHT", "LEFT", "0.001"],
            &["HSCAN", "{mail_queue}:claims:p1", "0", "COUNT", "1000"],
            &["HSCAN", "{mail_queue}:held", "0", "COUNT", "1000"],
            &["HVALS", "{mail_queue}:stages:p2"],
            &["HGETALL", "{mail_queue}:counters"],
            &["HGETALL", BUCKETS[0]],
            &["LRANGE", "mail_dead_letter_queue", "-100", "-1"],
            &["SCAN", "0", "MATCH", "mailrelay:{*}:ledger", "COUNT", "1000"],
            &["HSET", "mailrelay:{smtp}:saturation", "effective", "9", "since", "0"],
            &["DEL", "mailrelay:{smtp}:saturation", "mailrelay:{other}:ledger"],
            &["HMGET", "{mail_queue}:claims:p1", claim, "c9"],
            &["DEL", BUCKETS[1]],
        ];
        if self.random.random_bool(0.01) {
            // Another kind of value where the scripts expect theirs.
            return words(&["SET", BUCKETS[1], "x"]);
        }
        let at = self.random.random_range(0..commands.len());
        words(commands[at])
    }
}
