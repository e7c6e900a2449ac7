//! Calls of the ledger's scripts.

use rand::RngExt;

use super::Draw;
use crate::wire::{REPLICATION, RUN};

const UIDS: &[&str] = &["uid-a", "uid-b", "uid-c"];
const INCS: &[&str] = &["a.1", "a.2", "b.1", "c.1"];
const TOKENS: &[&str] = &["t1", "t1", "t1", "t1", "t1", "t1", "t2"];
/// Mostly nothing: a ledger that is found to be older is of no force until the next INIT.
const SEEN: &[&str] =
    &["0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "0", "3", "8589934600", "90000000000"];
const WHYS: &[&str] = &["no-eof", "dropped"];

impl Draw<'_> {
    pub(super) fn ledger(&mut self, name: &str) {
        // One pool is never used, so that it can be discarded.
        self.is_idle = matches!(name, "init" | "policy" | "discard") && self.random.random_bool(0.4);
        let pool = if self.is_idle { "idle" } else { self.one(&["smtp", "other"]) };
        let third = if name == "good" { "saturation" } else { "twin" };
        self.keys.extend(["ledger", "log", third].map(|key| format!("mailrelay:{{{pool}}}:{key}")));
        self.push(format!("mailrelay:{{{pool}}}:events"));
        match name {
            "sync" => self.sync(),
            "leave" => {
                self.push_one(TOKENS);
                self.push_one(INCS);
                self.push_below(6);
            }
            "policy" => {
                self.policy();
                self.servers();
            }
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
                if self.random.random_bool(0.5) {
                    self.push_one(&["0", "0", "17179869184"]);
                    self.servers();
                }
            }
            "open" => {
                self.push_below(3);
                self.push_one(TOKENS);
                let missing = self.below(3);
                self.push(missing.to_string());
                for _ in 0..missing {
                    self.push_one(&["-", "a.1", "b.1"]);
                    self.withheld();
                }
            }
            "clear" => {
                self.push_one(TOKENS);
                for _ in 0..self.below(4) {
                    self.push_one(&["q1", "q2", "a.1.1", "nothing"]);
                }
            }
            "condemn" => self.push_one(SEEN),
            "good" => self.push_below(9),
            "discard" => {
                self.push_one(TOKENS);
                self.push_one(&["1", "2"]);
                self.push_one(&["1", "2", "3"]);
                if self.random.random_bool(0.5) {
                    self.push_one(&["0", "1"]);
                }
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
        self.push_one(&["0", "300", "330"]);
        self.push_one(SEEN);
        self.quarantine(2);
        let accounts = self.below(3);
        self.push(accounts.to_string());
        for _ in 0..accounts {
            self.push_one(&["p1", "p2", "p3"]);
        }
    }

    fn servers(&mut self) {
        if self.random.random_bool(0.5) {
            self.push_one(&["", "mx:25", "mx:25 10.0.0.1:25"]);
        }
    }

    /// Epoch, revision, budget, lease, shares.
    fn policy(&mut self) {
        self.push_one(&["1", "1", "2", "0"]);
        self.push_below(4);
        self.push_one(&["16", "8"]);
        self.push_one(&["6000", "15000"]);
        let shares = if self.is_idle { 0 } else { self.below(4) };
        self.push(shares.to_string());
        for uid in UIDS.iter().take(shares as usize) {
            self.push(*uid);
            self.push_below(9);
        }
    }

    fn quarantine(&mut self, most: u32) {
        let entries = if self.is_idle || self.random.random_bool(0.7) { 0 } else { self.below(most + 1) };
        self.push(entries.to_string());
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
}
