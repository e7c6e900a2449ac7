use std::sync::Arc;

use serde_json::json;

use super::*;
use crate::controller::{
    observe::PodFacts,
    plan::{Candidate, Lenders, Ownership, plan},
};

/// A relay of namespace `mail` with its pod of the same name and one server `s`: the budget, the host, the port.
type Relay<'a> = (&'a str, &'a str, &'a str, u16);

/// The budget, host and port of each server of a relay.
type Servers<'a> = Vec<(&'a str, &'a str, u16)>;

fn planned(relays: &[Relay<'_>]) -> Plan {
    let servers: Vec<(&str, Servers<'_>)> =
        relays.iter().map(|(name, budget, host, port)| (*name, vec![(*budget, *host, *port)])).collect();
    planned_of(&servers)
}

/// The same with any number of servers, called `s0`, `s1` and so on.
fn planned_of(relays: &[(&str, Servers<'_>)]) -> Plan {
    let candidate = |(age, (name, servers)): (usize, &(&str, Servers<'_>))| {
        let servers: Vec<_> = servers
            .iter()
            .enumerate()
            .map(|(n, (budget, host, port))| json!({ "name": format!("s{n}"), "host": host, "port": port, "budgetName": budget }))
            .collect();
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": name, "namespace": "mail", "uid": name, "creationTimestamp": format!("2026-11-21T00:00:{age:02}Z") },
            "spec": { "servers": servers, "queue": { "name": format!("q-{name}"), "deadLetterName": format!("d-{name}") } },
        });
        Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &Lenders::default())
    };
    let pod = |(name, _): &(&str, Servers<'_>)| PodFacts {
        uid: (*name).into(),
        namespace: "mail".into(),
        labels: Arc::new(BTreeMap::from([("mailrelay.dev/relay".into(), (*name).into())])),
        running: Arc::new(BTreeSet::from(["mailrelay".into()])),
        ..PodFacts::default()
    };
    let candidates: Vec<Candidate> = relays.iter().enumerate().map(candidate).collect();
    let pods: Vec<PodFacts> = relays.iter().map(pod).collect();
    let plan = plan(&candidates, &pods, &Ownership::default(), &Lenders::default());
    assert!(plan.relays.values().all(|relay| relay.stalled.is_none()), "{plan:?}");
    plan
}

fn set(words: &[&str]) -> BTreeSet<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn entry(id: &str) -> Quarantine {
    Quarantine { id: id.into(), slots: 1, seconds: 330, why: "silent".into() }
}

/// The same in the ledger that takes it over.
fn carried(id: &str) -> Quarantine {
    Quarantine { why: CARRIED.into(), ..entry(id) }
}

/// A pool as the ledgers show it.
struct Pool<'a> {
    name: &'a str,
    servers: &'a [&'a str],
    held: &'a [&'a str],
    quarantine: &'a [&'a str],
}

impl Pool<'_> {
    fn known(&self) -> (String, Known) {
        let known = Known {
            servers: Some(set(self.servers)),
            held: Some(set(self.held)),
            quarantine: self.quarantine.iter().map(|id| entry(id)).collect(),
        };
        (self.name.to_owned(), known)
    }
}

/// The budget `old` of relay `r`, as it was before a change.
const OLD: Pool<'_> = Pool { name: "old", servers: &["mx:25", "relay:mail/r/s0"], held: &["r"], quarantine: &[] };

fn known(pools: &[Pool<'_>]) -> BTreeMap<String, Known> {
    pools.iter().map(Pool::known).collect()
}

fn waits(standing: &Standing) -> Vec<&str> {
    standing.waits_for.iter().map(String::as_str).collect()
}

#[test]
fn pools_that_have_nothing_in_common_do_not_wait() {
    let all = stand(&planned(&[("r", "old", "mx", 25), ("t", "new", "other", 25)]), &known(&[OLD]));
    assert_eq!(all["new"], Standing { servers: set(&["other:25", "relay:mail/t/s0"]), ..Standing::default() });
    assert_eq!(all["old"], Standing { servers: set(OLD.servers), ..Standing::default() });
}

#[test]
fn a_renamed_budget_is_made_when_the_old_one_is_empty_and_begins_with_what_that_withholds() {
    let plan = planned(&[("r", "new", "mx", 25)]);
    let all = stand(&plan, &known(&[OLD]));
    assert_eq!(waits(&all["new"]), ["old"]);
    assert_eq!(all["old"].servers, set(OLD.servers), "its words stay");
    assert!(!all["old"].carried);
    assert_eq!(all["old"].session_timeout, Some(DurationText::from_secs(300)));
    let empty = Pool { held: &[], quarantine: &["q"], ..OLD };
    let all = stand(&plan, &known(&[empty]));
    assert_eq!((waits(&all["new"]), &*all["new"].inherits), (vec![], &[carried("q")][..]));
    assert!(!all["old"].carried, "the new one is not made yet");
    let made = Pool { name: "new", servers: OLD.servers, held: &[], quarantine: &["q"] };
    let all = stand(&plan, &known(&[Pool { held: &[], quarantine: &["q"], ..OLD }, made]));
    assert!(all["old"].carried);
    assert_eq!((waits(&all["new"]), &all["new"].waiting), (vec![], &set(&[])));
}

#[test]
fn each_change_of_host_port_or_name_waits_and_a_change_under_one_name_does_not() {
    for (budget, host, port) in [("new", "mx", 25), ("new", "mx2", 25), ("new", "mx", 587), ("new", "mx2", 587)] {
        let all = stand(&planned(&[("r", budget, host, port)]), &known(&[OLD]));
        assert_eq!(waits(&all["new"]), ["old"], "{budget} {host} {port}");
    }
    for (host, port) in [("mx2", 25), ("mx", 587)] {
        let all = stand(&planned(&[("r", "old", host, port)]), &known(&[OLD]));
        assert!(all["old"].waits_for.is_empty() && all["old"].waiting.is_empty(), "{all:?}");
        assert!(all["old"].servers.contains("mx:25"), "its sessions are counted here still");
        let all = stand(&planned(&[("r", "old", host, port)]), &known(&[Pool { held: &[], ..OLD }]));
        assert!(!all["old"].servers.contains("mx:25"), "nobody holds anything");
    }
}

#[test]
fn another_relay_that_takes_the_address_waits_too() {
    let all = stand(&planned(&[("t", "new", "Mx", 25)]), &known(&[OLD]));
    assert_eq!(waits(&all["new"]), ["old"]);
}

#[test]
fn there_and_back_the_old_ledger_goes_on_and_a_third_name_waits_for_whoever_holds() {
    let back = stand(&planned(&[("r", "old", "mx", 25)]), &known(&[OLD]));
    assert!(back["old"].waits_for.is_empty() && back["old"].waiting.is_empty());
    // The new one was made before the change back: now it owes, and the old one, kept or gone, grants nothing.
    let new = || Pool { name: "new", servers: OLD.servers, held: &["r"], quarantine: &[] };
    let plan = planned(&[("r", "old", "mx", 25)]);
    assert_eq!(waits(&stand(&plan, &known(&[new()]))["old"]), ["new"]);
    let kept = stand(&plan, &known(&[Pool { held: &[], ..OLD }, new()]));
    assert_eq!((waits(&kept["old"]), &kept["old"].waiting), (vec!["new"], &set(&["r"])));
    let third = planned(&[("r", "third", "mx", 25)]);
    let all = stand(&third, &known(&[OLD, new()]));
    assert_eq!(waits(&all["third"]), ["new", "old"]);
    let all = stand(&third, &known(&[Pool { held: &[], ..OLD }, new()]));
    assert_eq!(waits(&all["third"]), ["new"]);
}

#[test]
fn a_relay_that_moves_to_a_budget_in_use_waits_alone_when_the_address_is_the_same() {
    let plan = planned(&[("t", "new", "mx2", 25), ("r", "new", "mx", 25)]);
    let new = |quarantine: &'static [&'static str]| Pool {
        name: "new",
        servers: &["mx2:25", "relay:mail/t/s0"],
        held: &["t"],
        quarantine,
    };
    let all = stand(&plan, &known(&[OLD, new(&[])]));
    assert_eq!((waits(&all["new"]), &all["new"].waiting), (vec!["old"], &set(&["r"])), "t goes on");
    // It does not begin anew, so it does not take over what is withheld: that must be over.
    let all = stand(&plan, &known(&[Pool { held: &[], quarantine: &["q"], ..OLD }, new(&[])]));
    assert_eq!((&all["new"].waiting, all["old"].carried), (&set(&["r"]), false));
    assert_eq!(all["new"].inherits, []);
    let all = stand(&plan, &known(&[Pool { held: &[], ..OLD }, new(&[])]));
    assert!(all["new"].waiting.is_empty() && all["old"].carried);
}

#[test]
fn a_relay_that_leaves_a_shared_budget_for_another_server_waits_for_its_own_pods_only() {
    let shared = |held: &'static [&'static str]| Pool {
        name: "old",
        servers: &["mx:25", "relay:mail/r/s0", "relay:mail/t/s0"],
        held,
        quarantine: &["q"],
    };
    let plan = planned(&[("t", "old", "mx", 25), ("r", "new", "mx2", 25)]);
    let all = stand(&plan, &known(&[shared(&["r", "t"])]));
    assert_eq!(waits(&all["new"]), ["old"], "mx2 may be another name of mx");
    assert_eq!(all["old"].waiting, set(&[]), "t does not notice");
    assert!(all["old"].servers.contains("relay:mail/r/s0"));
    let all = stand(&plan, &known(&[shared(&["t"])]));
    assert!(all["new"].waits_for.is_empty() && all["new"].inherits.is_empty());
    assert!(!all["old"].servers.contains("relay:mail/r/s0"));
    let all = stand(&plan, &known(&[shared(&["t", "gone"])]));
    assert_eq!(waits(&all["new"]), ["old"], "a pod that is no one's may have been r's");
}

#[test]
fn a_server_that_gets_a_budget_of_its_own_waits_until_the_shared_one_was_empty_once() {
    let both = |held: &'static [&'static str], quarantine: &'static [&'static str]| Pool {
        name: "old",
        servers: &["mx:25", "mx2:25", "relay:mail/r/s0", "relay:mail/r/s1"],
        held,
        quarantine,
    };
    let plan = planned_of(&[("r", vec![("old", "mx", 25), ("new", "mx2", 25)])]);
    let all = stand(&plan, &known(&[both(&["r"], &["q"])]));
    assert_eq!((waits(&all["new"]), &all["old"].waiting), (vec!["old"], &set(&["r"])));
    let all = stand(&plan, &known(&[both(&[], &["q"])]));
    assert_eq!((waits(&all["new"]), &*all["new"].inherits), (vec![], &[carried("q")][..]));
    assert_eq!(all["old"].waiting, set(&["r"]), "until that is in the new ledger");
    let new = Pool { name: "new", servers: &["mx2:25", "relay:mail/r/s1"], held: &[], quarantine: &["q"] };
    let all = stand(&plan, &known(&[both(&[], &["q"]), new]));
    assert_eq!(all["old"].waiting, set(&[]));
    assert!(!all["old"].carried, "it is in use");
}

#[test]
fn two_budgets_that_swap_their_servers_wait_for_each_other_and_go_on() {
    let plan = planned(&[("r", "b", "mx", 25), ("t", "a", "mx2", 25)]);
    let pools = |held: [&'static [&'static str]; 2]| {
        known(&[
            Pool { name: "a", servers: &["mx:25", "relay:mail/r/s0"], held: held[0], quarantine: &[] },
            Pool { name: "b", servers: &["mx2:25", "relay:mail/t/s0"], held: held[1], quarantine: &[] },
        ])
    };
    let all = stand(&plan, &pools([&["r"], &["t"]]));
    assert_eq!((&all["a"].waiting, &all["b"].waiting), (&set(&["t"]), &set(&["r"])));
    let all = stand(&plan, &pools([&[], &["t"]]));
    assert_eq!((&all["a"].waiting, &all["b"].waiting), (&set(&["t"]), &set(&["r"])), "b owes, so nobody new there");
    let all = stand(&plan, &pools([&[], &[]]));
    assert_eq!((&all["a"].waiting, &all["b"].waiting), (&set(&[]), &set(&[])));
    assert_eq!(all["a"].servers, set(&["mx2:25", "relay:mail/t/s0"]));
}

#[test]
fn a_ledger_that_is_lost_or_of_which_nothing_is_known_is_waited_for() {
    let plan = planned(&[("r", "new", "mx", 25)]);
    let lost = Known { held: None, ..OLD.known().1 };
    let all = stand(&plan, &[("old".to_owned(), lost)].into());
    assert_eq!(waits(&all["new"]), ["old"], "lost or in recovery: anyone may hold");
    assert_eq!(all["old"].servers, set(OLD.servers));
    // Only a mark is left of it, or it is of an earlier version.
    let marked = || ("old".to_owned(), Known::default());
    assert_eq!(waits(&stand(&plan, &[marked()].into())["new"]), ["old"]);
    let empty = Known { held: Some(BTreeSet::new()), ..Known::default() };
    assert!(stand(&plan, &[("old".to_owned(), empty)].into())["new"].waits_for.is_empty());
    // What is in use beside it is not stopped by that.
    let used = Pool { name: "new", ..OLD };
    let all = stand(&plan, &[marked(), used.known()].into());
    assert!(all["new"].waits_for.is_empty() && all["new"].waiting.is_empty());
}

#[test]
fn a_relay_that_was_deleted_and_comes_again_under_another_budget_waits() {
    let gone = Pool { held: &["pod of before"], ..OLD };
    let all = stand(&planned(&[("r", "new", "mx", 25)]), &known(&[gone]));
    assert_eq!(waits(&all["new"]), ["old"]);
}
