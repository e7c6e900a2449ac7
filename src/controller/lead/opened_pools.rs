//! The registry of what must survive Redis, and the deletion of any resource: a `ConfigMap` with the epoch, the pools that were
//! ever opened (lease R9), and who owns what.

use std::{collections::BTreeSet, sync::Arc};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, Client, api::PostParams};

use super::error::{LeaderError, bounded};
use crate::controller::plan::Owned;

/// The annotation that holds the installation's epoch.
const EPOCH: &str = "mailrelay.dev/epoch";
/// The key that holds the names of the pools that were ever opened, as a JSON list.
const OPENED: &str = "opened-pools";
/// The key that holds who owns what, as a JSON object of lists: UIDs of relays, by what they own.
const OWNED: &str = "owners";
/// How often a write is tried at once when others write in between.
const CONFLICTS: u32 = 5;

/// The registry, in one `ConfigMap`.
#[derive(Clone)]
pub struct OpenedPools {
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
    pub owned: Arc<Owned>,
}

impl OpenedPools {
    /// The registry in the `ConfigMap` of this name.
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
        owned: &Arc<Owned>,
    ) -> Result<Recorded, LeaderError> {
        self.update(|recorded| {
            if recorded.epoch > ours {
                return Err(LeaderError::Replaced { theirs: recorded.epoch, ours });
            }
            // The ConfigMap may have been deleted meanwhile.
            recorded.epoch = ours;
            recorded.opened.retain(|pool| !remove.contains(pool));
            recorded.opened.extend(add.iter().cloned());
            recorded.owned = Arc::clone(owned);
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
    Recorded { epoch, opened: opened.unwrap_or_default(), owned: Arc::new(owned.unwrap_or_default()) }
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
        map.data.get_or_insert_default().insert(OWNED.to_owned(), serde_json::json!(*recorded.owned).to_string());
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
            owned: Arc::new(Owned::from([("queue:mail_queue".into(), vec!["uid".into()])])),
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
