//! Conditions: a list of small pure functions, each from the facts to one condition.

mod queue;
mod ready;
mod servers;
mod slots;
mod store;
mod verdict;
mod workers;

pub use self::{
    slots::withheld,
    verdict::{HELD_BY_VANISHED, SCALED_TO_ZERO, SUSPENDED, Verdict, say},
};
use super::facts::Facts;
use crate::api::Condition;

type Judge = fn(&Facts<'_>) -> Option<Verdict>;

/// All conditions in the order in which they are shown, each with the function that judges it.
const JUDGES: [(&str, Judge); 19] = [
    ("Ready", ready::ready),
    ("Reconciling", ready::reconciling),
    ("Stalled", ready::stalled),
    ("QueueDepthHigh", queue::queue_depth_high),
    ("QueueFull", queue::queue_full),
    ("MailDelayed", queue::mail_delayed),
    ("DeadLettersPresent", queue::dead_letters_present),
    ("OutcomeUnknown", queue::outcome_unknown),
    ("AuditMismatch", queue::audit_mismatch),
    ("ServerUnavailable", servers::server_unavailable),
    ("ServerRefusesUs", servers::server_refuses_us),
    ("DeadLetterSurge", servers::dead_letter_surge),
    ("ServerSaturated", servers::server_saturated),
    ("RateLimited", servers::rate_limited),
    ("WorkersMissing", workers::workers_missing),
    ("StoreUnsafe", store::store_unsafe),
    ("VersionSkew", store::version_skew),
    ("SlotsQuarantined", slots::slots_quarantined),
    ("SharedBudget", slots::shared_budget),
];

/// The conditions that hold; transition times are kept from `old` where the status is the same.
pub fn conditions(facts: &Facts<'_>, old: &[Condition]) -> Vec<Condition> {
    let mut all = Vec::new();
    for (kind, judge) in JUDGES {
        let before = old.iter().find(|condition| condition.type_ == kind);
        let Some(verdict) = judge(facts) else {
            // What cannot be measured now stays as it was.
            if facts.measured.depths.is_none() && is_measured(kind) {
                all.extend(before.cloned());
            }
            continue;
        };
        all.push(verdict.condition(kind, facts.relay.generation, old, facts.now));
    }
    all
}

fn is_measured(kind: &str) -> bool {
    matches!(
        kind,
        "QueueDepthHigh" | "QueueFull" | "MailDelayed" | "DeadLettersPresent" | "OutcomeUnknown" | "AuditMismatch"
    )
}
