//! The API server's side of the contract: the generated definition and what its schema says.

use std::path::{Path, PathBuf};

use kube::{CustomResourceExt, core::cel::validate_cel_schema};
use mailrelay::{
    api::{CONDITIONS, MailRelay, MailServer, Reason, Retention, SETUP, STORE, WORKER, definitions, is_documented},
    controller::dev::check,
};
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

mod reference;
mod refused;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Compares a committed file with what it is generated from; with `UPDATE=1` writes it instead.
fn assert_fresh(path: &str, generated: &str) {
    let file = root().join(path);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, generated).expect("the generated file is written");
    }
    let committed = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(committed == generated, "{path} is stale: run `make crd` and commit the result");
}

#[test]
fn the_committed_definitions_are_the_generated_ones_and_the_chart_carries_them() {
    let template = std::fs::read_to_string(root().join("charts/mailrelay/templates/crd.yaml")).expect("the template");
    assert!(template.contains("helm.sh/resource-policy: keep"));
    for definition in definitions().expect("YAML") {
        let plural = definition.plural;
        assert_fresh(&format!("crds/{plural}.yaml"), &definition.yaml);
        assert_fresh(&format!("charts/mailrelay/files/{plural}.yaml"), &definition.yaml);
        assert!(template.contains(&format!("\"{plural}\"")), "the template installs {plural}");
    }
}

#[test]
fn the_reference_is_of_these_definitions() {
    assert_fresh("docs/api.md", &reference::page());
    assert_fresh("docs/conditions.md", &reference::conditions());
}

#[test]
fn who_deletes_all_deletes_no_relay() {
    // `kubectl delete all --all` takes what is in `all`; and a category that is called like a kind would make of
    // `kubectl get mailrelay corporate` a question for both kinds.
    let mail = Some(vec!["mail".to_owned()]);
    let relay = MailRelay::crd().spec.names;
    assert_eq!((relay.categories, relay.short_names), (mail.clone(), Some(vec!["relay".to_owned()])));
    assert_eq!(MailServer::crd().spec.names.categories, mail);
}

#[test]
fn the_generated_definitions_read_back_as_what_was_written() {
    let crds = [MailRelay::crd(), MailServer::crd()];
    for (definition, written) in definitions().expect("YAML").iter().zip(crds) {
        let read: Value = serde_saphyr::from_str(&definition.yaml).expect("valid YAML");
        assert_eq!(read, serde_json::to_value(written).expect("JSON"));
    }
}

fn corporate() -> Value {
    json!({
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailRelay",
        "metadata": { "name": "corporate", "namespace": "mail" },
        "spec": { "servers": [{ "name": "primary", "host": "smtp.example.com" }] },
    })
}

fn objections(relay: Value) -> String {
    objections_to::<MailRelay>(relay)
}

/// The sentences with which the API server's rules refuse an object: with its defaults, when our types can hold it at all.
fn objections_to<K>(object: Value) -> String
where
    K: JsonSchema + Serialize + DeserializeOwned,
{
    let whole = serde_json::from_value::<K>(object.clone()).ok();
    let whole = whole.map_or(object, |whole| serde_json::to_value(whole).expect("JSON"));
    validate_cel_schema::<K>(&whole, None).map_or_else(|errors| errors.to_string(), |()| String::new())
}

#[test]
fn a_relay_of_two_lines_is_accepted_with_the_documented_defaults() {
    assert_eq!(objections(corporate()), "");
    let relay: MailRelay = serde_json::from_value(corporate()).expect("a relay");
    let server = relay.spec.servers[0].inline().expect("a server of its own");
    let (queue, retry) = (&relay.spec.queue, &relay.spec.retry);
    assert_eq!((server.port, server.max_connections, server.max_messages_per_connection), (587, 16, 100));
    assert_eq!(server.pool(), "smtp.example.com");
    assert_eq!((&*queue.name, &*queue.dead_letter_name), ("mail_queue", "mail_dead_letter_queue"));
    assert_eq!((queue.max_length, queue.depth_threshold), (100_000, 1_000));
    assert_eq!(queue.dead_letter_retention, Retention::Forever);
    assert_eq!((retry.max_retries, retry.jitter_percent), (3, 20));
    assert_eq!((retry.initial_backoff.as_millis(), retry.max_backoff.as_millis()), (1_000, 60_000));
}

/// The table is also held to the API server, in `make test-e2e`: by all its rows there, by those of our rules here.
#[test]
fn nonsense_is_refused_with_a_sentence_that_names_the_field() {
    let rows = refused::rows();
    assert!(rows.len() >= 120, "{} rows", rows.len());
    for row in rows.iter().filter(|row| row.by_rule) {
        let objections = match row.kind {
            "MailServer" => objections_to::<MailServer>(row.object.clone()),
            _ => objections_to::<MailRelay>(row.object.clone()),
        };
        assert!(
            objections.contains(row.says),
            "{} = {}: {objections:?} should say {:?}",
            row.place,
            row.value,
            row.says
        );
    }
}

/// The same table without an API server: all its rows.
#[test]
fn mailrelay_dev_refuses_what_the_api_server_refuses_and_names_the_field() {
    let mut wrong = Vec::new();
    for row in refused::rows() {
        let said = check(row.object).err().map(|said| said.join("; ")).unwrap_or_default();
        if !said.contains(row.says) {
            wrong.push(format!("{} = {}: {said:?} should say {:?}", row.place, row.value, row.says));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_word_of_a_worker_and_every_condition_is_explained_once() {
    let words = WORKER.iter().chain(SETUP).chain(STORE).map(|reason| reason.word);
    let mut seen = std::collections::BTreeSet::new();
    assert!(words.clone().all(|word| seen.insert(word)), "a reason of two groups");
    // What a worker reports and has a name: that of a surge has a condition of its own.
    for reason in WORKER {
        let Ok(parsed) = reason.word.parse::<Reason>();
        assert!(!matches!(parsed, Reason::Other(_)), "no worker says {}", reason.word);
    }
    assert!(is_documented("Ready", "TlsFailed") && !is_documented("QueueFull", "TlsFailed"));
    assert!(!is_documented("Redy", "TlsFailed"));
    let kinds: std::collections::BTreeSet<_> = CONDITIONS.iter().map(|of| of.kind).collect();
    assert_eq!(kinds.len(), CONDITIONS.len());
}

#[test]
fn names_of_our_own_keys_are_refused_by_the_rules_and_by_the_types() {
    let names = |name: &str, dead: &str, prefix: &str| {
        let mut relay = corporate();
        relay["spec"]["queue"] = json!({ "name": name, "deadLetterName": dead, "payloadPrefix": prefix });
        relay
    };
    for relay in [
        names("q", "{q}:high", "mail:"),
        names("q", "{other}:records:7", "mail:"),
        names("q", "mailrelay:config:x", "mail:"),
        names("mailrelay:x", "dead", "mail:"),
        names("q", "dead", "mailrelay"),
        names("q", "dead", "{q}:delayed:"),
    ] {
        assert_ne!(objections(relay.clone()), "", "{relay}");
        assert!(serde_json::from_value::<MailRelay>(relay.clone()).is_err(), "{relay}");
    }
    for relay in [names("q", "{q}:dead", "mail:"), names("q", "dead", "{q}:body:"), names("a:b", "a:c", "p-")] {
        assert_eq!(objections(relay), "");
    }
}

fn mail_server() -> Value {
    json!({
        "apiVersion": "mailrelay.dev/v1alpha1",
        "kind": "MailServer",
        "metadata": { "name": "corporate" },
        "spec": { "endpoints": [{ "host": "smtp.example.com" }] },
    })
}

#[test]
fn a_mail_server_of_two_lines_is_accepted_with_the_documented_defaults() {
    assert_eq!(objections_to::<MailServer>(mail_server()), "");
    let server: MailServer = serde_json::from_value(mail_server()).expect("a server");
    assert_eq!((server.spec.max_connections, server.spec.endpoints[0].port), (16, 587));
    assert_eq!(server.spec.allowed_namespaces, None, "nobody borrows unless the platform says so");
}

#[test]
fn beside_a_server_reference_a_server_may_be_suspended() {
    let mut relay = corporate();
    relay["spec"]["servers"] = json!([{ "name": "primary", "serverRef": { "name": "corporate" }, "suspend": true }]);
    assert_eq!(objections(relay), "");
}

#[test]
fn credentials_never_travel_in_clear_text() {
    let mut relay = corporate();
    relay["spec"]["servers"][0]["auth"] = json!("Plain");
    assert_eq!(objections(relay.clone()), "");
    relay["spec"]["servers"][0]["tls"] = json!("None");
    assert!(objections(relay).contains("auth needs tls"));
}

#[test]
fn addresses_of_both_kinds_are_hosts() {
    for host in ["10.88.0.1", "2001:db8::25", "mx", "MAIL.Example.COM", "a-b.c"] {
        let mut relay = corporate();
        relay["spec"]["servers"][0]["host"] = json!(host);
        assert_eq!(objections(relay), "", "{host}");
    }
}

/// Every field that can be out of range says so in the schema, since the rules above do not see ranges.
#[test]
fn the_schema_bounds_every_number_list_and_text_of_the_spec() {
    fn walk(path: &str, schema: &Value, unbounded: &mut Vec<String>) {
        let has = |keys: &[&str]| keys.iter().any(|key| schema.get(key).is_some());
        let bounded = match schema["type"].as_str() {
            Some("integer") => has(&["minimum"]) && has(&["maximum"]),
            Some("string") => has(&["maxLength", "enum"]),
            Some("array") => has(&["maxItems"]),
            _ => true,
        };
        if !bounded {
            unbounded.push(path.to_owned());
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            walk(&format!("{path}.{name}"), property, unbounded);
        }
        if let Some(items) = schema.get("items") {
            walk(&format!("{path}[]"), items, unbounded);
        }
    }
    for crd in [MailRelay::crd(), MailServer::crd()] {
        let definition = serde_json::to_value(crd).expect("JSON");
        let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
        let mut unbounded = Vec::new();
        walk("spec", spec, &mut unbounded);
        // Label selectors are Kubernetes' own type.
        unbounded
            .retain(|path| !path.starts_with("spec.workers.selector") && !path.starts_with("spec.allowedNamespaces"));
        assert_eq!(unbounded, Vec::<String>::new());
    }
}
