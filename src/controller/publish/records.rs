//! The relays' records in Redis.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::LazyLock,
};

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

/// How many records are read at once.
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

impl Records {
    /// Publishes the record of a relay. What is there already is not written again.
    pub async fn publish(
        &mut self,
        store: &Store,
        key: &RelayKey,
        plan: &RelayPlan,
        turn: &Turn<'_>,
    ) -> Result<(), ApplyError> {
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
        let (epoch, revision) = (record.epoch.to_string(), record.revision.to_string());
        let redis_key = record_key(&key.namespace, &key.name);
        let arguments = [&json[..], epoch.as_bytes(), revision.as_bytes()];
        let hash = hash(&json);
        self.sent.insert(key.clone(), Sent { record: record.clone(), hash, is_there: false });
        let answer: i64 = store.invoke(&PUBLISH, &[&redis_key], &arguments, CALL_LIMIT).await?;
        refused(answer, &redis_key, turn)?;
        self.sent.insert(key.clone(), Sent { record, hash, is_there: true });
        Ok(())
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
