use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::{
    api::{Condition, Unavailable},
    controller::{
        observe::PodFacts,
        plan::{Candidate, Ownership, RelayKey, plan},
        pools::PoolView,
    },
    lease::{HolderView, Incarnation, Mirror, MirroredHolder, MirroredQuarantine, QuarantineView},
    mail::UnixMillis,
    queue::Audit,
};

/// One relay `corporate` with one server `mx`, its pods, and a world around it.
struct Scene {
    world: World,
    measured: Measured,
    now: i64,
}

fn scene(pods: &[&str]) -> Scene {
    scene_of(&json!({ "servers": [{ "name": "primary", "host": "mx" }] }), pods)
}

fn scene_of(spec: &Value, pods: &[&str]) -> Scene {
    let relay = json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay", "spec": spec,
        "metadata": { "name": "corporate", "namespace": "mail", "uid": "r", "generation": 3 },
    });
    let relay = Candidate { relay: Arc::new(serde_json::from_value(relay).expect("a relay")), objection: None };
    let pods: Vec<PodFacts> = pods
        .iter()
        .map(|name| PodFacts {
            uid: format!("uid-{name}"),
            name: (*name).into(),
            namespace: "mail".into(),
            labels: BTreeMap::from([("mailrelay.dev/relay".into(), "corporate".into())]),
            running: BTreeSet::from(["mailrelay".into()]),
            ..PodFacts::default()
        })
        .collect();
    let world = World { plan: Arc::new(plan(&[relay], &pods, false, &Ownership::default())), ..World::default() };
    let measured = Measured { depths: Some(Depths::default()), ..Measured::default() };
    Scene { world, measured, now: 1_000 }
}

impl Scene {
    /// The ledger of `mx`: for each pod its share and its claim.
    fn ledger(mut self, state: LedgerState, holders: &[(&str, u32, u32)]) -> Self {
        let ledger = LedgerView {
            fence: "f".into(),
            token: "t".into(),
            state,
            epoch: 1,
            revision: 1,
            budget: 16,
            lease: Duration::from_secs(6),
            holders: holders
                .iter()
                .map(|(pod, _, claim)| HolderView {
                    inc: format!("inc-{pod}"),
                    pod_uid: format!("uid-{pod}"),
                    pod: format!("mail/{pod}"),
                    process: "p".into(),
                    boot_id: "b".into(),
                    generation: 1,
                    seq: 1,
                    claim: *claim,
                    limit: *claim,
                    want: 100,
                    open: claim / 2,
                    busy: 0,
                })
                .collect(),
            entitlements: holders.iter().map(|(pod, share, _)| (format!("uid-{pod}"), *share)).collect(),
            generations: BTreeMap::new(),
            quarantine: Vec::new(),
            version: 1,
            servers: BTreeSet::new(),
            floor: 0,
        };
        self.world.pools.insert("mx".into(), PoolView { ledger: Some(ledger), ..PoolView::default() });
        self
    }

    /// So many slots of `mx` are withheld.
    fn withheld(mut self, slots: u32) -> Self {
        let entry = QuarantineView { id: "w".into(), slots, seconds: 330, why: "killed".into() };
        let ledger = self.world.pools.get_mut("mx").and_then(|pool| pool.ledger.as_mut());
        ledger.expect("a ledger").quarantine.push(entry);
        self
    }

    /// What the leader knows of a pool: these holders with a share of 8 each, and 4 slots withheld that `mail/gone` held.
    fn mirror(mut self, pool: &str, pods: &[&str]) -> Self {
        let holder = |pod: &&str| MirroredHolder {
            pod_uid: format!("uid-{pod}"),
            share: 8,
            incarnation: Some(Incarnation {
                inc: format!("inc-{pod}"),
                pod: format!("mail/{pod}"),
                process: "p".into(),
                boot_id: "b".into(),
                claim: 8,
            }),
        };
        let entry = QuarantineView { id: "q".into(), slots: 4, seconds: 300, why: "silent".into() };
        let withheld = MirroredQuarantine { entry, pod: Some("mail/gone".into()), left: Duration::from_secs(300) };
        let mirror =
            Mirror { holders: pods.iter().map(holder).collect(), quarantine: vec![withheld], ..Mirror::default() };
        self.world.pools.entry(pool.into()).or_default().mirror = mirror;
        self
    }

    fn depths(mut self, depths: Depths) -> Self {
        self.measured.depths = Some(depths);
        self
    }

    fn report(mut self, pod: &str, unavailable: Option<(&str, &str)>) -> Self {
        let report = json!({
            "pod": pod, "process": "p", "version": "1",
            "servers": [{ "name": "primary", "unavailable": unavailable.map(|(reason, message)| json!({ "reason": reason, "message": message })) }],
        });
        self.measured.reports.read.insert(format!("uid-{pod}"), serde_json::from_value(report).expect("a report"));
        self
    }

    fn after(&self, old: &MailRelayStatus) -> MailRelayStatus {
        let key = RelayKey { namespace: "mail".into(), name: "corporate".into() };
        let now = Timestamp::from_second(self.now).expect("a time");
        status(&Facts::of(&self.world, &self.world.plan.relays[&key], &self.measured, old, now), old)
    }

    fn show(&self) -> MailRelayStatus {
        self.after(&MailRelayStatus::default())
    }
}

fn condition<'a>(status: &'a MailRelayStatus, kind: &str) -> Option<&'a Condition> {
    status.conditions.iter().find(|condition| condition.type_ == kind)
}

fn says(status: &MailRelayStatus, kind: &str) -> (String, String) {
    condition(status, kind).map_or_else(Default::default, |c| (c.status.clone(), c.reason.clone()))
}

fn pair(status: &str, reason: &str) -> (String, String) {
    (status.into(), reason.into())
}

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
fn the_queue_raises_alarms_above_its_thresholds_and_not_at_them() {
    let with = |depths| scene(&[]).depths(depths).show();
    let pending = |pending| Depths { pending, ..Depths::default() };
    assert_eq!(says(&with(pending(1_000)), "QueueDepthHigh"), pair("False", "BelowThreshold"));
    assert_eq!(says(&with(pending(1_001)), "QueueDepthHigh"), pair("True", "AboveThreshold"));
    assert_eq!(says(&with(pending(99_999)), "QueueFull"), pair("False", "BelowCapacity"));
    let full = Depths { pending: 60_000, delayed: 40_000, ..Depths::default() };
    assert_eq!(says(&with(full), "QueueFull"), pair("True", "AtCapacity"));
    let parked = with(Depths { dead: 1, held: 2, ..Depths::default() });
    assert_eq!(says(&parked, "DeadLettersPresent").0, "True");
    assert_eq!(says(&parked, "OutcomeUnknown").0, "True");
    let waiting =
        |since: u64| with(Depths { pending: 1, oldest: Some(UnixMillis(since * 1_000)), ..Depths::default() });
    assert_eq!(says(&waiting(700), "MailDelayed"), pair("False", "InTime"));
    assert_eq!(says(&waiting(699), "MailDelayed"), pair("True", "OldestTooOld"));
}

#[test]
fn mail_that_is_not_accounted_for_is_told_and_what_cannot_be_verified_is_not_called_true() {
    let with = |audit: Audit| {
        let mut scene = scene(&[]);
        scene.measured.audit = Some(audit);
        says(&scene.show(), "AuditMismatch")
    };
    assert_eq!(with(Audit::default()), pair("False", "AllAccountedFor"));
    assert_eq!(
        with(Audit { accepted: 2, delivered: 1, difference: 1, ..Audit::default() }),
        pair("True", "MailMissing")
    );
    assert_eq!(with(Audit { delivered: 1, difference: -1, ..Audit::default() }), pair("True", "MailUnaccounted"));
    let doubted = Audit { unverified: vec!["the counters are gone".into()], ..Audit::default() };
    assert_eq!(with(doubted), pair("Unknown", "NotVerified"));
}

#[test]
fn what_cannot_be_measured_stays_as_it_was() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    scene.measured.depths = Some(Depths { pending: 5_000, ..Depths::default() });
    let before = scene.show();
    scene.measured.depths = None;
    scene.world.store_problem = Some("gone".into());
    scene.world.pools.clear();
    let after = scene.after(&before);
    assert_eq!(after.queue, before.queue);
    assert_eq!(condition(&after, "QueueDepthHigh"), condition(&before, "QueueDepthHigh"));
    assert_eq!(after.budget, before.budget);
    assert_eq!(after.servers[0].state, "Unknown");
    assert_eq!(says(&after, "Reconciling"), pair("True", "StoreUnreachable"));
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
fn figures_alone_are_not_worth_a_write_at_once() {
    let before = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]).show();
    let busier = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    let busier = busier.depths(Depths { pending: 7, in_flight: 16, ..Depths::default() }).show();
    assert_ne!(before, busier);
    assert_eq!(steady(&before), steady(&busier));
    let alarm = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    let alarm = alarm.depths(Depths { pending: 5_000, ..Depths::default() }).show();
    assert_ne!(steady(&before), steady(&alarm));
    let moved = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]).show();
    assert_ne!(steady(&before), steady(&moved));
}

#[test]
fn a_server_is_unavailable_only_when_no_worker_can_use_it() {
    let scene = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]);
    let scene = scene.report("a", Some(("ConnectFailed", "refused"))).report("b", None);
    assert_eq!(says(&scene.show(), "ServerUnavailable"), pair("False", "ServersAvailable"));
    let scene = scene.report("b", Some(("ConnectFailed", "refused")));
    let status = scene.show();
    assert_eq!(says(&status, "ServerUnavailable"), pair("True", "ConnectFailed"));
    assert_eq!(status.servers[0].state, "Unavailable");
}

#[test]
fn mail_that_waits_for_a_rate_limit_is_told_with_the_limit_and_is_no_failure() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 10)]).report("a", None);
    assert_eq!(condition(&scene.show(), "RateLimited"), None);
    let limits = serde_json::from_value(json!([
        { "count": 30, "interval": "1m" }, { "unit": "Recipient", "count": 500, "interval": "1h" },
    ]));
    let key = RelayKey { namespace: "mail".into(), name: "corporate".into() };
    let plan = std::sync::Arc::make_mut(&mut scene.world.plan);
    let relay = plan.relays.get_mut(&key).expect("the relay");
    relay.published.servers[0].rate_limits = limits.expect("limits");
    scene.measured.reports.read.get_mut("uid-a").expect("its report").servers[0].rate_limited = true;
    let status = scene.show();
    assert_eq!((says(&status, "RateLimited"), says(&status, "Ready").0), (pair("True", "MailWaits"), "True".into()));
    let message = &condition(&status, "RateLimited").expect("the condition").message;
    assert!(message.contains("primary takes 30 mails in 1m and 500 recipients in 1h"), "{message}");
}

#[test]
fn a_server_with_a_lower_limit_than_the_budget_is_saturated_and_not_unavailable() {
    let scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 10)]);
    let status = scene.report("a", Some(("TooManyConnections", "421 too many connections"))).show();
    assert_eq!(says(&status, "ServerUnavailable"), pair("False", "ServersAvailable"));
    assert_eq!(says(&status, "ServerSaturated"), pair("True", "ServerLimitBelowBudget"));
}

#[test]
fn row_38_a_server_that_refuses_us_names_the_setting_to_look_at() {
    let two = || scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 8, 8), ("b", 8, 8)]);
    assert_eq!(condition(&two().show(), "ServerRefusesUs"), None);
    for (reason, setting) in [
        ("RelayDenied", "right to relay"),
        ("LoginRequired", "servers[].auth"),
        ("HeloRefused", "--helo"),
        ("ClientRefused", "address that our connections come from"),
        ("Blocked", "list that the server names"),
        ("SenderRefused", "sender of our mails"),
        ("RecipientRefused", "server's own log"),
        ("PolicyRefused", "server's own log"),
    ] {
        // One worker is enough: the others may have had nothing to send.
        let status = two().report("a", Some((reason, "554 no"))).report("b", None).show();
        assert_eq!(says(&status, "ServerRefusesUs"), pair("True", reason));
        let message = &condition(&status, "ServerRefusesUs").expect("a condition").message;
        assert!(message.contains(setting) && message.contains("554 no"), "{message}");
    }
    let status = two().report("a", Some(("ConnectFailed", "refused"))).show();
    assert_eq!(condition(&status, "ServerRefusesUs"), None);
}

#[test]
fn row_38_a_relay_whose_mail_mostly_dies_says_that_it_rests() {
    let scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]);
    let status = scene.report("a", Some(("DeadLetterSurge", "550 5.1.1 who?"))).show();
    assert_eq!(says(&status, "DeadLetterSurge"), pair("True", "MostMailDies"));
    assert!(condition(&status, "DeadLetterSurge").expect("a condition").message.contains("550 5.1.1 who?"));
}

#[test]
fn a_missing_secret_stalls_the_relay() {
    let scene =
        scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 16)]).report("a", Some(("SecretMissing", "no file")));
    assert_eq!(says(&scene.show(), "Stalled"), pair("True", "SecretMissing"));
}

#[test]
fn withheld_slots_are_told_with_their_pod_their_end_and_what_to_do() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Open, &[("a", 16, 12)]).mirror("mx", &["a"]);
    let pool = scene.world.pools.get_mut("mx").expect("the pool");
    let entry = QuarantineView { id: "q".into(), slots: 4, seconds: 300, why: "silent".into() };
    pool.ledger.as_mut().expect("the ledger").quarantine.push(entry);
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
    scene.world.pools.get_mut("mx").expect("the pool").mirror.quarantine[0].left = Duration::from_secs(293);
    assert_eq!(scene.after(&status), status);
    scene.world.pools.get_mut("mx").expect("the pool").mirror.quarantine.clear();
    assert_eq!(condition(&scene.after(&status), "SlotsQuarantined"), None);
}

#[test]
fn of_many_withheld_slots_the_message_names_some_and_counts_all() {
    let mut scene = scene(&[]).mirror("mx", &[]);
    let quarantine = &mut scene.world.pools.get_mut("mx").expect("the pool").mirror.quarantine;
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
fn the_store_is_judged_on_every_relay() {
    let mut scene = scene(&[]);
    assert_eq!(condition(&scene.show(), "StoreUnsafe"), None);
    scene.measured.safety = Safety::Unsafe { reason: "AofOff", message: "appendonly is off".into() };
    assert_eq!(says(&scene.show(), "StoreUnsafe"), pair("True", "AofOff"));
    scene.measured.safety = Safety::Hidden { message: "CONFIG GET".into() };
    assert_eq!(says(&scene.show(), "StoreUnsafe"), pair("Unknown", "SettingsHidden"));
}

#[test]
fn a_server_that_takes_fewer_sessions_shows_the_effective_budget_and_is_no_arrear() {
    let mut scene = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 5, 5), ("b", 4, 4)]);
    let pool = scene.world.pools.get_mut("mx").expect("just made");
    (pool.effective, pool.ledger.as_mut().expect("a ledger").budget) = (Some(9), 12);
    let status = scene.show();
    assert_eq!(says(&status, "ServerSaturated"), pair("True", "ServerLimitBelowBudget"));
    assert!(condition(&status, "ServerSaturated").is_some_and(|c| c.message.contains("9 of the 16 of mx")));
    assert!(condition(&status, "Reconciling").is_none(), "{status:?}");
    let budget = status.budget.expect("figures");
    assert_eq!((budget.total, budget.effective), (16, 9));
}

fn budgets(status: &MailRelayStatus) -> Vec<&str> {
    status.leases.iter().map(|lease| &*lease.budget_name).collect()
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
    scene.world.pools.get_mut("mx").expect("the pool").ledger = None;
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
    over.world.pools.clear();
    assert_eq!(budgets(&over.after(&shown)), Vec::<&str>::new());
}

#[test]
fn a_relay_that_was_refused_a_budget_shows_nobody_s_pods() {
    let scene = scene(&["a"]).mirror("mx", &["a"]);
    let key = RelayKey { namespace: "mail".into(), name: "corporate".into() };
    let mut relay = scene.world.plan.relays[&key].clone();
    relay.stalled = Some(crate::controller::plan::Stall { reason: "BudgetConflict", message: "taken".into() });
    let facts = Facts::of(&scene.world, &relay, &scene.measured, &scene.show(), Timestamp::UNIX_EPOCH);
    assert_eq!(facts.leases, []);
}

#[test]
fn a_budget_that_waits_for_what_another_one_still_counts_says_so() {
    let mut scene = scene(&["a"]);
    let pool = scene.world.pools.entry("mx".into()).or_default();
    pool.waits_for.insert("old".into());
    let status = scene.show();
    assert_eq!(says(&status, "Ready"), pair("False", "ServerInOtherBudget"));
    let message = &condition(&status, "Ready").expect("the condition").message;
    assert!(message.contains("budget mx were of budget old before"), "{message}");
    // Who was there before goes on, and only those who come over wait.
    let mut used = scene.ledger(LedgerState::Open, &[("a", 16, 16)]);
    used.world.pools.get_mut("mx").expect("the pool").waits_for.insert("old".into());
    assert_eq!(says(&used.show(), "Ready"), pair("True", "AllSharesGranted"));
    assert_eq!(says(&used.show(), "Reconciling"), pair("True", "ServerInOtherBudget"));
}

#[test]
fn a_recovery_that_nothing_but_the_roll_call_ends_says_what_bounds_it() {
    let mut scene = scene(&["a"]).ledger(LedgerState::Rec, &[("a", 16, 16)]);
    scene.world.pools.get_mut("mx").expect("the pool").by_roll_call = true;
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
    report.record = Some(Unavailable { reason: "NewerVersion".into(), message: "the record: schema 2".into() });
    assert!(told(refusing).contains("the worker of pod a says of the record"));
    let mut newer = good();
    newer.measured.reports = Reports::read([("uid-a".to_owned(), r#"{"schema":2,"in":"other words"}"#.to_owned())]);
    assert!(told(newer).contains("the report of pod a: it has schema 2"));
}
