//! The HTTP port of a process: `/livez`, `/readyz`, `/metrics`.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use prometheus_client::{encoding::text::encode, registry::Registry};
use tokio::{net::TcpListener, sync::watch};

/// How long to wait before a port that could not be bound is tried again.
const BIND_AGAIN: Duration = Duration::from_secs(10);

/// What the port shows.
#[derive(Clone)]
pub struct Routes {
    ready: watch::Receiver<bool>,
    registry: Arc<Registry>,
}

impl Routes {
    /// `/readyz` follows `ready`; `/metrics` prints `registry`; `/livez` says that the process answers.
    pub fn new(ready: watch::Receiver<bool>, registry: Arc<Registry>) -> Self {
        Self { ready, registry }
    }

    fn router(self) -> Router {
        let Self { ready: readiness_now, registry } = self;
        Router::new()
            .route("/livez", get(async || "ok\n"))
            .route("/readyz", get(async move || readiness(*readiness_now.borrow())))
            .route("/metrics", get(async move || exposition(&registry)))
    }
}

/// Serves until dropped. A port that is taken is logged and tried again: in a sidecar the application may use it, and
/// mail must flow without its metrics.
pub async fn serve(address: SocketAddr, routes: Routes) {
    let pages = routes.router();
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                if let Err(error) = axum::serve(listener, pages.clone()).await {
                    tracing::error!(http.address = %address, %error, "the HTTP port broke");
                }
            }
            Err(error) => tracing::error!(
                http.address = %address,
                %error,
                "cannot listen for probes and metrics; choose another address with --http"
            ),
        }
        tokio::time::sleep(BIND_AGAIN).await;
    }
}

fn readiness(ready: bool) -> Response {
    if ready {
        "ok\n".into_response()
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready: still starting or stopping\n").into_response()
    }
}

fn exposition(registry: &Registry) -> Response {
    let mut text = String::new();
    match encode(&mut text, registry) {
        Ok(()) => ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text)
            .into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test says what failed by panicking")]
mod tests {
    use prometheus_client::metrics::counter::Counter;

    use super::*;

    async fn body_of(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    #[tokio::test]
    async fn metrics_are_openmetrics_text() {
        let mut registry = Registry::default();
        let counter = Counter::<u64>::default();
        registry.register("mails", "Mails", counter.clone());
        counter.inc_by(3);
        let response = exposition(&registry);
        assert!(response.headers()[header::CONTENT_TYPE].to_str().unwrap().starts_with("application/openmetrics-text"));
        let text = body_of(response).await;
        assert!(text.contains("mails_total 3\n") && text.ends_with("# EOF\n"), "{text}");
    }

    #[tokio::test]
    async fn readiness_follows_the_process() {
        assert_eq!(readiness(true).status(), StatusCode::OK);
        assert_eq!(readiness(false).status(), StatusCode::SERVICE_UNAVAILABLE);
    }
}
