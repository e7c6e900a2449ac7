//! The relays' records in Redis.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    pin::pin,
    sync::LazyLock,
};

use futures::{StreamExt, stream};
use redis::Script;
use serde::Deserialize;

use crate::{
    api::{RelayRecord, record_key, reports_key},
    controller::{
        drive::{ApplyError, Deposed, Turn},
        plan::{RelayKey, RelayPlan},
    },
    lease::CALL_LIMIT,
    store::{Store, StoreError},
};

/// Writes a record unless a later one, or the same one, is there. Answers 1 written, 0 the same, or minus the epoch of the
/// later one.
static PUBLISH: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!("#!lua flags=allow-oom\n", include_str!("scripts/publish.lua"))));

/// Removes a record unless a later leader wrote it. Answers 1, or minus the later epoch.
static WITHDRAW: LazyLock<Script> =
    LazyLock::new(|| Script::new(concat!("#!lua flags=allow-oom\n", include_str!("scripts/withdraw.lua"))));

/// How many records are read or written at once.
const AT_ONCE: usize = 100;

/// The relays' records as this leader published them.
#[derive(Default)]
pub struct Records {
    sent: BTreeMap<RelayKey, Sent>,
}

/// What was last sent to Redis of a relay. One whose answer was lost may be there all the same: no other has its revision.
struct Sent {
    record: RelayRecord,
    /// What was written, in short.
    hash: u64,
    is_there: bool,
}

/// A record on its way to Redis.
struct Letter {
    redis_key: String,
    epoch: u64,
    revision: u64,
    json: Vec<u8>,
}

impl Letter {
    /// Cancelling leaves open whether it arrived.
    async fn send(&self, store: &Store, turn: &Turn<'_>) -> Result<(), ApplyError> {
        let (epoch, revision) = (self.epoch.to_string(), self.revision.to_string());
        let arguments = [&self.json[..], epoch.as_bytes(), revision.as_bytes()];
        let answer: i64 = store.invoke(&PUBLISH, &[&self.redis_key], &arguments, CALL_LIMIT).await?;
        Ok(refused(answer, &self.redis_key, turn)?)
    }
}

impl Records {
    /// Publishes the records of these relays, several at once, and says of each how that went; those that come after one to
    /// which Redis said nothing are left for later. What is there already is not written again.
    pub async fn publish(
        &mut self,
        store: &Store,
        due: &[(&RelayKey, &RelayPlan)],
        turn: &Turn<'_>,
    ) -> Vec<(RelayKey, Result<(), ApplyError>)> {
        let letters: Vec<_> =
            due.iter().map(|(key, plan)| ((*key).clone(), self.write(store, key, plan, turn))).collect();
        let sending = stream::iter(letters).map(|(key, letter)| async move {
            let sent = match letter {
                Ok(letter) => letter.send(store, turn).await,
                Err(error) => Err(error.into()),
            };
            (key, sent)
        });
        let mut sending = pin!(sending.buffer_unordered(AT_ONCE));
        let mut done = Vec::new();
        while let Some((key, sent)) = sending.next().await {
            if sent.is_ok()
                && let Some(sent) = self.sent.get_mut(&key)
            {
                sent.is_there = true;
            }
            let is_silence = matches!(&sent, Err(ApplyError::Store(error)) if error.is_silence());
            done.push((key, sent));
            if is_silence {
                break;
            }
        }
        done
    }

    /// The record of a relay as it is to be sent now. Until it has arrived it counts as not there.
    fn write(
        &mut self,
        store: &Store,
        key: &RelayKey,
        plan: &RelayPlan,
        turn: &Turn<'_>,
    ) -> Result<Letter, StoreError> {
        let mut record = RelayRecord {
            schema: plan.published.schema(),
            epoch: turn.epoch,
            revision: 1,
            uid: plan.uid.clone(),
            generation: plan.generation,
            stalled: stalled(plan),
            lease_ms: u64::try_from(turn.timing.lease.as_millis()).unwrap_or(u64::MAX),
            spec: plan.published.clone(),
        };
        if let Some(Sent { record: last, .. }) = self.sent.get(key) {
            record.revision = last.revision;
            if record != *last {
                record.revision += 1;
            }
        }
        let json = serde_json::to_vec(&record).map_err(|error| StoreError::Garbled {
            address: store.address().to_owned(),
            detail: format!("the record of {key} is not JSON: {error}"),
        })?;
        let redis_key = record_key(&key.namespace, &key.name);
        let letter = Letter { redis_key, epoch: record.epoch, revision: record.revision, json };
        self.sent.insert(key.clone(), Sent { hash: hash(&letter.json), record, is_there: false });
        Ok(letter)
    }

    /// Removes the record and the reports of a relay that is gone. Mail is never touched.
    pub async fn withdraw(&mut self, store: &Store, key: &RelayKey, turn: &Turn<'_>) -> Result<(), ApplyError> {
        let redis_key = record_key(&key.namespace, &key.name);
        let epoch = turn.epoch.to_string();
        let answer: i64 = store.invoke(&WITHDRAW, &[&redis_key], &[epoch.as_bytes()], CALL_LIMIT).await?;
        refused(answer, &redis_key, turn)?;
        let reports = reports_key(&key.namespace, &key.name);
        store.query::<i64>(redis::cmd("DEL").arg(reports), CALL_LIMIT).await?;
        self.sent.remove(key);
        Ok(())
    }

    /// Whether the record that was published last still says what the plan says.
    pub fn is_current(&self, key: &RelayKey, plan: &RelayPlan) -> bool {
        self.sent.get(key).is_some_and(|Sent { record: last, is_there, .. }| *is_there && says(last, plan))
    }

    /// Asks whether Redis still has them all as they were sent. Those that it has not are current no more.
    pub async fn compare(&mut self, store: &Store) -> Result<(), StoreError> {
        let mut there: Vec<(&RelayKey, &mut Sent)> = self.sent.iter_mut().filter(|(_, sent)| sent.is_there).collect();
        for some in there.chunks_mut(AT_ONCE) {
            let keys: Vec<String> = some.iter().map(|(key, _)| record_key(&key.namespace, &key.name)).collect();
            let found: Vec<Option<Vec<u8>>> = store.query(redis::cmd("MGET").arg(keys), CALL_LIMIT).await?;
            for ((_, sent), found) in some.iter_mut().zip(found) {
                sent.is_there = found.is_some_and(|json| hash(&json) == sent.hash);
            }
        }
        Ok(())
    }

    /// Nobody can say what of them is there.
    pub fn doubt(&mut self) {
        self.sent.values_mut().for_each(|sent| sent.is_there = false);
    }

    /// Whether the record was sent as the plan says, with or without success.
    pub fn was_tried(&self, key: &RelayKey, plan: &RelayPlan) -> bool {
        self.sent.get(key).is_some_and(|Sent { record: last, .. }| says(last, plan))
    }

    /// The relays whose records this leader published.
    pub fn keys(&self) -> impl Iterator<Item = &RelayKey> {
        self.sent.keys()
    }
}

/// The highest epoch that any record has; 0 without records. They outlive the ledgers, and the `ConfigMap` that holds the
/// epoch, when someone deletes those.
pub async fn highest_epoch(store: &Store) -> Result<u64, StoreError> {
    let (mut highest, mut cursor) = (0, 0_u64);
    loop {
        let mut scan = redis::cmd("SCAN");
        scan.arg(cursor).arg("MATCH").arg(record_key("*", "*")).arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<String>) = store.query(&scan, CALL_LIMIT).await?;
        for keys in keys.chunks(AT_ONCE) {
            let records: Vec<Option<Vec<u8>>> = store.query(redis::cmd("MGET").arg(keys), CALL_LIMIT).await?;
            let epochs = records.iter().flatten().filter_map(|json| serde_json::from_slice::<Epoch>(json).ok());
            highest = epochs.map(|Epoch { epoch }| epoch).fold(highest, u64::max);
        }
        cursor = next;
        if cursor == 0 {
            return Ok(highest);
        }
    }
}

/// All that is asked of a record that another version may have written.
#[derive(Deserialize)]
struct Epoch {
    epoch: u64,
}

fn hash(json: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    json.hash(&mut hasher);
    hasher.finish()
}

fn says(record: &RelayRecord, plan: &RelayPlan) -> bool {
    record.uid == plan.uid
        && record.generation == plan.generation
        && record.stalled == stalled(plan)
        && record.spec == plan.published
}

fn stalled(plan: &RelayPlan) -> Option<String> {
    plan.stalled.as_ref().map(|stall| format!("{}: {}", stall.reason.as_str(), stall.message))
}

fn refused(answer: i64, key: &str, turn: &Turn<'_>) -> Result<(), Deposed> {
    if answer < 0 {
        let (of, theirs) = (format!("the record {key}"), answer.unsigned_abs());
        return Err(Deposed { of, theirs, ours: turn.epoch, refused: Some("record") });
    }
    Ok(())
}
