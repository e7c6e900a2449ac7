//! Which pods a selector selects, found by label: thousands of relays that each looked at all pods of a cluster would look at
//! too many.

use std::collections::BTreeMap;

use kube::core::{Expression, Selector, SelectorExt};

use crate::controller::observe::PodFacts;

/// Pods by namespace, and by each label in it.
pub struct Selection<'a> {
    by_namespace: BTreeMap<&'a str, Vec<&'a PodFacts>>,
    by_label: BTreeMap<(&'a str, &'a str, &'a str), Vec<&'a PodFacts>>,
}

impl<'a> Selection<'a> {
    /// Among these pods, but those that are being deleted.
    pub fn among(pods: impl IntoIterator<Item = &'a PodFacts>) -> Self {
        let mut all = Self { by_namespace: BTreeMap::new(), by_label: BTreeMap::new() };
        for pod in pods.into_iter().filter(|pod| !pod.terminating) {
            all.by_namespace.entry(&pod.namespace).or_default().push(pod);
            for (key, value) in &*pod.labels {
                all.by_label.entry((&pod.namespace, key, value)).or_default().push(pod);
            }
        }
        all
    }

    /// The pods of a namespace that a selector selects.
    pub fn of(&self, namespace: &str, selector: &Selector) -> Vec<&'a PodFacts> {
        // Nearly all selectors ask for a label's value; whatever else one asks for, it is asked of few pods then.
        let label = selector.clone().into_iter().find_map(|expression| match expression {
            Expression::Equal(key, value) => Some((key, value)),
            _ => None,
        });
        let candidates = match &label {
            Some((key, value)) => self.by_label.get(&(namespace, key.as_str(), value.as_str())),
            None => self.by_namespace.get(namespace),
        };
        candidates.into_iter().flatten().copied().filter(|pod| selector.matches(&pod.labels)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
    use serde_json::json;

    use super::*;

    fn pod(uid: String, namespace: &str, labels: &[(&str, &str)]) -> PodFacts {
        let labels = labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        let labels = Arc::new(labels.collect());
        PodFacts { uid, namespace: namespace.into(), labels, ..PodFacts::default() }
    }

    #[test]
    fn a_pod_is_found_by_whatever_a_selector_may_ask_for() {
        let mut pods = Vec::new();
        for namespace in ["one", "two"] {
            for app in ["web", "db", ""] {
                for tier in ["front", "back"] {
                    let labels = [("app", app), ("tier", tier)];
                    let uid = format!("{namespace}-{app}-{tier}");
                    pods.push(pod(uid.clone(), namespace, if app.is_empty() { &labels[1..] } else { &labels }));
                    pods.push(PodFacts { terminating: true, ..pod(uid + "-ending", namespace, &labels) });
                }
            }
        }
        let selectors = [
            json!({ "matchLabels": { "app": "web" } }),
            json!({ "matchLabels": { "app": "web", "tier": "back" } }),
            json!({ "matchLabels": { "app": "none" } }),
            json!({ "matchExpressions": [{ "key": "app", "operator": "In", "values": ["web", "db"] }] }),
            json!({ "matchExpressions": [{ "key": "app", "operator": "DoesNotExist" }] }),
            json!({ "matchExpressions": [{ "key": "app", "operator": "NotIn", "values": ["web"] }] }),
            json!({ "matchLabels": { "tier": "back" }, "matchExpressions": [{ "key": "app", "operator": "Exists" }] }),
        ];
        let selection = Selection::among(&pods);
        let mut found = 0;
        for selector in selectors {
            let wanted: LabelSelector = serde_json::from_value(selector.clone()).expect("a selector");
            let wanted = Selector::try_from(wanted).expect("a selector that makes sense");
            for namespace in ["one", "two", "three"] {
                let is_mine =
                    |pod: &&PodFacts| pod.namespace == namespace && !pod.terminating && wanted.matches(&pod.labels);
                let looked_for: Vec<&str> = pods.iter().filter(is_mine).map(|pod| &*pod.uid).collect();
                let selected: Vec<&str> = selection.of(namespace, &wanted).iter().map(|pod| &*pod.uid).collect();
                assert_eq!(selected, looked_for, "{selector} in {namespace}");
                found += selected.len();
            }
        }
        assert_eq!(found, 2 * (2 + 1 + 4 + 2 + 4 + 2), "each selector but one selects something");
    }
}
