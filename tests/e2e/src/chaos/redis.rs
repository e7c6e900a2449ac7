//! Redis that dies, forgets, or remembers too much.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use mailrelay::lease::LedgerState;
use mailsink::{Behaviour, Stats};
use testkit::{Door, RedisServer};

use super::{
    COUNTING, Reach, SINK, Scenario, Trial,
    setup::{LEASE, SLOW_MS, Undo, lasting, notices},
    trial::{PATIENCE, millis},
};
use crate::{
    Side, Stage,
    network::Diversion,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "redis_killed",
        fault: "SIGKILL and restart of Redis, 20 times",
        reach: Reach::All,
        sides: COUNTING,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(killed(trial)),
    },
    Scenario {
        name: "redis_ledger_deleted",
        fault: "DEL of the ledger, 6 times, while sessions last and while they come and go",
        reach: Reach::Own,
        sides: COUNTING,
        slice: Some(Side::Sink),
        relay: lasting,
        act: |trial| Box::pin(ledger_deleted(trial)),
    },
    Scenario {
        name: "redis_flushed",
        fault: "FLUSHALL, 3 times",
        reach: Reach::All,
        sides: COUNTING,
        slice: Some(Side::Sink),
        relay: lasting,
        act: |trial| Box::pin(flushed(trial)),
    },
    Scenario {
        name: "redis_restarted_empty",
        fault: "restart of Redis without its data, 3 times",
        reach: Reach::All,
        sides: COUNTING,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(restarted_empty(trial)),
    },
    Scenario {
        name: "redis_restarted_older",
        fault: "restart of Redis from an older copy, 3 times",
        reach: Reach::All,
        sides: COUNTING,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(restarted_older(trial)),
    },
    Scenario {
        name: "redis_first_replica",
        fault: "the first replica is attached, and goes again",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(first_replica(trial)),
    },
    Scenario {
        name: "redis_stale_promoted",
        fault: "promotion of a replica that missed the last writes, and the way back",
        reach: Reach::All,
        sides: COUNTING,
        slice: Some(Side::Sink),
        relay: lasting,
        act: |trial| Box::pin(stale_promoted(trial)),
    },
    Scenario {
        name: "redis_paused_short",
        fault: "SIGSTOP of Redis for 3 s, 3 times",
        reach: Reach::All,
        sides: COUNTING,
        slice: Some(Side::Sink),
        relay: lasting,
        act: |trial| Box::pin(paused_short(trial)),
    },
    Scenario {
        name: "redis_paused_long",
        fault: "SIGSTOP of Redis for 20 s",
        reach: Reach::All,
        sides: COUNTING,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(paused_long(trial)),
    },
];

/// How soon slots are granted again when all pods live.
const OPEN_AGAIN: Duration = Duration::from_secs(3);
/// How soon mail flows again after a restart.
const RESUMED: Duration = Duration::from_secs(5);
/// New mails that prove that new ones are claimed: twice what can have been on its way.
const NEW_MAILS: usize = 32;

/// Something is done to Redis that costs the ledger, while all sessions are busy: none of them may be closed, and
/// slots must be granted again in time. `harm` tells since when Redis can be used: how long it takes to start is not ours.
async fn lose_ledger(trial: &mut Trial<'_>, harm: impl FnOnce(&Stage) -> Instant) -> Result<()> {
    trial.moment(0..1_000).await;
    let before = trial.all_busy().await?;
    let token = trial.relay.ledger().await?.token;
    trial.strike();
    let usable = harm(trial.stage);
    open_again(trial, &token).await?;
    trial.time("slots are granted again", usable.elapsed(), OPEN_AGAIN);
    let after = trial.all_busy().await?;
    no_session_closed(trial, &before, &after);
    flowing(trial).await?;
    trial.time("mail flows again", usable.elapsed(), RESUMED);
    Ok(())
}

/// Waits until the ledger is open under another token.
async fn open_again(trial: &Trial<'_>, token: &str) -> Result<()> {
    until("an open ledger with another token", PATIENCE, async || {
        let ledger = trial.relay.ledger().await?;
        let open = ledger.state == LedgerState::Open && ledger.token != token;
        Ok(Look::when(open, (), || format!("{ledger:?}")))
    })
    .await
    .map(drop)
}

/// Sessions that were opened since: with all of them open then and now, as many were closed.
pub(super) fn no_session_closed(trial: &mut Trial<'_>, before: &Stats, after: &Stats) {
    trial.figure("live sessions closed", after.sessions - before.sessions, "sessions", 0..=0);
}

/// Waits until mail is sent that was claimed after this.
pub(super) async fn flowing(trial: &Trial<'_>) -> Result<()> {
    let now = trial.relay.server.stats().accepted;
    let wanted = now + u64::try_from(NEW_MAILS)?;
    trial.sink_until("mail flows", |stats| stats.accepted >= wanted).await.map(drop)
}

/// Sends a command that must succeed.
fn order(stage: &Stage, words: &[&str]) -> Instant {
    let now = Instant::now();
    stage.with_redis(|redis| redis.command(words)).expect("Redis answers");
    now
}

fn restart(stage: &Stage, lost: impl FnOnce(&mut RedisServer)) -> Instant {
    stage.with_redis(|redis| {
        redis.crash();
        lost(redis);
        redis.resume();
    });
    Instant::now()
}

async fn killed(trial: &mut Trial<'_>) -> Result<()> {
    // What was in the hands of a session when Redis died is resolved by its stage; nothing is a worker's death.
    for _ in 0..20 {
        lose_ledger(trial, |stage| restart(stage, |_| ())).await?;
    }
    Ok(())
}

async fn ledger_deleted(trial: &mut Trial<'_>) -> Result<()> {
    let key = trial.relay.ledger_key().to_owned();
    let delete = |stage: &Stage| order(stage, &["DEL", &key]);
    for _ in 0..3 {
        lose_ledger(trial, delete).await?;
    }
    if !trial.relay.server.is_sink() {
        return Ok(());
    }
    // Sessions that end all the time: what is not open when the ledger is lost must grow again.
    let brief = Behaviour { mail_delay_ms: SLOW_MS, max_messages_per_session: Some(3), ..Behaviour::default() };
    trial.relay.server.set_behaviour(brief);
    for _ in 0..3 {
        trial.moment(0..1_000).await;
        trial.all_busy().await?;
        let token = trial.relay.ledger().await?.token;
        let harmed = trial.strike();
        delete(trial.stage);
        open_again(trial, &token).await?;
        trial.all_busy().await?;
        trial.time("all sessions again, while they come and go", harmed.elapsed(), OPEN_AGAIN);
    }
    trial.relay.server.set_behaviour(Behaviour { mail_delay_ms: SLOW_MS, ..Behaviour::default() });
    Ok(())
}

async fn flushed(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.store_lost = true;
    for _ in 0..3 {
        lose_ledger(trial, |stage| order(stage, &["FLUSHALL"])).await?;
    }
    Ok(())
}

async fn restarted_empty(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.store_lost = true;
    for _ in 0..3 {
        lose_ledger(trial, |stage| restart(stage, RedisServer::lose_data)).await?;
    }
    Ok(())
}

async fn restarted_older(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.store_lost = true;
    for _ in 0..3 {
        let copy = trial.stage.with_redis(|redis| redis.copy_data());
        // The copy is old: mails of hundreds of sessions' turns and all renewals are missing from it.
        flowing(trial).await?;
        trial.moment(2_000..4_000).await;
        lose_ledger(trial, |stage| restart(stage, |redis| redis.restore_data(&copy))).await?;
    }
    Ok(())
}

async fn first_replica(trial: &mut Trial<'_>) -> Result<()> {
    // Only the first one since Redis was started is the first.
    lose_ledger(trial, |stage| restart(stage, |_| ())).await?;
    let mut replica = None;
    lose_ledger(trial, |stage| {
        let now = Instant::now();
        replica = Some(stage.with_redis(|redis| redis.replica(redis.address())));
        now
    })
    .await?;
    let unsafe_after = trial.relay.await_condition("StoreUnsafe", "True", PATIENCE).await?;
    trial.note("the condition StoreUnsafe says that a split brain is possible, after", millis(unsafe_after), "ms");
    let (before, token) = (trial.all_busy().await?, trial.relay.ledger().await?.token);
    trial.strike();
    drop(replica);
    trial.relay.await_condition("StoreUnsafe", "False", PATIENCE).await?;
    let after = trial.all_busy().await?;
    no_session_closed(trial, &before, &after);
    let now = trial.relay.ledger().await?.token;
    trial.must(now == token, || "the ledger was lost with a replica that nobody needs".into());
    Ok(())
}

async fn stale_promoted(trial: &mut Trial<'_>) -> Result<()> {
    trial.expect.store_lost = true;
    let primary = trial.stage.with_redis(|redis| redis.address());
    let door = Door::open(trial.stage.address, primary).await.context("cannot open a door to Redis")?;
    let mut replica = trial.stage.with_redis(|redis| redis.replica(door.address()));
    // It was the first one, perhaps.
    until("an open ledger", PATIENCE, async || {
        let ledger = trial.relay.ledger().await?;
        Ok(Look::when(ledger.state == LedgerState::Open, (), || format!("{ledger:?}")))
    })
    .await?;
    // Whatever happens in between, the installation has its Redis again in the end.
    let stage = trial.stage;
    let _back = Undo::new(|| {
        stage.with_redis(|redis| {
            if redis.has_ended() {
                redis.resume();
            }
        });
    });
    door.freeze();
    flowing(trial).await?;
    trial.moment(2_000..4_000).await;
    let mut diversion = None;
    lose_ledger(trial, |stage| {
        stage.with_redis(RedisServer::crash);
        replica.promote();
        diversion = Some(divert(primary, &replica));
        Instant::now()
    })
    .await?;
    drop(door);
    lose_ledger(trial, |stage| {
        replica.crash();
        let copy = replica.copy_data();
        diversion = None;
        restart(stage, |redis| redis.restore_data(&copy))
    })
    .await
}

/// The primary's clients find the replica at the primary's address, as behind a virtual address or a Service.
fn divert(primary: SocketAddr, replica: &RedisServer) -> Diversion {
    Diversion::of(None, primary, replica.port()).expect("the packet filter takes the rule")
}

async fn paused_short(trial: &mut Trial<'_>) -> Result<()> {
    for _ in 0..3 {
        trial.moment(0..1_000).await;
        let before = trial.all_busy().await?;
        trial.strike();
        let paused = trial.stage.redis_process()?.pause()?;
        tokio::time::sleep(Duration::from_secs(3)).await;
        drop(paused);
        let back = trial.strike();
        flowing(trial).await?;
        trial.time("mail flows again", back.elapsed(), RESUMED);
        let after = trial.all_busy().await?;
        no_session_closed(trial, &before, &after);
    }
    Ok(())
}

async fn paused_long(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let struck = trial.strike();
    let paused = trial.stage.redis_process()?.pause()?;
    trial.sink_until("all sessions are closed", |stats| stats.open == 0).await?;
    trial.time("all sessions closed after the stop", struck.elapsed(), LEASE + notices(trial));
    let none: Stats = trial.relay.server.stats();
    tokio::time::sleep_until((struck + Duration::from_secs(20)).into()).await;
    let still: Stats = trial.relay.server.stats();
    trial.figure("sessions opened without a lease", still.sessions - none.sessions, "sessions", 0..=0);
    drop(paused);
    let back = trial.strike();
    trial.all_busy().await?;
    trial.time("all sessions open again", back.elapsed(), Duration::from_secs(2));
    flowing(trial).await
}
