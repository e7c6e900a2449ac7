//! Whether Redis keeps what it accepted: read by commands, judged by a pure function.

use std::{collections::BTreeMap, time::Duration};

use tokio::sync::watch;

use crate::store::{Store, StoreError};

/// How often Redis is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(2);

/// What the store says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// The fields of INFO.
    pub info: BTreeMap<String, String>,
    /// The settings that CONFIG GET showed; `None` when the command is not permitted.
    pub config: Option<BTreeMap<String, String>>,
}

/// The verdict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Safety {
    /// Not asked yet, or no answer.
    #[default]
    Unknown,
    /// It keeps every write that it acknowledged.
    Safe,
    /// It may lose or evict mail, or may do so as far as can be seen.
    Unsafe {
        /// The reason for the condition.
        reason: &'static str,
        /// All that is wrong, in sentences.
        message: String,
    },
    /// The settings that matter cannot be read.
    Hidden {
        /// What to do.
        message: String,
    },
}

impl Safety {
    /// Whether no acknowledged write can be missing after a restart.
    pub fn keeps_every_write(&self) -> bool {
        // It is the reason only where nothing else is wrong.
        matches!(self, Self::Safe | Self::Unsafe { reason: MEMORY_FULL, .. })
    }
}

/// What new mail is refused for, and nothing is lost by.
const MEMORY_FULL: &str = "MemoryFull";

type Finding = Option<(&'static str, String)>;

/// Judges the facts: every check that fails is named, the first gives the reason.
pub fn judge(facts: &StoreFacts) -> Safety {
    let checks: [fn(&StoreFacts) -> Finding; 9] =
        [version, role, aof, fsync, rdb, eviction, last_writes, split_brain, memory];
    let findings: Vec<(&'static str, String)> = checks.iter().filter_map(|check| check(facts)).collect();
    match findings.first() {
        Some((reason, _)) => {
            let sentences: Vec<&str> = findings.iter().map(|(_, sentence)| &**sentence).collect();
            Safety::Unsafe { reason, message: sentences.join("; ") }
        }
        None if facts.config.is_none() => Safety::Hidden {
            message: "CONFIG GET is not permitted, so that appendfsync and save cannot be checked; allow +config|get"
                .into(),
        },
        None => Safety::Safe,
    }
}

fn info<'a>(facts: &'a StoreFacts, field: &str) -> &'a str {
    facts.info.get(field).map_or("", String::as_str)
}

fn config<'a>(facts: &'a StoreFacts, setting: &str) -> Option<&'a str> {
    facts.config.as_ref()?.get(setting).map(String::as_str)
}

fn version(facts: &StoreFacts) -> Finding {
    let version = info(facts, "redis_version");
    let major = version.split('.').next().and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    (major < 7).then(|| ("VersionTooOld", format!("Redis {version} is older than 7.0")))
}

fn role(facts: &StoreFacts) -> Finding {
    let role = info(facts, "role");
    (role != "master").then(|| ("ReadOnlyReplica", format!("the node is a {role}, not a primary")))
}

fn aof(facts: &StoreFacts) -> Finding {
    let off = info(facts, "aof_enabled") != "1";
    off.then(|| ("AofOff", "appendonly is off: a restart loses mail; set appendonly yes".into()))
}

fn fsync(facts: &StoreFacts) -> Finding {
    let policy = config(facts, "appendfsync")?;
    (policy != "always").then(|| {
        ("FsyncNotAlways", format!("appendfsync is {policy}: a crash may lose mail that was accepted; set always"))
    })
}

fn rdb(facts: &StoreFacts) -> Finding {
    let save = config(facts, "save")?;
    save.trim().is_empty().then(|| ("RdbOff", "save is empty: there are no snapshots to go back to".into()))
}

fn eviction(facts: &StoreFacts) -> Finding {
    let policy = info(facts, "maxmemory_policy");
    (policy != "noeviction")
        .then(|| ("EvictionAllowed", format!("maxmemory-policy is {policy}: mail may be evicted; set noeviction")))
}

fn last_writes(facts: &StoreFacts) -> Finding {
    let failed =
        ["aof_last_write_status", "rdb_last_bgsave_status"].iter().find(|field| info(facts, field) == "err")?;
    Some(("WritesFailing", format!("{failed} is err: Redis cannot write its files; look at its disk")))
}

fn split_brain(facts: &StoreFacts) -> Finding {
    let replicas: u32 = info(facts, "connected_slaves").parse().unwrap_or(0);
    let least: u32 = config(facts, "min-replicas-to-write").and_then(|text| text.parse().ok()).unwrap_or(0);
    (least < replicas).then(|| {
        (
            "SplitBrainPossible",
            format!(
                "{replicas} replicas and min-replicas-to-write {least}: a primary that was left may go on accepting mail, \
                 and after a promotion slots are granted only when every worker has come over; set min-replicas-to-write \
                 to the number of replicas"
            ),
        )
    })
}

fn memory(facts: &StoreFacts) -> Finding {
    let bytes = |field| info(facts, field).parse::<u64>().unwrap_or(0);
    let (used, limit) = (bytes("used_memory"), bytes("maxmemory"));
    (limit > 0 && used >= limit).then(|| {
        (
            MEMORY_FULL,
            format!(
                "all of maxmemory ({limit} bytes) is in use: new mail is refused, what is queued is sent; raise it"
            ),
        )
    })
}

/// Asks Redis what [`judge`] needs.
pub async fn ask(store: &Store) -> Result<StoreFacts, StoreError> {
    let text: String = store.query(&redis::cmd("INFO"), LIMIT).await?;
    let info =
        text.lines().filter_map(|line| line.split_once(':')).map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
    let mut command = redis::cmd("CONFIG");
    command.arg("GET").arg(&["appendfsync", "save", "min-replicas-to-write", "min-replicas-max-lag"]);
    let config = match store.query::<BTreeMap<String, String>>(&command, LIMIT).await {
        Ok(config) => Some(config),
        Err(StoreError::Refused { .. }) => None,
        Err(error) => return Err(error),
    };
    Ok(StoreFacts { info, config })
}

/// Keeps verdict and facts fresh. Never returns.
pub async fn watch_safety(store: Store, verdict: watch::Sender<Safety>, known: watch::Sender<Option<StoreFacts>>) {
    loop {
        match ask(&store).await {
            Ok(facts) => {
                let new = judge(&facts);
                verdict.send_if_modified(|old| std::mem::replace(old, new.clone()) != new);
                known.send_replace(Some(facts));
            }
            // Whether Redis answers at all is the pools' loop to say; the last verdict stays.
            Err(error) => tracing::debug!(%error, "cannot ask Redis how it keeps its data"),
        }
        tokio::time::sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(info: &[(&str, &str)], settings: Option<&[(&str, &str)]>) -> StoreFacts {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let good = [
            ("redis_version", "7.0.15"),
            ("role", "master"),
            ("aof_enabled", "1"),
            ("maxmemory_policy", "noeviction"),
            ("aof_last_write_status", "ok"),
            ("rdb_last_bgsave_status", "ok"),
            ("connected_slaves", "0"),
        ];
        let mut all: BTreeMap<String, String> = map(&good);
        all.extend(map(info));
        StoreFacts { info: all, config: settings.map(map) }
    }

    const GOOD: &[(&str, &str)] = &[("appendfsync", "always"), ("save", "60 1000"), ("min-replicas-to-write", "0")];

    #[test]
    fn a_redis_as_the_documentation_asks_for_is_safe() {
        assert_eq!(judge(&facts(&[], Some(GOOD))), Safety::Safe);
    }

    #[test]
    fn each_weakness_is_named() {
        type Pairs = &'static [(&'static str, &'static str)];
        let cases: [(Pairs, Pairs, &str); 10] = [
            (&[("redis_version", "6.2.7")], GOOD, "VersionTooOld"),
            (&[("role", "slave")], GOOD, "ReadOnlyReplica"),
            (&[("aof_enabled", "0")], GOOD, "AofOff"),
            (&[], &[("appendfsync", "everysec"), ("save", "60 1")], "FsyncNotAlways"),
            (&[], &[("appendfsync", "always"), ("save", "")], "RdbOff"),
            (&[("maxmemory_policy", "allkeys-lru")], GOOD, "EvictionAllowed"),
            (&[("aof_last_write_status", "err")], GOOD, "WritesFailing"),
            (&[("rdb_last_bgsave_status", "err")], GOOD, "WritesFailing"),
            (&[("connected_slaves", "1")], GOOD, "SplitBrainPossible"),
            (&[("used_memory", "1000"), ("maxmemory", "1000")], GOOD, "MemoryFull"),
        ];
        for (info, settings, expected) in cases {
            match judge(&facts(info, Some(settings))) {
                Safety::Unsafe { reason, .. } => assert_eq!(reason, expected),
                other => panic!("{expected}: {other:?}"),
            }
        }
        let guarded = [("appendfsync", "always"), ("save", "60 1"), ("min-replicas-to-write", "1")];
        assert_eq!(judge(&facts(&[("connected_slaves", "1")], Some(&guarded))), Safety::Safe);
        assert_eq!(judge(&facts(&[("used_memory", "999"), ("maxmemory", "1000")], Some(GOOD))), Safety::Safe);
        assert_eq!(judge(&facts(&[("used_memory", "1000"), ("maxmemory", "0")], Some(GOOD))), Safety::Safe, "no limit");
    }

    #[test]
    fn a_redis_without_memory_for_new_mail_still_keeps_what_it_has() {
        let full: &[(&str, &str)] = &[("used_memory", "1001"), ("maxmemory", "1000")];
        assert!(judge(&facts(full, Some(GOOD))).keeps_every_write());
        let worse = [full, &[("aof_enabled", "0")]].concat();
        assert!(!judge(&facts(&worse, Some(GOOD))).keeps_every_write());
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let Safety::Unsafe { reason, message } =
            judge(&facts(&[("aof_enabled", "0"), ("maxmemory_policy", "volatile-ttl")], Some(GOOD)))
        else {
            panic!("unsafe");
        };
        assert_eq!(reason, "AofOff");
        assert!(message.contains("appendonly") && message.contains("volatile-ttl"));
    }

    #[test]
    fn settings_that_may_not_be_read_are_not_called_safe() {
        assert!(matches!(judge(&facts(&[], None)), Safety::Hidden { .. }));
        assert!(matches!(judge(&facts(&[("aof_enabled", "0")], None)), Safety::Unsafe { .. }));
    }
}
