//! The ledger in Redis: one HASH for each pool, changed only by scripts that check fence and token first (R7).

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::Duration,
};

use redis::{Cmd, Script};

use super::state::{
    ClearReply, CondemnReply, InitReply, InitRequest, LeaveReply, LedgerView, OpenReply, OpenRequest, Policy,
    PolicyReply, Quarantine, ReapReply, Snapshot, SyncReply, SyncRequest,
};
use super::wire;
use crate::store::{Store, StoreError};

/// How long the leader's calls wait for an answer.
pub const CALL_LIMIT: Duration = Duration::from_secs(2);

macro_rules! script {
    ($flags:literal, $name:literal) => {
        LazyLock::new(|| {
            Script::new(concat!("#!lua flags=", $flags, "\n", include_str!("scripts/prelude.lua"), include_str!($name)))
        })
    };
}

static SYNC: LazyLock<Script> = script!("allow-oom", "scripts/sync.lua");
static LEAVE: LazyLock<Script> = script!("allow-oom", "scripts/leave.lua");
static POLICY: LazyLock<Script> = script!("allow-oom", "scripts/policy.lua");
static REAP: LazyLock<Script> = script!("allow-oom", "scripts/reap.lua");
static INIT: LazyLock<Script> = script!("allow-oom", "scripts/init.lua");
static OPEN: LazyLock<Script> = script!("allow-oom", "scripts/open.lua");
static CLEAR: LazyLock<Script> = script!("allow-oom", "scripts/clear.lua");
static CONDEMN: LazyLock<Script> = script!("allow-oom", "scripts/condemn.lua");
static GOOD: LazyLock<Script> = script!("allow-oom", "scripts/good.lua");
static DISCARD: LazyLock<Script> = script!("allow-oom", "scripts/discard.lua");
static SNAPSHOT: LazyLock<Script> = script!("no-writes", "scripts/snapshot.lua");

/// Why a slot is withheld whose session the server refused as one too many (lease R10).
pub const TOO_MANY: &str = "too_many_connections";

/// Why slots are withheld that came over from another ledger of the same server.
pub const CARRIED: &str = "carried";

/// One of a pool's keys: `ledger`, `log`, `twin`, `saturation`, and the channel `events`.
pub(super) fn key_of(pool: &str, what: &str) -> String {
    format!("mailrelay:{{{pool}}}:{what}")
}

pub(super) fn ledger_key(pool: &str) -> String {
    key_of(pool, "ledger")
}

pub(super) fn twin_key(pool: &str) -> String {
    key_of(pool, "twin")
}

/// What is remembered of a server that takes fewer sessions than its budget, beside the ledger: losing it costs no safety.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SaturationRecord {
    /// Slots in use.
    pub effective: u32,
    /// How many mails the server had taken when that changed last.
    pub good: u64,
}

/// One pool's ledger. Nothing is sent twice; a call whose answer was lost may or may not have taken effect, and so may
/// one that was cancelled.
///
/// # Who may call what, and when
///
/// | call | by | when | the caller must guarantee |
/// |---|---|---|---|
/// | [`sync`](LedgerStore::sync), [`leave`](LedgerStore::leave) | the worker | see [`super`] | R1-R4; [`super::SlotPool`] does |
/// | [`policy`](LedgerStore::policy) | the leader | the plan changed | epoch and revision only grow; planned over all relays that name the pool |
/// | [`reap`](LedgerStore::reap) | the leader | the seq stayed unchanged for the reclaim time on its own clock | the quarantine of R5c |
/// | [`reap_dead`](LedgerStore::reap_dead) | the leader | R5b: pod phase final AND container terminated with an id | same boot of the node, the quarantine of R5b |
/// | [`init`](LedgerStore::init) | the leader | no ledger, or its fence is not the node's | the old primary can no longer write (R8: at once for a single node); afterwards it reads the epoch back with [`snapshot`](LedgerStore::snapshot) and steps down if it is not its own (R9) |
/// | [`open`](LedgerStore::open) | the leader | the reclaim time after INIT on its own clock; at once only for a pool that never was open | the mark "was opened" of R9 is durable BEFORE this call; every holder seen before and not re-asserted is in `missing` |
/// | [`condemn`](LedgerStore::condemn) | the leader | it once saw a higher version than the ledger has | |
/// | [`clear`](LedgerStore::clear) | leader and workers | the quarantine was in sight for [`super::Timing::quarantine_watch`] on the caller's clock, or the server's end was seen after all | first sight was timed under the same id |
///
/// [`super::Watch`] decides these for the leader, [`super::Holder`] for the worker.
#[derive(Clone)]
pub struct LedgerStore {
    store: Store,
    pool: String,
    ledger: String,
    log: String,
    twin: String,
    channel: String,
    saturation: String,
}

impl LedgerStore {
    /// The ledger of the pool with this `budgetName`.
    pub fn new(store: Store, pool: &str) -> Self {
        Self {
            store,
            pool: pool.to_owned(),
            ledger: ledger_key(pool),
            log: key_of(pool, "log"),
            twin: twin_key(pool),
            channel: key_of(pool, "events"),
            saturation: key_of(pool, "saturation"),
        }
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// The key of the ledger.
    pub fn key(&self) -> &str {
        &self.ledger
    }

    /// The pub/sub channel that says "look again"; a hint, never a truth. A message is `<kind> <inc or ->` with kind
    /// `free`, `short`, `policy`, `init` or `open`, or `ask` and the inc that is asked whether it lives.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// The connection underneath.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// SYNC; waits at most `limit` for the answer.
    pub async fn sync(&self, request: &SyncRequest, limit: Duration) -> Result<SyncReply, StoreError> {
        let mut arguments = vec![
            wire::word(&request.token),
            wire::word(&request.inc),
            wire::word(&request.pod_uid),
            wire::word(&request.pod),
            wire::word(&request.process),
            wire::word(&request.boot_id),
            request.generation.to_string(),
            request.seq.to_string(),
            request.need.to_string(),
            request.want.to_string(),
            request.open.to_string(),
            request.busy.to_string(),
            wire::seconds(request.hold).to_string(),
            request.seen.to_string(),
        ];
        wire::push_quarantine(&mut arguments, &request.quarantine);
        arguments.push(request.accounts.len().to_string());
        arguments.extend(request.accounts.iter().map(|process| wire::word(process)));
        let answer = self.call(&SYNC, arguments, limit).await?;
        wire::sync_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// LEAVE: a clean end. No slot may be counted any more.
    pub async fn leave(&self, token: &str, inc: &str, seq: u64) -> Result<LeaveReply, StoreError> {
        let answer = self.call(&LEAVE, vec![wire::word(token), wire::word(inc), seq.to_string()], CALL_LIMIT).await?;
        wire::leave_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// POLICY: the shares.
    pub async fn policy(&self, policy: &Policy) -> Result<PolicyReply, StoreError> {
        let mut arguments = Vec::new();
        wire::push_policy(&mut arguments, policy);
        arguments.push(wire::servers(policy));
        let answer = self.call(&POLICY, arguments, CALL_LIMIT).await?;
        wire::policy_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// REAP: removes the incarnation if its seq is still this one; its slots go into quarantine, or are free when the
    /// quarantine is zero. Times are rounded up to whole seconds.
    pub async fn reap(
        &self,
        token: &str,
        inc: &str,
        seq: u64,
        quarantine: Duration,
        why: &str,
    ) -> Result<ReapReply, StoreError> {
        self.remove(token, inc, seq.to_string(), quarantine, why).await
    }

    /// `REAP_DEAD`: removes the incarnation of a process that is proven dead, whatever its seq.
    pub async fn reap_dead(
        &self,
        token: &str,
        inc: &str,
        quarantine: Duration,
        why: &str,
    ) -> Result<ReapReply, StoreError> {
        self.remove(token, inc, "dead".to_owned(), quarantine, why).await
    }

    async fn remove(
        &self,
        token: &str,
        inc: &str,
        seq: String,
        quarantine: Duration,
        why: &str,
    ) -> Result<ReapReply, StoreError> {
        let seconds = wire::seconds(quarantine).to_string();
        let arguments = vec![wire::word(token), wire::word(inc), seq, seconds, wire::word(why)];
        let answer = self.call(&REAP, arguments, CALL_LIMIT).await?;
        wire::reap_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// INIT: a new ledger, in recovery.
    pub async fn init(&self, request: &InitRequest) -> Result<InitReply, StoreError> {
        let mut arguments = vec![wire::word(&request.fence), wire::word(&request.token)];
        wire::push_policy(&mut arguments, &request.policy);
        wire::push_quarantine(&mut arguments, &request.quarantine);
        arguments.extend([request.version.to_string(), wire::servers(&request.policy)]);
        let answer = self.call(&INIT, arguments, CALL_LIMIT).await?;
        wire::init_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// OPEN: the end of recovery.
    pub async fn open(&self, request: &OpenRequest) -> Result<OpenReply, StoreError> {
        let mut arguments =
            vec![request.epoch.to_string(), wire::word(&request.token), request.missing.len().to_string()];
        for missing in &request.missing {
            let Quarantine { id, slots, seconds, why } = &missing.quarantine;
            arguments.push(wire::word(&missing.inc));
            arguments.extend([wire::word(id), slots.to_string(), seconds.to_string(), wire::word(why)]);
        }
        let answer = self.call(&OPEN, arguments, CALL_LIMIT).await?;
        wire::open_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// CONDEMN: the leader has seen `version`; a ledger below it is an older copy, and of no force from now on.
    pub async fn condemn(&self, version: u64) -> Result<CondemnReply, StoreError> {
        let answer = self.call(&CONDEMN, vec![version.to_string()], CALL_LIMIT).await?;
        wire::condemn_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// CLEAR: the end of quarantines.
    pub async fn clear(&self, token: &str, ids: &[String]) -> Result<ClearReply, StoreError> {
        let mut arguments = vec![wire::word(token)];
        arguments.extend(ids.iter().map(|id| wire::word(id)));
        let answer = self.call(&CLEAR, arguments, CALL_LIMIT).await?;
        wire::clear_reply(&answer).ok_or_else(|| self.garbled(&answer))
    }

    /// Counts mails that the server took, if its saturation is on record.
    pub async fn count_good(&self, mails: u64) -> Result<(), StoreError> {
        let mails = mails.to_string();
        let keys = [&*self.ledger, &self.log, &self.saturation];
        let arguments = [self.channel.as_bytes(), mails.as_bytes()];
        let _: Vec<String> = self.store.invoke(&GOOD, &keys, &arguments, CALL_LIMIT).await?;
        Ok(())
    }

    /// Asks a holder that rests whether it lives: it answers by a SYNC.
    pub async fn ask(&self, inc: &str) -> Result<(), StoreError> {
        let mut command = redis::cmd("PUBLISH");
        command.arg(&self.channel).arg(format!("{} {inc}", wire::ASK));
        self.store.query::<i64>(&command, CALL_LIMIT).await.map(drop)
    }

    /// What is on record of the server's saturation, and how many mails it took since that began.
    pub async fn saturation(&self) -> Result<Option<(SaturationRecord, u64)>, StoreError> {
        let mut command = redis::cmd("HMGET");
        command.arg(&self.saturation).arg("effective").arg("since").arg("good");
        let (effective, since, good): (Option<u32>, Option<u64>, Option<u64>) =
            self.store.query(&command, CALL_LIMIT).await?;
        Ok(effective.map(|effective| (SaturationRecord { effective, good: since.unwrap_or(0) }, good.unwrap_or(0))))
    }

    /// Puts the server's saturation on record, or takes it off.
    pub async fn record_saturation(&self, record: Option<SaturationRecord>) -> Result<(), StoreError> {
        let mut command = Cmd::new();
        match record {
            Some(record) => command
                .arg("HSET")
                .arg(&self.saturation)
                .arg("effective")
                .arg(record.effective)
                .arg("since")
                .arg(record.good),
            None => command.arg("DEL").arg(&self.saturation),
        };
        let _: i64 = self.store.query(&command, CALL_LIMIT).await?;
        Ok(())
    }

    /// One atomic look: the node's fence and the whole ledger. Changes nothing.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        let (node_fence, fields): (String, Vec<(String, String)>) =
            self.store.invoke(&SNAPSHOT, &self.keys(), &[self.channel.as_bytes()], CALL_LIMIT).await?;
        let fields: BTreeMap<String, String> = fields.into_iter().collect();
        if fields.is_empty() {
            return Ok(Snapshot { node_fence, ledger: None });
        }
        match wire::ledger(&fields) {
            Ok(ledger) => Ok(Snapshot { node_fence, ledger: Some(Arc::new(ledger)) }),
            Err(wire::Unreadable::Newer(found)) => {
                Err(StoreError::Newer { what: format!("the ledger {}", self.ledger), found, known: wire::SCHEMA })
            }
            Err(wire::Unreadable::Field(field)) => Err(StoreError::Garbled {
                address: self.store.address().to_owned(),
                detail: format!("field {field} of {} is missing or malformed", self.ledger),
            }),
        }
    }

    /// The epoch of the leader that wrote the policy last, whichever version the ledger is of; `None` without a ledger.
    pub async fn epoch(&self) -> Result<Option<u64>, StoreError> {
        let mut command = redis::cmd("HGET");
        command.arg(&self.ledger).arg("epoch");
        self.store.query(&command, CALL_LIMIT).await
    }

    /// The entries of the log, the newest first: when each was written by the clock of Redis, and its fields.
    pub async fn log(&self) -> Result<Vec<(u64, BTreeMap<String, String>)>, StoreError> {
        let mut command = redis::cmd("XREVRANGE");
        command.arg(&self.log).arg("+").arg("-");
        let entries: Vec<(String, BTreeMap<String, String>)> = self.store.query(&command, CALL_LIMIT).await?;
        let millis = |id: &str| id.split('-').next()?.parse().ok();
        Ok(entries.into_iter().filter_map(|(id, fields)| Some((millis(&id)?, fields))).collect())
    }

    /// Removes ledger, log and twin; only when no relay or claim is left on the pool, and no quarantine, unless that is `carried`
    /// on in another ledger of the same server. The key goes as it is now or not at all: a ledger whose policy changed since
    /// `seen` stays. Returns whether it went.
    pub async fn remove_unused(&self, seen: &LedgerView, carried: bool) -> Result<bool, StoreError> {
        let mut arguments = vec![wire::word(&seen.token), seen.epoch.to_string(), seen.revision.to_string()];
        arguments.push(u8::from(carried).to_string());
        let answer = self.call(&DISCARD, arguments, CALL_LIMIT).await?;
        Ok(answer.first().is_some_and(|word| word == "OK"))
    }

    fn keys(&self) -> [&str; 3] {
        [&self.ledger, &self.log, &self.twin]
    }

    async fn call(&self, script: &Script, arguments: Vec<String>, limit: Duration) -> Result<Vec<String>, StoreError> {
        let mut all = vec![self.channel.as_bytes()];
        all.extend(arguments.iter().map(String::as_bytes));
        self.store.invoke(script, &self.keys(), &all, limit).await
    }

    fn garbled(&self, answer: &[String]) -> StoreError {
        StoreError::Garbled {
            address: self.store.address().to_owned(),
            detail: format!("a ledger script answered {answer:?}"),
        }
    }
}

/// The names of all pools that have a ledger, sorted; by SCAN, for the command line.
pub async fn pools(store: &Store) -> Result<Vec<String>, StoreError> {
    let mut names = Vec::new();
    let mut cursor = 0_u64;
    loop {
        let mut command = Cmd::new();
        command.arg("SCAN").arg(cursor).arg("MATCH").arg("mailrelay:{*}:ledger").arg("COUNT").arg(1000);
        let (next, keys): (u64, Vec<String>) = store.query(&command, CALL_LIMIT).await?;
        names.extend(
            keys.iter().filter_map(|key| Some(key.strip_prefix("mailrelay:{")?.strip_suffix("}:ledger")?.to_owned())),
        );
        cursor = next;
        if cursor == 0 {
            names.sort();
            names.dedup();
            return Ok(names);
        }
    }
}
