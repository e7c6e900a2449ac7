//! One server by several names, and ledgers that are older than they look.

use std::time::Duration;

use anyhow::{Context, Result};
use mailrelay::lease::LedgerStore;
use serde_json::{Value, json};

use super::{
    Scenario, Trial,
    setup::three_pods,
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions, Side,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario::own("budget_renamed", "another budgetName under load, and the first one again", long_mails, |trial| {
        Box::pin(renamed(trial, Change::Name))
    })
    .against(&[Side::Plain, Side::Processes, Side::Exim])
    .in_slice_with(Side::Plain),
    Scenario::own(
        "host_renamed",
        "another name of the same host under load, and the first one again",
        aliased,
        |trial| Box::pin(renamed(trial, Change::Host)),
    )
    .against(&[Side::Plain, Side::Processes, Side::Exim]),
    Scenario::own("port_changed", "another port of the same server under load, and the first one again", long_mails, {
        |trial| Box::pin(renamed(trial, Change::Port))
    })
    .against(&[Side::Plain, Side::Processes, Side::Long]),
    Scenario::own("ledger_restored", "DUMP and RESTORE of the ledger in the same running Redis", working, |trial| {
        Box::pin(restored(trial))
    })
    .against(&[Side::Long, Side::Processes, Side::Exim]),
];

/// How long old and new sessions must show beside each other, if they do.
const SHOWS: Duration = Duration::from_secs(15);

/// What of the server's address changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Name,
    Host,
    Port,
}

/// Mails that keep old sessions open while new ones begin.
fn long_mails(name: &str) -> RelayOptions {
    RelayOptions { pause: Duration::from_secs(5), ..three_pods(name) }
}

/// The same for a server with names, the first of which is the pool's.
fn aliased(name: &str) -> RelayOptions {
    let options = long_mails(name);
    let aliases = vec![options.budget_name.clone(), other(&options.budget_name)];
    let mut server = options.server.clone();
    server["host"] = json!(options.budget_name);
    RelayOptions { aliases, server, ..options }
}

fn working(name: &str) -> RelayOptions {
    RelayOptions { pause: Duration::from_secs(8), replicas: 1, ..three_pods(name) }
}

fn other(name: &str) -> String {
    format!("other-{name}")
}

/// The server in the spec with other fields.
async fn change(trial: &Trial<'_>, fields: Value) -> Result<()> {
    let mut servers = serde_json::to_value(&trial.relay.object().await?.spec.servers)?;
    for (name, value) in fields.as_object().into_iter().flatten() {
        servers[0][name] = value.clone();
    }
    trial.relay.patch(json!({"servers": servers})).await
}

/// Claims and withheld slots of a pool; 0 where there is no ledger.
async fn counted(trial: &Trial<'_>, pool: &str) -> Result<u32> {
    let snapshot = LedgerStore::new(trial.stage.store.clone(), pool).snapshot().await?;
    let Some(ledger) = snapshot.ledger else { return Ok(0) };
    let withheld: u32 = ledger.quarantine.iter().map(|entry| entry.slots).sum();
    Ok(withheld + ledger.holders.iter().map(|holder| holder.claim).sum::<u32>())
}

/// Both ledgers together must never count more than the budget, and all of it must be in use again in the end.
async fn renamed(trial: &mut Trial<'_>, what: Change) -> Result<()> {
    let first = trial.relay.budget_name.clone();
    let port = trial.relay.server.smtp().port();
    let (there, back) = match what {
        Change::Name => (json!({"budgetName": other(&first)}), json!({"budgetName": first})),
        Change::Host => {
            (json!({"budgetName": other(&first), "host": other(&first)}), json!({"budgetName": first, "host": first}))
        }
        Change::Port => {
            let another = trial.relay.server.counting().another_port().port();
            (json!({"port": another}), json!({"port": port}))
        }
    };
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    for (fields, words) in [(there, "the new one has the whole budget"), (back, "the first one has it again")] {
        let before = trial.relay.server.stats().sessions;
        let struck = trial.strike();
        change(trial, fields).await?;
        let (mut both, mut took) = (0, None);
        until(words, PATIENCE, async || {
            let sum = counted(trial, &first).await? + counted(trial, &other(&first)).await?;
            both = both.max(sum);
            let stats = trial.relay.server.stats();
            if stats.sessions >= before + 16 && stats.open >= 16 {
                took = took.or(Some(struck.elapsed()));
            }
            let done = took.is_some() && struck.elapsed() > SHOWS;
            Ok(Look::when(done, (), || format!("{sum} counted by both ledgers, {stats:?}")))
        })
        .await?;
        trial.note(words, took.map(millis).unwrap_or_default(), "ms");
        trial.figure("counted by both ledgers at most", both.into(), "slots", 1..=16);
    }
    Ok(())
}

/// The copy is of a time when the pods had other shares. `run_id` and `master_replid` of Redis are what they were.
async fn restored(trial: &mut Trial<'_>) -> Result<()> {
    let key = trial.relay.ledger_key().to_owned();
    let mut dump = redis::cmd("DUMP");
    dump.arg(&key);
    let copy: Vec<u8> = trial.stage.store.query(&dump, PATIENCE).await.context("DUMP")?;
    trial.relay.scale(2).await?;
    trial.relay.await_pods(2).await?;
    trial.relay.await_shares(2, 16).await?;
    trial.all_busy().await?;
    let token = trial.relay.ledger().await?.token;
    trial.expect.pods = 4;
    trial.relay.scale(4).await?;
    trial.moment(0..1_000).await;
    let struck = trial.strike();
    let mut restore = redis::cmd("RESTORE");
    restore.arg(&key).arg(0).arg(&copy).arg("REPLACE");
    trial.stage.store.query::<String>(&restore, PATIENCE).await.context("RESTORE")?;
    let noticed = until("another ledger", Duration::from_secs(15), async || {
        let now = trial.relay.ledger().await?.token;
        Ok(Look::when(now != token, (), || "the old one passes for this one".into()))
    })
    .await;
    match noticed {
        Ok(_) => trial.note("the ledger was found to be an older one after", millis(struck.elapsed()), "ms"),
        Err(error) => trial.must(false, || format!("{error:#}")),
    }
    trial.relay.await_pods(4).await?;
    tokio::time::sleep_until((struck + SHOWS).into()).await;
    Ok(())
}
