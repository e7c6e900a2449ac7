//! What is said of worker pods.

use super::verdict::{NAMED, Verdict, say};
use crate::{
    api::Reason,
    controller::status::facts::{AbsentWorker, Facts, troubles},
};

/// Whether a worker lacks what only a person can give it.
fn needs_a_person(reason: &Reason) -> bool {
    matches!(reason, Reason::SecretMissing | Reason::NoDeadManSwitch)
}

/// Whether no worker can send anything before a person does something: the reason and a sentence.
pub fn all_need_a_person<'a>(facts: &Facts<'a>) -> Option<(&'a str, String)> {
    let reports = &facts.measured.reports.read;
    let needs = |uid: &String| {
        let servers = &reports.get(uid)?.servers;
        let needing = servers.iter().filter_map(|server| {
            let trouble = server.unavailable.as_ref()?;
            needs_a_person(&trouble.reason).then_some((&server.name, trouble))
        });
        let first = needing.clone().next()?;
        (needing.count() == servers.len()).then_some(first)
    };
    let mut all = facts.relay.workers.keys().map(needs);
    let (server, trouble) = all.next()??;
    let message = || format!("server {server}: {}, in every worker", trouble.message);
    all.all(|needs| needs.is_some()).then(|| (trouble.reason.as_str(), message()))
}

/// Pods that are selected and do not take part, and what the reason may be. The others go on.
pub fn workers_missing(facts: &Facts<'_>) -> Option<Verdict> {
    let mut reason = None;
    let mut sentences = Vec::new();
    let reports = &facts.measured.reports.read;
    for (uid, pod) in &facts.relay.workers {
        for (server, trouble) in troubles(facts, uid) {
            if needs_a_person(&trouble.reason) {
                reason.get_or_insert(trouble.reason.as_str());
                sentences.push(format!("pod {pod}, server {server}: {}", trouble.message));
            }
        }
    }
    for absent in &facts.absent {
        reason.get_or_insert("NotRegistered");
        let lent = format!("its share of {} is lent to the others until it does", absent.budgets.join(", "));
        let why = likely_reason(facts, absent, reports.contains_key(absent.uid));
        sentences.push(format!("pod {} never registered, and {lent}; {why}", absent.pod));
    }
    let more = sentences.len().saturating_sub(NAMED);
    sentences.truncate(NAMED);
    if more > 0 {
        sentences.push(format!("and {more} more"));
    }
    say(true, reason?, sentences.join("; "))
}

fn likely_reason(facts: &Facts<'_>, absent: &AbsentWorker<'_>, reports: bool) -> String {
    if let Some(budget) = absent.registered_with {
        return format!("its worker is registered with {budget}, so that its MAILRELAY_NAME names another relay");
    }
    if !absent.selected_by.is_empty() {
        let others: Vec<String> = absent.selected_by.iter().map(ToString::to_string).collect();
        return format!(
            "it is selected by {} as well, and works for one relay only, the one that its MAILRELAY_NAME names",
            others.join(", ")
        );
    }
    let relay = &facts.relay.relay;
    let (namespace, container) =
        (relay.metadata.namespace.as_deref().unwrap_or_default(), &relay.spec.workers.container);
    let log = format!("see kubectl logs -n {namespace} {} -c {container}", absent.pod);
    if reports {
        return format!("its worker follows this relay and asks for no share; {log}");
    }
    format!(
        "no worker in it was heard of: its MAILRELAY_NAME may name another relay, its container {container} may run another \
         image, or it cannot reach Redis; {log}"
    )
}
