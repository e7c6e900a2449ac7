//! Relays that borrow from a `MailServer`.

use super::*;

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
    let plan = plan(&relays, &pods, &Ownership::default(), &lenders);
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
    let first = plan(&[old.clone(), young.clone()], &[], &Ownership::default(), &lenders);
    let (reason, message) = stall(&first, "old").expect("a stall");
    assert!(reason == "DuplicateBudget" && message.contains("serverRef {name: corporate}"), "{message}");
    assert_eq!(stall(&first, "young"), None);
    // One that worked with it before there was a MailServer keeps it until its own edit.
    let before = plan(std::slice::from_ref(&old), &[], &Ownership::default(), &Lenders::default());
    let ownership = Ownership { owned: before.owned, ..Ownership::default() };
    let after = plan(&[old, young], &[], &ownership, &lenders);
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
    let plan = plan(&relays, &[], &Ownership::default(), &lenders);
    assert_eq!((stall(&plan, "a"), plan.servers["corporate"].twin.as_deref()), (None, None));
    assert_eq!(plan.servers["alpha"].twin.as_deref(), Some("corporate"));
}

#[test]
fn a_relay_without_its_mail_server_stands_still_and_keeps_its_queue() {
    let there = lenders(&[("corporate", "mx")]);
    let before = plan(&[borrower("team-a", "a", 2, &there)], &[], &Ownership::default(), &there);
    let gone = Lenders::default();
    let older = relay_in("team-a", "older", 1, &spec("other", "q-a", 16));
    let ownership = Ownership { owned: before.owned, ..Ownership::default() };
    let after = plan(&[borrower("team-a", "a", 2, &gone), older], &[], &ownership, &gone);
    assert_eq!(stall(&after, "a").map(|stall| stall.0), Some("ServerNotFound"));
    assert_eq!(after.relays.values().find(|relay| relay.uid == "uid-a").expect("it").published.servers, []);
    assert_eq!(stall(&after, "older").map(|stall| stall.0), Some("QueueConflict"), "its queue is its own meanwhile");
}
