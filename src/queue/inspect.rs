//! Looking at a queue: depths, claims, the state of one mail.

use std::collections::{BTreeMap, HashMap};

use redis::cmd;
use serde::Serialize;

use super::{At, Audit, Queue, SCRIPT_LIMIT, Stage, StageMark, scripts};
use crate::{mail::UnixMillis, store::StoreError};

/// How many mails are where.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Depths {
    /// Waiting in any list.
    pub pending: u64,
    /// Waiting for their time.
    pub delayed: u64,
    /// In the hands of a process.
    pub in_flight: u64,
    /// Parked, outcome unknown.
    pub held: u64,
    /// Dead letters.
    pub dead: u64,
    /// Since when the oldest waits; estimated for mails by plain LPUSH.
    pub oldest: Option<UnixMillis>,
    /// When this was, by Redis' clock.
    pub at: UnixMillis,
}

/// A process that claimed mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessClaims {
    /// Its id.
    pub process: String,
    /// Its pod's name, as it said at its last claim.
    pub pod: String,
    /// How many it has.
    pub claims: u64,
}

/// The claims of one process by stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct InFlight {
    /// Its id.
    pub process: String,
    /// Its pod's name.
    pub pod: String,
    /// How many at which stage.
    pub stages: BTreeMap<Stage, u64>,
    /// Since when the one that waits longest is at its stage.
    pub oldest: Option<UnixMillis>,
}

/// What is known of one mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct MailStatus {
    /// Its id.
    pub id: String,
    /// `queued`, `claimed`, `delayed`, `resend`, `delivered`, `held`, `dead`, `expired`, `discarded`, `duplicate`, or
    /// `lost`: removed by hand.
    pub state: String,
    /// Since when.
    pub at: UnixMillis,
    /// Its Message-ID, once an outcome named it; for as long as the stream has that.
    pub message_id: Option<String>,
    /// When a delayed one is due.
    pub due: Option<UnixMillis>,
    /// Why, in a word.
    pub reason: Option<String>,
    /// The last reply of a server, for as long as the stream has it.
    pub reply: Option<String>,
}

/// One atomic look at everything that is counted.
pub(super) struct Survey {
    depths: Depths,
    pub(super) counters: HashMap<String, i64>,
    /// Entries with a header that wait, as they lie there; none when they are too many to look at.
    pub(super) recounted: Option<u64>,
    /// Delayed mails, as they lie there.
    delayed_mails: u64,
}

impl Survey {
    pub(super) fn audit(&self) -> Audit {
        let Self { depths, counters, recounted, delayed_mails } = self;
        let counter = |name: &str| counters.get(name).copied().unwrap_or(0);
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let known = counter("counted");
        let raw_waiting = Audit::raw_waiting(depths.pending, known, *recounted);
        Audit {
            accepted: unsigned(counter("accepted")) + raw_waiting,
            delivered: unsigned(counter("delivered")),
            duplicates: unsigned(counter("duplicates")),
            expired: unsigned(counter("expired")),
            discarded: unsigned(counter("discarded")),
            queued: depths.pending,
            delayed: *delayed_mails,
            in_flight: depths.in_flight,
            held: depths.held,
            dead: depths.dead,
            raw_waiting,
            difference: 0,
            since: counters.get("began").copied().map(unsigned).map(UnixMillis),
            unverified: Vec::new(),
        }
        .balanced()
        .doubted(known, *recounted, depths.delayed)
    }
}

impl Queue {
    /// How many mails are where, at one instant. Also takes a sample of how many had arrived by then: who asks every
    /// few seconds gets a good estimate of how long raw mail has waited.
    pub async fn depths(&self, at: impl Into<At>) -> Result<Depths, StoreError> {
        Ok(self.survey(&at.into().word()).await?.depths)
    }

    /// How many mails wait to be taken: four commands in one round trip.
    pub async fn pending(&self) -> Result<u64, StoreError> {
        let names = &self.names;
        let mut lengths = redis::pipe();
        for list in [names.arrived(), &names.high, names.queue(), &names.low] {
            lengths.cmd("LLEN").arg(list);
        }
        let lengths: Vec<u64> = self.store.query_all(&lengths, SCRIPT_LIMIT).await?;
        Ok(lengths.iter().sum())
    }

    /// The conservation sum, at one instant.
    pub async fn audit(&self) -> Result<Audit, StoreError> {
        Ok(self.survey(AUDIT).await?.audit())
    }

    /// Counters of the scripts beyond the audit's: `recovered.<stage>.<outcome>`, `tries.<reason>`, `taken`, `returned`.
    pub async fn counters(&self) -> Result<BTreeMap<String, i64>, StoreError> {
        let found: BTreeMap<String, i64> =
            self.store.query(cmd("HGETALL").arg(&self.names.counters), SCRIPT_LIMIT).await?;
        Ok(found.into_iter().filter(|(name, _)| !INTERNAL.contains(&name.as_str())).collect())
    }

    /// Every process that has claims, or had until a moment ago.
    pub async fn processes(&self) -> Result<Vec<ProcessClaims>, StoreError> {
        let mut processes = Vec::new();
        for (process, pod) in self.pods().await? {
            let claims = self.store.query(cmd("HLEN").arg(self.names.claims(&process)), SCRIPT_LIMIT).await?;
            processes.push(ProcessClaims { process, pod, claims });
        }
        Ok(processes)
    }

    /// The claims of every process by stage. Each process is looked at on its own: not one instant for all.
    pub async fn in_flight(&self) -> Result<Vec<InFlight>, StoreError> {
        let mut all = Vec::new();
        for (process, pod) in self.pods().await? {
            let marks: Vec<String> =
                self.store.query(cmd("HVALS").arg(self.names.stages(&process)), SCRIPT_LIMIT).await?;
            let mut flight = InFlight { process, pod, stages: BTreeMap::new(), oldest: None };
            for mark in marks.iter().filter_map(|mark| mark.parse::<StageMark>().ok()) {
                *flight.stages.entry(mark.stage).or_default() += 1;
                flight.oldest = Some(flight.oldest.map_or(mark.since, |oldest| oldest.min(mark.since)));
            }
            all.push(flight);
        }
        Ok(all)
    }

    pub(super) async fn pods(&self) -> Result<BTreeMap<String, String>, StoreError> {
        self.store.query(cmd("HGETALL").arg(&self.names.processes), SCRIPT_LIMIT).await
    }

    pub(super) async fn survey(&self, at: &str) -> Result<Survey, StoreError> {
        // The keys of a script must be known beforehand; when a process came or went in between, look again.
        for _ in 0..TRIES {
            let processes: Vec<String> = self.pods().await?.into_keys().collect();
            let mut keys = vec![self.names.samples.clone()];
            keys.extend(processes.iter().map(|process| self.names.claims(process)));
            let mut arguments = vec![at.as_bytes()];
            arguments.extend(processes.iter().map(String::as_bytes));
            let answer: Option<Answer> =
                self.run(&scripts::DEPTHS, &keys, &arguments).await.map(Surveyed::into_inner)?;
            if let Some(answer) = answer {
                let (
                    now,
                    pending,
                    delayed,
                    in_flight,
                    held,
                    dead,
                    oldest,
                    estimate,
                    counters,
                    recounted,
                    delayed_mails,
                ) = answer;
                let at = UnixMillis(now.parse().unwrap_or(0));
                if at != UnixMillis::default() {
                    self.heard(at);
                }
                let oldest = oldest.parse().ok().into_iter().chain(estimate.parse().ok()).min().map(UnixMillis);
                let depths = Depths { pending, delayed, in_flight, held, dead, oldest, at };
                return Ok(Survey { depths, counters, recounted: recounted.parse().ok(), delayed_mails });
            }
        }
        Err(self.garbled(format!("the set of worker processes changed {TRIES} times while it was read; try again")))
    }
}

/// Counters that say nothing to people: how the scripts share work, and what they compare.
const INTERNAL: [&str; 10] =
    ["turn", "counted", "bytes", "drains", "silent", "promotedAt", "began", "retention", "eventsLength", "corrections"];

/// What a survey is asked instead of a time: no sample, but a recount.
pub(super) const AUDIT: &str = "audit";

/// How often a survey is repeated when the set of processes changes under it.
pub(super) const TRIES: usize = 20;

type Answer = (String, u64, u64, u64, u64, u64, String, String, HashMap<String, i64>, String, u64);

/// The answer of the script, which is empty when the set of processes had changed.
struct Surveyed(Option<Answer>);

impl Surveyed {
    fn into_inner(self) -> Option<Answer> {
        self.0
    }
}

impl redis::FromRedisValue for Surveyed {
    fn from_redis_value(value: redis::Value) -> Result<Self, redis::ParsingError> {
        match value {
            redis::Value::Array(items) if items.is_empty() => Ok(Self(None)),
            other => redis::from_redis_value(other).map(|answer| Self(Some(answer))),
        }
    }
}
