//! The API server's side of the contract: the generated definition and what its schema says.

use std::path::{Path, PathBuf};

use kube::core::cel::validate_cel_schema;
use mailrelay::api::{MailRelay, MailServer, Retention, definitions};
use serde_json::{Value, json};

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
fn who_deletes_all_deletes_no_relay() {
    // `kubectl delete all --all` takes what is in `all`; and a category that is called like a kind would make of
    // `kubectl get mailrelay corporate` a question for both kinds.
    let mail = Some(vec!["mail".to_owned()]);
    let relay = <MailRelay as kube::CustomResourceExt>::crd().spec.names;
    assert_eq!((relay.categories, relay.short_names), (mail.clone(), Some(vec!["relay".to_owned()])));
    assert_eq!(<MailServer as kube::CustomResourceExt>::crd().spec.names.categories, mail);
}

#[test]
fn the_generated_definitions_read_back_as_what_was_written() {
    let crds = [<MailRelay as kube::CustomResourceExt>::crd(), <MailServer as kube::CustomResourceExt>::crd()];
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

/// The sentences with which the API server's rules refuse a relay: with its defaults, when our types can hold it at all.
fn objections(relay: Value) -> String {
    let whole = serde_json::from_value::<MailRelay>(relay.clone()).ok();
    let whole = whole.map_or(relay, |relay| serde_json::to_value(relay).expect("JSON"));
    validate_cel_schema::<MailRelay>(&whole, None).map_or_else(|errors| errors.to_string(), |()| String::new())
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

#[test]
fn nonsense_is_refused_with_a_sentence_that_names_the_field() {
    let cases = [
        ("/spec/servers/0/host", json!("smtp://mail.example.com"), "host must be a host name"),
        ("/spec/servers/0/host", json!("mail.example.com:25"), "host must be a host name"),
        ("/spec/servers/0/host", json!("mail.example.com."), "host must be a host name"),
        ("/spec/servers/0/host", json!("two words"), "host must be a host name"),
        ("/spec/servers/0/tlsServerName", json!("mail.example.com:465"), "tlsServerName must be a host name"),
        ("/spec/servers", json!([{ "name": "a" }]), "either serverRef, which names a MailServer, or host"),
        (
            "/spec/servers/0/serverRef",
            json!({ "name": "corporate" }),
            "either serverRef, which names a MailServer, or host",
        ),
        ("/spec/servers/0/budgetName", json!("mailserver:corporate"), "are those of MailServers"),
        ("/spec/servers/0/sessionTimeout", json!("0s"), "sessionTimeout must be from 1s"),
        ("/spec/servers/0/closeGrace", json!("1h"), "closeGrace must be from 100ms to 5m"),
        ("/spec/servers/0/rateLimits", json!([{ "count": 30, "interval": "0s" }]), "interval must be from 1s"),
        ("/spec/servers/0/rateLimits", json!([{ "count": 30, "interval": "25h" }]), "interval must be from 1s to 24h"),
        ("/spec/retry", json!({ "initialBackoff": "2m" }), "retry.maxBackoff must not be shorter"),
        ("/spec/retry", json!({ "initialBackoff": "0s" }), "initialBackoff must be from 10ms"),
        (
            "/spec/servers",
            json!([{ "name": "a", "host": "10.0.0.25", "tls": "None", "tlsServerName": "mail.example.com" }]),
            "tlsServerName needs tls",
        ),
        (
            "/spec/queue",
            json!({ "name": "a", "deadLetterName": "a" }),
            "queue.name and queue.deadLetterName must differ",
        ),
        (
            "/spec/queue",
            json!({ "name": "mail:orders" }),
            "queue.name and queue.deadLetterName must not begin with queue.payloadPrefix",
        ),
        ("/spec/queue", json!({ "oldestThreshold": "0s" }), "oldestThreshold must be from 1s"),
        ("/spec/queue", json!({ "deadLetterRetention": "1s" }), "deadLetterRetention must be Forever or from 1m"),
        ("/spec/queue", json!({ "recordRetention": "721h" }), "recordRetention must be from 1m"),
        ("/spec/breaker", json!({ "pause": "0s" }), "pause must be from 100ms"),
        ("/spec/workers", json!({ "selector": {} }), "selector must not be empty"),
        ("/spec/workers", json!({ "selector": { "matchLabels": {} } }), "selector must not be empty"),
        ("/metadata/name", json!("a".repeat(64)), "metadata.name must be at most 63 characters"),
    ];
    for (field, value, sentence) in cases {
        let mut relay = corporate();
        let (parent, name) = field.rsplit_once('/').expect("a path");
        relay.pointer_mut(parent).expect("the field's parent")[name] = value.clone();
        let objections = objections(relay);
        assert!(objections.contains(sentence), "{field} = {value}: {objections:?} should say {sentence:?}");
    }
}

#[test]
fn names_of_our_own_keys_are_refused_by_the_rules_and_by_the_types() {
    let names = |name: &str, dead: &str, prefix: &str| {
        let mut relay = corporate();
        relay["spec"]["queue"] = json!({ "name": name, "deadLetterName": dead, "payloadPrefix": prefix });
        relay
    };
    for (relay, sentence) in [
        (names("q", "{q}:high", "mail:"), "is a key of the queue in its braces"),
        (names("q", "{other}:records:7", "mail:"), "is a key of the queue in its braces"),
        (names("q", "mailrelay:config:x", "mail:"), "are mailrelay's own"),
        (names("mailrelay:x", "dead", "mail:"), "are mailrelay's own"),
        (names("q", "dead", "mailrelay"), "are mailrelay's own"),
        (names("q", "dead", "{q}:delayed:"), "after the braces of queue.payloadPrefix"),
    ] {
        assert!(objections(relay.clone()).contains(sentence), "{relay}: {}", objections(relay.clone()));
        assert!(serde_json::from_value::<MailRelay>(relay.clone()).is_err(), "{relay}");
    }
    for relay in [names("q", "{q}:dead", "mail:"), names("q", "dead", "{q}:body:"), names("a:b", "a:c", "p-")] {
        assert_eq!(objections(relay), "");
    }
}

/// What a `MailServer` says is not silently overridden, or ignored, by the relay that names it.
#[test]
fn beside_a_server_reference_nothing_is_said_that_is_the_mail_servers_to_say() {
    let with = |field: &str, value: Value| {
        let mut relay = corporate();
        relay["spec"]["servers"] = json!([{ "name": "primary", "serverRef": { "name": "corporate" } }]);
        relay["spec"]["servers"][0][field] = value;
        objections(relay)
    };
    assert_eq!(with("suspend", json!(true)), "");
    for (field, value) in [
        ("port", json!(25)),
        ("budgetName", json!("mx")),
        ("tls", json!("StartTLS")),
        ("tlsServerName", json!("mx")),
        ("maxConnections", json!(16)),
        ("rateLimits", json!([{ "count": 30, "interval": "1m" }])),
        ("auth", json!("Plain")),
        ("maxMessagesPerConnection", json!(1)),
        ("sessionTimeout", json!("5m")),
        ("closeGrace", json!("2s")),
    ] {
        let objections = with(field, value);
        assert!(objections.contains("beside serverRef only name and suspend may be set"), "{field}: {objections}");
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

fn objections_to_server(server: Value) -> String {
    let whole = serde_json::from_value::<MailServer>(server.clone()).ok();
    let whole = whole.map_or(server, |server| serde_json::to_value(server).expect("JSON"));
    validate_cel_schema::<MailServer>(&whole, None).map_or_else(|errors| errors.to_string(), |()| String::new())
}

#[test]
fn a_mail_server_of_two_lines_is_accepted_and_nonsense_is_refused() {
    assert_eq!(objections_to_server(mail_server()), "");
    let server: MailServer = serde_json::from_value(mail_server()).expect("a server");
    assert_eq!((server.spec.max_connections, server.spec.endpoints[0].port), (16, 587));
    assert_eq!(server.spec.allowed_namespaces, None, "nobody borrows unless the platform says so");
    for (field, value, sentence) in [
        ("/spec/endpoints", json!([{ "host": "smtp://mx" }]), "host must be a host name"),
        ("/spec/endpoints", json!([{ "host": "mx" }, { "host": "mx.example.com:25" }]), "host must be a host name"),
        ("/spec/tlsServerName", json!("mx:465"), "tlsServerName must be a host name"),
        ("/spec/sharing", json!({ "weights": { "a": 3 } }), "sharing.weights needs sharing.policy Weighted"),
        ("/spec/sharing", json!({ "policy": "Weighted", "weights": { "a": 0 } }), "must be from 1 to 1000"),
        ("/spec/sessionTimeout", json!("25h"), "sessionTimeout must be from 1s to 24h"),
        ("/spec/closeGrace", json!("1ms"), "closeGrace must be from 100ms to 5m"),
        ("/spec/rateLimits", json!([{ "count": 30, "interval": "0s" }]), "interval must be from 1s"),
        ("/metadata/name", json!("a".repeat(64)), "metadata.name must be at most 63 characters"),
    ] {
        let mut server = mail_server();
        let (parent, name) = field.rsplit_once('/').expect("a path");
        server.pointer_mut(parent).expect("the field's parent")[name] = value.clone();
        let objections = objections_to_server(server);
        assert!(objections.contains(sentence), "{field} = {value}: {objections:?} should say {sentence:?}");
    }
    for (field, value, sentence) in
        [("auth", "Plain", "auth needs tls"), ("tlsServerName", "mx", "tlsServerName needs tls")]
    {
        let mut server = mail_server();
        (server["spec"]["tls"], server["spec"][field]) = (json!("None"), json!(value));
        assert!(objections_to_server(server).contains(sentence), "{field}");
    }
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
    for crd in [<MailRelay as kube::CustomResourceExt>::crd(), <MailServer as kube::CustomResourceExt>::crd()] {
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
