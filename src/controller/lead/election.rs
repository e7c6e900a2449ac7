//! Who leads.
//!
//! Election is a convenience: it keeps two controllers from doing the same work. Safety is the epoch's, which every
//! ledger compares (lease R9). Two choices follow from that. A leader that cannot reach the API server goes on, since
//! nobody may have replaced it and the ledgers still need someone to watch them; it stops when the Lease names another or
//! a ledger knows a later epoch. And a standby times the leader's silence on its own clock, so that no wall clock,
//! however wrong, makes or breaks a leader.

use std::time::Duration;

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use rand::RngExt;
use tokio::time::sleep;

use super::error::{LeaderError, bounded};
use crate::{lease::BootTime, system};

/// How long a leader may be silent before another takes over.
pub const LEASE: Duration = Duration::from_secs(5);
/// How often the leader renews, and a standby looks.
const RENEW: Duration = Duration::from_secs(1);

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
            sleep(RENEW.mul_f64(system::rng().random_range(0.8..1.2))).await;
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
