//! How the API server is reached, and how long its answers may take.

use std::time::Duration;

use kube::{Client, Config};

/// Longer than any answer of the API server that is not a watch, shorter than a dead connection lives by itself.
pub const READ_LIMIT: Duration = Duration::from_secs(30);
const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long one call to the API server may take.
pub const API_LIMIT: Duration = Duration::from_secs(2);

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No Kubernetes configuration was found.
    #[error("cannot find out how to reach the API server; run in a pod or set KUBECONFIG")]
    Config(#[source] kube::config::InferConfigError),
    /// The configuration cannot be used.
    #[error("cannot set up the client of the API server")]
    Client(#[source] kube::Error),
}

/// A client as the controller's surroundings say: in a pod, or by `KUBECONFIG`.
pub async fn client() -> Result<Client, ClientError> {
    let mut config = Config::infer().await.map_err(ClientError::Config)?;
    // The client has none by itself: a half-open connection would hang for ever.
    config.read_timeout = Some(READ_LIMIT);
    config.connect_timeout = Some(CONNECT_LIMIT);
    // Every caller here looks again by itself; fifteen silent repetitions would only hide that.
    config.default_retry = false;
    Client::try_from(config).map_err(ClientError::Client)
}
