use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::api::{DurationText, Unit};

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
        labels: BTreeMap::from([(RELAY_LABEL.into(), relay.into())]),
        running: BTreeSet::from(["mailrelay".into()]),
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
        PodFacts { running: BTreeSet::from(["app".into()]), ..pod("e", "corporate") },
        PodFacts { namespace: "elsewhere".into(), ..pod("f", "corporate") },
    ];
    let plan =
        plan(&[relay("corporate", 1, &spec("mx", "q", 16))], &pods, false, &Ownership::default(), &Lenders::default());
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
        labels: BTreeMap::from([("app".into(), app.into())]),
        running: BTreeSet::from(["relay".into()]),
        ..pod(uid, "")
    };
    let plan = plan(
        &[relay("corporate", 1, &wanted)],
        &[worker("a", "web"), worker("b", "db")],
        false,
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
    let plan = plan(&relays, &[pod("a", "good")], false, &Ownership::default(), &Lenders::default());
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
    let plan = plan(&relays, &[pod("a", "one"), pod("b", "two")], false, &Ownership::default(), &Lenders::default());
    assert_eq!(plan.pools.len(), 1);
    assert_eq!((plan.pools["mx"].budget, members(&plan, "mx")), (10, vec!["a".to_owned(), "b".to_owned()]));
    let sentences: Vec<_> = plan.relays.values().filter_map(|relay| relay.shared.clone()).collect();
    assert_eq!(sentences, ["mx: 10 connections shared with mail/two", "mx: 10 connections shared with mail/one"]);
}

#[test]
fn across_namespaces_the_younger_relay_stalls_unless_sharing_is_allowed() {
    let relays =
        [relay_in("zeta", "old", 1, &spec("mx", "q1", 16)), relay_in("alpha", "young", 2, &spec("mx", "q2", 1))];
    let alone = plan(&relays, &[], false, &Ownership::default(), &Lenders::default());
    assert_eq!(stall(&alone, "old"), None);
    assert!(stall(&alone, "young").is_some_and(|(reason, message)| reason == "BudgetConflict"
        && message.contains("zeta/old")
        && message.contains("name another mail server")
        && !message.contains("budgetName")));
    assert_eq!(alone.pools["mx"].budget, 16, "a tenant cannot squeeze another");
    let together = plan(&relays, &[], true, &Ownership::default(), &Lenders::default());
    assert_eq!((stall(&together, "young"), together.pools["mx"].budget), (None, 1));
}

#[test]
fn the_younger_of_two_relays_that_name_one_queue_stalls_and_gets_no_share() {
    let relays = [relay("young", 2, &spec("mx", "q", 16)), relay("old", 1, &spec("mx", "q", 16))];
    let plan = plan(&relays, &[pod("a", "old"), pod("b", "young")], false, &Ownership::default(), &Lenders::default());
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
        false,
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
        false,
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
        assert_eq!(
            members(&plan(&relays, &pods, false, &Ownership::default(), &Lenders::default()), "mx"),
            ["b"],
            "{what}"
        );
    }
}

#[test]
fn the_order_of_the_watch_changes_nothing() {
    let mut relays = vec![
        relay("one", 1, &spec("mx", "q", 16)),
        relay("two", 2, &spec("mx", "q", 16)),
        relay_in("other", "three", 3, &spec("mx", "q3", 2)),
    ];
    let forwards = plan(&relays, &[pod("a", "one")], false, &Ownership::default(), &Lenders::default());
    relays.reverse();
    assert_eq!(plan(&relays, &[pod("a", "one")], false, &Ownership::default(), &Lenders::default()), forwards);
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
        false,
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
        let plan = plan(&relays, &[pod("a", "young")], true, &Ownership::default(), &Lenders::default());
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
            stall(&plan(&relays, &[], false, &Ownership::default(), &Lenders::default()), "young").map(|stall| stall.0),
            Some("DuplicateBudget"),
            "{second}"
        );
        let relays = [relay("old", 1, &spec(first, "q1", 16)), relay("young", 2, &spec(second, "q2", 16))];
        assert_eq!(
            plan(&relays, &[], false, &Ownership::default(), &Lenders::default()).pools.len(),
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
        plan(&[relay("one", 1, &spec)], &[], false, &Ownership::default(), &Lenders::default())
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
    let alone = plan(&relays, &[], false, &Ownership::default(), &Lenders::default());
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
        false,
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
    let plan = plan(&relays, &[], false, &Ownership::default(), &Lenders::default());
    for relay in plan.relays.values() {
        let limits = &relay.published.servers[0].rate_limits;
        let figures: Vec<_> = limits.iter().map(|limit| (limit.unit, limit.count, limit.burst)).collect();
        assert_eq!(figures, [(Unit::Message, 20, 3), (Unit::Recipient, 9, 1)]);
    }
}

/// The plan of these relays, when those of before worked by `before`.
fn replanned(before: &Plan, relays: &[Candidate]) -> Plan {
    let ownership = Ownership { owned: before.owned.clone(), ..Ownership::default() };
    plan(relays, &[], false, &ownership, &Lenders::default())
}

fn in_budget(host: &str, queue: &str, budget: &str) -> Value {
    let mut spec = spec(host, queue, 16);
    spec["servers"][0]["budgetName"] = json!(budget);
    spec
}

#[test]
fn an_older_relay_takes_nothing_from_a_younger_one_by_an_edit() {
    let young = || relay_in("alpha", "young", 2, &spec("mx", "q2", 16));
    let before = plan(
        &[relay("old", 1, &spec("other", "q1", 16)), young()],
        &[],
        false,
        &Ownership::default(),
        &Lenders::default(),
    );
    for (edited, reason) in [
        (spec("other", "q2", 16), "QueueConflict"),
        (spec("other", "q2_dead", 16), "QueueConflict"),
        (spec("mx", "q1", 16), "BudgetConflict"),
        (in_budget("mx", "q1", "mine"), "DuplicateBudget"),
    ] {
        let after = replanned(&before, &[relay("old", 1, &edited), young()]);
        assert_eq!(
            (stall(&after, "young"), stall(&after, "old").map(|stall| stall.0)),
            (None, Some(reason)),
            "{edited}"
        );
        // Also for the plans that follow, and for a leader that has only what was written down.
        let again = replanned(&after, &[relay("old", 1, &edited), young()]);
        assert_eq!((stall(&again, "young"), &again.owned), (None, &after.owned), "{edited}");
        // It is free when its owner goes, or asks for something else.
        let gone = replanned(&again, &[relay("old", 1, &edited)]);
        assert_eq!(stall(&gone, "old"), None, "{edited}");
        let moved =
            replanned(&again, &[relay("old", 1, &edited), relay_in("alpha", "young", 2, &spec("away", "q3", 16))]);
        assert_eq!((stall(&moved, "old"), stall(&moved, "young")), (None, None), "{edited}");
    }
}

#[test]
fn an_owner_that_stalls_keeps_what_it_asks_for() {
    let good = || relay("good", 2, &spec("mx", "q", 16));
    let (before, mut broken) = (plan(&[good()], &[], false, &Ownership::default(), &Lenders::default()), good());
    broken.objection = Some("host must be a host name".into());
    let after = replanned(&before, &[relay("old", 1, &spec("other", "q", 16)), broken]);
    assert_eq!(stall(&after, "old").map(|stall| stall.0), Some("QueueConflict"));
    assert_eq!(after.pools.len(), 0, "it works no more all the same");
    assert_eq!(stall(&replanned(&after, &[relay("old", 1, &spec("other", "q", 16)), good()]), "good"), None);
}

#[test]
fn an_owner_whose_spec_cannot_be_read_keeps_everything() {
    let before =
        plan(&[relay("unread", 1, &spec("mx", "q", 16))], &[], false, &Ownership::default(), &Lenders::default());
    let ownership = Ownership {
        owned: before.owned.clone(),
        unreadable: BTreeMap::from([(
            "uid-unread".to_owned(),
            RelayKey { namespace: "mail".into(), name: "unread".into() },
        )]),
    };
    let relays = [relay("queue", 2, &spec("other", "q", 16)), relay("server", 3, &in_budget("mx", "q2", "mine"))];
    let after = plan(&relays, &[], false, &ownership, &Lenders::default());
    assert_eq!(stall(&after, "queue").map(|stall| stall.0), Some("QueueConflict"));
    assert!(
        stall(&after, "server")
            .is_some_and(|(reason, message)| { reason == "DuplicateBudget" && message.contains("mail/unread") })
    );
    assert_eq!(after.owned, before.owned);
}

#[test]
fn of_relays_that_share_a_server_one_that_leaves_its_budget_takes_the_server_from_nobody() {
    let (old, young) = (relay("old", 1, &spec("mx", "q1", 16)), relay("young", 2, &spec("mx", "q2", 16)));
    let before = plan(&[old, young.clone()], &[], false, &Ownership::default(), &Lenders::default());
    let after = replanned(&before, &[relay("old", 1, &in_budget("mx", "q1", "main")), young]);
    assert_eq!(stall(&after, "young"), None);
    assert_eq!(stall(&after, "old").map(|stall| stall.0), Some("DuplicateBudget"));
    let alone = replanned(&before, &[relay("old", 1, &in_budget("mx", "q1", "main"))]);
    assert_eq!(stall(&alone, "old"), None, "its own server it may rename");
}

#[test]
fn no_id_of_one_relay_leads_to_a_list_of_another() {
    let prefixed = |queue: &str, prefix: &str| {
        let mut spec = spec("mx", queue, 16);
        spec["queue"]["payloadPrefix"] = json!(prefix);
        spec
    };
    let first = || relay("first", 1, &prefixed("orders", "body:"));
    for (second, part) in [(prefixed("q2", "ord"), "payloadPrefix"), (prefixed("body:x", "other:"), "another name")] {
        let plan =
            plan(&[first(), relay("second", 2, &second)], &[], false, &Ownership::default(), &Lenders::default());
        let (reason, message) = stall(&plan, "second").expect("a stall");
        assert!(reason == "QueueConflict" && message.contains("mail/first") && message.contains(part), "{message}");
    }
    let plan = plan(
        &[first(), relay("second", 2, &prefixed("q2", "body:"))],
        &[],
        false,
        &Ownership::default(),
        &Lenders::default(),
    );
    assert_eq!(stall(&plan, "second"), None, "payloads may lie beside each other");
}

/// A relay that borrows from the `MailServer` `corporate`.
fn borrower(namespace: &str, name: &str, age: u32, lenders: &Lenders) -> Candidate {
    let spec = json!({
        "servers": [{ "name": "primary", "serverRef": { "name": "corporate" } }],
        "queue": { "name": format!("q-{name}"), "deadLetterName": format!("d-{name}") },
    });
    let Candidate { relay, objection, .. } = relay_in(namespace, name, age, &spec);
    Candidate::new(relay, objection, lenders)
}

/// `MailServer`s of these names, each of one host, for all of three namespaces.
fn lenders(servers: &[(&str, &str)]) -> Lenders {
    let server = |(name, host): &(&str, &str)| {
        let object = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer", "metadata": { "name": name, "uid": name },
            "spec": { "endpoints": [{ "host": host }], "maxConnections": 12, "allowedNamespaces": {} },
        });
        serde_json::from_value(object).expect("a server")
    };
    let namespaces = ["mail", "team-a", "team-b"].map(|name| (name.to_owned(), BTreeMap::new()));
    Lenders::of(&servers.iter().map(server).collect::<Vec<_>>(), namespaces.into())
}

#[test]
fn namespaces_share_the_budget_of_a_mail_server_and_hear_nothing_of_each_other() {
    let lenders = lenders(&[("corporate", "mx")]);
    let relays = [borrower("team-a", "a", 1, &lenders), borrower("team-b", "b", 2, &lenders)];
    let pods = [("p", "team-a", "a"), ("q", "team-b", "b")]
        .map(|(uid, namespace, relay)| PodFacts { namespace: namespace.into(), ..pod(uid, relay) });
    let plan = plan(&relays, &pods, false, &Ownership::default(), &lenders);
    assert_eq!((stall(&plan, "a"), stall(&plan, "b")), (None, None));
    assert_eq!((members(&plan, "mailserver:corporate"), plan.pools.len()), (vec!["p".to_owned(), "q".to_owned()], 1));
    assert_eq!(plan.pools["mailserver:corporate"].budget, 12);
    let borrowers: Vec<String> = plan.servers["corporate"].borrowers.keys().map(ToString::to_string).collect();
    assert_eq!(borrowers, ["team-a/a", "team-b/b"]);
    for relay in plan.relays.values() {
        assert_eq!(relay.published.servers[0].pool(), "mailserver:corporate");
        assert_eq!(relay.shared.as_deref(), Some("MailServer corporate: 12 connections shared with 1 other relays"));
    }
}

#[test]
fn a_mail_servers_connections_have_no_second_budget_whoever_was_first() {
    let lenders = lenders(&[("corporate", "mx")]);
    let (old, young) = (relay_in("team-a", "old", 1, &spec("MX", "q1", 16)), borrower("team-b", "young", 2, &lenders));
    // Nobody used the server before: it is the platform's, though the inline relay is older.
    let first = plan(&[old.clone(), young.clone()], &[], true, &Ownership::default(), &lenders);
    let (reason, message) = stall(&first, "old").expect("a stall");
    assert!(reason == "DuplicateBudget" && message.contains("serverRef {name: corporate}"), "{message}");
    assert_eq!(stall(&first, "young"), None);
    // One that worked with it before there was a MailServer keeps it until its own edit.
    let before = plan(std::slice::from_ref(&old), &[], true, &Ownership::default(), &Lenders::default());
    let ownership = Ownership { owned: before.owned, ..Ownership::default() };
    let after = plan(&[old, young], &[], true, &ownership, &lenders);
    assert_eq!((stall(&after, "old"), after.pools.len()), (None, 1));
    let (reason, message) = stall(&after, "young").expect("a stall");
    assert!(
        reason == "DuplicateBudget" && message.contains("name the MailServer corporate in serverRef too"),
        "{message}"
    );
}

#[test]
fn a_mail_server_with_an_address_of_another_one_says_so_and_the_one_in_use_goes_on() {
    let lenders = lenders(&[("alpha", "mx"), ("corporate", "mx")]);
    let relays = [borrower("team-a", "a", 1, &lenders)];
    let plan = plan(&relays, &[], false, &Ownership::default(), &lenders);
    assert_eq!((stall(&plan, "a"), plan.servers["corporate"].twin.as_deref()), (None, None));
    assert_eq!(plan.servers["alpha"].twin.as_deref(), Some("corporate"));
}

#[test]
fn a_relay_without_its_mail_server_stands_still_and_keeps_its_queue() {
    let there = lenders(&[("corporate", "mx")]);
    let before = plan(&[borrower("team-a", "a", 2, &there)], &[], false, &Ownership::default(), &there);
    let gone = Lenders::default();
    let older = relay_in("team-a", "older", 1, &spec("other", "q-a", 16));
    let ownership = Ownership { owned: before.owned, ..Ownership::default() };
    let after = plan(&[borrower("team-a", "a", 2, &gone), older], &[], false, &ownership, &gone);
    assert_eq!(stall(&after, "a").map(|stall| stall.0), Some("ServerNotFound"));
    assert_eq!(after.relays.values().find(|relay| relay.uid == "uid-a").expect("it").published.servers, []);
    assert_eq!(stall(&after, "older").map(|stall| stall.0), Some("QueueConflict"), "its queue is its own meanwhile");
}
