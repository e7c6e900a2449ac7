//! Whether a relay works, and why not.

use super::*;
use crate::{
    api::SCHEMA,
    controller::{observe::Safety, status::measured::Reports},
};

#[test]
fn two_workers_with_their_shares_are_ready_with_all_figures() {
    let status = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]).show();
    assert_eq!(says(&status, "Ready"), pair("True", "AllSharesGranted"));
    assert_eq!(status.budget, Some(BudgetStatus { total: 16, effective: 16, leased: 16, open: 8 }));
    assert_eq!(status.ready_workers, Some(2));
    assert_eq!(status.servers_summary.as_deref(), Some("primary 8/16 Available"));
    let workers: Vec<_> = status.workers.iter().map(|w| (&*w.pod, w.share, w.open)).collect();
    assert_eq!(workers, [("a", 8, 4), ("b", 8, 4)]);
    assert_eq!((status.observed_generation, status.workers_omitted), (Some(3), None));
    assert_eq!((condition(&status, "Stalled"), condition(&status, "Reconciling")), (None, None));
}

#[test]
fn each_state_of_the_relay_has_its_reason() {
    let open = |scene: Scene| scene.ledger(LedgerState::Open, &[("a", 16, 16)]);
    let suspended = json!({ "servers": [{ "name": "primary", "host": "mx" }], "suspend": true });
    let mut unreachable = open(scene(&["a"]));
    unreachable.world.store_problem = Some("redis at r:1 is not reachable".into());
    let cases = [
        (scene(&[]).ledger(LedgerState::Open, &[]), "False", "ScaledToZero"),
        (scene(&["a"]).ledger(LedgerState::Open, &[]), "False", "WaitingForWorkers"),
        (scene(&["a"]).ledger(LedgerState::Rec, &[("a", 16, 16)]), "False", "LedgerRecovering"),
        (scene(&["a"]), "False", "LedgerRecovering"),
        (scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 8)]), "True", "SharesMoving"),
        (scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 12)]).withheld(4), "True", "SlotsWithheld"),
        (scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 8)]).withheld(4), "True", "SharesMoving"),
        (
            scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 10), ("b", 8, 2)]).withheld(4),
            "True",
            "SharesMoving",
        ),
        (open(scene_of(&suspended, &["a"])), "False", "Suspended"),
        (unreachable, "False", "StoreUnreachable"),
        (open(scene(&["a"])).report("a", Some(("AuthenticationFailed", "535"))), "False", "AuthenticationFailed"),
        (open(scene(&["a"])).report("a", None), "True", "AllSharesGranted"),
    ];
    for (number, (scene, status, reason)) in cases.into_iter().enumerate() {
        assert_eq!(says(&scene.show(), "Ready"), pair(status, reason), "case {number}");
    }
}

#[test]
fn a_stalled_relay_says_so_twice_and_names_what_to_change() {
    let nonsense = json!({ "servers": [{ "name": "primary", "host": "mx" }], "workers": { "selector": {} } });
    let status = scene_of(&nonsense, &[]).show();
    assert_eq!(says(&status, "Ready"), pair("False", "InvalidSpec"));
    assert_eq!(says(&status, "Stalled"), pair("True", "InvalidSpec"));
    assert!(condition(&status, "Stalled").is_some_and(|c| c.message.contains("spec.workers.selector")));
}

#[test]
fn a_transition_time_moves_only_with_the_status() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 8)]);
    let before = scene.show();
    scene.now = 2_000;
    let same = scene.after(&before);
    assert_eq!(same, before, "nothing changed, so nothing is written");
    let scene = scene.ledger(LedgerState::Open, &[("a", 16, 16)]);
    let granted = scene.after(&before);
    let time = |status: &MailRelayStatus| condition(status, "Ready").map(|c| c.last_transition_time.0.as_second());
    assert_eq!((time(&granted), says(&granted, "Ready").1), (Some(1_000), "AllSharesGranted".into()));
    let lost = scene.ledger(LedgerState::Open, &[]).after(&granted);
    assert_eq!(time(&lost), Some(2_000));
}

#[test]
fn a_missing_secret_stalls_the_relay() {
    let scene =
        scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]).report("a", Some(("SecretMissing", "no file")));
    assert_eq!(says(&scene.show(), "Stalled"), pair("True", "SecretMissing"));
}

#[test]
fn the_store_is_judged_on_every_relay() {
    let mut scene = scene(&[]);
    assert_eq!(condition(&scene.show(), "StoreUnsafe"), None);
    scene.measured.safety = Safety::Unsafe { reason: "AofOff", message: "appendonly is off".into() };
    assert_eq!(says(&scene.show(), "StoreUnsafe"), pair("True", "AofOff"));
    scene.measured.safety = Safety::Hidden { message: "CONFIG GET".into() };
    assert_eq!(says(&scene.show(), "StoreUnsafe"), pair("Unknown", "SettingsHidden"));
}

#[test]
fn a_budget_that_waits_for_what_another_one_still_counts_says_so() {
    let mut scene = scene(&["a"]);
    let pool = scene.pool("mx");
    pool.waits_for.insert("old".into());
    let status = scene.show();
    assert_eq!(says(&status, "Ready"), pair("False", "ServerInOtherBudget"));
    let message = &condition(&status, "Ready").expect("the condition").message;
    assert!(message.contains("budget mx were of budget old before"), "{message}");
    // Who was there before goes on, and only those who come over wait.
    let mut used = scene.ledger(LedgerState::Open, &[("a", 16, 16)]);
    used.pool("mx").waits_for.insert("old".into());
    assert_eq!(says(&used.show(), "Ready"), pair("True", "AllSharesGranted"));
    assert_eq!(says(&used.show(), "Reconciling"), pair("True", "ServerInOtherBudget"));
}

#[test]
fn a_recovery_that_nothing_but_the_roll_call_ends_says_what_bounds_it() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Rec, &[("a", 16, 16)]);
    scene.pool("mx").by_roll_call = true;
    let status = scene.show();
    assert_eq!(says(&status, "Ready"), pair("False", "LedgerRecovering"));
    assert!(condition(&status, "Ready").is_some_and(|ready| ready.message.contains("min-replicas-to-write")));
}

#[test]
fn one_pod_without_its_secret_is_named_and_stops_nobody() {
    let two = || scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]);
    let lacks = Some(("SecretMissing", "no file username"));
    let one = two().report("a", None).report("b", lacks).show();
    assert_eq!((condition(&one, "Stalled"), says(&one, "Ready").0), (None, "True".to_owned()));
    assert_eq!(says(&one, "WorkersMissing"), pair("True", "SecretMissing"));
    assert!(condition(&one, "WorkersMissing").is_some_and(|c| c.message.contains("pod b, server primary: no file")));
    let unheard = two().report("b", lacks).show();
    assert_eq!(condition(&unheard, "Stalled"), None, "the other may have it");
    let both = two().report("a", lacks).report("b", lacks).show();
    assert_eq!(says(&both, "Stalled"), pair("True", "SecretMissing"), "nothing moves without a person");
    let healthy = two().report("a", None).report("b", None).show();
    assert_eq!(condition(&healthy, "WorkersMissing"), None);
}

#[test]
fn pods_in_which_no_worker_runs_yet_are_no_scale_to_zero() {
    let mut scene = scene(&[]).ledger(LedgerState::Open, &[]);
    let mut plan = (*scene.world.plan).clone();
    plan.relays.values_mut().for_each(|relay| relay.selects_any = true);
    scene.world.plan = Arc::new(plan);
    assert_eq!(says(&scene.show(), "Ready"), pair("False", "WaitingForWorkers"));
}

#[test]
fn what_a_newer_version_wrote_is_told_whoever_cannot_read_it() {
    let told = |scene: Scene| {
        let status = scene.show();
        assert_eq!(says(&status, "VersionSkew"), pair("True", "NewerVersion"));
        condition(&status, "VersionSkew").map(|c| c.message.clone()).unwrap_or_default()
    };
    let good = || scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    assert_eq!(condition(&good().report("a", None).show(), "VersionSkew"), None);
    let mut refusing = good().report("a", None);
    let report = refusing.measured.reports.read.get_mut("uid-a").expect("a report");
    report.record = Some(Unavailable { reason: Reason::NewerVersion, message: "the record: schema 2".into() });
    assert!(told(refusing).contains("the worker of pod a says of the record"));
    let mut newer = good();
    newer.measured.reports =
        Reports::read([("uid-a".to_owned(), json!({ "schema": SCHEMA + 1, "in": "other words" }).to_string())]);
    assert!(told(newer).contains(&format!("the report of pod a: it has schema {}", SCHEMA + 1)));
}
