//! Conditions: a list of small pure functions, each from the facts to one condition.

mod workers;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{
    apply::{NEWER_VERSION, Trouble},
    safety::Safety,
    status::{Facts, PoolFigures, unavailable, waiting},
};
use crate::api::{Condition, QuarantineStatus, Unavailable, Unit};

/// The reason of `SlotsQuarantined` when a pod holds slots that the API server does not know any more.
pub const HELD_BY_VANISHED: &str = "HeldByVanishedPod";

/// The reasons of `Ready` when nothing is sent since someone wants it so.
pub const SCALED_TO_ZERO: &str = "ScaledToZero";
pub const SUSPENDED: &str = "Suspended";

/// How many pods a message names.
const NAMED: usize = 4;

/// What one function says: `None` leaves the condition away.
type Verdict = Option<Saying>;

struct Saying {
    status: &'static str,
    reason: String,
    message: String,
}

#[expect(clippy::unnecessary_wraps, reason = "every judge ends with it")]
fn say(status: bool, reason: impl Into<String>, message: impl Into<String>) -> Verdict {
    Some(Saying { status: if status { "True" } else { "False" }, reason: reason.into(), message: message.into() })
}

type Judge = fn(&Facts<'_>) -> Verdict;

/// All conditions in the order in which they are shown, each with the function that judges it.
const JUDGES: [(&str, Judge); 19] = [
    ("Ready", ready),
    ("Reconciling", reconciling),
    ("Stalled", stalled),
    ("QueueDepthHigh", queue_depth_high),
    ("QueueFull", queue_full),
    ("MailDelayed", mail_delayed),
    ("DeadLettersPresent", dead_letters_present),
    ("OutcomeUnknown", outcome_unknown),
    ("AuditMismatch", audit_mismatch),
    ("ServerUnavailable", server_unavailable),
    ("ServerRefusesUs", server_refuses_us),
    ("DeadLetterSurge", dead_letter_surge),
    ("ServerSaturated", server_saturated),
    ("RateLimited", rate_limited),
    ("WorkersMissing", workers::workers_missing),
    ("StoreUnsafe", store_unsafe),
    ("VersionSkew", version_skew),
    ("SlotsQuarantined", slots_quarantined),
    ("SharedBudget", shared_budget),
];

/// The conditions that hold; transition times are kept from `old` where the status is the same.
pub fn conditions(facts: &Facts<'_>, old: &[Condition]) -> Vec<Condition> {
    let mut all = Vec::new();
    for (kind, judge) in JUDGES {
        let before = old.iter().find(|condition| condition.type_ == kind);
        let Some(saying) = judge(facts) else {
            // What cannot be measured now stays as it was.
            if facts.measured.depths.is_none() && is_measured(kind) {
                all.extend(before.cloned());
            }
            continue;
        };
        let unchanged = before.filter(|before| before.status == saying.status);
        all.push(Condition {
            type_: kind.to_owned(),
            status: saying.status.to_owned(),
            reason: saying.reason,
            message: saying.message,
            observed_generation: Some(facts.relay.generation),
            last_transition_time: unchanged
                .map_or_else(|| Time(whole_seconds(facts)), |b| b.last_transition_time.clone()),
        });
    }
    all
}

fn whole_seconds(facts: &Facts<'_>) -> jiff::Timestamp {
    jiff::Timestamp::from_second(facts.now.as_second()).unwrap_or(facts.now)
}

fn is_measured(kind: &str) -> bool {
    matches!(
        kind,
        "QueueDepthHigh" | "QueueFull" | "MailDelayed" | "DeadLettersPresent" | "OutcomeUnknown" | "AuditMismatch"
    )
}

fn ready(facts: &Facts<'_>) -> Verdict {
    if let Some(stall) = &facts.relay.stalled {
        return say(false, stall.reason, &stall.message);
    }
    if let Some(problem) = facts.store_problem {
        return say(false, "StoreUnreachable", problem);
    }
    if facts.relay.relay.spec.suspend {
        return say(false, SUSPENDED, "spec.suspend is true: mail is accepted and not sent");
    }
    if let Some(trouble) = standing_still(facts).or(facts.record) {
        return say(false, trouble.reason, &trouble.message);
    }
    let waiting = waiting_for_others(facts);
    if facts.pools.values().any(|pool| pool.ledger.is_none() && !pool.waits_for.is_empty()) {
        return say(false, "ServerInOtherBudget", waiting.unwrap_or_default());
    }
    let recovering: Vec<&str> =
        facts.pools.iter().filter(|(_, pool)| pool.is_recovering()).map(|(name, _)| &**name).collect();
    if !recovering.is_empty() {
        let mut message = format!("workers say again what they hold of {}", recovering.join(", "));
        if facts.pools.values().any(|pool| pool.by_roll_call) {
            message.push_str(
                "; nothing bounds how long the Redis that was left takes writes, so that slots are granted only when every \
                 worker has come over or its pod was seen to be over; with min-replicas-to-write at the number of replicas \
                 that is bounded (the controller reads it when it starts)",
            );
        }
        return say(false, "LedgerRecovering", message);
    }
    if !facts.relay.selects_any {
        let message = format!("no pod matches {}; mail is accepted, and sent when one runs", facts.relay.selector);
        return say(false, SCALED_TO_ZERO, message);
    }
    if facts.relay.workers.is_empty() {
        let (selector, container) = (&facts.relay.selector, &facts.relay.relay.spec.workers.container);
        let message = format!("pods match {selector}, and in none of them runs the container {container}");
        return say(false, "WaitingForWorkers", message);
    }
    let registered = facts.registered();
    if registered.is_empty() {
        let message = format!("{} pods run, none has asked for its share yet", facts.relay.workers.len());
        return say(false, "WaitingForWorkers", message);
    }
    let unavailable = unavailable(facts);
    if facts.relay.relay.spec.servers.iter().all(|server| unavailable.contains_key(&*server.name))
        && let Some((_, (reason, message))) = unavailable.first_key_value()
    {
        return say(false, *reason, *message);
    }
    let workers = registered.len();
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
fn reconciling(facts: &Facts<'_>) -> Verdict {
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

fn stalled(facts: &Facts<'_>) -> Verdict {
    if let Some(stall) = &facts.relay.stalled {
        return say(true, stall.reason, &stall.message);
    }
    if let Some(trouble) = standing_still(facts).filter(|trouble| trouble.needs_a_person) {
        return say(true, trouble.reason, &trouble.message);
    }
    let (reason, message) = workers::all_need_a_person(facts)?;
    say(true, reason, message)
}

/// What a worker says of its servers.
fn troubles<'a>(facts: &'a Facts<'_>, uid: &str) -> impl Iterator<Item = (&'a str, &'a Unavailable)> {
    let servers = facts.measured.reports.read.get(uid).map(|report| &report.servers);
    servers.into_iter().flatten().filter_map(|server| Some((&*server.name, server.unavailable.as_ref()?)))
}

/// What all of the relay's workers say of their servers.
fn all_troubles<'a>(facts: &'a Facts<'_>) -> impl Iterator<Item = (&'a str, &'a Unavailable)> {
    facts.relay.workers.keys().flat_map(|uid| troubles(facts, uid))
}

fn queue_depth_high(facts: &Facts<'_>) -> Verdict {
    let pending = facts.measured.depths.as_ref()?.pending;
    let threshold = facts.relay.relay.spec.queue.depth_threshold;
    if i64::try_from(pending).unwrap_or(i64::MAX) > threshold {
        return say(true, "AboveThreshold", format!("{pending} mails wait, more than {threshold}"));
    }
    say(false, "BelowThreshold", format!("at most {threshold} mails wait"))
}

fn queue_full(facts: &Facts<'_>) -> Verdict {
    let depths = facts.measured.depths.as_ref()?;
    let limit = facts.relay.relay.spec.queue.max_length;
    let stored = depths.pending.saturating_add(depths.delayed);
    if i64::try_from(stored).unwrap_or(i64::MAX) >= limit {
        return say(true, "AtCapacity", format!("the queue is at its limit of {limit} mails; new mail is refused"));
    }
    say(false, "BelowCapacity", format!("fewer than {limit} mails are stored"))
}

fn mail_delayed(facts: &Facts<'_>) -> Verdict {
    facts.measured.depths.as_ref()?;
    let threshold = facts.relay.relay.spec.queue.oldest_threshold;
    if waiting(facts).unwrap_or(Duration::ZERO) > threshold.get() {
        return say(true, "OldestTooOld", format!("the oldest mail has waited longer than {threshold}"));
    }
    say(false, "InTime", format!("no mail has waited longer than {threshold}"))
}

fn dead_letters_present(facts: &Facts<'_>) -> Verdict {
    match facts.measured.depths.as_ref()?.dead {
        0 => say(false, "NoDeadLetters", "the dead-letter queue is empty"),
        dead => say(true, "DeadLetters", format!("{dead} mails wait for a person; see `mailrelay dead list`")),
    }
}

fn outcome_unknown(facts: &Facts<'_>) -> Verdict {
    match facts.measured.depths.as_ref()?.held {
        0 => say(false, "NothingHeld", "no mail is held"),
        held => say(
            true,
            "AnswerLost",
            format!("{held} mails are held since the server's final answer was lost; see `mailrelay held list`"),
        ),
    }
}

fn audit_mismatch(facts: &Facts<'_>) -> Verdict {
    let audit = facts.measured.audit.as_ref()?;
    let (accepted, accounted) = (audit.accepted, audit.accounted());
    if audit.difference != 0 {
        let message = format!(
            "{accepted} mails were accepted and {accounted} are accounted for: mail was removed from Redis, or put there, by \
             something else; see `mailrelay audit`"
        );
        return say(true, if audit.difference > 0 { "MailMissing" } else { "MailUnaccounted" }, message);
    }
    if !audit.unverified.is_empty() {
        let message = audit.unverified.join("; ");
        return Some(Saying { status: "Unknown", reason: "NotVerified".into(), message });
    }
    say(false, "AllAccountedFor", "every accepted mail is accounted for")
}

fn server_unavailable(facts: &Facts<'_>) -> Verdict {
    let unavailable = unavailable(facts);
    let Some((_, (reason, _))) = unavailable.first_key_value() else {
        return say(false, "ServersAvailable", "no server is reported to be unavailable");
    };
    let sentences: Vec<String> =
        unavailable.iter().map(|(name, (reason, message))| format!("{name}: {reason}: {message}")).collect();
    say(true, *reason, sentences.join("; "))
}

/// The server is there and takes no mail of ours: nothing dies, one mail at a time asks again, and this says where to look.
fn server_refuses_us(facts: &Facts<'_>) -> Verdict {
    let refusing = || all_troubles(facts).filter_map(|(name, why)| Some((name, why, setting(&why.reason)?)));
    let (_, first, _) = refusing().next()?;
    // Workers say it in the words that each has heard: one of each server is enough.
    let mut named = BTreeMap::new();
    for (name, why, setting) in refusing() {
        named
            .entry(name)
            .or_insert_with(|| format!("{name} refuses our mail ({}): {}; look at {setting}", why.reason, why.message));
    }
    let sentences: Vec<String> = named.into_values().collect();
    say(true, &*first.reason, format!("{}; no mail is lost, and one at a time asks again", sentences.join("; ")))
}

/// What to look at when a server refuses us for a reason; `None` when that reason is not about us.
fn setting(reason: &str) -> Option<&'static str> {
    Some(match reason {
        "RelayDenied" => {
            "the server's right to relay for us: its list of networks or users that may send through it, or servers[].auth"
        }
        "LoginRequired" => {
            "servers[].auth and servers[].tls, and the worker's login files: the server wants a login first"
        }
        "HeloRefused" => "the worker's --helo: the server wants a full host name that the DNS knows",
        "ClientRefused" => {
            "the address that our connections come from: its name in the DNS, and the server's list of clients"
        }
        "Blocked" => {
            "the list that the server names: the address that our connections come from, or our domain, is on it"
        }
        "SenderRefused" => "the sender of our mails: whether this login may send as it, and its domain's DNS records",
        "RecipientRefused" | "PolicyRefused" => "the server's own log: its reply names no setting",
        _ => return None,
    })
}

/// Most of the last mails died: the relay asks with one at a time until a server takes one.
fn dead_letter_surge(facts: &Facts<'_>) -> Verdict {
    let (name, why) = all_troubles(facts).find(|(_, why)| why.reason == "DeadLetterSurge")?;
    let message = format!(
        "server {name}: {}; the relay rests and asks with one mail at a time until one is taken; see `mailrelay dead list`, and \
         set retry.deadLetterGuard to false to go on all the same",
        why.message
    );
    say(true, "MostMailDies", message)
}

fn server_saturated(facts: &Facts<'_>) -> Verdict {
    let lowered = facts.pools.iter().find_map(|(name, pool)| Some((name, pool.effective?, pool.plan?.budget)));
    if let Some((pool, effective, budget)) = lowered {
        let message = format!(
            "the server says that there are too many connections: {effective} of the {budget} of {pool} are in use; \
             lower maxConnections or raise the server's limit"
        );
        return say(true, "ServerLimitBelowBudget", message);
    }
    let (name, trouble) = all_troubles(facts).find(|(_, trouble)| trouble.reason == "TooManyConnections")?;
    say(true, "ServerLimitBelowBudget", format!("server {name}: {}", trouble.message))
}

/// Not a failure: mail waits since the server takes no more in a time.
fn rate_limited(facts: &Facts<'_>) -> Verdict {
    let relay = &facts.relay;
    let reports = relay.workers.keys().filter_map(|uid| facts.measured.reports.read.get(uid));
    let limited: BTreeSet<&str> = reports
        .flat_map(|report| report.servers.iter().filter(|server| server.rate_limited))
        .map(|server| &*server.name)
        .collect();
    let servers = relay.published.servers.iter().filter(|server| limited.contains(&*server.name));
    let words: Vec<String> = servers
        .map(|server| {
            let limits = server.rate_limits.iter().map(|limit| {
                let unit = if limit.unit == Unit::Message { "mails" } else { "recipients" };
                format!("{} {unit} in {}", limit.count, limit.interval)
            });
            format!("server {} takes {}", server.name, limits.collect::<Vec<_>>().join(" and "))
        })
        .collect();
    (!words.is_empty()).then_some(())?;
    say(true, "MailWaits", format!("mail waits for rateLimits: {}", words.join("; ")))
}

fn store_unsafe(facts: &Facts<'_>) -> Verdict {
    match &facts.measured.safety {
        Safety::Unknown => None,
        Safety::Safe => say(false, "Durable", "Redis keeps every write that it acknowledged"),
        Safety::Unsafe { reason, message } => say(true, *reason, message),
        Safety::Hidden { message } => {
            Some(Saying { status: "Unknown", reason: "SettingsHidden".into(), message: message.clone() })
        }
    }
}

/// Something that this version, or a worker's, does not know since a newer one wrote it: it is left as it is.
fn version_skew(facts: &Facts<'_>) -> Verdict {
    let ledgers =
        facts.pools.values().filter_map(|pool| pool.trouble).filter(|trouble| trouble.reason == NEWER_VERSION);
    let ledgers = ledgers.map(|trouble| trouble.message.clone());
    let workers = || facts.relay.workers.iter();
    let records = workers().filter_map(|(uid, pod)| {
        let refused = facts.measured.reports.read.get(uid)?.record.as_ref()?;
        (refused.reason == NEWER_VERSION).then(|| format!("the worker of pod {pod} says of {}", refused.message))
    });
    let reports = workers()
        .filter_map(|(uid, pod)| Some(format!("the report of pod {pod}: {}", facts.measured.reports.newer.get(uid)?)));
    let sentences: Vec<String> = ledgers.chain(records).chain(reports).take(NAMED).collect();
    (!sentences.is_empty()).then_some(())?;
    say(true, NEWER_VERSION, sentences.join("; "))
}

/// Nobody may use them: since the server may still count their connections, or since a pod holds them that is gone from
/// the API server while its process may go on (deleted by force, or with its node out of reach).
fn slots_quarantined(facts: &Facts<'_>) -> Verdict {
    let mut withheld: Vec<(&str, &QuarantineStatus)> = facts
        .leases
        .iter()
        .flat_map(|lease| lease.quarantine.iter().map(|quarantine| (&*lease.budget_name, quarantine)))
        .collect();
    withheld.sort_by_key(|(budget, quarantine)| (*budget, std::cmp::Reverse(quarantine.slots), &quarantine.id));
    let mut sentences = Vec::new();
    for (holder, node) in facts.vanished.iter().take(NAMED) {
        let (slots, pod, node) = (holder.claim, &holder.pod, node.unwrap_or("its node"));
        sentences.push(format!(
            "{slots} slots are held by {pod}, which is gone from the API server, while its process may go on; they come \
             back when it has ended: look for it on {node}"
        ));
    }
    if !withheld.is_empty() {
        let slots: i32 = withheld.iter().map(|(_, quarantine)| quarantine.slots).sum();
        let each: Vec<String> = withheld.iter().take(NAMED).map(|(budget, q)| describe(budget, q)).collect();
        let more = withheld.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(", and {more} more in status.leases") } else { String::new() };
        sentences.push(format!(
            "{slots} slots are withheld, since the server may still count their connections: {}{more}; each comes back by \
             itself then, or as soon as the server's end of its connection is seen, and nothing done by hand proves that \
             (sessionTimeout says how long the server keeps the session of a dead client)",
            each.join(", ")
        ));
    }
    (!sentences.is_empty()).then_some(())?;
    let reason = if facts.vanished.is_empty() { "SessionsMayLinger" } else { HELD_BY_VANISHED };
    say(true, reason, sentences.join("; "))
}

fn describe(budget: &str, quarantine: &QuarantineStatus) -> String {
    let QuarantineStatus { id, pod, slots, why, until, .. } = quarantine;
    let pod = pod.as_ref().map_or_else(String::new, |pod| format!("{pod}, "));
    format!("{slots} of {budget} ({pod}{}, {id}) until {}", why.replace('_', " "), until.0)
}

fn shared_budget(facts: &Facts<'_>) -> Verdict {
    say(true, "NamedByOthers", facts.relay.shared.as_ref()?)
}
