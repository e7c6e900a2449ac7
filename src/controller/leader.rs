//! Who leads, and under which epoch.
//!
//! Election is a convenience: it keeps two controllers from doing the same work. Safety is the epoch's, which every
//! ledger compares (lease R9). Two choices follow from that. A leader that cannot reach the API server goes on, since
//! nobody may have replaced it and the ledgers still need someone to watch them; it stops when the Lease names another or
//! a ledger knows a later epoch. And a standby times the leader's silence on its own clock, so that no wall clock,
//! however wrong, makes or breaks a leader.

use std::{collections::BTreeSet, time::Duration};

use k8s_openapi::{
    api::{
        coordination::v1::{Lease, LeaseSpec},
        core::v1::ConfigMap,
    },
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rand::RngExt;
use tokio::time::{sleep, timeout};

use super::plan::Owned;
use crate::{lease::BootTime, system};

/// How long a leader may be silent before another takes over.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often the leader renews, and a standby looks.
const RENEW: Duration = Duration::from_secs(1);
/// How long one call to the API server may take.
pub const API_LIMIT: Duration = Duration::from_secs(2);

/// The annotation that holds the installation's epoch.
const EPOCH: &str = "mailrelay.dev/epoch";
/// The key that holds the names of the pools that were ever opened, as a JSON list.
const OPENED: &str = "opened-pools";
/// The key that holds who owns what, as a JSON object of lists: UIDs of relays, by what they own.
const OWNED: &str = "owners";
/// How often a write is tried at once when others write in between.
const CONFLICTS: u32 = 5;

/// Why leadership could not be won, kept or recorded.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The API server did not do it.
    #[error("could not {what}")]
    Api {
        /// What was tried.
        what: String,
        /// What the API server said.
        source: Box<kube::Error>,
    },
    /// The API server did not answer.
    #[error("could not {what}: no answer within {API_LIMIT:?}")]
    TimedOut {
        /// What was tried.
        what: String,
    },
    /// The Lease names another holder.
    #[error("{holder} leads now")]
    Lost {
        /// Who.
        holder: String,
    },
    /// The `ConfigMap` carries another epoch.
    #[error("epoch {theirs} leads now, ours was {ours}")]
    Replaced {
        /// The other epoch.
        theirs: u64,
        /// Ours.
        ours: u64,
    },
}

impl LeaderError {
    /// Whether another controller leads, so that this one must stop.
    pub fn is_lost(&self) -> bool {
        matches!(self, Self::Lost { .. } | Self::Replaced { .. })
    }

    fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// Whether the API server will say the same again until a person changes something.
    pub fn is_refusal(&self) -> bool {
        self.code().is_some_and(|code| (400..500).contains(&code) && !matches!(code, 408 | 409 | 429))
    }

    fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match &**source {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            _ => None,
        }
    }

    /// With what the API server said.
    pub fn with_source(&self) -> String {
        match self {
            Self::Api { source, .. } => format!("{self}: {source}"),
            _ => self.to_string(),
        }
    }
}

async fn bounded<T>(what: &str, call: impl Future<Output = Result<T, kube::Error>>) -> Result<T, LeaderError> {
    match timeout(API_LIMIT, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(LeaderError::Api { what: what.to_owned(), source: Box::new(source) }),
        Err(_) => Err(LeaderError::TimedOut { what: what.to_owned() }),
    }
}

/// Takes part in the election through one Lease.
pub struct Election {
    api: Api<Lease>,
    name: String,
    identity: String,
}

/// A Lease as last seen, and since when it has not changed.
struct Sighting {
    version: Option<String>,
    since: BootTime,
}

impl Election {
    /// Takes part as `identity`, which must differ from every other controller's, past ones included.
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> Self {
        Self { api: Api::namespaced(client, namespace), name: name.to_owned(), identity }
    }

    /// Waits until this process leads. Cancelling is safe: a Lease that was just won runs out.
    pub async fn win(&self) {
        let mut seen: Option<Sighting> = None;
        loop {
            match self.attempt(&mut seen).await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot take part in the election");
                }
            }
            sleep(RENEW.mul_f64(system::chance().random_range(0.8..1.2))).await;
        }
    }

    async fn attempt(&self, seen: &mut Option<Sighting>) -> Result<bool, LeaderError> {
        let Some(lease) = bounded("read the Lease", self.api.get_opt(&self.name)).await? else {
            let lease = self.signed(None);
            bounded("create the Lease", self.api.create(&PostParams::default(), &lease)).await?;
            return Ok(true);
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        let now = BootTime::now();
        if !holder.is_empty() && holder != self.identity {
            let version = lease.metadata.resource_version.clone();
            let silent = match seen {
                Some(sighting) if sighting.version == version => now.saturating_since(sighting.since),
                _ => {
                    *seen = Some(Sighting { version, since: now });
                    Duration::ZERO
                }
            };
            if silent < LEASE {
                return Ok(false);
            }
        }
        let signed = self.signed(Some(lease));
        bounded("take the Lease", self.api.replace(&self.name, &PostParams::default(), &signed)).await?;
        Ok(true)
    }

    /// Renews until another leads, and says who. Never returns while the API server cannot be reached.
    pub async fn keep(&self) -> LeaderError {
        loop {
            sleep(RENEW).await;
            match self.renew().await {
                Ok(()) => {}
                Err(error) if error.is_lost() => return error,
                Err(error) if error.is_conflict() => {}
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "cannot renew the leader's Lease");
                }
            }
        }
    }

    async fn renew(&self) -> Result<(), LeaderError> {
        let Some(lease) = bounded("read the Lease", self.api.get_opt(&self.name)).await? else {
            let lease = self.signed(None);
            bounded("create the Lease", self.api.create(&PostParams::default(), &lease)).await?;
            return Ok(());
        };
        let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.clone()).unwrap_or_default();
        if holder != self.identity {
            return Err(LeaderError::Lost { holder: if holder.is_empty() { "nobody".into() } else { holder } });
        }
        let signed = self.signed(Some(lease));
        bounded("renew the Lease", self.api.replace(&self.name, &PostParams::default(), &signed)).await?;
        Ok(())
    }

    /// Gives the Lease up, so that a standby need not wait for it to run out. Best effort.
    pub async fn resign(&self) {
        let Ok(Some(mut lease)) = bounded("read the Lease", self.api.get_opt(&self.name)).await else { return };
        let Some(spec) = lease.spec.as_mut().filter(|spec| spec.holder_identity.as_deref() == Some(&*self.identity))
        else {
            return;
        };
        spec.holder_identity = Some(String::new());
        let params = PostParams::default();
        if let Err(error) = bounded("give up the Lease", self.api.replace(&self.name, &params, &lease)).await {
            tracing::info!(error = &error as &dyn std::error::Error, "the Lease runs out by itself");
        }
    }

    /// The Lease with our name and the time on it; the resource version of `old` makes the write a compare-and-swap.
    fn signed(&self, old: Option<Lease>) -> Lease {
        let now = MicroTime(system::timestamp());
        let mut lease = old.unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() },
            spec: None,
        });
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(&*self.identity) {
            spec.holder_identity = Some(self.identity.clone());
            spec.acquire_time = Some(now.clone());
            spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(0).saturating_add(1));
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(LEASE.as_secs()).ok();
        lease
    }
}

/// What must survive Redis, and the deletion of any resource: the epoch, which pools were ever opened (R9), and who owns what.
#[derive(Clone)]
pub struct Marks {
    api: Api<ConfigMap>,
    namespace: String,
    name: String,
}

/// The content of the `ConfigMap`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// The epoch.
    pub epoch: u64,
    /// The pools that were ever opened.
    pub opened: BTreeSet<String>,
    /// Who owns what.
    pub owned: Owned,
}

impl Marks {
    /// The marks in the `ConfigMap` of this name.
    pub fn new(client: Client, namespace: &str, name: &str) -> Self {
        let (namespace, name) = (namespace.to_owned(), name.to_owned());
        Self { api: Api::namespaced(client, &namespace), namespace, name }
    }

    /// `namespace/name` of the `ConfigMap`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Starts a new epoch, above the recorded one and above `ledgers`, the highest that any ledger has.
    /// Returns what is recorded then.
    pub async fn begin(&self, ledgers: u64) -> Result<Recorded, LeaderError> {
        self.update(|recorded| {
            recorded.epoch = recorded.epoch.max(ledgers) + 1;
            Ok(())
        })
        .await
    }

    /// Adds and removes pools, and puts down who owns what; durable once this returns, with what is recorded then. Fails when
    /// another epoch began.
    pub async fn change(
        &self,
        ours: u64,
        add: &BTreeSet<String>,
        remove: &BTreeSet<String>,
        owned: &Owned,
    ) -> Result<Recorded, LeaderError> {
        self.update(|recorded| {
            if recorded.epoch > ours {
                return Err(LeaderError::Replaced { theirs: recorded.epoch, ours });
            }
            // The ConfigMap may have been deleted meanwhile.
            recorded.epoch = ours;
            recorded.opened.retain(|pool| !remove.contains(pool));
            recorded.opened.extend(add.iter().cloned());
            recorded.owned.clone_from(owned);
            Ok(())
        })
        .await
    }

    /// Compare-and-swap by resource version, a few times when others write in between.
    async fn update(&self, change: impl Fn(&mut Recorded) -> Result<(), LeaderError>) -> Result<Recorded, LeaderError> {
        let mut conflicts = 0;
        loop {
            let found = bounded("read the epoch", self.api.get_opt(&self.name)).await?;
            let before = found.as_ref().map(read).unwrap_or_default();
            let mut recorded = before.clone();
            change(&mut recorded)?;
            if found.is_some() && recorded == before {
                return Ok(recorded);
            }
            let exists = found.is_some();
            let map = write(found, &self.name, &before, &recorded);
            let written = if exists {
                bounded("write the epoch", self.api.replace(&self.name, &PostParams::default(), &map)).await
            } else {
                bounded("create the epoch", self.api.create(&PostParams::default(), &map)).await
            };
            match written {
                Ok(_) => return Ok(recorded),
                Err(error) if error.is_conflict() && conflicts < CONFLICTS => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }
}

fn read(map: &ConfigMap) -> Recorded {
    let annotations = map.metadata.annotations.as_ref();
    let epoch = annotations.and_then(|all| all.get(EPOCH)).and_then(|text| text.parse().ok()).unwrap_or(0);
    let text = |key| map.data.as_ref().and_then(|data| data.get(key));
    let opened = text(OPENED).and_then(|text| serde_json::from_str(text).ok());
    let owned = text(OWNED).and_then(|text| serde_json::from_str(text).ok());
    Recorded { epoch, opened: opened.unwrap_or_default(), owned: owned.unwrap_or_default() }
}

/// Only what is another than `before` is written: an epoch can begin even where the data are immutable.
fn write(found: Option<ConfigMap>, name: &str, before: &Recorded, recorded: &Recorded) -> ConfigMap {
    let mut map = found.unwrap_or_default();
    map.metadata.name = Some(name.to_owned());
    map.metadata.annotations.get_or_insert_default().insert(EPOCH.to_owned(), recorded.epoch.to_string());
    if recorded.opened != before.opened {
        map.data.get_or_insert_default().insert(OPENED.to_owned(), serde_json::json!(recorded.opened).to_string());
    }
    if recorded.owned != before.owned {
        map.data.get_or_insert_default().insert(OWNED.to_owned(), serde_json::json!(recorded.owned).to_string());
    }
    map
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_foreign_keys_stay() {
        let recorded = Recorded {
            epoch: 7,
            opened: BTreeSet::from(["mx".into(), "2001:db8::25".into()]),
            owned: Owned::from([("queue:mail_queue".into(), vec!["uid".into()])]),
        };
        let mut foreign = ConfigMap::default();
        foreign.data.get_or_insert_default().insert("note".into(), "kept".into());
        let map = write(Some(foreign), "mailrelay-epoch", &Recorded::default(), &recorded);
        assert_eq!(read(&map), recorded);
        assert_eq!(map.data.expect("data")["note"], "kept");
    }

    #[test]
    fn an_epoch_begins_without_a_word_about_the_rest() {
        let recorded = |epoch| Recorded { epoch, ..Recorded::default() };
        assert_eq!(write(None, "mailrelay-epoch", &recorded(1), &recorded(2)).data, None);
    }

    #[test]
    fn nonsense_reads_as_nothing_recorded() {
        let mut map = ConfigMap::default();
        map.metadata.annotations.get_or_insert_default().insert(EPOCH.into(), "many".into());
        map.data.get_or_insert_default().insert(OPENED.into(), "{".into());
        assert_eq!(read(&map), Recorded::default());
    }
}
