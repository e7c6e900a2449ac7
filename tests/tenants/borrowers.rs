//! Tenants that borrow the connections of one `MailServer`, which the platform owns.

use std::sync::Arc;

use mailsink::{Behaviour, Sink, SinkConfig};
use serde_json::{Value, json};
use testkit::eventually;

use crate::house::{House, Tenant, mail};

const BUDGET: &str = "mailserver:corporate";

/// A sink that takes a moment for each mail, so that sessions overlap.
async fn sink() -> Arc<Sink> {
    let sink = Sink::start(SinkConfig::default()).await.expect("the sink starts");
    sink.set_behaviour(slow(20));
    Arc::new(sink)
}

fn slow(milliseconds: u64) -> Behaviour {
    Behaviour { mail_delay_ms: milliseconds, ..Behaviour::default() }
}

fn server(sink: &Sink, change: impl FnOnce(&mut Value)) -> Value {
    let mut spec = json!({
        "endpoints": [{ "host": "127.0.0.1", "port": sink.smtp().port() }], "tls": "None", "maxConnections": 8,
        "closeGrace": "1s", "sessionTimeout": "1s", "allowedNamespaces": { "matchLabels": { "mail": "allowed" } },
    });
    change(&mut spec);
    json!({
        "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailServer",
        "metadata": { "name": "corporate", "uid": "uid-corporate", "generation": 1, "creationTimestamp": "2026-11-20T00:00:00Z" },
        "spec": spec,
    })
}

fn namespace(name: &str, labels: &Value) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name, "uid": name, "labels": labels } })
}

fn borrowed() -> Value {
    json!({ "name": "primary", "serverRef": { "name": "corporate" } })
}

/// A platform with this `MailServer`, and two tenants with a worker each who may borrow.
async fn platform(change: impl FnOnce(&mut Value), budget: impl Fn(&str) -> String) -> (House, [Tenant; 2]) {
    let mut house = House::empty();
    let sink = sink().await;
    house.api.put("mailservers", "/corporate", server(&sink, change));
    for name in ["team-a", "team-b"] {
        house.api.put("namespaces", &format!("/{name}"), namespace(name, &json!({ "mail": "allowed" })));
    }
    house.lead();
    let mut tenants = Vec::new();
    for name in ["team-a", "team-b"] {
        let mut tenant = Tenant::settle_at(&house, name, Arc::clone(&sink), &borrowed(), &budget(name)).await;
        tenant.add_worker(&house);
        tenants.push(tenant);
    }
    let Ok(tenants) = tenants.try_into() else { unreachable!("two") };
    (house, tenants)
}

/// Status and reason of a condition; nothing if it is not there.
fn reason(status: &Value, kind: &str) -> String {
    let mut conditions = status["conditions"].as_array().into_iter().flatten();
    let found = conditions.find(|condition| condition["type"] == kind);
    let word = |field: &str| found.and_then(|condition| condition[field].as_str()).unwrap_or_default();
    format!("{} {}", word("status"), word("reason"))
}

async fn shows(house: &House, collection: &str, key: &str, kind: &str, wanted: &str) -> Value {
    eventually(wanted, async || {
        let status = house.status(collection, key);
        if reason(&status, kind) == wanted { Ok(status) } else { Err(status.to_string()) }
    })
    .await
}

/// So many mails at once, as a producer without mailrelay pushes them.
fn send_many(house: &House, tenant: &Tenant, count: usize) {
    let mails: Vec<String> = (0..count).map(|number| mail(&format!("r{number}@example.org")).to_string()).collect();
    let queue = format!("{}-mail", tenant.name);
    let words: Vec<&str> = ["LPUSH", &queue].into_iter().chain(mails.iter().map(String::as_str)).collect();
    house.redis(&words);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tenants_share_the_connections_of_one_mail_server_and_see_nothing_of_each_other() {
    let (house, [a, b]) = platform(|_| {}, |_| BUDGET.to_owned()).await;
    for tenant in [&a, &b] {
        send_many(&house, tenant, 150);
    }
    for tenant in [&a, &b] {
        tenant.settled("all are delivered", 150).await;
    }
    let seen = a.sink.stats();
    assert_eq!((seen.accepted, seen.peak <= 8), (300, true), "{seen:?}");
    shows(&house, "mailservers", "/corporate", "Ready", "True Granting").await;
    let status = eventually("both have their part", async || {
        let status = house.status("mailservers", "/corporate");
        let parts: Vec<Value> = status["relays"].as_array().cloned().unwrap_or_default();
        let has = |namespace: &str| parts.iter().any(|part| part["namespace"] == namespace && part["share"] == 4);
        if has("team-a") && has("team-b") { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    assert_eq!((&status["budget"]["total"], &status["relayCount"]), (&json!(8), &json!(2)), "{status}");
    assert_eq!(status["leases"][0]["budgetName"], BUDGET, "the next leader finds here who holds what: {status}");
    for (tenant, other) in [(&a, "team-b"), (&b, "team-a")] {
        let status = shows(&house, "mailrelays", &tenant.relay(), "Ready", "True AllSharesGranted").await;
        assert!(!status.to_string().contains(other), "{status}");
        assert_eq!(reason(&status, "SharedBudget"), "True NamedByOthers");
    }
    house.nothing_was_refused();
    a.logs_are_clean();
    b.logs_are_clean();
}

async fn claims(tenant: &Tenant, wanted: &[u32]) {
    eventually("the slots are where they should be", async || {
        let snapshot = tenant.ledger.snapshot().await.map_err(|error| error.to_string())?;
        let view = snapshot.in_force().ok_or("no ledger")?;
        let mut claims: Vec<u32> = view.holders.iter().map(|holder| holder.claim).collect();
        claims.sort_unstable();
        if claims == wanted { Ok(()) } else { Err(format!("{view:?}")) }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_tenant_does_not_use_is_lent_to_the_other_and_its_weight_counts_when_it_has_mail() {
    let weighted = |spec: &mut Value| spec["sharing"] = json!({ "policy": "Weighted", "weights": { "team-a": 3 } });
    let (house, [a, b]) = platform(weighted, |_| BUDGET.to_owned()).await;
    b.all_rest_of(2).await;
    a.sink.set_behaviour(slow(100));
    send_many(&house, &a, 800);
    claims(&a, &[0, 8]).await;
    let status = shows(&house, "mailrelays", &b.relay(), "Ready", "True AllSharesGranted").await;
    assert_eq!(status["readyWorkers"], 1, "it rests, and is ready all the same: {status}");
    eventually("all are in use", async || match a.sink.stats().open {
        8 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    // The other tenant's mail does not wait for the end of that.
    send_many(&house, &b, 20);
    claims(&a, &[2, 6]).await;
    b.settled("it is delivered beside the other's", 20).await;
    let waiting = a.queue.audit().await.expect("an audit");
    assert!(waiting.delivered < 800, "{waiting:?}");
    a.settled("all are delivered", 800).await;
    assert!(a.sink.stats().peak <= 8, "{:?}", a.sink.stats());
    house.nothing_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_platform_changes_is_followed_live_and_without_its_server_mail_waits() {
    let (house, [a, b]) = platform(|_| {}, |_| BUDGET.to_owned()).await;
    send_many(&house, &a, 20);
    a.settled("it flows", 20).await;
    // Fewer connections, while mail flows.
    a.sink.set_behaviour(slow(100));
    send_many(&house, &a, 150);
    send_many(&house, &b, 150);
    house.api.edit("mailservers", "/corporate", |server| server["spec"]["maxConnections"] = json!(2));
    eventually("two are left", async || match a.sink.stats() {
        stats if stats.open <= 2 && stats.accepted < 320 => Ok(()),
        stats => Err(format!("{stats:?}")),
    })
    .await;
    // No server, nobody's leave: mail waits, and says why.
    let object = house.api.get("mailservers", "/corporate").expect("it is there");
    house.api.delete("mailservers", "/corporate");
    shows(&house, "mailrelays", &a.relay(), "Stalled", "True ServerNotFound").await;
    eventually("its sessions end", async || match a.sink.stats().open {
        0 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    let waiting = a.queue.audit().await.expect("an audit");
    assert_eq!((waiting.dead, waiting.held, waiting.difference), (0, 0, 0), "{waiting:?}");
    house.api.put("namespaces", "/team-b", namespace("team-b", &json!({})));
    house.api.put("mailservers", "/corporate", object);
    house.api.edit("mailservers", "/corporate", |server| server["spec"]["maxConnections"] = json!(8));
    a.settled("all is delivered", 170).await;
    shows(&house, "mailrelays", &b.relay(), "Stalled", "True NamespaceNotAllowed").await;
    house.api.put("namespaces", "/team-b", namespace("team-b", &json!({ "mail": "allowed" })));
    b.settled("all is delivered", 150).await;
    let seen = a.sink.stats();
    assert!(seen.peak <= 8 && seen.accepted == 320, "{seen:?}");
    house.nothing_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_counts_by_account_gives_each_relay_a_budget_of_its_own() {
    let account = |spec: &mut Value| {
        (spec["countedBy"], spec["maxConnections"]) = (json!("Account"), json!(3));
    };
    let (house, [a, b]) = platform(account, |name| format!("{BUDGET}:{name}:corporate")).await;
    for tenant in [&a, &b] {
        send_many(&house, tenant, 100);
    }
    for tenant in [&a, &b] {
        tenant.settled("all are delivered", 100).await;
        let snapshot = tenant.ledger.snapshot().await.expect("an answer");
        assert_eq!(snapshot.in_force().map(|ledger| ledger.budget), Some(3), "{}", tenant.name);
    }
    assert!(a.sink.stats().peak <= 6, "{:?}", a.sink.stats());
    let status = shows(&house, "mailservers", "/corporate", "Ready", "True Granting").await;
    assert_eq!(status["budget"]["total"], 6, "{status}");
    house.nothing_was_refused();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_relay_that_comes_over_to_a_mail_server_opens_no_session_beside_those_of_before() {
    let mut house = House::empty();
    let sink = sink().await;
    house.lead();
    let own = json!({
        "name": "primary", "host": "127.0.0.1", "port": sink.smtp().port(), "tls": "None", "maxConnections": 8,
        "closeGrace": "1s", "sessionTimeout": "1s",
    });
    let mut tenant = Tenant::settle_at(&house, "team-a", Arc::clone(&sink), &own, "127.0.0.1").await;
    tenant.add_worker(&house);
    send_many(&house, &tenant, 600);
    eventually("all sessions are in use", async || match sink.stats().open {
        8 => Ok(()),
        open => Err(format!("{open} are open")),
    })
    .await;
    // The server becomes the platform's while mail flows. Its budget is another ledger, so the worker's login is made anew.
    house.api.put("namespaces", "/team-a", namespace("team-a", &json!({ "mail": "allowed" })));
    house.api.put("mailservers", "/corporate", server(&sink, |_| {}));
    house.api.edit("mailrelays", "team-a/corporate", |relay| relay["spec"]["servers"] = json!([borrowed()]));
    house.record_until("team-a", |record| record["spec"]["servers"][0]["budgetName"] == BUDGET).await;
    house.login(&["worker", "--relay", "team-a/corporate"]);
    tenant.settled("all are delivered", 600).await;
    assert!(sink.stats().peak <= 8, "{:?}", sink.stats());
    shows(&house, "mailrelays", "team-a/corporate", "Ready", "True AllSharesGranted").await;
}
