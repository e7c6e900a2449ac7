//! What is said of a relay's slots.

use super::verdict::{HELD_BY_VANISHED, NAMED, Verdict, say};
use crate::{
    api::{LeaseStatus, QuarantineStatus},
    controller::status::facts::Facts,
};

/// Nobody may use them: since the server may still count their connections, or since a pod holds them that is gone from
/// the API server while its process may go on (deleted by force, or with its node out of reach).
pub fn slots_quarantined(facts: &Facts<'_>) -> Option<Verdict> {
    let mut sentences = Vec::new();
    for (holder, node) in facts.vanished.iter().take(NAMED) {
        let (slots, pod, node) = (holder.claim, &holder.pod, node.unwrap_or("its node"));
        sentences.push(format!(
            "{slots} slots are held by {pod}, which is gone from the API server, while its process may go on; they come \
             back when it has ended: look for it on {node}"
        ));
    }
    sentences.extend(withheld(&facts.leases));
    (!sentences.is_empty()).then_some(())?;
    let reason = if facts.vanished.is_empty() { "SessionsMayLinger" } else { HELD_BY_VANISHED };
    say(true, reason, sentences.join("; "))
}

/// Which slots are withheld, as a sentence.
pub fn withheld(leases: &[LeaseStatus]) -> Option<String> {
    let entries = leases.iter().flat_map(|lease| lease.quarantine.iter().map(|entry| (&*lease.budget_name, entry)));
    let mut withheld: Vec<(&str, &QuarantineStatus)> = entries.collect();
    withheld.sort_by_key(|(budget, quarantine)| (*budget, std::cmp::Reverse(quarantine.slots), &quarantine.id));
    (!withheld.is_empty()).then_some(())?;
    let slots: i32 = withheld.iter().map(|(_, quarantine)| quarantine.slots).sum();
    let each: Vec<String> = withheld.iter().take(NAMED).map(|(budget, q)| describe(budget, q)).collect();
    let more = withheld.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(", and {more} more in status.leases") } else { String::new() };
    Some(format!(
        "{slots} slots are withheld, since the server may still count their connections: {}{more}; each comes back by \
         itself then, or as soon as the server's end of its connection is seen, and nothing done by hand proves that \
         (sessionTimeout says how long the server keeps the session of a dead client)",
        each.join(", ")
    ))
}

fn describe(budget: &str, quarantine: &QuarantineStatus) -> String {
    let QuarantineStatus { id, pod, slots, why, until, .. } = quarantine;
    let pod = pod.as_ref().map_or_else(String::new, |pod| format!("{pod}, "));
    format!("{slots} of {budget} ({pod}{}, {id}) until {}", why.replace('_', " "), until.0)
}

pub fn shared_budget(facts: &Facts<'_>) -> Option<Verdict> {
    say(true, "NamedByOthers", facts.relay.shared.as_ref()?)
}
