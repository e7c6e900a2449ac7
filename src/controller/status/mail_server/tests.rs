use std::{sync::Arc, time::Duration};

use serde_json::json;

use super::*;
use crate::{
    controller::{
        fixtures,
        observe::PodFacts,
        plan::{Candidate, Lenders, Ownership, plan},
    },
    lease::{HolderView, Incarnation, Mirror, MirroredHolder, MirroredQuarantine, QuarantineView},
};

/// Two relays of two namespaces with a pod each that borrow from `corporate`, and its ledger.
fn world(state: LedgerState) -> World {
    let server = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer",
        "metadata": { "name": "corporate", "uid": "server", "generation": 7 },
        "spec": { "endpoints": [{ "host": "mx" }], "allowedNamespaces": {} },
    });
    let server = serde_json::from_value(server).expect("a server");
    let tenants = ["team-a", "team-b"];
    let lenders = Lenders::of(&[server], tenants.map(|name| (name.to_owned(), BTreeMap::new())).into());
    let relays = tenants.map(|namespace| {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay",
            "metadata": { "name": "bulk", "namespace": namespace, "uid": format!("uid-{namespace}") },
            "spec": {
                "servers": [{ "name": "primary", "serverRef": { "name": "corporate" } }],
                "queue": { "name": namespace, "deadLetterName": format!("{namespace}-dead") },
            },
        });
        Candidate::new(Arc::new(serde_json::from_value(relay).expect("a relay")), None, &lenders)
    });
    let pods = tenants.map(|namespace| PodFacts {
        uid: namespace.into(),
        name: "pod".into(),
        namespace: namespace.into(),
        labels: Arc::new(BTreeMap::from([("mailrelay.dev/relay".into(), "bulk".into())])),
        running: Arc::new(["mailrelay".to_owned()].into()),
        ..PodFacts::default()
    });
    let plan = plan(&relays, &pods, &Ownership::default(), &lenders);
    let holders = [("team-a", 5, 4), ("team-b", 8, 1)].map(|(pod, claim, open)| HolderView {
        pod_uid: pod.into(),
        pod: format!("{pod}/pod"),
        claim,
        open,
        ..fixtures::holder(pod, pod, 1)
    });
    let mut ledger = fixtures::ledger(holders.to_vec());
    (ledger.state, ledger.budget) = (state, 16);
    ledger.entitlements = ["team-a", "team-b"].map(|pod| (pod.to_owned(), 8)).into();
    let view = PoolView { ledger: Some(ledger.into()), ..PoolView::default() };
    let pools = BTreeMap::from([("mailserver:corporate".to_owned(), Arc::new(view))]);
    World { plan: Arc::new(plan), pools: Arc::new(pools), ..World::default() }
}

fn shown(world: &World, old: &MailServerStatus, second: i64) -> MailServerStatus {
    let now = Timestamp::from_second(second).expect("a time");
    status(world, "corporate", &world.plan.servers["corporate"], old, now)
}

fn conditions(status: &MailServerStatus) -> Vec<(&str, &str, &str)> {
    status.conditions.iter().map(|c| (&*c.type_, &*c.status, &*c.reason)).collect()
}

fn server(world: &mut World) -> &mut ServerPlan {
    Arc::make_mut(&mut world.plan).servers.get_mut("corporate").expect("it")
}

#[test]
fn it_shows_the_budget_and_what_each_relay_has_of_it() {
    let status = shown(&world(LedgerState::Open), &MailServerStatus::default(), 1);
    let budget = ServerBudgetStatus { total: 16, effective: 16, leased: 13, open: 5, quarantined: 0 };
    assert_eq!((status.budget, status.relay_count, status.observed_generation), (Some(budget), Some(2), Some(7)));
    let borrower = |namespace: &str, open| BorrowerStatus {
        namespace: namespace.into(),
        name: "bulk".into(),
        workers: 1,
        share: 8,
        open,
    };
    assert_eq!(status.relays, [borrower("team-a", 4), borrower("team-b", 1)]);
    assert_eq!(
        conditions(&shown(&world(LedgerState::Open), &MailServerStatus::default(), 1)),
        [("Ready", "True", "Granting")]
    );
}

#[test]
fn conditions_say_why_nobody_borrows() {
    let reason = |change: &dyn Fn(&mut World)| {
        let mut world = world(LedgerState::Open);
        change(&mut world);
        let status = shown(&world, &MailServerStatus::default(), 1);
        conditions(&status).iter().map(|(kind, holds, reason)| format!("{kind} {holds} {reason}")).collect::<Vec<_>>()
    };
    assert_eq!(reason(&|world| server(world).allows_any = false), ["Ready False NoNamespaceAllowed"]);
    assert_eq!(reason(&|world| server(world).borrowers.clear()), ["Ready True NotBorrowed"]);
    assert_eq!(reason(&|world| world.store_problem = Some("away".into())), ["Ready False StoreUnreachable"]);
    let invalid = reason(&|world| server(world).objection = Some("closeGrace".into()));
    assert_eq!(invalid, ["Ready False InvalidSpec", "Stalled True InvalidSpec"]);
    let twin = reason(&|world| server(world).twin = Some("other".into()));
    assert_eq!(twin, ["Ready False DuplicateBudget", "Stalled True DuplicateBudget"]);
    let recovering = shown(&world(LedgerState::Rec), &MailServerStatus::default(), 1);
    assert_eq!(conditions(&recovering), [("Ready", "False", "LedgerRecovering")]);
}

#[test]
fn who_holds_what_is_there_for_the_next_leader_and_what_is_withheld_for_people() {
    let mut world = world(LedgerState::Open);
    let view = Arc::make_mut(&mut world.pools).get_mut("mailserver:corporate").expect("the pool");
    let incarnation =
        Incarnation { inc: "i".into(), pod: "team-a/pod".into(), process: "p".into(), boot_id: "b".into(), claim: 5 };
    let entry = QuarantineView { id: "p.1".into(), slots: 2, seconds: 330, why: "silent".into() };
    Arc::make_mut(view).mirror = Mirror {
        holders: vec![MirroredHolder { pod_uid: "team-a".into(), share: 8, incarnation: Some(incarnation) }],
        quarantine: vec![MirroredQuarantine { entry, pod: None, left: Duration::from_secs(330) }],
        ..Mirror::default()
    };
    let status = shown(&world, &MailServerStatus::default(), 1);
    assert_eq!(mirror::read(status.leases.clone())["mailserver:corporate"].holders.len(), 1);
    assert_eq!(conditions(&status), [("Ready", "True", "Granting"), ("SlotsQuarantined", "True", "SessionsMayLinger")]);
    assert_eq!(shown(&world, &status, 2), status, "a second later nothing is another");
}

#[test]
fn what_moves_all_the_time_is_not_worth_a_write_at_once() {
    let before = shown(&world(LedgerState::Open), &MailServerStatus::default(), 1);
    let mut busier = before.clone();
    busier.budget.as_mut().expect("a budget").open = 16;
    busier.relays[0].open = 8;
    assert_eq!(steady(&busier), steady(&before));
    busier.relays[0].share = 4;
    assert_ne!(steady(&busier), steady(&before));
}
