//! Whether the API server would take an object: by the schema of its definition, the rules there, and our types. An object is
//! completed as it does that, too.
//!
//! Schemas of Kubernetes are a dialect of their own (defaults, lists that are maps, no unknown fields), which no library for
//! JSON Schema knows; the rules are evaluated by kube's.

use kube::{CustomResourceExt, core::cel::validate_cel_schema};
use regex::Regex;
use schemars::JsonSchema;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use crate::api::{MailRelay, MailServer};

/// The object with its defaults, or what is wrong with it, a sentence each that names the field.
pub fn check(object: Value) -> Result<Value, Vec<String>> {
    match object["kind"].as_str() {
        Some("MailRelay") => check_as::<MailRelay>(object),
        Some("MailServer") => check_as::<MailServer>(object),
        _ => Err(vec!["kind must be MailRelay or MailServer".into()]),
    }
}

fn check_as<K: CustomResourceExt + JsonSchema + Serialize + DeserializeOwned>(
    mut object: Value,
) -> Result<Value, Vec<String>> {
    let crd = K::crd();
    let version = &crd.spec.versions[0];
    let expected = format!("{}/{}", crd.spec.group, version.name);
    if object["apiVersion"] != *expected {
        return Err(vec![format!("apiVersion must be {expected}")]);
    }
    let schema = version.schema.as_ref().and_then(|schema| serde_json::to_value(&schema.open_api_v3_schema).ok());
    let schema = schema.unwrap_or_default();
    let spec = (&schema["properties"]["spec"], "spec");
    complete(spec.0, &mut object["spec"]);
    let mut wrong = Vec::new();
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        wrong.push("metadata.name: a name is required".into());
    }
    judge(spec.0, &object["spec"], spec.1, &mut wrong);
    if !wrong.is_empty() {
        return Err(wrong);
    }
    validate_cel_schema::<K>(&object, None)
        .map_err(|errors| errors.to_string().lines().map(ToOwned::to_owned).collect::<Vec<_>>())?;
    // What the API server cannot know: which names would be those of our own keys.
    serde_json::from_value::<K>(object.clone()).map_err(|error| vec![error.to_string()])?;
    Ok(object)
}

/// Fills in defaults. What is null where that means nothing is as if it were not said.
fn complete(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            let properties = schema["properties"].as_object();
            fields.retain(|name, value| {
                let nullable = properties.and_then(|all| all.get(name)).is_none_or(|of| of["nullable"] == true);
                nullable || !value.is_null()
            });
            for (name, of) in properties.into_iter().flatten() {
                if !fields.contains_key(name) && !of["default"].is_null() {
                    fields.insert(name.clone(), of["default"].clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    complete(of, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| complete(&schema["items"], item)),
        _ => {}
    }
}

/// What the schema has against a value, which lies at `path`.
fn judge(schema: &Value, value: &Value, path: &str, wrong: &mut Vec<String>) {
    if value.is_null() {
        if schema["nullable"] != true {
            wrong.push(format!("{path}: a value is required"));
        }
        return;
    }
    let wanted = schema["type"].as_str().unwrap_or_default();
    let fits = match wanted {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !fits {
        wrong.push(format!("{path}: {value} is no {wanted}"));
        return;
    }
    if let Some(choices) = schema["enum"].as_array().filter(|choices| !choices.contains(value)) {
        let choices: Vec<String> = choices.iter().map(Value::to_string).collect();
        wrong.push(format!("{path}: {value} is none of {}", choices.join(", ")));
    }
    match value {
        Value::Object(fields) => judge_fields(schema, fields, path, wrong),
        Value::Array(items) => judge_items(schema, items, path, wrong),
        Value::String(text) => judge_text(schema, text, path, wrong),
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            let size = |limit: &Value| limit.as_f64();
            if let Some(least) = size(&schema["minimum"]).filter(|least| number < *least) {
                wrong.push(format!("{path}: {value} is less than {least}"));
            }
            if let Some(most) = size(&schema["maximum"]).filter(|most| number > *most) {
                wrong.push(format!("{path}: {value} is more than {most}"));
            }
        }
        _ => {}
    }
}

fn judge_fields(schema: &Value, fields: &Map<String, Value>, path: &str, wrong: &mut Vec<String>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if fields.get(name).is_none_or(Value::is_null) {
            wrong.push(format!("{path}.{name}: a value is required"));
        }
    }
    if limit(schema, "maxProperties").is_some_and(|most| fields.len() > most) {
        wrong.push(format!("{path}: {} fields are more than {}", fields.len(), schema["maxProperties"]));
    }
    for (name, value) in fields {
        let path = format!("{path}.{name}");
        let other = Some(&schema["additionalProperties"]).filter(|of| of.is_object());
        match schema["properties"].get(name).or(other) {
            Some(of) => judge(of, value, &path, wrong),
            None if schema["x-kubernetes-preserve-unknown-fields"] == true => {}
            None => wrong.push(format!("{path}: there is no such field")),
        }
    }
}

fn judge_items(schema: &Value, items: &[Value], path: &str, wrong: &mut Vec<String>) {
    if limit(schema, "minItems").is_some_and(|least| items.len() < least) {
        wrong.push(format!("{path}: {} items are less than {}", items.len(), schema["minItems"]));
    }
    if limit(schema, "maxItems").is_some_and(|most| items.len() > most) {
        wrong.push(format!("{path}: {} items are more than {}", items.len(), schema["maxItems"]));
    }
    let keys: Vec<&Value> = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten().collect();
    let same = |one: &Value, other: &Value| match schema["x-kubernetes-list-type"].as_str() {
        Some("map") => keys.iter().filter_map(|key| key.as_str()).all(|key| one[key] == other[key]),
        Some("set") => one == other,
        _ => false,
    };
    for (at, item) in items.iter().enumerate() {
        if items[..at].iter().any(|before| same(before, item)) {
            wrong.push(format!("{path}[{at}]: it is there twice"));
        }
        judge(&schema["items"], item, &format!("{path}[{at}]"), wrong);
    }
}

fn judge_text(schema: &Value, text: &str, path: &str, wrong: &mut Vec<String>) {
    let length = text.chars().count();
    if limit(schema, "minLength").is_some_and(|least| length < least) {
        wrong.push(format!("{path}: \"{text}\" is shorter than {}", schema["minLength"]));
    }
    if limit(schema, "maxLength").is_some_and(|most| length > most) {
        wrong.push(format!("{path}: it is longer than {}", schema["maxLength"]));
    }
    if let Some(pattern) = schema["pattern"].as_str()
        && !Regex::new(pattern).is_ok_and(|pattern| pattern.is_match(text))
    {
        wrong.push(format!("{path}: \"{text}\" does not match {pattern}"));
    }
}

fn limit(schema: &Value, name: &str) -> Option<usize> {
    schema[name].as_u64().and_then(|limit| usize::try_from(limit).ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_completed_with_the_defaults_of_its_definition() {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay", "metadata": { "name": "r", "namespace": "mail" },
            "spec": { "servers": [{ "name": "primary", "host": "smtp.example.com" }], "queue": null },
        });
        let whole = check(relay).expect("it is sound");
        assert_eq!(whole["spec"]["queue"]["name"], "mail_queue");
        assert_eq!(whole["spec"]["retry"]["maxRetries"], 3);
    }

    #[test]
    fn a_field_that_does_not_exist_and_a_kind_that_is_not_ours_are_named() {
        let relay = json!({
            "apiVersion": "mailrelay.dev/v1alpha1", "kind": "MailRelay", "metadata": { "name": "r" },
            "spec": { "servers": [{ "name": "primary", "host": "mx", "maxConection": 3 }] },
        });
        let wrong = check(relay).expect_err("a slip");
        assert_eq!(wrong, ["spec.servers[0].maxConection: there is no such field"]);
        assert_eq!(check(json!({ "kind": "Pod" })).expect_err("a pod"), ["kind must be MailRelay or MailServer"]);
        let wrong = check(json!({ "apiVersion": "v1", "kind": "MailServer" })).expect_err("another version");
        assert_eq!(wrong, ["apiVersion must be mailrelay.dev/v1alpha1"]);
    }
}
