//! What each role may do in Redis. Pure.

use std::fmt;

use crate::{
    api::{record_key, reports_key},
    lease,
    queue::{QueueNames, access},
    rate,
    store::{Grant, Names, Rules},
};

/// A relay, as its keys know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relay {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
}

impl Relay {
    /// Reads `NAMESPACE/NAME`, in the letters that Kubernetes takes.
    pub fn read(text: &str) -> Option<Self> {
        let is_name = |text: &str, more: &str| {
            let plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || more.contains(letter);
            !text.is_empty() && text.chars().all(plain)
        };
        let (namespace, name) = text.split_once('/')?;
        (is_name(namespace, "-") && is_name(name, "-."))
            .then(|| Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }

    /// The Redis user for a role, unless somebody says another. No two relays have the same: a namespace has no dot.
    pub fn user(&self, role: &str) -> String {
        format!("mailrelay-{role}.{}.{}", self.namespace, self.name)
    }

    fn record(&self) -> Names {
        Names::One(record_key(&self.namespace, &self.name))
    }

    fn reports(&self) -> Names {
        Names::One(reports_key(&self.namespace, &self.name))
    }
}

impl fmt::Display for Relay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// The controller: it divides all budgets and looks after all queues, whatever their names are, so it reaches every key. It
/// may do nothing that concerns Redis itself, and read its settings.
pub fn controller() -> Rules {
    let mut commands = access::every_command();
    commands.extend(lease::access::leader_commands());
    commands.sort_unstable();
    commands.dedup();
    let everything = Grant::of(&commands).on([Names::all()]).channels([Names::all()]);
    Rules::new(&["config|get", "info", "scan", "script|load", "time"]).and([everything])
}

/// The workers of a relay. Settings of Redis are not theirs to read: among them are passwords.
pub fn worker(relay: &Relay, queue: &QueueNames, budgets: &[String]) -> Rules {
    let record = Grant::of(&["get", "subscribe", "unsubscribe"]).reading([relay.record()]).channels([relay.record()]);
    let reports = Grant::of(&["hset"]).writing([relay.reports()]);
    Rules::new(&["info", "script|load", "time"])
        .and([record, reports])
        .and(queue.worker_access())
        .and(budgets.iter().flat_map(|budget| lease::access::worker_access(budget)))
        .and(budgets.iter().map(|budget| rate::worker_access(budget)))
}

/// A producer of a queue: it pushes, and unless it `only_pushes` it also uses `mailrelay send`. `relay` is the one whose record
/// says what the queue is called, for `--relay`.
pub fn producer(relay: Option<&Relay>, queue: &QueueNames, only_pushes: bool) -> Rules {
    if only_pushes {
        return Rules::new(&[]).and(queue.push_access());
    }
    let record = relay.map(|relay| Grant::of(&["get"]).reading([relay.record()]));
    Rules::new(&["script|load", "time"]).and(record).and(queue.push_access()).and(queue.send_access())
}

/// Who looks after the mail of a relay at the command line.
pub fn operator(relay: &Relay, queue: &QueueNames, budgets: &[String]) -> Rules {
    let record = Grant::of(&["get"]).reading([relay.record()]);
    let reports = Grant::of(&["hvals"]).reading([relay.reports()]);
    Rules::new(&["info", "script|load", "time"])
        .and([record, reports])
        .and(queue.operator_access())
        .and(budgets.iter().flat_map(|budget| lease::access::operator_access(budget)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn relay(text: &str) -> Relay {
        Relay::read(text).expect("a relay")
    }

    #[test]
    fn a_relay_is_a_namespace_and_a_name() {
        assert_eq!(relay("mail/my.relay").user("worker"), "mailrelay-worker.mail.my.relay");
        for text in ["", "a", "a/", "/b", "a.b/c", "a/b/c", "a b/c", "A/b", "*/b"] {
            assert_eq!(Relay::read(text), None, "{text}");
        }
        assert_ne!(relay("a-b/c").user("worker"), relay("a/b-c").user("worker"));
    }

    #[test]
    fn one_who_has_a_relays_login_reaches_no_other_relay() {
        let (a, b) = (relay("a/mail"), relay("b/mail"));
        let names = |queue: &str| {
            QueueNames::new(queue, &format!("{queue}-dead")).with_payload_prefix(&format!("{queue}-body:"))
        };
        let (mx_a, mx_b) = (["mx-a".to_owned()], ["mx-b".to_owned()]);
        let keys_of_b =
            ["mailrelay:config:b/mail", "mailrelay:reports:b/mail", "mailrelay:{mx-b}:ledger", "mailrelay:{mx-b}:rate"]
                .map(|key| Names::One(key.into()))
                .into_iter()
                .chain(names("b").places().map(|(_, place)| place));
        let of_a =
            [worker(&a, &names("a"), &mx_a), producer(Some(&a), &names("a"), false), operator(&a, &names("a"), &mx_a)];
        let of_b = worker(&b, &names("b"), &mx_b);
        for key in keys_of_b {
            assert!(of_b.reach(&key), "{key}");
            assert!(!of_a.iter().any(|rules| rules.reach(&key)), "{key}");
        }
    }

    #[test]
    fn only_the_controller_may_ask_for_settings_and_for_all_keys() {
        let (a, names, mx) = (relay("a/mail"), QueueNames::new("a", "a-dead"), ["mx".to_owned()]);
        let has = |rules: &Rules, word: &str| rules.words().iter().any(|rule| rule == word);
        for word in ["+config|get", "+scan"] {
            assert!(has(&controller(), word));
            for rules in [worker(&a, &names, &mx), producer(None, &names, false), operator(&a, &names, &mx)] {
                assert!(!has(&rules, word), "{word}");
            }
        }
        let text = controller().words().join(" ");
        for word in ["flush", "config|set", "acl", "debug", "eval ", "@all ~", "keys "] {
            assert!(!text.contains(&format!("+{word}")), "{word}");
        }
    }
}
