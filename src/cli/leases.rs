//! `mailrelay leases`: who holds which share of a server's budget.

use std::{fmt::Write as _, process::ExitCode};

use serde::Serialize;

use super::{CliError, Output, output::Table};
use crate::{
    lease::{LedgerState, LedgerStore, LedgerView, pools},
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

/// Slots that nobody may use for a while.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Withheld {
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
    let snapshot = LedgerStore::new(store.clone(), name).snapshot().await?;
    let in_force = snapshot.in_force().is_some();
    let state = match &snapshot.ledger {
        None => "Absent",
        Some(_) if !in_force => "Stale",
        Some(ledger) if ledger.state == LedgerState::Rec => "Recovering",
        Some(_) => "Open",
    };
    Ok(match snapshot.ledger {
        Some(ledger) => describe(name, state, ledger),
        None => PoolLeases {
            pool: name.to_owned(),
            state,
            budget: 0,
            claimed: 0,
            quarantined: 0,
            lease_ms: 0,
            holders: Vec::new(),
            quarantine: Vec::new(),
        },
    })
}

fn describe(name: &str, state: &'static str, ledger: LedgerView) -> PoolLeases {
    let (claimed, quarantined) = (ledger.claimed(), ledger.quarantined());
    let LedgerView { budget, lease, holders, entitlements, quarantine, .. } = ledger;
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
    let quarantine = quarantine
        .into_iter()
        .map(|entry| Withheld { slots: entry.slots, seconds: entry.seconds, why: entry.why })
        .collect();
    PoolLeases {
        pool: name.to_owned(),
        state,
        budget,
        claimed,
        quarantined,
        lease_ms: u64::try_from(lease.as_millis()).unwrap_or(u64::MAX),
        holders,
        quarantine,
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
        let _ = writeln!(text, "withheld: {} for {} s ({})", entry.slots, entry.seconds, entry.why);
    }
    text
}
