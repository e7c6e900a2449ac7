//! Writes `MailRelay` and `MailServer` objects: their status, and the finalizers of relays.

use kube::{
    Api, Client, Resource,
    api::{DynamicObject, Patch, PatchParams},
    core::ApiResource,
};
use serde_json::json;
use tokio::time::timeout;

use crate::{
    api::MailRelay,
    controller::{api_server::API_LIMIT, observe::GuardedRelay, plan::RelayKey},
};

/// Who owns the status' fields.
const MANAGER: &str = "mailrelay-controller";

/// Why an object was not written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    #[error("the API server refused: {0}")]
    Api(#[from] kube::Error),
    #[error("the API server gave no answer within {API_LIMIT:?}")]
    TimedOut,
}

impl WriteError {
    /// Gone, or another object by now: nothing is left to write.
    pub fn is_gone(&self) -> bool {
        matches!(self, Self::Api(kube::Error::Api(status)) if matches!(status.code, 404 | 409))
    }
}

/// Writes through one client.
pub struct StatusWriter {
    client: Client,
}

impl StatusWriter {
    /// A writer through this client.
    pub fn new(client: Client) -> Self {
        Self { client }
    }

    /// Puts these finalizers in place of the ones that were seen.
    pub async fn write_finalizers(&self, key: &RelayKey, relay: &GuardedRelay, finalizers: Vec<String>) {
        // The resource version makes it a compare-and-swap: other controllers have finalizers too.
        let patch = json!({
            "metadata": { "finalizers": finalizers, "resourceVersion": relay.meta().resource_version },
        });
        let api = self.api::<MailRelay>(Some(&key.namespace));
        let params = PatchParams::default();
        let written = timeout(API_LIMIT, api.patch(&key.name, &params, &Patch::Merge(&patch))).await;
        match written.map_err(|_| WriteError::TimedOut).and_then(|written| Ok(written?)) {
            Ok(_) => tracing::info!(relay = %key, finalizers.count = finalizers.len(), "wrote the finalizers"),
            Err(error) if error.is_gone() => {}
            Err(error) => tracing::warn!(relay = %key, %error, "cannot write the finalizers"),
        }
    }

    /// Writes the status of a relay.
    pub async fn write_status(&self, key: &RelayKey, uid: &str, status: serde_json::Value) -> Result<(), WriteError> {
        self.write::<MailRelay>(Some(&key.namespace), &key.name, uid, status).await
    }

    /// By server-side apply: fields that are no longer said go away. The UID keeps a new object of the same name safe.
    pub async fn write<K: Resource<DynamicType = ()>>(
        &self,
        namespace: Option<&str>,
        name: &str,
        uid: &str,
        status: serde_json::Value,
    ) -> Result<(), WriteError> {
        let patch = json!({
            "apiVersion": K::api_version(&()),
            "kind": K::kind(&()),
            "metadata": { "name": name, "uid": uid },
            "status": status,
        });
        let api = self.api::<K>(namespace);
        let params = PatchParams::apply(MANAGER).force();
        match timeout(API_LIMIT, api.patch_status(name, &params, &Patch::Apply(&patch))).await {
            Ok(written) => Ok(written.map(drop)?),
            Err(_) => Err(WriteError::TimedOut),
        }
    }

    /// Objects as they come: an answer that our types cannot read is no failure of a write.
    fn api<K: Resource<DynamicType = ()>>(&self, namespace: Option<&str>) -> Api<DynamicObject> {
        let resource = ApiResource::erase::<K>(&());
        match namespace {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        }
    }
}
