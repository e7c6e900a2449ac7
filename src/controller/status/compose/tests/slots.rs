//! Who holds which slots, and what is withheld.

use super::*;
use crate::{
    api::LeaseStatus,
    controller::plan::{Stall, StallReason},
};

fn budgets(status: &MailRelayStatus) -> Vec<&str> {
    status.leases.iter().map(|lease| &*lease.budget_name).collect()
}

#[test]
fn withheld_slots_are_told_with_their_pod_their_end_and_what_to_do() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 12)]).mirror("mx", &["a"]);
    let pool = scene.pool("mx");
    let entry = QuarantineView { id: "q".into(), slots: 4, seconds: 300, why: "silent".into() };
    Arc::make_mut(pool.ledger.as_mut().expect("the ledger")).quarantine.push(entry);
    let status = scene.show();
    assert_eq!(status.servers[0].quarantined, 4);
    assert_eq!(says(&status, "SlotsQuarantined"), pair("True", "SessionsMayLinger"));
    let message = &condition(&status, "SlotsQuarantined").expect("the condition").message;
    assert!(message.contains("4 of mx (mail/gone, silent, q) until 1970-01-01T00:21:41Z"), "{message}");
    assert!(
        message.contains("comes back by itself")
            && message.contains("nothing done by hand")
            && message.contains("sessionTimeout"),
        "{message}"
    );
    // As long as nothing changes, nothing is written.
    scene.now += 7;
    scene.pool("mx").mirror.quarantine[0].left = Duration::from_secs(293);
    assert_eq!(scene.after(&status), status);
    scene.pool("mx").mirror.quarantine.clear();
    assert_eq!(condition(&scene.after(&status), "SlotsQuarantined"), None);
}

#[test]
fn of_many_withheld_slots_the_message_names_some_and_counts_all() {
    let mut scene = scene(&[]).mirror("mx", &[]);
    let quarantine = &mut scene.pool("mx").mirror.quarantine;
    for number in 0..5 {
        let mut another = quarantine[0].clone();
        another.entry.id = format!("q{number}");
        another.entry.why = "too_many_connections".into();
        quarantine.push(another);
    }
    let status = scene.show();
    let message = &condition(&status, "SlotsQuarantined").expect("the condition").message;
    assert!(message.starts_with("24 slots") && message.contains("and 2 more in status.leases"), "{message}");
    assert!(message.contains("too many connections"), "{message}");
}

#[test]
fn a_pod_that_is_gone_and_still_holds_slots_is_named_with_its_node() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 8), ("forced", 0, 8)]);
    scene.world.vanished.insert("uid-forced".into(), Some("node-7".into()));
    let status = scene.show();
    assert_eq!(says(&status, "SlotsQuarantined"), pair("True", "HeldByVanishedPod"));
    let message = &condition(&status, "SlotsQuarantined").expect("the condition").message;
    assert!(message.contains("8 slots are held by mail/forced") && message.contains("node-7"), "{message}");
    scene.world.vanished.insert("uid-forced".into(), None);
    let message = scene.show().conditions.into_iter().map(|c| c.message).find(|m| m.contains("its node"));
    assert!(message.is_some());
    // It gave its slots back, though it still renews.
    let scene = scene.ledger(LedgerState::Open, &[("a", 16, 16), ("forced", 0, 0)]);
    assert_eq!(condition(&scene.show(), "SlotsQuarantined"), None);
}

#[test]
fn the_list_of_workers_is_bounded_and_the_rest_counted() {
    let names: Vec<String> = (0..70).map(|number| format!("web-{number:02}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let status = scene(&names).ledger(LedgerState::Open, &[]).show();
    assert_eq!((status.workers.len(), status.workers_omitted), (64, Some(6)));
}

#[test]
fn who_holds_what_is_shown_also_while_redis_is_away_and_comes_back_from_the_api_server_as_it_was() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 8, 8)]).mirror("mx", &["a"]);
    let status = scene.show();
    assert_eq!((budgets(&status), status.leases[0].holders.len()), (vec!["mx"], 1));
    assert_eq!(status.leases[0].quarantine[0].pod.as_deref(), Some("mail/gone"));
    let stored: MailRelayStatus = serde_json::from_value(json!(status)).expect("a status");
    assert_eq!(stored, status, "else it would be written again and again");
    scene.world.store_problem = Some("gone".into());
    scene.pool("mx").ledger = None;
    assert_eq!(scene.after(&status).leases, status.leases);
}

#[test]
fn a_budget_that_is_named_no_more_is_shown_until_nothing_is_held_of_it() {
    let old = scene(&[]).mirror("old", &["a"]);
    let mut before = MailRelayStatus::default();
    assert_eq!(budgets(&old.after(&before)), Vec::<&str>::new(), "it never was this relay's");
    before.leases.push(LeaseStatus { budget_name: "old".into(), ..LeaseStatus::default() });
    let shown = old.after(&before);
    assert_eq!(budgets(&shown), ["old"]);
    let mut over = old;
    Arc::make_mut(&mut over.world.pools).clear();
    assert_eq!(budgets(&over.after(&shown)), Vec::<&str>::new());
}

#[test]
fn a_relay_that_was_refused_a_budget_shows_nobody_s_pods() {
    let scene = scene(&["a"]).mirror("mx", &["a"]);
    let key = RelayKey { namespace: "mail".into(), name: "corporate".into() };
    let mut relay = scene.world.plan.relays[&key].clone();
    relay.stalled = Some(Stall { reason: StallReason::BudgetConflict, message: "taken".into() });
    let facts = Facts::of(&scene.world, &relay, &scene.measured, &scene.show(), Timestamp::UNIX_EPOCH);
    assert_eq!(facts.leases, []);
}

#[test]
fn of_a_borrowed_budget_a_relay_shows_the_connections_of_its_own_pods() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 8, 4), ("of-another-tenant", 8, 8)]);
    let figures = |scene: &Scene| {
        let status = scene.show();
        let budget = status.budget.expect("a budget");
        (budget.effective, budget.leased, budget.open, status.servers[0].leased)
    };
    assert_eq!(figures(&scene), (16, 12, 6, 12), "its own server is shared with nobody else's");
    let (old, new) = ("mx", "mailserver:corporate");
    let plan = Arc::make_mut(&mut scene.world.plan);
    for relay in plan.relays.values_mut() {
        relay.pools = BTreeSet::from([new.to_owned()]);
        relay.published.servers[0].budget_name = Some(new.parse().expect("a name"));
    }
    let pool = plan.pools.remove(old).expect("its pool");
    plan.pools.insert(new.to_owned(), pool);
    let pools = Arc::make_mut(&mut scene.world.pools);
    let view = pools.remove(old).expect("its pool");
    pools.insert(new.to_owned(), view);
    assert_eq!(figures(&scene), (16, 4, 2, 4));
}
