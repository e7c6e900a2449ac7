//! How a leadership begins: with a new epoch, and what the leader before left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::{StreamExt, stream};
use kube::{
    Api, Client, Resource,
    api::{DynamicObject, ListParams},
    core::ApiResource,
};

use super::{
    error::LeaderError,
    opened_pools::{OpenedPools, Recorded},
};
use crate::{
    api::{MailRelay, MailServer},
    controller::{api_server::READ_LIMIT, publish::highest_epoch, status::mirror},
    lease::{LedgerStore, Mirror, pools},
    store::{Store, StoreError},
};

/// After how many refusals, a second apart, it is believed that we may not read a kind.
const REFUSALS: u32 = 30;

/// How many ledgers are asked at once.
const AT_ONCE: usize = 64;

/// Begins an epoch, again while the API server cannot be reached: the election was won, so nobody else will.
pub async fn begin(registry: &OpenedPools, highest: u64) -> Result<Recorded, LeaderError> {
    loop {
        match registry.begin(highest).await {
            Ok(begun) => return Ok(begun),
            Err(error) if error.is_lost() => return Err(error),
            Err(error) => tracing::warn!(error = &error as &dyn std::error::Error, "cannot begin an epoch"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// What the leader before wrote into the statuses, again while the API server cannot be reached: to act without it could
/// free slots that are withheld. Asked for anew, since the watch may be behind.
pub async fn mirrors(client: &Client) -> BTreeMap<String, Mirror> {
    let (relays, servers) = tokio::join!(statuses::<MailRelay>(client), statuses::<MailServer>(client));
    mirror::read(relays.iter().chain(&servers).flat_map(|object| mirror::leases(&object.data)))
}

/// All objects of a kind. One whose spec cannot be read still has a status.
async fn statuses<K: Resource<DynamicType = ()>>(client: &Client) -> Vec<DynamicObject> {
    let kind = K::kind(&());
    let objects = Api::<DynamicObject>::all_with(client.clone(), &ApiResource::erase::<K>(&()));
    let mut refused = 0;
    loop {
        match tokio::time::timeout(READ_LIMIT, objects.list(&ListParams::default())).await {
            Ok(Ok(list)) => return list.items,
            // There is no such kind.
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => return Vec::new(),
            // Manifests of an older version give no leave. An API server that has just started says so too, for a moment.
            Ok(Err(kube::Error::Api(status))) if status.code == 403 && refused >= REFUSALS => return Vec::new(),
            Ok(Err(error)) => {
                refused += u32::from(matches!(&error, kube::Error::Api(status) if status.code == 403));
                tracing::warn!(kind = &*kind, %error, "cannot list the statuses");
            }
            Err(_) => tracing::warn!(kind = &*kind, "cannot list the statuses: no answer in time"),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// The pools that have a ledger, and the highest epoch that Redis knows of, by ledgers and records; nothing when it does not
/// answer: whatever knows a later epoch says so when it is written to.
pub async fn known_pools(store: &Store) -> (BTreeSet<String>, u64) {
    let read = async { Ok::<_, StoreError>((pools(store).await?, highest_epoch(store).await?)) };
    let (names, of_records) = match read.await {
        Ok(read) => read,
        Err(error) => {
            tracing::warn!(%error, "cannot read which epochs Redis knows of");
            return (BTreeSet::new(), 0);
        }
    };
    let ledgers: Vec<_> = names.iter().map(|name| LedgerStore::new(store.clone(), name)).collect();
    let epochs = stream::iter(ledgers).map(|ledger| async move { ledger.epoch().await.ok().flatten() });
    let of_ledgers: Vec<Option<u64>> = epochs.buffer_unordered(AT_ONCE).collect().await;
    let highest = of_ledgers.into_iter().flatten().fold(of_records, u64::max);
    (names.into_iter().collect(), highest)
}
