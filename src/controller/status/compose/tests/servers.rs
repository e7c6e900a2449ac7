//! Servers: what they refuse, and what they take.

use super::*;

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
        ("HeloRefused", "heloName"),
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
fn a_server_that_takes_fewer_sessions_shows_the_effective_budget_and_is_no_arrear() {
    let mut scene = scene(&["a", "b"]).ledger(LedgerState::Open, &[("a", 5, 5), ("b", 4, 4)]);
    let pool = scene.pool("mx");
    pool.effective = Some(9);
    Arc::make_mut(pool.ledger.as_mut().expect("a ledger")).budget = 12;
    let status = scene.show();
    assert_eq!(says(&status, "ServerSaturated"), pair("True", "ServerLimitBelowBudget"));
    assert!(condition(&status, "ServerSaturated").is_some_and(|c| c.message.contains("9 of the 16 of mx")));
    assert!(condition(&status, "Reconciling").is_none(), "{status:?}");
    let budget = status.budget.expect("figures");
    assert_eq!((budget.total, budget.effective), (16, 9));
}
