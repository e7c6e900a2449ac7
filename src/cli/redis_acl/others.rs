//! Whether rules for one relay would reach what belongs to another.

use std::collections::BTreeSet;

use super::{super::relay::ANSWER_LIMIT, roles::Relay};
use crate::{
    api::{RelayRecord, Server, record_key, relay_of},
    queue::QueueNames,
    store::{Rules, Store, StoreError},
};

/// A relay that works, as its record says.
pub struct Other {
    relay: Relay,
    record: RelayRecord,
}

/// The relays that have a record and are not stalled, but for this one.
pub async fn all_but(store: &Store, own: &Relay) -> Result<Vec<Other>, StoreError> {
    let (mut others, mut seen, mut cursor) = (Vec::new(), BTreeSet::new(), 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(record_key("*", "*")).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<String>) = store.query(&scan, ANSWER_LIMIT).await?;
        for key in keys {
            let relay = relay_of(&key).and_then(Relay::read);
            let Some(relay) = relay.filter(|relay| relay != own) else { continue };
            if seen.insert(key.clone()) {
                let text: Option<Vec<u8>> = store.query(redis::cmd("GET").arg(&key), ANSWER_LIMIT).await?;
                let record = text.and_then(|text| RelayRecord::read(&text).ok());
                others.extend(record.filter(|record| record.stalled.is_none()).map(|record| Other { relay, record }));
            }
        }
        cursor = next;
        if cursor == 0 {
            return Ok(others);
        }
    }
}

/// Which keys of relays of other namespaces these rules reach: a sentence for each relay.
pub fn overlaps(rules: &Rules, own: &Relay, others: &[Other]) -> Vec<String> {
    let foreign = others.iter().filter(|other| other.relay.namespace != own.namespace);
    foreign
        .filter_map(|Other { relay, record }| {
            let places = QueueNames::from_spec(&record.spec.queue).places();
            let (field, place) = places.iter().find(|(_, place)| rules.reach(place))?;
            Some(format!("{place} of the relay {relay} (its spec.queue.{field})"))
        })
        .collect()
}

/// Who shares which of these budgets: a sentence for each.
pub fn sharers(budgets: &[String], others: &[Other]) -> Vec<String> {
    let sharing = |budget: &String| {
        let draws = |other: &&Other| other.record.spec.servers.iter().map(Server::pool).any(|pool| pool == *budget);
        let names: Vec<String> = others.iter().filter(draws).map(|other| other.relay.to_string()).collect();
        (!names.is_empty()).then(|| {
            format!(
                "the budget {budget} is shared with {}: each of them can write what the others hold of it (docs/safety.md, What each login reaches)",
                names.join(", ")
            )
        })
    };
    budgets.iter().filter_map(sharing).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{super::roles, *};

    fn other(relay: &str, queue: &serde_json::Value, budget: &str) -> Other {
        let record = json!({
            "epoch": 1, "revision": 1, "uid": "u", "generation": 1, "leaseMs": 6000,
            "spec": { "queue": queue, "servers": [{ "name": "s", "host": "h", "budgetName": budget }] },
        });
        Other { relay: Relay::read(relay).expect("a relay"), record: serde_json::from_value(record).expect("a record") }
    }

    #[test]
    fn keys_of_another_namespace_are_told_by_their_field() {
        let own = Relay::read("a/mail").expect("a relay");
        let rules = roles::worker(&own, &QueueNames::new("a", "a-dead"), &["mx".into()]);
        let others = [
            other("b/mail", &json!({ "name": "b", "deadLetterName": "b-dead", "payloadPrefix": "b-body:" }), "mx"),
            other("c/mail", &json!({ "name": "c", "deadLetterName": "c-dead" }), "mx-c"),
            other("d/mail", &json!({ "name": "d", "deadLetterName": "{a}:dead", "payloadPrefix": "d:" }), "mx-d"),
            other("a/other", &json!({ "name": "e", "deadLetterName": "e-dead" }), "mx"),
        ];
        assert_eq!(
            overlaps(&rules, &own, &others),
            [
                "mail:* of the relay c/mail (its spec.queue.payloadPrefix)",
                "{a}:dead of the relay d/mail (its spec.queue.deadLetterName)",
            ]
        );
        let told = sharers(&["mx".into(), "own".into()], &others);
        assert!(told.len() == 1 && told[0].contains("the budget mx is shared with b/mail, a/other:"), "{told:?}");
    }
}
