//! Objects that are refused, and what is said of each: `refused.tsv`.

use serde_json::{Value, json};

/// One of them.
pub struct Refused {
    /// `MailRelay` or `MailServer`.
    pub kind: &'static str,
    /// Where it is not as it should be, as a JSON pointer.
    pub place: &'static str,
    /// What is there.
    pub value: &'static str,
    /// What the refusal says.
    pub says: &'static str,
    /// Whether one of our rules refuses it, and not the schema.
    pub by_rule: bool,
    /// The object.
    pub object: Value,
}

/// All of them.
pub fn rows() -> Vec<Refused> {
    let lines = include_str!("refused.tsv").lines().filter(|line| !line.starts_with('#'));
    lines.map(|line| row(line).unwrap_or_else(|| panic!("no row of the table: {line}"))).collect()
}

fn row(line: &'static str) -> Option<Refused> {
    let [kind, place, value, says, by] = line.split('\t').collect::<Vec<_>>().try_into().ok()?;
    let mut object = sound(kind)?;
    let (parent, field) = place.rsplit_once('/')?;
    object.pointer_mut(parent)?[field] = serde_json::from_str(value).ok()?;
    let by_rule = match by {
        "rule" => true,
        "schema" => false,
        _ => return None,
    };
    Some(Refused { kind, place, value, says, by_rule, object })
}

/// An object of which nobody can say anything.
fn sound(kind: &str) -> Option<Value> {
    let (metadata, spec) = match kind {
        "MailRelay" => (
            json!({ "name": "refused", "namespace": "default" }),
            json!({ "servers": [{ "name": "primary", "host": "smtp.example.com" }] }),
        ),
        "MailServer" => (json!({ "name": "refused" }), json!({ "endpoints": [{ "host": "smtp.example.com" }] })),
        _ => return None,
    };
    Some(json!({ "apiVersion": "mailrelay.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec }))
}
