//! Draws calls of the product's scripts, as they lie in `src`, with arguments from small pools so that they meet.

use std::collections::{BTreeMap, VecDeque};

use rand::{RngExt, rngs::StdRng};

use crate::wire::{Pair, REPLICATION, RUN, Words};

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
    queue!("#!lua flags=allow-oom", "depths"),
];

/// The scripts that lie within Rust code: whatever stands between `r"#!lua` and the quote.
const WITHIN: &str = include_str!("../../src/controller/apply.rs");

/// What must have been seen, or nothing was compared: the script and the first word of its answer.
pub const ANSWERS: &[&str] = &[
    "admit delayed",
    "admit delivered",
    "admit dead",
    "admit duplicate",
    "admit expired",
    "admit gone",
    "admit kept",
    "advance done",
    "advance lost",
    "clear GONE",
    "clear OK",
    "clear TOKEN",
    "clear WAIT",
    "dead done",
    "dead gone",
    "depths",
    "discard OK",
    "discard STALE",
    "enqueue duplicate",
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
    if matches!(name, "snapshot" | "depths" | "take" | "promote" | "publish" | "withdraw") {
        return name.into();
    }
    let text = String::from_utf8_lossy(reply).into_owned();
    let word = text.lines().find(|line| line.starts_with(|c: char| c.is_ascii_alphabetic()));
    format!("{name} {}", word.unwrap_or_default())
}

pub struct Generator {
    bodies: BTreeMap<&'static str, &'static str>,
    digests: BTreeMap<&'static str, String>,
    /// What comes next, when it is not drawn.
    story: VecDeque<(&'static str, Words)>,
}

impl Generator {
    pub fn new() -> Self {
        let within: Vec<&str> = WITHIN.split("r\"#!lua").skip(1).filter_map(|text| text.split('"').next()).collect();
        assert_eq!(within.len(), 2, "the scripts of the controller");
        let mut bodies: BTreeMap<_, _> = FILES.iter().copied().collect();
        for (name, text) in ["publish", "withdraw"].into_iter().zip(within) {
            bodies.insert(name, format!("#!lua{text}").leak());
        }
        let digest = |body: &str| sha1_of(body.as_bytes());
        let digests = bodies.iter().map(|(name, body)| (*name, digest(body))).collect();
        Self { bodies, digests, story: VecDeque::new() }
    }

    /// One call of one script, by its digest.
    pub fn draw(&mut self, random: &mut StdRng) -> (&'static str, Words) {
        // Most of the ledger's calls are SYNC, as in life.
        const NAMES: &[&str] = &[
            "sync", "sync", "sync", "sync", "sync", "sync", "leave", "policy", "reap", "init", "init", "open", "open",
            "clear", "good", "discard", "snapshot", "enqueue", "enqueue", "take", "take", "admit", "admit", "admit",
            "advance", "advance", "settle", "settle", "settle", "settle", "recover", "recover", "promote", "release",
            "release", "dead", "dead", "depths", "publish", "withdraw", "plain", "plain",
        ];
        if self.story.is_empty() && random.random_bool(0.001) {
            self.late();
        }
        if let Some(call) = self.story.pop_front() {
            return call;
        }
        let mut draw = Draw { random, keys: Vec::new(), arguments: Vec::new(), is_idle: false };
        let name = draw.one(NAMES);
        match name {
            "plain" => return ("plain", draw.plain()),
            "publish" | "withdraw" => draw.record(name),
            "enqueue" | "take" | "admit" | "advance" | "settle" | "recover" | "promote" | "release" | "dead"
            | "depths" => {
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

    /// A mail that is recovered by sending it again, and turns out to be delivered: chance seldom finds the way.
    fn late(&mut self) {
        const RECORD: &str = "{mail_queue}:mail:i1";
        let own = ["{mail_queue}:claims:p1", "{mail_queue}:stages:p1"];
        let now = "1790000000000";
        let lists =
            ["mail_queue", "{mail_queue}:high", "{mail_queue}:low", "{mail_queue}:arrived", "{mail_queue}:held"];
        let mut clear = vec!["DEL", RECORD, "{mail_queue}:delayed", "{mail_queue}:delayed:mails"];
        clear.extend(lists.into_iter().chain(own));
        let take = ["p1", "pod", now, "1000", "c1"];
        let admit = [now, "0", "c1", "kept", HEADERS[1], "i1", "s1", "<m@id>", now, "", "", "1"];
        let resend =
            ["p1", now, "0", "c1", "committing", "resend", "", "", now, "i1", "s1", "<m@id>", "ProcessDied", "1"];
        let settle =
            ["c1", "op9", "delivered", now, HEADERS[1], "", "", "s1", "i1", "<m@id>", "", "250 ok", "86400000"];
        self.story.push_back(("plain", crate::wire::words(&clear)));
        self.story.push_back(("plain", crate::wire::words(&["LPUSH", "mail_queue", "plain"])));
        let recorded = [own[0], own[1], RECORD];
        let calls: [(&str, &[&str], &[&str]); 8] = [
            ("take", &own, &take),
            ("admit", &recorded, &admit),
            ("advance", &own, &["c1", "committing", now]),
            ("recover", &recorded, &resend),
            ("promote", &[], &[now, "10"]),
            ("settle", &recorded, &settle),
            ("take", &own, &take),
            ("admit", &recorded, &admit),
        ];
        for (name, keys, arguments) in calls {
            let keys: Vec<String> = QUEUE.iter().chain(keys).map(|key| (*key).to_owned()).collect();
            let call = self.call(name, keys, arguments.iter().map(|word| (*word).to_owned()).collect());
            self.story.push_back((name, call));
        }
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
}

/// The keys that every script of the queue knows.
const QUEUE: &[&str] = &[
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
];

const UIDS: &[&str] = &["uid-a", "uid-b", "uid-c"];
const INCS: &[&str] = &["a.1", "a.2", "b.1", "c.1"];
const TOKENS: &[&str] = &["t1", "t1", "t1", "t1", "t1", "t1", "t2"];
const WHYS: &[&str] = &["no-eof", "dropped"];
const CLAIMS: &[&str] = &["c1", "c2", "c3"];
const SERIALS: &[&str] = &["s1", "s2"];
const IDS: &[&str] = &["i1", "i2"];
const NOW: &[&str] = &["1790000000000", "1790000001000", "1790000300000"];
const TTLS: &[&str] = &["0", "86400000"];
const DEAD: &[&str] = &["letter 1", "letter 2"];
const HEADERS: &[&str] = &["", "mailrelay/1 n {\"id\":\"i1\",\"since\":1790000000000}\n", "mailrelay/1 h {}\n"];
const ENTRIES: &[&str] = &[
    "{\"id\":\"i1\"}",
    "plain\nlines",
    "mailrelay/1 h {\"since\":1789999999999}\nurgent",
    "mailrelay/1 l {}\nslow",
    "mailrelay/1 n {}\nnormal",
    "",
];

impl Draw<'_> {
    fn one(&mut self, from: &[&'static str]) -> &'static str {
        from[self.random.random_range(0..from.len())]
    }

    fn below(&mut self, n: u32) -> u32 {
        self.random.random_range(0..n)
    }

    fn push(&mut self, word: impl ToString) {
        self.arguments.push(word.to_string());
    }

    fn push_one(&mut self, from: &[&'static str]) {
        let word = self.one(from);
        self.push(word);
    }

    fn push_below(&mut self, n: u32) {
        let number = self.below(n);
        self.push(number);
    }

    fn ledger(&mut self, name: &str) {
        // One pool is never used, so that it can be discarded.
        self.is_idle = matches!(name, "init" | "policy" | "discard") && self.random.random_bool(0.4);
        let pool = if self.is_idle { "idle" } else { self.one(&["smtp", "other"]) };
        self.keys.extend([format!("mailrelay:{{{pool}}}:ledger"), format!("mailrelay:{{{pool}}}:log")]);
        self.push(format!("mailrelay:{{{pool}}}:events"));
        match name {
            "sync" => self.sync(),
            "leave" => {
                self.push_one(TOKENS);
                self.push_one(INCS);
                self.push_below(6);
            }
            "policy" => self.policy(),
            "reap" => {
                self.push_one(TOKENS);
                self.push_one(INCS);
                self.push_one(&["dead", "1", "2", "3"]);
                self.push_below(3);
                self.push("silent");
            }
            "init" => {
                let fence = self.one(&["elsewhere", "", "", "", "", "", ""]);
                self.push(if fence.is_empty() { format!("{RUN}:{REPLICATION}") } else { fence.to_owned() });
                self.push_one(TOKENS);
                self.policy();
                self.quarantine(2);
            }
            "open" => {
                self.push_below(3);
                self.push_one(TOKENS);
                let missing = self.below(3);
                self.push(missing);
                for _ in 0..missing {
                    self.push_one(&["-", "a.1", "b.1"]);
                    self.withheld();
                }
            }
            "clear" => {
                self.push_one(TOKENS);
                self.push_one(&["q1", "q2", "a.1.1", "nothing"]);
            }
            "good" => {
                self.keys.push(format!("mailrelay:{{{pool}}}:saturation"));
                self.push_below(9);
            }
            "discard" => {
                self.push_one(TOKENS);
                self.push_one(&["1", "2"]);
                self.push_one(&["1", "2", "3"]);
            }
            // SNAPSHOT takes nothing.
            _ => {}
        }
    }

    fn sync(&mut self) {
        self.push_one(TOKENS);
        self.push_one(INCS);
        self.push_one(UIDS);
        self.push("mail/pod-x");
        self.push_one(&["p1", "p2"]);
        self.push_one(&["boot1", "boot2"]);
        self.push_below(4);
        self.push_one(&["1", "1", "1", "2", "3", "4", "5", "17"]);
        self.push_one(&["0", "0", "0", "1", "3"]);
        self.push_one(&["16", "4", "0"]);
        self.push_below(3);
        self.push_below(3);
        self.push_below(3);
        self.push(300);
        self.quarantine(2);
    }

    /// Epoch, revision, budget, lease, shares.
    fn policy(&mut self) {
        self.push_one(&["1", "1", "2", "0"]);
        self.push_below(4);
        self.push_one(&["16", "8"]);
        self.push_one(&["6000", "15000"]);
        let shares = if self.is_idle { 0 } else { self.below(4) };
        self.push(shares);
        for uid in UIDS.iter().take(shares as usize) {
            self.push(uid);
            self.push_below(9);
        }
    }

    fn quarantine(&mut self, most: u32) {
        let entries = if self.is_idle || self.random.random_bool(0.7) { 0 } else { self.below(most + 1) };
        self.push(entries);
        for _ in 0..entries {
            self.withheld();
        }
    }

    /// Id, slots, seconds, why.
    fn withheld(&mut self) {
        self.push_one(&["q1", "q2"]);
        self.push_below(3);
        self.push_below(300);
        self.push_one(WHYS);
    }

    fn queue(&mut self, name: &str) {
        self.keys.extend(QUEUE.iter().map(|key| (*key).to_owned()));
        let process = self.one(&["p1", "p2"]);
        if matches!(name, "take" | "admit" | "advance" | "settle" | "recover") {
            self.keys.push(format!("{{mail_queue}}:claims:{process}"));
            self.keys.push(format!("{{mail_queue}}:stages:{process}"));
        }
        match name {
            "enqueue" => {
                self.records(2);
                self.push_one(ENTRIES);
                self.push_one(SERIALS);
                self.push_one(IDS);
                self.push_one(&["1000000", "1000000", "3"]);
                self.push_one(&["0", "100000", "50"]);
                self.push_one(NOW);
                self.push_one(&["", "", "1790000000500"]);
                self.push_one(CLAIMS);
            }
            "take" => {
                self.push(process);
                self.push("pod");
                self.push_one(NOW);
                self.push_one(&["1000000", "20"]);
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
            "release" | "dead" => {
                self.records(2);
                self.push_one(if name == "dead" { DEAD } else { CLAIMS });
                self.push_one(if name == "dead" { &["requeue", "discard"] } else { &["release", "discard"] });
                if name == "dead" {
                    self.push_one(&ENTRIES[2..5]);
                }
                self.push_one(NOW);
                self.push_one(TTLS);
                self.push_one(IDS);
                self.push_one(SERIALS);
                self.push("<m@id>");
            }
            _ => {
                self.keys.push("{mail_queue}:samples".into());
                self.push_one(&["", "1790000000000", "1790000009000"]);
                for process in self.one(&["", "p1", "p2", "p1 p2", "p1 p2"]).split_whitespace() {
                    self.keys.push(format!("{{mail_queue}}:claims:{process}"));
                    self.push(process);
                }
            }
        }
    }

    /// Up to so many records; how many.
    fn records(&mut self, most: u32) -> u32 {
        let number = self.below(most + 1);
        for record in ["{mail_queue}:mail:i1", "{mail_queue}:key:k1"].iter().take(number as usize) {
            self.keys.push((*record).into());
        }
        number
    }

    fn admit(&mut self) {
        self.push_one(NOW);
        self.push_one(TTLS);
        for _ in 0..=self.below(2) {
            self.push_one(CLAIMS);
            self.push_one(&["kept", "kept", "delayed", "dead", "expired"]);
            self.push_one(HEADERS);
            self.push_one(IDS);
            self.push_one(SERIALS);
            self.push("<m@id>");
            self.push_one(&["1790000000000", "1790000100000"]);
            self.push("Policy");
            self.push_one(DEAD);
            let number = self.records(2);
            self.push(number);
        }
    }

    fn settle(&mut self) {
        self.records(2);
        if self.keys.len() == 13 {
            self.keys.push("{mail_queue}:mail:i1".into());
        }
        self.push_one(CLAIMS);
        self.push_one(&["op1", "op2"]);
        self.push_one(&["delivered", "delivered", "delayed", "dead", "held"]);
        self.push_one(NOW);
        self.push_one(&HEADERS[1..]);
        self.push_one(&["1790000000000", "1790000100000"]);
        self.push_one(DEAD);
        self.push_one(SERIALS);
        self.push_one(IDS);
        self.push("<m@id>");
        self.push_one(&["", "Greylisted"]);
        self.push_one(&["250 ok", "451 later"]);
        self.push_one(TTLS);
    }

    fn recover(&mut self, process: &str) {
        self.push(process);
        self.push_one(NOW);
        self.push_one(TTLS);
        for _ in 0..self.below(3) {
            self.push_one(CLAIMS);
            self.push_one(&["early", "early", "claimed", "sending", "committing"]);
            self.push_one(&["queue", "held", "resend", "dead"]);
            self.push_one(HEADERS);
            self.push_one(DEAD);
            self.push_one(&["1790000000000", "1790000100000"]);
            self.push_one(IDS);
            self.push_one(SERIALS);
            self.push("<m@id>");
            self.push("ProcessDied");
            let number = self.records(2);
            self.push(number);
        }
    }

    fn record(&mut self, name: &str) {
        let relay = self.one(&["mailrelay:{mail/a}:relay", "mailrelay:{mail/b}:relay"]);
        self.keys.push(relay.into());
        let (epoch, revision) = (self.below(4), self.below(4));
        if name == "publish" {
            let spec = self.one(&["{}", "[1,2.5,\"x\",null,true]", "\"text\""]);
            let json = format!("{{\"epoch\":{epoch},\"revision\":{revision},\"spec\":{spec}}}");
            let json = if self.below(20) == 0 { "not json".into() } else { json };
            self.push(json);
            self.push(epoch);
            self.push(revision);
        } else {
            self.push(epoch);
        }
    }

    /// What clients do beside the scripts, to the same keys.
    fn plain(&mut self) -> Words {
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
            &["HGETALL", "{mail_queue}:mail:i1"],
            &["LRANGE", "mail_dead_letter_queue", "-100", "-1"],
            &["SCAN", "0", "MATCH", "mailrelay:{*}:ledger", "COUNT", "1000"],
            &["HSET", "mailrelay:{smtp}:saturation", "effective", "9", "since", "0"],
            &["DEL", "mailrelay:{smtp}:saturation", "mailrelay:{other}:ledger"],
            &["HMGET", "{mail_queue}:claims:p1", claim, "c9"],
            &["DEL", "{mail_queue}:key:k1"],
        ];
        if self.random.random_bool(0.01) {
            // Another kind of value where the scripts expect theirs.
            return crate::wire::words(&["SET", "{mail_queue}:key:k1", "x"]);
        }
        let at = self.random.random_range(0..commands.len());
        crate::wire::words(commands[at])
    }
}
