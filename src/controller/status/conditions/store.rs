//! What is said of Redis, and of what was written there by another version.

use super::verdict::{NAMED, Verdict, say, unknown};
use crate::{
    api::Reason,
    controller::{observe::Safety, status::facts::Facts, trouble::NEWER_VERSION},
};

pub fn store_unsafe(facts: &Facts<'_>) -> Option<Verdict> {
    match &facts.measured.safety {
        Safety::Unknown => None,
        Safety::Safe => say(false, "Durable", "Redis keeps every write that it acknowledged"),
        Safety::Unsafe { reason, message } => say(true, *reason, message),
        Safety::Hidden { message } => Some(unknown("SettingsHidden", message.clone())),
    }
}

/// Something that this version, or a worker's, does not know since a newer one wrote it: it is left as it is.
pub fn version_skew(facts: &Facts<'_>) -> Option<Verdict> {
    let ledgers =
        facts.pools.values().filter_map(|pool| pool.trouble).filter(|trouble| trouble.reason == NEWER_VERSION);
    let ledgers = ledgers.map(|trouble| trouble.message.clone());
    let workers = || facts.relay.workers.iter();
    let records = workers().filter_map(|(uid, pod)| {
        let refused = facts.measured.reports.read.get(uid)?.record.as_ref()?;
        (refused.reason == Reason::NewerVersion).then(|| format!("the worker of pod {pod} says of {}", refused.message))
    });
    let reports = workers()
        .filter_map(|(uid, pod)| Some(format!("the report of pod {pod}: {}", facts.measured.reports.newer.get(uid)?)));
    let sentences: Vec<String> = ledgers.chain(records).chain(reports).take(NAMED).collect();
    (!sentences.is_empty()).then_some(())?;
    say(true, NEWER_VERSION, sentences.join("; "))
}
