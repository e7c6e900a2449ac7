//! `mailrelay leases`: who holds which share of a server's budget.

use std::{collections::BTreeMap, fmt::Write as _, process::ExitCode, sync::Arc, time::Duration};

use jiff::Timestamp;
use serde::Serialize;

use super::{
    error::CliError,
    output::{Output, Table},
};
use crate::{
    lease::{LedgerState, LedgerStore, LedgerView, QuarantineView, Timing, pools},
    store::{Store, StoreOptions},
};

/// Which budgets.
#[derive(clap::Args)]
pub struct Arguments {
    /// Only this budget, as spec.servers[].budgetName or the host names it
    #[arg(value_name = "BUDGET")]
    pool: Option<String>,
}

/// A budget and its holders.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PoolLeases {
    /// Its name.
    pub pool: String,
    /// `Open`, `Recovering`, `Stale` (granted by another Redis), or `Absent`.
    pub state: &'static str,
    /// Connections in all.
    pub budget: u32,
    /// Slots counted against holders.
    pub claimed: u32,
    /// Slots withheld.
    pub quarantined: u32,
    /// How long a lease lasts after a renewal.
    pub lease_ms: u64,
    /// Who holds slots.
    pub holders: Vec<Holder>,
    /// Why slots are withheld.
    pub quarantine: Vec<Withheld>,
    /// The servers that it counts the connections of: addresses, and the entries of relays that name or named it.
    pub servers: Vec<String>,
    /// Raised by each change of the ledger.
    pub version: u64,
}

/// A worker process that holds slots.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Holder {
    /// Namespace and name of its pod.
    pub pod: String,
    /// UID of its pod.
    pub pod_uid: String,
    /// Its process.
    pub process: String,
    /// What the controller leased to the pod.
    pub share: u32,
    /// Slots counted against it.
    pub claim: u32,
    /// Slots it may have open.
    pub limit: u32,
    /// Sessions it has open.
    pub open: u32,
    /// Sessions in a mail transaction.
    pub busy: u32,
    /// How often it renewed.
    pub renewals: u64,
}

/// Slots that nobody may use for a while, since the server may still count their connections. Only the server's end of
/// such a connection, once seen, frees them sooner.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Withheld {
    /// Its id: the process and the connection's number, or whoever held several.
    pub id: String,
    /// Namespace and name of the pod that held them, if the ledger's log still has it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// When they come back at the earliest, by the log; a new leader times them anew.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// How many.
    pub slots: u32,
    /// For how long from when it was seen first.
    pub seconds: u64,
    /// Why.
    pub why: String,
}

/// Prints every budget, or the one that was named.
pub async fn run(arguments: Arguments, options: &StoreOptions, output: Output) -> Result<ExitCode, CliError> {
    let store = Store::new(options)?;
    let names = match arguments.pool {
        Some(name) => vec![name],
        None => pools(&store).await?,
    };
    let mut leases = Vec::new();
    for name in names {
        leases.push(read(&store, &name).await?);
    }
    output.print(&leases, |leases| table(leases))?;
    Ok(ExitCode::SUCCESS)
}

/// Reads one budget's ledger.
pub async fn read(store: &Store, name: &str) -> Result<PoolLeases, CliError> {
    let ledger = LedgerStore::new(store.clone(), name);
    let snapshot = ledger.snapshot().await?;
    let withheld = snapshot.ledger.as_ref().is_some_and(|ledger| !ledger.quarantine.is_empty());
    let log = if withheld { ledger.log().await? } else { Vec::new() };
    let in_force = snapshot.in_force().is_some();
    let state = match &snapshot.ledger {
        None => "Absent",
        Some(_) if !in_force => "Stale",
        Some(ledger) if ledger.state == LedgerState::Rec => "Recovering",
        Some(_) => "Open",
    };
    Ok(match snapshot.ledger {
        Some(ledger) => describe(name, state, Arc::unwrap_or_clone(ledger), &log),
        None => PoolLeases {
            pool: name.to_owned(),
            state,
            budget: 0,
            claimed: 0,
            quarantined: 0,
            lease_ms: 0,
            holders: Vec::new(),
            quarantine: Vec::new(),
            servers: Vec::new(),
            version: 0,
        },
    })
}

/// An entry of the log: when, and its fields.
type Logged = (u64, BTreeMap<String, String>);

/// What the log still knows of withheld slots.
fn withheld(entry: QuarantineView, log: &[Logged]) -> Withheld {
    let QuarantineView { id, slots, seconds, why } = entry;
    // Slots of a whole incarnation have its id and the seq of its last word.
    let is_of = |inc: &String| id.strip_prefix(inc.as_str()).is_some_and(|rest| rest.starts_with('.'));
    let begins = |(_, fields): &&Logged| match fields.get("id") {
        Some(named) => *named == id,
        None => fields.contains_key("seconds") && fields.get("inc").is_some_and(is_of),
    };
    let found = log.iter().find(begins);
    let of_process = |(_, fields): &&Logged| {
        let owner = fields.get("inc").and_then(|inc| inc.split(['.', '/']).next());
        fields.contains_key("pod") && owner.is_some_and(|owner| id.starts_with(owner))
    };
    let pod = found.filter(|(_, fields)| fields.contains_key("pod")).or_else(|| log.iter().find(of_process));
    let until = found.and_then(|(millis, _)| {
        let begun = Timestamp::from_millisecond(i64::try_from(*millis).ok()?).ok()?;
        let end = begun.checked_add(Timing::default().quarantine_watch(Duration::from_secs(seconds))).ok()?;
        Timestamp::from_second(end.as_second() + 1).ok()
    });
    Withheld { pod: pod.and_then(|(_, fields)| fields.get("pod").cloned()), id, until, slots, seconds, why }
}

fn describe(name: &str, state: &'static str, ledger: LedgerView, log: &[Logged]) -> PoolLeases {
    let (claimed, quarantined) = (ledger.claimed(), ledger.quarantined());
    let LedgerView { budget, lease, holders, entitlements, quarantine, servers, version, .. } = ledger;
    let mut holders: Vec<Holder> = holders
        .into_iter()
        .map(|holder| Holder {
            share: entitlements.get(&holder.pod_uid).copied().unwrap_or(0),
            pod: holder.pod,
            pod_uid: holder.pod_uid,
            process: holder.process,
            claim: holder.claim,
            limit: holder.limit,
            open: holder.open,
            busy: holder.busy,
            renewals: holder.seq,
        })
        .collect();
    holders.sort_by(|a, b| a.pod.cmp(&b.pod).then_with(|| a.process.cmp(&b.process)));
    PoolLeases {
        pool: name.to_owned(),
        state,
        budget,
        claimed,
        quarantined,
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        holders,
        quarantine: quarantine.into_iter().map(|entry| withheld(entry, log)).collect(),
        servers: servers.into_iter().collect(),
        version,
    }
}

fn table(leases: &[PoolLeases]) -> String {
    if leases.is_empty() {
        return "no budgets yet: the controller makes one for each server of a MailRelay\n".into();
    }
    leases.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// One budget as text.
pub fn text(pool: &PoolLeases) -> String {
    let mut text = format!(
        "budget {}: {}, {} connections, {} claimed, {} withheld, lease {} ms\n",
        pool.pool, pool.state, pool.budget, pool.claimed, pool.quarantined, pool.lease_ms
    );
    let mut table = Table::new(&["POD", "SHARE", "CLAIM", "LIMIT", "OPEN", "BUSY", "RENEWALS", "PROCESS"]);
    for holder in &pool.holders {
        let figures = [holder.share, holder.claim, holder.limit, holder.open, holder.busy].map(|n| n.to_string());
        let rest = [holder.renewals.to_string(), holder.process.clone()];
        table.row(std::iter::once(holder.pod.clone()).chain(figures).chain(rest));
    }
    if !table.is_empty() {
        text.push_str(&table.render());
    }
    for entry in &pool.quarantine {
        let until = entry.until.map_or_else(|| format!("for {} s", entry.seconds), |until| format!("until {until}"));
        let pod = entry.pod.as_ref().map_or_else(String::new, |pod| format!("{pod}, "));
        let _ =
            writeln!(text, "withheld: {} {until} ({pod}{}, {})", entry.slots, entry.why.replace('_', " "), entry.id);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(fields: &[(&str, &str)]) -> Logged {
        (60_000, fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    #[test]
    fn withheld_slots_are_told_with_their_pod_and_their_end_as_far_as_the_log_goes() {
        let entry = |id: &str| QuarantineView { id: id.into(), slots: 2, seconds: 300, why: "silent".into() };
        let log = [
            logged(&[("op", "claim"), ("inc", "p1.7"), ("pod", "mail/a"), ("claim", "2")]),
            logged(&[("op", "quarantine"), ("id", "p1/3"), ("pod", "mail/a"), ("seconds", "300")]),
            logged(&[("op", "reap"), ("inc", "p2.1"), ("pod", "mail/b"), ("seconds", "300")]),
            logged(&[("op", "missing"), ("inc", "p1.9"), ("id", "p1.9.4"), ("seconds", "300")]),
        ];
        let end = Some(Timestamp::from_second(367).expect("a time"));
        for (id, pod, until) in [
            ("p1/3", Some("mail/a"), end),
            ("p2.1.15", Some("mail/b"), end),
            ("p1.9.4", Some("mail/a"), end),
            ("p1/4", Some("mail/a"), None),
            ("p3/1", None, None),
        ] {
            let told = withheld(entry(id), &log);
            assert_eq!((told.pod.as_deref(), told.until), (pod, until), "{id}");
        }
    }
}
