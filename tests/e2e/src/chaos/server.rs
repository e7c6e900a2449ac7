//! Mail servers that misbehave.

use std::time::Duration;

use anyhow::Result;
use mailsink::{Behaviour, Failure, FailureStage, Stats};
use serde_json::json;

use super::{
    Reach, SINK, Scenario, Trial,
    redis::flowing,
    setup::{SLOW_MS, two_pods},
    trial::{PATIENCE, millis},
};
use crate::{
    RelayOptions, Side,
    network::Knocks,
    wait::{Look, until},
};

/// The scenarios.
pub(super) const ALL: &[Scenario] = &[
    Scenario {
        name: "server_replies",
        fault: "a reply of each class at each stage, one after the other",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: quick_retries,
        act: |trial| Box::pin(replies(trial)),
    },
    Scenario {
        name: "server_ends_sessions",
        fault: "connections that end at each stage before the final dot, at a server without PIPELINING and CHUNKING",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: step_by_step,
        act: |trial| Box::pin(ends_sessions(trial)),
    },
    Scenario {
        name: "server_drops_before_answer",
        fault: "the connection ends after the final dot and before the answer; half of the mails were taken",
        reach: Reach::Own,
        sides: SINK,
        slice: Some(Side::Sink),
        relay: two_pods,
        act: |trial| Box::pin(drops_before_answer(trial)),
    },
    Scenario {
        name: "server_drops_after_answer",
        fault: "the connection ends right after the final answer, 50 times",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(drops_after_answer(trial)),
    },
    Scenario {
        name: "server_makes_no_sense",
        fault: "replies without a code, half lines, and 354 after the dot",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(makes_no_sense(trial)),
    },
    Scenario {
        name: "server_tarpit",
        fault: "one byte a second for 15 s",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(tarpit(trial)),
    },
    Scenario {
        name: "server_closes_late",
        fault: "EOF 500 ms after the goodbye, while each session takes three mails only",
        reach: Reach::Own,
        sides: SINK,
        slice: Some(Side::Sink),
        relay: two_pods,
        act: |trial| Box::pin(closes_late(trial)),
    },
    Scenario {
        name: "server_limit_below_budget",
        fault: "the server takes 10 sessions where the budget says 16, and then 16 again",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(limit_below_budget(trial)),
    },
    Scenario {
        name: "server_too_many_burst",
        fault: "a burst of `too many connections` from a server that has room",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(too_many_burst(trial)),
    },
    Scenario {
        name: "server_down",
        fault: "the server is down for 60 s",
        reach: Reach::Own,
        sides: SINK,
        slice: None,
        relay: two_pods,
        act: |trial| Box::pin(down(trial)),
    },
];

fn normal() -> Behaviour {
    Behaviour { mail_delay_ms: SLOW_MS, ..Behaviour::default() }
}

fn failing(failures: impl IntoIterator<Item = Failure>) -> Behaviour {
    Behaviour { mail_delay_ms: SLOW_MS, ..Behaviour::failing(failures) }
}

/// Retries that come within the scenario.
fn quick_retries(name: &str) -> RelayOptions {
    let spec = json!({"retry": {"maxRetries": 10, "initialBackoff": "200ms", "maxBackoff": "1s"}});
    RelayOptions { spec, ..two_pods(name) }
}

/// A server to which a mail is told piece by piece.
fn plain() -> Behaviour {
    Behaviour { hide: vec!["PIPELINING".into(), "CHUNKING".into()], ..normal() }
}

fn step_by_step(name: &str) -> RelayOptions {
    RelayOptions { behaviour: plain(), ..quick_retries(name) }
}

/// Misbehaves until each of so many failures has happened, then as usual until all sessions are busy again.
async fn misbehave(trial: &mut Trial<'_>, behaviour: Behaviour) -> Result<()> {
    trial.relay.server.set_behaviour(behaviour);
    until("every failure to have happened", PATIENCE, async || {
        let left: u32 = trial.relay.server.sink().behaviour().failures.iter().filter_map(|failure| failure.times).sum();
        Ok(Look::when(left == 0, (), || format!("{left} are left")))
    })
    .await?;
    trial.strike();
    trial.relay.server.set_behaviour(normal());
    Ok(())
}

/// How many connections were tried, let in or not.
fn attempts(stats: &Stats) -> u64 {
    stats.sessions + u64::try_from(stats.rejected).unwrap_or(u64::MAX)
}

/// How often each failure of the table happens.
const TIMES: u32 = 8;

/// By class: what is good, later, for good, and the end of the session, wherever it can be said.
async fn replies(trial: &mut Trial<'_>) -> Result<()> {
    use FailureStage::{Data, Dot, Ehlo, Greeting, Mail, Quit, Rcpt};
    let before = attempts(&trial.all_busy().await?);
    let mut steps = 0;
    for (stage, reply) in [
        (Greeting, "421 4.3.2 not now"),
        (Greeting, "554 5.3.2 no service here"),
        (Ehlo, "451 4.3.0 later"),
        (Ehlo, "550 5.7.1 go away"),
        (Mail, "451 4.3.0 later"),
        // Whose fault it is shows when others are taken: none dies for it the first time.
        (Mail, "550 5.1.1 no such user"),
        (Mail, "421 4.3.2 not now"),
        (Rcpt, "450 4.2.1 later"),
        (Rcpt, "452 4.5.3 too many recipients"),
        (Data, "451 4.3.0 later"),
        (Dot, "452 4.3.1 no room"),
        (Dot, "421 4.3.2 not now"),
    ] {
        // Only new sessions are greeted: let them come and go.
        let brief = matches!(stage, Greeting | Ehlo).then_some(3);
        let failures = [Failure::reply(stage, reply).times(TIMES)];
        misbehave(trial, Behaviour { max_messages_per_session: brief, ..failing(failures) }).await?;
        steps += u64::from(TIMES);
        flowing(trial).await?;
    }
    // Refused for good: a dead letter each.
    for stage in [Rcpt, Data, Dot] {
        misbehave(trial, failing([Failure::reply(stage, "550 5.1.1 no such user").times(TIMES)])).await?;
        steps += u64::from(TIMES);
        trial.expect.dead += usize::try_from(TIMES)?;
        flowing(trial).await?;
    }
    // Sessions that are given up say goodbye; what the server says to it changes nothing.
    trial.relay.server.set_behaviour(failing([Failure::reply(Quit, "500 5.5.1 what?")]));
    trial.relay.rebalance(3).await?;
    trial.relay.rebalance(2).await?;
    misbehave(trial, normal()).await?;
    let tried = attempts(&trial.all_busy().await?) - before;
    trial.note("failures played", steps, "failures");
    trial.note("connections tried", tried, "connections");
    Ok(())
}

/// Nothing can have been taken before the dot: all of it is delivered once, and none is held. But whoever ends the
/// session while the content flows may have read the dot, for all that the worker knows.
async fn ends_sessions(trial: &mut Trial<'_>) -> Result<()> {
    use FailureStage::{Body, Data, Ehlo, Greeting, Mail, Rcpt};
    let before = attempts(&trial.all_busy().await?);
    trial.expect.held = usize::try_from(TIMES)?;
    for stage in [Greeting, Ehlo, Mail, Rcpt, Data, Body] {
        let brief = matches!(stage, Greeting | Ehlo).then_some(3);
        let failures = vec![Failure::closing(stage).times(TIMES)];
        misbehave(trial, Behaviour { max_messages_per_session: brief, failures, ..plain() }).await?;
        trial.relay.server.set_behaviour(plain());
        flowing(trial).await?;
    }
    let tried = attempts(&trial.all_busy().await?) - before;
    trial.note("connections tried", tried, "connections");
    Ok(())
}

async fn drops_before_answer(trial: &mut Trial<'_>) -> Result<()> {
    let (taken, lost) = (12, 12);
    let before = attempts(&trial.all_busy().await?);
    trial.expect.held = usize::try_from(taken + lost)?;
    misbehave(
        trial,
        failing([
            Failure::closing(FailureStage::Dot).accepting().times(taken),
            Failure::closing(FailureStage::Dot).times(lost),
        ]),
    )
    .await?;
    flowing(trial).await?;
    let tried = attempts(&trial.all_busy().await?) - before;
    trial.figure("connections tried after 24 losses", tried, "connections", 1..=48);
    until("every mail of unknown outcome is held", PATIENCE, async || {
        let held = trial.relay.parked().await?.0.len();
        Ok(Look::when(held == trial.expect.held, (), || format!("{held} are held")))
    })
    .await
    .map(drop)
}

async fn drops_after_answer(trial: &mut Trial<'_>) -> Result<()> {
    let before = attempts(&trial.all_busy().await?);
    let bye = Failure::reply(FailureStage::Dot, "250 2.0.0 ok, and goodbye").accepting().and_close();
    misbehave(trial, failing([bye.times(50)])).await?;
    flowing(trial).await?;
    // A mail that is written into a session in the very moment in which the server ends it has an unknown outcome.
    trial.expect.held = 5;
    let tried = attempts(&trial.all_busy().await?) - before;
    trial.figure("connections tried after 50 losses", tried, "connections", 1..=100);
    Ok(())
}

async fn makes_no_sense(trial: &mut Trial<'_>) -> Result<()> {
    use FailureStage::{Dot, Ehlo, Mail};
    trial.all_busy().await?;
    // Where whole mails are sent in one write, nothing says whether one was taken whose answers make no sense.
    trial.expect.held = 5 * usize::try_from(TIMES)?;
    for failure in [
        Failure::raw(Ehlo, "hello there\r\n"),
        Failure::raw(Mail, "of course\r\n"),
        Failure::raw(Mail, "25").and_close(),
        Failure::raw(Dot, "ok, taken\r\n").and_close(),
        Failure::raw(Dot, "250").and_close(),
        Failure::reply(Dot, "354 go ahead"),
    ] {
        let brief = (failure.stage == Ehlo).then_some(3);
        misbehave(trial, Behaviour { max_messages_per_session: brief, ..failing([failure.times(TIMES)]) }).await?;
        flowing(trial).await?;
    }
    trial.all_busy().await.map(drop)
}

async fn tarpit(trial: &mut Trial<'_>) -> Result<()> {
    let before = trial.all_busy().await?;
    trial.strike();
    trial.relay.server.set_behaviour(Behaviour { byte_delay_ms: 1_000, ..normal() });
    // What it must not cause, it could cause at any time: there is nothing to wait for.
    tokio::time::sleep(Duration::from_secs(15)).await;
    let slow = trial.relay.server.stats();
    trial.figure("connections tried meanwhile", attempts(&slow) - attempts(&before), "connections", 0..=16);
    trial.relay.server.set_behaviour(normal());
    trial.strike();
    flowing(trial).await
}

async fn closes_late(trial: &mut Trial<'_>) -> Result<()> {
    trial.strike();
    let late = Behaviour { close_delay_ms: 500, max_messages_per_session: Some(3), ..normal() };
    trial.relay.server.set_behaviour(late);
    let before = trial.relay.server.stats().sessions;
    // Each is counted until the end of its connection, so that the next one comes after it.
    trial.sink_until("five generations of sessions", |stats| stats.sessions >= before + 80).await?;
    trial.strike();
    trial.relay.server.set_behaviour(normal());
    trial.all_busy().await.map(drop)
}

async fn limit_below_budget(trial: &mut Trial<'_>) -> Result<()> {
    let before = trial.all_busy().await?;
    trial.strike();
    // Those above the limit have to come again to be refused.
    trial.relay.server.set_behaviour(Behaviour { limit: Some(10), max_messages_per_session: Some(3), ..normal() });
    trial.relay.await_condition("ServerSaturated", "True", PATIENCE).await?;
    trial.relay.server.set_behaviour(Behaviour { limit: Some(10), ..normal() });
    flowing(trial).await?;
    let during = trial.relay.server.stats();
    let refused = u64::try_from(during.rejected - before.rejected)?;
    trial.figure("connections refused before it used fewer", refused, "connections", 1..=32);
    trial.relay.server.set_behaviour(normal());
    let healed = trial.strike();
    trial.expect.rejected = during.rejected + 16;
    until("the whole budget again", Duration::from_secs(180), async || {
        let open = trial.relay.server.stats().open;
        Ok(Look::when(open == 16, (), || format!("{open} sessions")))
    })
    .await?;
    trial.note("the whole budget is used again after", millis(healed.elapsed()), "ms");
    Ok(())
}

async fn too_many_burst(trial: &mut Trial<'_>) -> Result<()> {
    // Sessions are open when they are accepted; these shall have been greeted too.
    flowing(trial).await?;
    let before = attempts(&trial.all_busy().await?);
    let full = Failure::reply(FailureStage::Greeting, "421 4.7.0 too many connections").and_close();
    let brief = Behaviour { max_messages_per_session: Some(3), ..failing([full.times(6)]) };
    misbehave(trial, brief).await?;
    let healed = trial.strike();
    flowing(trial).await?;
    let tried = attempts(&trial.relay.server.stats()) - before;
    trial.figure("connections tried", tried, "connections", 6..=64);
    until("the whole budget again", Duration::from_secs(180), async || {
        let open = trial.relay.server.stats().open;
        Ok(Look::when(open == 16, (), || format!("{open} sessions")))
    })
    .await?;
    trial.note("the whole budget is used again after", millis(healed.elapsed()), "ms");
    Ok(())
}

async fn down(trial: &mut Trial<'_>) -> Result<()> {
    let knocks = Knocks::at(trial.relay.server.smtp())?;
    trial.moment(0..1_000).await;
    trial.all_busy().await?;
    let struck = trial.strike();
    // What was between the final dot and its answer when the server went away.
    trial.expect.held = 16;
    trial.relay.server.sink().go_down().await;
    let told = trial.relay.await_condition("ServerUnavailable", "True", PATIENCE).await?;
    trial.note("the condition ServerUnavailable says so after", millis(told), "ms");
    tokio::time::sleep_until((struck + Duration::from_secs(60)).into()).await;
    let tried = knocks.count()?;
    trial.figure("connections tried in a minute", tried, "connections", 1..=240);
    trial.relay.server.sink().come_up().await?;
    let healed = trial.strike();
    trial.all_busy().await?;
    trial.time("all sessions open again", healed.elapsed(), Duration::from_secs(35));
    flowing(trial).await
}
