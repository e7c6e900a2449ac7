use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api::{DurationText, Unit};

mod borrowers;
mod owners;

/// A relay of namespace `mail`, created at the second `age`.
fn relay(name: &str, age: u32, spec: &Value) -> Candidate {
    relay_in("mail", name, age, spec)
}

fn relay_in(namespace: &str, name: &str, age: u32, spec: &Value) -> Candidate {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": {
            "name": name, "namespace": namespace, "uid": format!("uid-{name}"), "generation": 1,
            "creationTimestamp": format!("2026-11-21T00:00:{age:02}Z"),
        },
        "spec": spec,
    });
    Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &Lenders::default())
}

fn spec(host: &str, queue: &str, connections: i32) -> Value {
    json!({
        "servers": [{ "name": "primary", "host": host, "maxConnections": connections }],
        "queue": { "name": queue, "deadLetterName": format!("{queue}_dead") },
    })
}

fn pod(uid: &str, relay: &str) -> PodFacts {
    PodFacts {
        uid: uid.into(),
        name: format!("pod-{uid}"),
        namespace: "mail".into(),
        labels: Arc::new(BTreeMap::from([(RELAY_LABEL.into(), relay.into())])),
        running: Arc::new(BTreeSet::from(["mailrelay".into()])),
        ..PodFacts::default()
    }
}

fn members(plan: &Plan, pool: &str) -> Vec<String> {
    plan.pools[pool].members.iter().cloned().collect()
}

fn stall<'a>(plan: &'a Plan, name: &str) -> Option<(&'static str, &'a str)> {
    let (_, relay) = plan.relays.iter().find(|(key, _)| key.name == name).expect("the relay");
    relay.stalled.as_ref().map(|stall| (stall.reason.as_str(), &*stall.message))
}

#[test]
fn running_pods_with_the_label_share_the_budget_and_others_do_not() {
    let pods = [
        pod("a", "corporate"),
        pod("b", "corporate"),
        pod("c", "another"),
        PodFacts { terminating: true, ..pod("d", "corporate") },
        PodFacts { running: Arc::new(BTreeSet::from(["app".into()])), ..pod("e", "corporate") },
        PodFacts { namespace: "elsewhere".into(), ..pod("f", "corporate") },
    ];
    let plan = plan(&[relay("corporate", 1, &spec("mx", "q", 16))], &pods, &Ownership::default(), &Lenders::default());
    assert_eq!(members(&plan, "mx"), ["a", "b"]);
    assert_eq!(plan.pools["mx"].budget, 16);
    let (_, relay) = plan.relays.first_key_value().expect("the relay");
    assert_eq!(relay.selector, "mailrelay.dev/relay=corporate");
    assert_eq!(relay.stalled, None);
}

#[test]
fn a_selector_and_a_container_of_ones_own_are_used() {
    let mut wanted = spec("mx", "q", 16);
    wanted["workers"] = json!({
        "container": "relay",
        "selector": { "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web", "api"] }] },
    });
    let worker = |uid: &str, app: &str| PodFacts {
        labels: Arc::new(BTreeMap::from([("app".into(), app.into())])),
        running: Arc::new(BTreeSet::from(["relay".into()])),
        ..pod(uid, "")
    };
    let plan = plan(
        &[relay("corporate", 1, &wanted)],
        &[worker("a", "web"), worker("b", "db")],
        &Ownership::default(),
        &Lenders::default(),
    );
    assert_eq!(members(&plan, "mx"), ["a"]);
}

#[test]
fn a_selector_that_makes_no_sense_stalls_its_relay_and_no_other() {
    let mut nonsense = spec("mx", "q1", 16);
    nonsense["workers"] = json!({ "selector": { "matchExpressions": [{ "key": "app", "operator": "Like" }] } });
    let mut empty = spec("mx", "q2", 16);
    empty["workers"] = json!({ "selector": {} });
    let relays = [relay("bad", 1, &nonsense), relay("empty", 2, &empty), relay("good", 3, &spec("mx", "q3", 16))];
    let plan = plan(&relays, &[pod("a", "good")], &Ownership::default(), &Lenders::default());
    assert!(
        stall(&plan, "bad").is_some_and(|(reason, message)| reason == "InvalidSpec" && message.contains("selector"))
    );
    assert!(
        stall(&plan, "empty").is_some_and(|(reason, message)| reason == "InvalidSpec" && message.contains("empty"))
    );
    assert_eq!(stall(&plan, "good"), None);
    assert_eq!(members(&plan, "mx"), ["a"]);
}

#[test]
fn relays_of_one_namespace_share_a_budget_and_the_smallest_limit_holds() {
    let relays = [relay("one", 1, &spec("MX", "q1", 16)), relay("two", 2, &spec("mx", "q2", 10))];
    let plan = plan(&relays, &[pod("a", "one"), pod("b", "two")], &Ownership::default(), &Lenders::default());
    assert_eq!(plan.pools.len(), 1);
    assert_eq!((plan.pools["mx"].budget, members(&plan, "mx")), (10, vec!["a".to_owned(), "b".to_owned()]));
    let sentences: Vec<_> = plan.relays.values().filter_map(|relay| relay.shared.clone()).collect();
    assert_eq!(sentences, ["mx: 10 connections shared with mail/two", "mx: 10 connections shared with mail/one"]);
}

#[test]
fn across_namespaces_the_younger_relay_of_one_budget_stalls_and_is_told_of_mail_servers() {
    let relays =
        [relay_in("zeta", "old", 1, &spec("mx", "q1", 16)), relay_in("alpha", "young", 2, &spec("mx", "q2", 1))];
    let alone = plan(&relays, &[], &Ownership::default(), &Lenders::default());
    assert_eq!(stall(&alone, "old"), None);
    assert!(stall(&alone, "young").is_some_and(|(reason, message)| reason == "BudgetConflict"
        && message.contains("zeta/old")
        && message.contains("make a MailServer of it")
        && message.contains("name another mail server")
        && !message.contains("budgetName")));
    assert_eq!(alone.pools["mx"].budget, 16, "a tenant cannot squeeze another");
}

#[test]
fn the_younger_of_two_relays_that_name_one_queue_stalls_and_gets_no_share() {
    let relays = [relay("young", 2, &spec("mx", "q", 16)), relay("old", 1, &spec("mx", "q", 16))];
    let plan = plan(&relays, &[pod("a", "old"), pod("b", "young")], &Ownership::default(), &Lenders::default());
    assert_eq!(stall(&plan, "old"), None);
    assert!(stall(&plan, "young").is_some_and(|(reason, message)| reason == "QueueConflict"
        && message.contains("mail/old")
        && message.contains("spec.queue.name")));
    assert_eq!(members(&plan, "mx"), ["a"]);
}

#[test]
fn a_dead_letter_list_is_a_queue_too() {
    let mut second = spec("mx", "q2", 16);
    second["queue"]["deadLetterName"] = json!("q1_dead");
    let plan = plan(
        &[relay("one", 1, &spec("mx", "q1", 16)), relay("two", 2, &second)],
        &[],
        &Ownership::default(),
        &Lenders::default(),
    );
    assert!(stall(&plan, "two").is_some_and(|(_, message)| message.contains("spec.queue.deadLetterName")));
}

#[test]
fn a_relay_that_stalls_or_goes_owns_nothing() {
    let mut going = relay("going", 1, &spec("mx", "q", 4));
    Arc::make_mut(&mut going.relay).metadata.deletion_timestamp = going.relay.metadata.creation_timestamp.clone();
    let mut broken = relay("broken", 2, &spec("mx", "q", 5));
    broken.objection = Some("host must be a host name".into());
    let plan = plan(
        &[going, broken, relay("good", 3, &spec("mx", "q", 16))],
        &[pod("a", "good")],
        &Ownership::default(),
        &Lenders::default(),
    );
    assert_eq!(plan.relays.len(), 2);
    assert_eq!(stall(&plan, "broken"), Some(("InvalidSpec", "host must be a host name")));
    assert_eq!(stall(&plan, "good"), None);
    assert_eq!(plan.pools["mx"].budget, 16);
}

#[test]
fn who_is_suspended_leaves_its_part_to_the_others() {
    for what in ["", "/servers/0"] {
        let mut suspended = spec("mx", "q1", 16);
        suspended.pointer_mut(what).expect("the relay or its server")["suspend"] = json!(true);
        let relays = [relay("one", 1, &suspended), relay("two", 2, &spec("mx", "q2", 16))];
        let pods = [pod("a", "one"), pod("b", "two")];
        assert_eq!(members(&plan(&relays, &pods, &Ownership::default(), &Lenders::default()), "mx"), ["b"], "{what}");
    }
}

#[test]
fn the_order_of_the_watch_changes_nothing() {
    let mut relays = vec![
        relay("one", 1, &spec("mx", "q", 16)),
        relay("two", 2, &spec("mx", "q", 16)),
        relay_in("other", "three", 3, &spec("mx", "q3", 2)),
    ];
    let forwards = plan(&relays, &[pod("a", "one")], &Ownership::default(), &Lenders::default());
    relays.reverse();
    assert_eq!(plan(&relays, &[pod("a", "one")], &Ownership::default(), &Lenders::default()), forwards);
}

#[test]
fn another_name_for_the_budget_of_one_server_is_advised_only_for_another_server() {
    let mut named = spec("mx", "q1", 16);
    named["servers"][0]["budgetName"] = json!("main");
    let mut other = spec("other", "q2", 16);
    other["servers"][0]["budgetName"] = json!("main");
    let plan = plan(
        &[relay_in("zeta", "old", 1, &named), relay_in("alpha", "young", 2, &other)],
        &[],
        &Ownership::default(),
        &Lenders::default(),
    );
    let (reason, message) = stall(&plan, "young").expect("a stall");
    assert!(reason == "BudgetConflict" && message.contains("set another spec.servers[].budgetName"), "{message}");
}

#[test]
fn two_budgets_for_one_server_are_refused_however_its_address_is_written() {
    let named = |host: &str, queue: &str, budget: &str| {
        let mut spec = spec(host, queue, 16);
        spec["servers"][0]["budgetName"] = json!(budget);
        spec
    };
    for host in ["MX.Example.com", "mx.EXAMPLE.com"] {
        let relays =
            [relay("young", 2, &named(host, "q2", "mine")), relay("old", 1, &spec("mx.example.com", "q1", 16))];
        let plan = plan(&relays, &[pod("a", "young")], &Ownership::default(), &Lenders::default());
        let (reason, message) = stall(&plan, "young").expect("a stall");
        assert_eq!(reason, "DuplicateBudget");
        for part in ["mx.example.com:587", "mail/old", "set budgetName mx.example.com here", "another mail server"] {
            assert!(message.contains(part), "{message}");
        }
        assert_eq!(stall(&plan, "old"), None);
        assert_eq!(plan.pools.len(), 1, "no second budget");
    }
    for (first, second) in [("10.0.0.1", "::ffff:10.0.0.1"), ("2001:db8::25", "2001:DB8:0::25"), ("10.0.0.1", "10.1")] {
        let relays = [relay("old", 1, &named(first, "q1", "a")), relay("young", 2, &named(second, "q2", "b"))];
        assert_eq!(
            stall(&plan(&relays, &[], &Ownership::default(), &Lenders::default()), "young").map(|stall| stall.0),
            Some("DuplicateBudget"),
            "{second}"
        );
        let relays = [relay("old", 1, &spec(first, "q1", 16)), relay("young", 2, &spec(second, "q2", 16))];
        assert_eq!(
            plan(&relays, &[], &Ownership::default(), &Lenders::default()).pools.len(),
            1,
            "{second} is {first}, and so is its budget"
        );
    }
}

#[test]
fn two_budgets_for_one_server_of_one_relay_are_refused_and_two_ports_of_a_host_share_one() {
    let two = |first: &Value, second: &Value| {
        let mut spec = spec("mx", "q", 16);
        spec["servers"] = json!([first, second]);
        plan(&[relay("one", 1, &spec)], &[], &Ownership::default(), &Lenders::default())
    };
    let first = json!({ "name": "first", "host": "mx" });
    let twice = two(&first, &json!({ "name": "second", "host": "mx", "budgetName": "more" }));
    let (reason, message) = stall(&twice, "one").expect("a stall");
    assert!(reason == "DuplicateBudget" && message.contains("its server second"), "{message}");
    assert!(twice.pools.is_empty());
    let ports = two(&first, &json!({ "name": "second", "host": "mx", "port": 25 }));
    assert_eq!((stall(&ports, "one"), ports.pools.len()), (None, 1));
    let words: Vec<&str> = ports.pools["mx"].servers.iter().map(String::as_str).collect();
    assert_eq!(words, ["mx:25", "mx:587", "relay:mail/one/first", "relay:mail/one/second"]);
}

#[test]
fn across_namespaces_a_second_budget_for_one_server_is_no_way_round_the_owner() {
    let mut named = spec("mx", "q2", 16);
    named["servers"][0]["budgetName"] = json!("mine");
    let relays = [relay_in("zeta", "old", 1, &spec("mx", "q1", 16)), relay_in("alpha", "young", 2, &named)];
    let alone = plan(&relays, &[], &Ownership::default(), &Lenders::default());
    let (reason, message) = stall(&alone, "young").expect("a stall");
    assert!(reason == "DuplicateBudget" && message.contains("let the platform make a MailServer of it"), "{message}");
}

#[test]
fn workers_of_every_relay_that_shares_a_budget_use_its_longest_holds() {
    let mut patient = spec("mx", "q2", 16);
    patient["servers"][0]["sessionTimeout"] = json!("20m");
    patient["servers"][0]["closeGrace"] = json!("1s");
    let plan = plan(
        &[relay("one", 1, &spec("mx", "q1", 16)), relay("two", 2, &patient)],
        &[],
        &Ownership::default(),
        &Lenders::default(),
    );
    for relay in plan.relays.values() {
        let server = &relay.published.servers[0];
        assert_eq!(
            (server.session_timeout, server.close_grace),
            (DurationText::from_secs(1200), DurationText::from_secs(2))
        );
    }
}

#[test]
fn workers_of_every_relay_that_shares_a_budget_keep_to_the_strictest_limits_of_all() {
    let mut limited = spec("mx", "q2", 16);
    limited["servers"][0]["rateLimits"] =
        json!([{ "count": 30, "interval": "1m", "burst": 3 }, { "unit": "Recipient", "count": 9, "interval": "1h" }]);
    let mut stricter = spec("mx", "q3", 16);
    stricter["servers"][0]["rateLimits"] = json!([{ "count": 20, "interval": "60s", "burst": 5 }]);
    let relays = [relay("one", 1, &spec("mx", "q1", 16)), relay("two", 2, &limited), relay("three", 3, &stricter)];
    let plan = plan(&relays, &[], &Ownership::default(), &Lenders::default());
    for relay in plan.relays.values() {
        let limits = &relay.published.servers[0].rate_limits;
        let figures: Vec<_> = limits.iter().map(|limit| (limit.unit, limit.count, limit.burst)).collect();
        assert_eq!(figures, [(Unit::Message, 20, 3), (Unit::Recipient, 9, 1)]);
    }
}
