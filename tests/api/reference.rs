//! `docs/api.md`: every field of the resources, as the definitions have it. `docs/conditions.md`: every condition and reason.

use std::fmt::Write;

use kube::CustomResourceExt;
use mailrelay::api::{CONDITIONS, EVENTS, MailRelay, MailServer, ReasonDoc, SETUP, STORE, WORKER};
use serde_json::Value;

/// The page.
pub fn page() -> String {
    let mut page = String::from(
        "# The resources, field by field\n\n\
         Generated from the types in `src/api` by `make crd`; `kubectl explain` tells the same. What each is for, with examples: the\n\
         [README](../README.md#use-it) and [operations](operations.md).\n",
    );
    for definition in [MailRelay::crd(), MailServer::crd()] {
        let kind = definition.spec.names.kind.clone();
        let scope = if definition.spec.scope == "Cluster" { "of the cluster" } else { "of a namespace" };
        let version = &definition.spec.versions[0];
        let schema = serde_json::to_value(&version.schema).expect("JSON");
        let schema = &schema["openAPIV3Schema"];
        let _ = writeln!(page, "\n## {kind}\n\n`mailrelay.dev/{}`, {scope}. {}", version.name, text(schema));
        for part in ["spec", "status"] {
            let mut rows = Vec::new();
            walk(part, &schema["properties"][part], false, &mut rows);
            let _ = writeln!(page, "\n### {kind}.{part}\n\n| field | type | default | meaning |\n|---|---|---|---|");
            // The first row is the part itself.
            for row in rows.iter().skip(1) {
                let _ = writeln!(page, "{row}");
            }
        }
    }
    page
}

/// The page of conditions and reasons.
pub fn conditions() -> String {
    let mut page = String::from(
        "# Conditions, reasons and events\n\n\
         Generated from `src/api/conditions.rs` by `make crd`. `kubectl get mailrelay NAME -o yaml` shows the conditions of a relay, and\n\
         their messages say what is so there: since when, what it costs, and what to do. A condition that is not listed does not hold.\n\n\
         | condition | tells, when it is True | calls for attention when |\n|---|---|---|\n",
    );
    for of in CONDITIONS {
        let _ = writeln!(
            page,
            "| [`{0}`](#{1}) | {2} | {3} |",
            of.kind,
            of.kind.to_lowercase(),
            of.tells,
            of.alarm.unwrap_or("never")
        );
    }
    let groups =
        [("A setup that needs a change", SETUP), ("Redis and the API server", STORE), ("Workers and servers", WORKER)];
    for of in CONDITIONS {
        let _ = writeln!(page, "\n## {}\n\nTrue: {}.\n", of.kind, of.tells);
        reasons(&mut page, of.reasons, "status");
        let links = groups.iter().filter(|(_, group)| of.others.iter().any(|other| other[0].word == group[0].word));
        let links: Vec<String> =
            links.map(|(title, _)| format!("[{title}](#{})", title.to_lowercase().replace(' ', "-"))).collect();
        if !links.is_empty() {
            let also = if of.reasons.is_empty() { "The reasons of" } else { "\nAnd the reasons of" };
            let _ = writeln!(page, "{also} {}.", links.join(", "));
        }
    }
    for (title, group) in groups {
        let _ = writeln!(page, "\n## {title}\n");
        reasons(&mut page, group, "");
    }
    let _ = writeln!(page, "\n## Events\n\nBeside those that say that a condition began or ended, under its type:\n");
    reasons(&mut page, EVENTS, "type");
    page
}

fn reasons(page: &mut String, reasons: &[ReasonDoc], status: &str) {
    if reasons.is_empty() {
        return;
    }
    let (heading, line) = if status.is_empty() { (String::new(), "") } else { (format!(" {status} |"), "---|") };
    let _ = writeln!(page, "| reason |{heading} means | next |\n|---|{line}---|---|");
    for reason in reasons {
        let status = if status.is_empty() { String::new() } else { format!(" {} |", reason.status) };
        let _ = writeln!(page, "| `{}` |{status} {} | {} |", reason.word, reason.means, reason.next);
    }
}

/// One row for a field, and then those of the fields in it.
fn walk(path: &str, schema: &Value, required: bool, rows: &mut Vec<String>) {
    let default = match &schema["default"] {
        Value::Null if required => "required".to_owned(),
        // What an object is by default its fields say.
        Value::Null | Value::Object(_) => String::new(),
        value => format!("`{value}`"),
    };
    let mut meaning = text(schema);
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let _ = write!(meaning, " *{}.*", rule["message"].as_str().unwrap_or_default());
    }
    rows.push(format!("| `{path}` | {} | {default} | {} |", kind(schema), meaning.trim().replace('|', "\\|")));
    // Kubernetes' own types are told of elsewhere.
    if schema["properties"].get("matchLabels").is_some() || path.ends_with(".conditions") {
        return;
    }
    let (inner, path) = match schema.get("items") {
        Some(items) => (items, format!("{path}[]")),
        None => (schema, path.to_owned()),
    };
    let required: Vec<&str> = inner["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in inner["properties"].as_object().into_iter().flatten() {
        walk(&format!("{path}.{name}"), field, required.contains(&name.as_str()), rows);
    }
    if let Some(rules) = schema.get("items").and_then(|items| items["x-kubernetes-validations"].as_array()) {
        let each = rules.iter().filter_map(|rule| rule["message"].as_str());
        let each: Vec<String> = each.map(|message| format!("*{message}.*")).collect();
        rows.push(format!("| `{path}` | | | {} |", each.join(" ").replace('|', "\\|")));
    }
}

fn text(schema: &Value) -> String {
    schema["description"].as_str().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The type, with what bounds it.
fn kind(schema: &Value) -> String {
    if let Some(words) = schema["enum"].as_array() {
        let words: Vec<String> = words.iter().filter_map(Value::as_str).map(|word| format!("`{word}`")).collect();
        return words.join(", ");
    }
    let range = match (schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some(least), Some(most)) => format!(", {least} to {most}"),
        _ => String::new(),
    };
    match schema["type"].as_str().unwrap_or_default() {
        "array" => {
            let least = schema["minItems"].as_u64().unwrap_or(0);
            let size = schema["maxItems"].as_u64().map(|most| format!(", {least} to {most}")).unwrap_or_default();
            format!("list{size}")
        }
        "object" if schema.get("additionalProperties").is_some() => "map".to_owned(),
        other => format!("{other}{range}"),
    }
}
