//! The HTTP port: liveness, readiness and metrics, for whoever runs the process.

use axum::Router;
use axum::extract::State;
use axum::routing::get;
use http::{StatusCode, header};
use tokio::sync::watch;

use super::metrics;
use crate::api::Api;

/// What the pages show.
#[derive(Clone)]
pub(super) struct Pages {
    pub(super) api: Api,
    /// Whether the process was told to stop.
    pub(super) stopping: watch::Receiver<bool>,
}

impl Pages {
    pub(super) fn router(self) -> Router {
        Router::new()
            .route("/", get(async || "/healthz  /readyz  /metrics\n"))
            .route("/healthz", get(async || "ok\n"))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics_page))
            .with_state(self)
    }
}

async fn ready(State(pages): State<Pages>) -> (StatusCode, &'static str) {
    // While the writer lives, what is in force is served and can be changed.
    let writes = pages.api.in_force.has_changed().is_ok();
    if writes && !*pages.stopping.borrow() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "stopping\n")
    }
}

async fn metrics_page(State(pages): State<Pages>) -> ([(header::HeaderName, &'static str); 1], String) {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::text(&pages.api))
}
