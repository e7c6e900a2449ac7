//! Redis that lives and refuses: no memory, no disk, no scripts, no access.

use std::{
    ops::RangeInclusive,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use testkit::RedisServer;

use super::{
    Reach, SINK, Scenario, Trial,
    redis::{flowing, no_session_closed},
    setup::{LEASE, Undo, lasting},
    trial::{PATIENCE, millis},
};
use crate::{
    Stage, mails,
    network::Knocks,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "redis_memory_full",
        fault: "maxmemory is reached, for 15 s",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(memory_full(trial)),
    },
    Scenario {
        name: "redis_disk_full",
        fault: "the disk of Redis is full, so that it ends, again at each start, until there is room",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(disk_full(trial)),
    },
    Scenario {
        name: "redis_scripts_flushed",
        fault: "SCRIPT FLUSH, 50 times",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(scripts_flushed(trial)),
    },
    Scenario {
        name: "redis_scripts_denied",
        fault: "the ACL takes scripts away, for 15 s",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(scripts_denied(trial)),
    },
    Scenario {
        name: "redis_password_changed",
        fault: "another password, and nobody is told, for 15 s",
        reach: Reach::All,
        sides: SINK,
        slice: None,
        relay: lasting,
        act: |trial| Box::pin(password_changed(trial)),
    },
];

/// How long Redis refuses: longer than a lease and the time after which silence is death.
const REFUSES: Duration = Duration::from_secs(15);
/// How soon the sessions are open again.
const BACK: Duration = Duration::from_secs(5);

fn order(stage: &Stage, words: &[&str]) -> Result<String> {
    stage.with_redis(|redis| redis.command(words)).map_err(anyhow::Error::msg)
}

/// New mail is refused in so many words, and what was accepted is sent.
async fn memory_full(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let stage = trial.stage;
    let _room = Undo::new(|| {
        let _ = order(stage, &["CONFIG", "SET", "maxmemory", "0"]);
    });
    let struck = trial.strike();
    order(stage, &["CONFIG", "SET", "maxmemory", "1"])?;
    let refused =
        trial.relay.mailrelay(&["send", "--relay", &relay_name(trial), "--lines"], &mails::lines("no", 1)).await?;
    trial.must(refused.code == Some(1) && refused.stderr.contains("memory"), || {
        format!("no clear refusal: {refused:?}")
    });
    trial.relay.await_settled(PATIENCE).await.context("what was accepted is sent without memory")?;
    trial.time("accepted mail was sent without memory within", struck.elapsed(), REFUSES);
    let told = trial.relay.await_condition("StoreUnsafe", "True", PATIENCE).await?;
    trial.note("the condition StoreUnsafe says so after", millis(told), "ms");
    let before = trial.relay.server.stats();
    tokio::time::sleep_until((struck + REFUSES).into()).await;
    let after = trial.relay.server.stats();
    trial.figure("sessions opened meanwhile", after.sessions - before.sessions, "sessions", 0..=0);
    order(stage, &["CONFIG", "SET", "maxmemory", "0"])?;
    let healed = trial.strike();
    trial.all_busy().await?;
    trial.time("all sessions busy again", healed.elapsed(), BACK);
    trial.relay.await_condition("StoreUnsafe", "False", PATIENCE).await?;
    flowing(trial).await
}

fn relay_name(trial: &Trial<'_>) -> String {
    format!("{}/corporate", trial.relay.namespace)
}

/// A Redis that promised to write every command ends when it cannot, and what it acknowledged is on its disk.
async fn disk_full(trial: &mut Trial<'_>) -> Result<()> {
    let stage = trial.stage;
    let _room = Undo::new(|| stage.with_redis(RedisServer::leave_small_disk));
    stage.with_redis(|redis| redis.move_to_small_disk(64));
    flowing(trial).await?;
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let struck = trial.strike();
    stage.with_redis(|redis| redis.fill_disk());
    let ((), ended) = until("Redis ends by itself", PATIENCE, async || {
        Ok(Look::when(stage.with_redis(RedisServer::has_ended), (), || "it runs".into()))
    })
    .await?;
    trial.note("Redis ended after", millis(ended), "ms");
    // As a supervisor does, which knows nothing of disks.
    while struck.elapsed() < REFUSES {
        tokio::time::sleep(Duration::from_secs(1)).await;
        stage.with_redis(|redis| {
            if redis.has_ended() {
                redis.launch();
            }
        });
    }
    let told = trial.relay.await_condition("Ready", "False", PATIENCE).await?;
    trial.note("Ready is False after another", millis(told), "ms");
    stage.with_redis(|redis| {
        redis.crash();
        redis.make_room();
        redis.resume();
    });
    let healed = trial.strike();
    trial.all_busy().await?;
    trial.time("all sessions open again", healed.elapsed(), BACK);
    flowing(trial).await
}

async fn scripts_flushed(trial: &mut Trial<'_>) -> Result<()> {
    let before = trial.all_busy().await?;
    for _ in 0..50 {
        trial.moment(0..200).await;
        trial.strike();
        order(trial.stage, &["SCRIPT", "FLUSH"])?;
    }
    flowing(trial).await?;
    let after = trial.all_busy().await?;
    no_session_closed(trial, &before, &after);
    Ok(())
}

async fn scripts_denied(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let stage = trial.stage;
    let allow = || order(stage, &["ACL", "SETUSER", "default", "+@all"]);
    let _allowed = Undo::new(|| {
        let _ = allow();
    });
    let struck = trial.strike();
    order(stage, &["ACL", "SETUSER", "default", "-@scripting"])?;
    refused(trial, struck, async || {
        let stats = order(stage, &["INFO", "errorstats"])?;
        let denied = stats.lines().find_map(|line| line.strip_prefix("errorstat_NOPERM:count="));
        Ok(denied.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
    })
    .await?;
    allow()?;
    healed(trial).await
}

async fn password_changed(trial: &mut Trial<'_>) -> Result<()> {
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let stage = trial.stage;
    let old = stage.with_redis(|redis| redis.password().map(str::to_owned)).context("a password")?;
    let back = || {
        let words = ["CONFIG", "SET", "requirepass", &old];
        stage.with_redis(|redis| redis.command_as(Some(("default", "another")), &words)).map_err(anyhow::Error::msg)
    };
    let _back = Undo::new(|| {
        let _ = back();
    });
    let knocks = Knocks::at(stage.with_redis(|redis| redis.address()))?;
    let struck = trial.strike();
    stage.with_redis(|redis| {
        redis.command(&["CONFIG", "SET", "requirepass", "another"]).map_err(anyhow::Error::msg)?;
        redis
            .command_as(Some(("default", "another")), &["CLIENT", "KILL", "TYPE", "normal"])
            .map_err(anyhow::Error::msg)?;
        redis
            .command_as(Some(("default", "another")), &["CLIENT", "KILL", "TYPE", "pubsub"])
            .map_err(anyhow::Error::msg)
    })?;
    refused(trial, struck, async || knocks.count()).await?;
    back()?;
    healed(trial).await
}

/// How often the whole installation, two workers and two controllers, may ask in vain in a second: a loop without pauses
/// would do so thousands of times.
const IN_VAIN: RangeInclusive<u64> = 1..=150;

/// While Redis refuses: the sessions end with their leases, the status says why, and nobody asks in a loop.
async fn refused(trial: &mut Trial<'_>, struck: Instant, asked: impl AsyncFn() -> Result<u64>) -> Result<()> {
    let first = asked().await?;
    let counting = Instant::now();
    trial.sink_until("all sessions are closed", |stats| stats.open == 0).await?;
    trial.time("all sessions closed after the refusals began", struck.elapsed(), LEASE);
    trial.relay.await_condition("Ready", "False", PATIENCE).await?;
    trial.note("Ready is False after", millis(struck.elapsed()), "ms");
    tokio::time::sleep_until((struck + REFUSES).into()).await;
    let asked = asked().await? - first;
    let seconds = counting.elapsed().as_secs().max(1);
    trial.figure("asked in vain", asked / seconds, "times a second", IN_VAIN);
    ensure!(trial.relay.server.stats().open == 0, "a session without a lease");
    Ok(())
}

async fn healed(trial: &mut Trial<'_>) -> Result<()> {
    let healed = trial.strike();
    trial.all_busy().await?;
    trial.time("all sessions open again", healed.elapsed(), BACK);
    // What was in the hands of a worker that could not say what had become of it was resolved by its stage.
    trial.expect.held = 16;
    flowing(trial).await
}
