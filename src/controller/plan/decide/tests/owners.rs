//! Whoever owns something keeps it.

use super::*;

/// The plan of these relays, when those of before worked by `before`.
fn replanned(before: &Plan, relays: &[Candidate]) -> Plan {
    let ownership = Ownership { owned: before.owned.clone(), ..Ownership::default() };
    plan(relays, &[], &ownership, &Lenders::default())
}

fn in_budget(host: &str, queue: &str, budget: &str) -> Value {
    let mut spec = spec(host, queue, 16);
    spec["servers"][0]["budgetName"] = json!(budget);
    spec
}

#[test]
fn an_older_relay_takes_nothing_from_a_younger_one_by_an_edit() {
    let young = || relay_in("alpha", "young", 2, &spec("mx", "q2", 16));
    let before =
        plan(&[relay("old", 1, &spec("other", "q1", 16)), young()], &[], &Ownership::default(), &Lenders::default());
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
    let (before, mut broken) = (plan(&[good()], &[], &Ownership::default(), &Lenders::default()), good());
    broken.objection = Some("host must be a host name".into());
    let after = replanned(&before, &[relay("old", 1, &spec("other", "q", 16)), broken]);
    assert_eq!(stall(&after, "old").map(|stall| stall.0), Some("QueueConflict"));
    assert_eq!(after.pools.len(), 0, "it works no more all the same");
    assert_eq!(stall(&replanned(&after, &[relay("old", 1, &spec("other", "q", 16)), good()]), "good"), None);
}

#[test]
fn an_owner_whose_spec_cannot_be_read_keeps_everything() {
    let before = plan(&[relay("unread", 1, &spec("mx", "q", 16))], &[], &Ownership::default(), &Lenders::default());
    let ownership = Ownership {
        owned: before.owned.clone(),
        unreadable: BTreeMap::from([(
            "uid-unread".to_owned(),
            RelayKey { namespace: "mail".into(), name: "unread".into() },
        )]),
    };
    let relays = [relay("queue", 2, &spec("other", "q", 16)), relay("server", 3, &in_budget("mx", "q2", "mine"))];
    let after = plan(&relays, &[], &ownership, &Lenders::default());
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
    let before = plan(&[old, young.clone()], &[], &Ownership::default(), &Lenders::default());
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
        let plan = plan(&[first(), relay("second", 2, &second)], &[], &Ownership::default(), &Lenders::default());
        let (reason, message) = stall(&plan, "second").expect("a stall");
        assert!(reason == "QueueConflict" && message.contains("mail/first") && message.contains(part), "{message}");
    }
    let plan =
        plan(&[first(), relay("second", 2, &prefixed("q2", "body:"))], &[], &Ownership::default(), &Lenders::default());
    assert_eq!(stall(&plan, "second"), None, "payloads may lie beside each other");
}
