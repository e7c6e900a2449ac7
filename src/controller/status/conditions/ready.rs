//! Whether a relay works: kstatus reads these three.

use super::{
    verdict::{SCALED_TO_ZERO, SUSPENDED, Verdict, say},
    workers,
};
use crate::controller::{
    status::facts::{Facts, PoolFigures, unavailable},
    trouble::Trouble,
};

pub fn ready(facts: &Facts<'_>) -> Option<Verdict> {
    stopped(facts).or_else(|| nothing_moves(facts)).or_else(|| nobody_works(facts)).or_else(|| sharing(facts))
}

/// Somebody must change something first, or wants it so; or Redis is away.
fn stopped(facts: &Facts<'_>) -> Option<Verdict> {
    if let Some(stall) = &facts.relay.stalled {
        return say(false, stall.reason.as_str(), &stall.message);
    }
    if let Some(problem) = facts.store_problem {
        return say(false, "StoreUnreachable", problem);
    }
    let spec = &facts.relay.relay.spec;
    if spec.suspend {
        return say(false, SUSPENDED, "spec.suspend is true: mail is accepted and not sent");
    }
    if spec.servers.iter().all(|server| server.suspend) {
        return say(false, SUSPENDED, "suspend is true for each of spec.servers: mail is accepted and not sent");
    }
    None
}

/// No slot is granted yet, or none any more.
fn nothing_moves(facts: &Facts<'_>) -> Option<Verdict> {
    if let Some(trouble) = standing_still(facts).or(facts.record) {
        return say(false, trouble.reason, &trouble.message);
    }
    if facts.pools.values().any(|pool| pool.ledger.is_none() && !pool.waits_for.is_empty()) {
        return say(false, "ServerInOtherBudget", waiting_for_others(facts).unwrap_or_default());
    }
    let recovering: Vec<&str> =
        facts.pools.iter().filter(|(_, pool)| pool.is_recovering()).map(|(name, _)| &**name).collect();
    if recovering.is_empty() {
        return None;
    }
    let mut message = format!("workers say again what they hold of {}", recovering.join(", "));
    if facts.pools.values().any(|pool| pool.by_roll_call) {
        message.push_str(
            "; nothing bounds how long the Redis that was left takes writes, so that slots are granted only when every \
             worker has come over or its pod was seen to be over; with min-replicas-to-write at the number of replicas \
             that is bounded (the controller reads it when it starts)",
        );
    }
    say(false, "LedgerRecovering", message)
}

/// Nobody is there to send, or no server to send to.
fn nobody_works(facts: &Facts<'_>) -> Option<Verdict> {
    if !facts.relay.selects_any {
        let message = format!("no pod matches {}; mail is accepted, and sent when one runs", facts.relay.selector);
        return say(false, SCALED_TO_ZERO, message);
    }
    if facts.relay.workers.is_empty() {
        let (selector, container) = (&facts.relay.selector, &facts.relay.relay.spec.workers.container);
        let message = format!("pods match {selector}, and in none of them runs the container {container}");
        return say(false, "WaitingForWorkers", message);
    }
    if facts.registered().is_empty() {
        let message = format!("{} pods run, none has asked for its share yet", facts.relay.workers.len());
        return say(false, "WaitingForWorkers", message);
    }
    let unavailable = unavailable(facts);
    let (_, (reason, message)) = unavailable.first_key_value()?;
    let all = facts.relay.published.servers.iter().all(|server| unavailable.contains_key(&*server.name));
    all.then(|| say(false, *reason, *message))?
}

/// Mail is sent; how far the shares are.
fn sharing(facts: &Facts<'_>) -> Option<Verdict> {
    let workers = facts.registered().len();
    if facts.all_granted() {
        return say(true, "AllSharesGranted", format!("{workers} workers have their share"));
    }
    let withheld: u32 = facts.pools.values().map(PoolFigures::quarantined).sum();
    if withheld > 0 && facts.only_withheld_slots_lack() {
        let message = format!(
            "{workers} workers share what is not withheld; {withheld} slots come back later, see the condition SlotsQuarantined"
        );
        return say(true, "SlotsWithheld", message);
    }
    say(true, "SharesMoving", format!("{workers} workers; shares are on their way from one to another"))
}

/// What is wrong when no pool of the relay moves.
fn standing_still<'a>(facts: &Facts<'a>) -> Option<&'a Trouble> {
    let mut troubles = facts.pools.values().map(|pool| pool.trouble);
    let first = troubles.next()??;
    troubles.all(|trouble| trouble.is_some()).then_some(first)
}

/// kstatus: there while the controller is behind.
pub fn reconciling(facts: &Facts<'_>) -> Option<Verdict> {
    if facts.relay.stalled.is_some() {
        return None;
    }
    if facts.store_problem.is_some() {
        return say(true, "StoreUnreachable", "Redis cannot be reached; what is leased stays leased");
    }
    if let Some(waiting) = waiting_for_others(facts) {
        return say(true, "ServerInOtherBudget", waiting);
    }
    if let Some(trouble) = facts.record {
        return say(true, trouble.reason, &trouble.message);
    }
    let standing = facts.pools.values().filter_map(|pool| pool.trouble).find(|trouble| !trouble.needs_a_person);
    if let Some(trouble) = standing {
        return say(true, trouble.reason, &trouble.message);
    }
    // What stands still until a person does something is not on its way.
    let behind = facts.pools.iter().find(|(_, pool)| pool.trouble.is_none() && !is_in_force(pool));
    let (name, _) = behind?;
    say(true, "Progressing", format!("the shares of {name} are being written"))
}

/// One server, one ledger: what an earlier budget still counts comes first.
fn waiting_for_others(facts: &Facts<'_>) -> Option<String> {
    let waits = facts.pools.iter().filter(|(_, pool)| !pool.waits_for.is_empty());
    let sentences: Vec<String> = waits
        .map(|(name, pool)| {
            format!(
                "the servers of budget {name} were of budget {} before, which may still count connections of them; slots \
                 are granted here when those have come back",
                pool.waits_for.join(", ")
            )
        })
        .collect();
    (!sentences.is_empty()).then(|| sentences.join("; "))
}

fn is_in_force(pool: &PoolFigures<'_>) -> bool {
    let (Some(plan), Some(ledger)) = (pool.plan, pool.ledger) else { return false };
    let written = ledger.budget == plan.budget || pool.effective.is_some();
    !pool.is_recovering() && written && ledger.entitlements.keys().eq(plan.members.iter())
}

pub fn stalled(facts: &Facts<'_>) -> Option<Verdict> {
    if let Some(stall) = &facts.relay.stalled {
        return say(true, stall.reason.as_str(), &stall.message);
    }
    if let Some(trouble) = standing_still(facts).filter(|trouble| trouble.needs_a_person) {
        return say(true, trouble.reason, &trouble.message);
    }
    let (reason, message) = workers::all_need_a_person(facts)?;
    say(true, reason, message)
}
