//! The pages that programs which watch ask for: `/metrics`, `/healthz`, `/readyz`.
//!
//! Metrics have an address of their own, because the collector has no token; there, only
//! these pages are. Readiness says which part is not ready, and nothing that helps an attacker.

use std::{sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use strongroom_control::Control;
use tokio::sync::{Mutex, broadcast::error::RecvError, watch};

use super::metrics::Metrics;

/// The scheduler looks at everything each second. If it did not for so long, it is stuck.
const STUCK: Duration = Duration::from_mins(5);

/// How long the catalog may take to answer whether it is there.
const CATALOG: Duration = Duration::from_secs(5);

/// The format of the page.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages are made from.
#[derive(Clone)]
struct Watched {
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    /// One collects at a time.
    turn: Arc<Mutex<()>>,
}

/// The pages on their own address.
pub(crate) fn page(control: Arc<Control>, metrics: Arc<Metrics>) -> Router {
    let watched = Watched { control, metrics, turn: Arc::default() };
    Router::new()
        .route("/metrics", get(collect))
        .route("/healthz", get(healthz))
        .route(
            "/readyz",
            get(async |State(watched): State<Watched>| readyz(&watched.control).await),
        )
        .with_state(watched)
}

async fn collect(State(watched): State<Watched>) -> impl IntoResponse {
    let _turn = watched.turn.lock().await;
    if !watched.metrics.refresh(&watched.control).await {
        tracing::warn!("metrics without the catalog's: it does not answer");
    }
    ([(header::CONTENT_TYPE, OPEN_METRICS)], watched.metrics.text())
}

/// That the server lives.
pub(crate) async fn healthz() -> &'static str {
    "ok\n"
}

/// Whether it can work.
pub(crate) async fn readyz(control: &Control) -> (StatusCode, Json<serde_json::Value>) {
    let reasons = not_ready(control).await;
    let (status, word) = if reasons.is_empty() {
        (StatusCode::OK, "ready")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not_ready")
    };
    (status, Json(serde_json::json!({ "status": word, "reasons": reasons })))
}

/// Which parts cannot work; none: the server can.
///
/// A vault or a host that cannot be reached is no reason: the others are served on.
pub(crate) async fn not_ready(control: &Control) -> Vec<&'static str> {
    let checked = tokio::time::timeout(CATALOG, control.catalog().check()).await;
    let catalog = matches!(checked, Ok(Ok(_)));
    // Before its first round it is no older than the server.
    let age = control.since_round().unwrap_or_else(|| {
        Duration::try_from(control.now().duration_since(control.started())).unwrap_or_default()
    });
    let checks = [("catalog", catalog), ("scheduler", age < STUCK)];
    checks.into_iter().filter(|(_, good)| !good).map(|(name, _)| name).collect()
}

/// Counts jobs as they end, until the server stops.
pub(crate) async fn follow_jobs(
    control: Arc<Control>,
    metrics: Arc<Metrics>,
    mut stop: watch::Receiver<bool>,
) {
    let mut events = control.job_events();
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            event = events.recv() => match event {
                Ok(job) if job.state.is_final() => metrics.ended(&job),
                Ok(_) => {}
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "changes of jobs were missed, and are not in the metrics");
                }
                Err(RecvError::Closed) => return,
            },
        }
    }
}
