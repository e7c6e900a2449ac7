//! Between Rust and the scripts: arguments, answers, and the fields of the HASH (see `scripts/prelude.lua`).

use std::{collections::BTreeMap, str::FromStr, time::Duration};

use super::state::{
    ClearReply, CondemnReply, Granted, HolderView, InitReply, LeaveReply, LedgerState, LedgerView, OpenReply, Policy,
    PolicyReply, Quarantine, QuarantineView, ReapReply, SyncReply, Wait,
};

/// The kind of an event that names the holder which is to answer it.
pub const ASK: &str = "ask";

/// A text as one word of a field: never empty, no white space.
pub(super) fn word(text: &str) -> String {
    if text.is_empty() {
        return "-".to_owned();
    }
    text.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

/// Whole seconds, rounded up.
pub(super) fn seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

pub(super) fn push_quarantine(arguments: &mut Vec<String>, entries: &[Quarantine]) {
    arguments.push(entries.len().to_string());
    for entry in entries {
        arguments.extend([word(&entry.id), entry.slots.to_string(), entry.seconds.to_string(), word(&entry.why)]);
    }
}

pub(super) fn push_policy(arguments: &mut Vec<String>, policy: &Policy) {
    arguments.extend([
        policy.epoch.to_string(),
        policy.revision.to_string(),
        policy.budget.to_string(),
        policy.lease.as_millis().to_string(),
        policy.entitlements.len().to_string(),
    ]);
    for (uid, share) in &policy.entitlements {
        arguments.extend([word(uid), share.to_string()]);
    }
}

/// The servers of a policy, the last argument of its scripts.
pub(super) fn servers(policy: &Policy) -> String {
    policy.servers.iter().map(|server| word(server)).collect::<Vec<_>>().join(" ")
}

fn parts(answer: &[String]) -> Vec<&str> {
    answer.iter().map(String::as_str).collect()
}

fn number<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn state(text: &str) -> Option<LedgerState> {
    match text {
        "REC" => Some(LedgerState::Rec),
        "OPEN" => Some(LedgerState::Open),
        _ => None,
    }
}

fn wait(text: &str) -> Option<Wait> {
    match text {
        "replica" => Some(Wait::Replica),
        "missing" => Some(Wait::Missing),
        "fence" => Some(Wait::Fence),
        "schema" => Some(Wait::Schema),
        _ => None,
    }
}

pub(super) fn sync_reply(answer: &[String]) -> Option<SyncReply> {
    Some(match parts(answer).as_slice() {
        ["OK", claim, limit, entitlement, in_state, lease, version, entries @ ..] => {
            let mut quarantine = Vec::new();
            for entry in entries.chunks(4) {
                let [id, slots, seconds, why] = entry else { return None };
                quarantine.push(QuarantineView {
                    id: (*id).to_owned(),
                    slots: number(slots)?,
                    seconds: number(seconds)?,
                    why: (*why).to_owned(),
                });
            }
            quarantine.sort_by(|a, b| a.id.cmp(&b.id));
            SyncReply::Ok(Granted {
                claim: number(claim)?,
                limit: number(limit)?,
                entitlement: number(entitlement)?,
                state: state(in_state)?,
                lease: Duration::from_millis(number(lease)?),
                version: number(version)?,
                quarantine,
            })
        }
        ["WAIT", why] => SyncReply::Wait(wait(why)?),
        ["TOKEN", token, in_state] => SyncReply::Token { token: (*token).to_owned(), state: state(in_state)? },
        ["GONE"] => SyncReply::Gone,
        ["STALE"] => SyncReply::Stale,
        ["REGISTER", last] => SyncReply::Register { last: number(last)? },
        _ => return None,
    })
}

pub(super) fn leave_reply(answer: &[String]) -> Option<LeaveReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => LeaveReply::Ok,
        ["WAIT", why] => LeaveReply::Wait(wait(why)?),
        ["TOKEN", token, in_state] => LeaveReply::Token { token: (*token).to_owned(), state: state(in_state)? },
        ["GONE"] => LeaveReply::Gone,
        ["STALE"] => LeaveReply::Stale,
        _ => return None,
    })
}

pub(super) fn policy_reply(answer: &[String]) -> Option<PolicyReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => PolicyReply::Ok,
        ["OLD", epoch, revision] => PolicyReply::Old { epoch: number(epoch)?, revision: number(revision)? },
        ["WAIT", why] => PolicyReply::Wait(wait(why)?),
        _ => return None,
    })
}

pub(super) fn reap_reply(answer: &[String]) -> Option<ReapReply> {
    Some(match parts(answer).as_slice() {
        ["OK", slots] => ReapReply::Ok { slots: number(slots)? },
        ["WAIT", why] => ReapReply::Wait(wait(why)?),
        ["TOKEN", token, in_state] => ReapReply::Token { token: (*token).to_owned(), state: state(in_state)? },
        ["GONE"] => ReapReply::Gone,
        ["STALE"] => ReapReply::Stale,
        _ => return None,
    })
}

pub(super) fn init_reply(answer: &[String]) -> Option<InitReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => InitReply::Ok,
        ["EXISTS", epoch, token, in_state] => {
            InitReply::Exists { epoch: number(epoch)?, token: (*token).to_owned(), state: state(in_state)? }
        }
        ["OLD", epoch] => InitReply::Old { epoch: number(epoch)? },
        ["WAIT", why] => InitReply::Wait(wait(why)?),
        _ => return None,
    })
}

pub(super) fn open_reply(answer: &[String]) -> Option<OpenReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => OpenReply::Ok,
        ["ALREADY"] => OpenReply::Already,
        ["OLD", epoch] => OpenReply::Old { epoch: number(epoch)? },
        ["WAIT", why] => OpenReply::Wait(wait(why)?),
        ["TOKEN", token, in_state] => OpenReply::Token { token: (*token).to_owned(), state: state(in_state)? },
        _ => return None,
    })
}

pub(super) fn condemn_reply(answer: &[String]) -> Option<CondemnReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => CondemnReply::Current,
        ["WAIT", why] => CondemnReply::Wait(wait(why)?),
        _ => return None,
    })
}

pub(super) fn clear_reply(answer: &[String]) -> Option<ClearReply> {
    Some(match parts(answer).as_slice() {
        ["OK"] => ClearReply::Ok,
        ["GONE"] => ClearReply::Gone,
        ["WAIT", why] => ClearReply::Wait(wait(why)?),
        ["TOKEN", token, in_state] => ClearReply::Token { token: (*token).to_owned(), state: state(in_state)? },
        _ => return None,
    })
}

/// The newest schema of a ledger that is known here, as in `scripts/prelude.lua`.
pub(super) const SCHEMA: u64 = 1;

/// Why a ledger cannot be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// This field is missing or malformed.
    Field(String),
    /// It is of this schema, which a newer version of mailrelay brought.
    Newer(u64),
}

/// The ledger from the fields of its HASH.
pub(super) fn ledger(fields: &BTreeMap<String, String>) -> Result<LedgerView, Unreadable> {
    let schema = fields.get("schema").map_or(Some(SCHEMA), |schema| number(schema));
    match schema {
        None => Err(Unreadable::Field("schema".to_owned())),
        Some(newer) if newer > SCHEMA => Err(Unreadable::Newer(newer)),
        Some(_) => known_ledger(fields).map_err(Unreadable::Field),
    }
}

fn known_ledger(fields: &BTreeMap<String, String>) -> Result<LedgerView, String> {
    let text = |name: &str| fields.get(name).cloned().ok_or_else(|| name.to_owned());
    let figure = |name: &str| text(name).and_then(|value| value.parse::<u64>().map_err(|_| name.to_owned()));
    // Fields that ledgers of the first release do not have.
    let later = |name: &str| if fields.contains_key(name) { figure(name) } else { Ok(0) };
    let mut view = LedgerView {
        fence: text("fence")?,
        token: text("token")?,
        state: state(&text("state")?).ok_or("state")?,
        epoch: figure("epoch")?,
        revision: figure("revision")?,
        budget: u32::try_from(figure("budget")?).map_err(|_| "budget")?,
        lease: Duration::from_millis(figure("lease")?),
        version: later("version")?,
        twinned: fields.contains_key("twinned"),
        floor: later("floor")?,
        servers: fields
            .get("servers")
            .map_or("", |servers| servers)
            .split(' ')
            .filter(|s| !s.is_empty())
            .map(str::to_owned)
            .collect(),
        holders: Vec::new(),
        entitlements: BTreeMap::new(),
        generations: BTreeMap::new(),
        quarantine: Vec::new(),
    };
    // The fields are sorted, and so are the lists.
    for (field, value) in fields {
        let Some((kind, name)) = field.split_once(':') else { continue };
        let understood = match kind {
            "h" => holder(name, value).map(|holder| view.holders.push(holder)),
            "q" => quarantine(name, value).map(|entry| view.quarantine.push(entry)),
            "e" => number(value).map(|share| {
                view.entitlements.insert(name.to_owned(), share);
            }),
            "g" => number(value).map(|last| {
                view.generations.insert(name.to_owned(), last);
            }),
            _ => Some(()),
        };
        understood.ok_or_else(|| field.clone())?;
    }
    Ok(view)
}

fn holder(inc: &str, value: &str) -> Option<HolderView> {
    let words: Vec<&str> = value.split(' ').collect();
    let [claim, generation, seq, limit, want, open, busy, pod_uid, pod, process, boot_id] = words.as_slice() else {
        return None;
    };
    Some(HolderView {
        inc: inc.to_owned(),
        pod_uid: (*pod_uid).to_owned(),
        pod: (*pod).to_owned(),
        process: (*process).to_owned(),
        boot_id: (*boot_id).to_owned(),
        generation: number(generation)?,
        seq: number(seq)?,
        claim: number(claim)?,
        limit: number(limit)?,
        want: number(want)?,
        open: number(open)?,
        busy: number(busy)?,
    })
}

fn quarantine(id: &str, value: &str) -> Option<QuarantineView> {
    let words: Vec<&str> = value.split(' ').collect();
    let [slots, seconds, why] = words.as_slice() else { return None };
    Some(QuarantineView { id: id.to_owned(), slots: number(slots)?, seconds: number(seconds)?, why: (*why).to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_and_readers_know_the_same_schema() {
        assert!(include_str!("scripts/prelude.lua").contains(&format!("\nlocal SCHEMA = {SCHEMA}\n")));
    }

    #[test]
    fn a_newer_schema_is_told_from_garbage() {
        let read = |schema: &str| ledger(&BTreeMap::from([("schema".to_owned(), schema.to_owned())]));
        assert_eq!(read("2"), Err(Unreadable::Newer(2)));
        assert_eq!(read("new"), Err(Unreadable::Field("schema".into())));
        assert_eq!(read("1"), Err(Unreadable::Field("fence".into())));
    }
}
