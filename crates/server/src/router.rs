//! All paths of the API together, with what happens to every request.

use std::sync::Arc;

use axum::{
    Router,
    extract::{DefaultBodyLimit, State},
    middleware,
    routing::get,
};
use serde_json::Value;
use strongroom_api::{ArchiveFormat, ErrorAnswer};
use strongroom_control::Control;
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;

use crate::{
    document,
    extract::BODY_LIMIT,
    guard, routes,
    state::{App, Parts},
    watch::{Metrics, healthz, readyz},
};

/// The description of the API, as `/v1/openapi.json` answers it.
pub fn openapi() -> Value {
    let paths = routes::public().merge(routes::signed_in());
    described(OpenApiRouter::with_openapi(document::head()).nest("/v1", paths)).1
}

fn described(paths: OpenApiRouter<App>) -> (Router<App>, Value) {
    let (router, mut found) = paths.split_for_parts();
    let mut schemas = Vec::new();
    ErrorAnswer::schemas(&mut schemas);
    schemas
        .push((ErrorAnswer::name().into_owned(), <ErrorAnswer as utoipa::PartialSchema>::schema()));
    // It is named by a parameter only.
    schemas.push((
        <ArchiveFormat as ToSchema>::name().into_owned(),
        <ArchiveFormat as utoipa::PartialSchema>::schema(),
    ));
    found.components.get_or_insert_default().schemas.extend(schemas);
    (router, document::complete(found))
}

/// The service, as something that answers requests.
///
/// `stop` becomes true when the server stops; `tasks` are changes that are being made then; `metrics`
/// count requests.
pub fn router(
    control: Arc<Control>,
    stop: watch::Receiver<bool>,
    tasks: TaskTracker,
    metrics: Arc<Metrics>,
) -> Router {
    let document = openapi();
    let app = App::new(Parts {
        control,
        stop,
        tasks,
        operations: document::operations(&document),
        metrics,
        document: document.to_string().into(),
    });
    let guarded = middleware::from_fn_with_state(app.clone(), guard::signed_in);
    let public: Router<App> = routes::public().into();
    let signed_in: Router<App> = routes::signed_in().into();
    let paths = public.merge(signed_in.route_layer(guarded));
    Router::new()
        .nest("/v1", paths)
        .route("/healthz", get(healthz))
        .route("/readyz", get(async |State(app): State<App>| readyz(&app.control).await))
        .fallback(guard::nothing)
        .method_not_allowed_fallback(guard::no_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn_with_state(app.clone(), guard::every))
        .with_state(app)
}
