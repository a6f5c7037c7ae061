//! Jobs, followed as they go, and alerts.

use axum::{
    Json,
    extract::State,
    response::sse::{KeepAlive, Sse},
};
use futures::Stream;
use jiff::Timestamp;
use serde::Deserialize;
use strongroom_api::{
    Alert, AlertState, AlertTest, ChannelTried, Job, JobKind, JobState, Page, Severity,
};
use strongroom_base::{AlertId, message};
use strongroom_control::{AlertFilter, Rule, jobs::JobFilter};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::Done,
    events::{Sent, follow},
    extract::{BodyOrNone, Names, NoParams, Params, Secret, Who, page},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_jobs))
        .routes(routes!(follow_jobs))
        .routes(routes!(get_job))
        .routes(routes!(cancel_job))
        .routes(routes!(follow_job))
        .routes(routes!(list_alerts))
        .routes(routes!(acknowledge_alert))
        .routes(routes!(resolve_alert))
        .routes(routes!(test_alerts))
}

/// Which jobs.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct JobParams {
    /// Only those in this state.
    state: Option<JobState>,
    /// Only those of this kind.
    kind: Option<JobKind>,
    /// Only those of this vault: its name or id.
    vault: Option<String>,
    /// Only those of this item: its name or id.
    item: Option<String>,
    /// Only those created at this time or later.
    since: Option<Timestamp>,
    /// Only those created before this time.
    until: Option<Timestamp>,
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

/// List the jobs that you may see, newest first
#[utoipa::path(get, path = "/jobs", tag = "jobs", params(JobParams),
    responses((status = 200, description = "One page of the list.", body = Page<Job>)))]
async fn list_jobs(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<JobParams>,
) -> Done<Json<Page<Job>>> {
    let JobParams { state, kind, vault, item, since, until, limit, page_token } = params;
    let which = JobFilter { state, kind, vault, item, since, until };
    Ok(Json(app.control.jobs(&caller, &which, &page(limit, page_token)?).await?))
}

/// Get a job
#[utoipa::path(get, path = "/jobs/{job}", tag = "jobs",
    responses((status = 200, description = "The object.", body = Job)),
    extensions(("x-operation" = json!("item.view"))))]
async fn get_job(
    State(app): State<App>,
    Who(caller): Who,
    Names(job): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<Job>> {
    Ok(Json(app.control.job(&caller, &job).await?))
}

/// Cancel a job
#[utoipa::path(post, path = "/jobs/{job}/cancel", tag = "jobs",
    responses((status = 200, description = "The changed object.", body = Job)),
    extensions(("x-operation" = json!("job.cancel"))))]
async fn cancel_job(
    State(app): State<App>,
    Who(caller): Who,
    Names(job): Names<String>,
    _: Params<NoParams>,
) -> Done<Json<Job>> {
    Ok(Json(app.control.cancel_job(&caller, &job).await?))
}

/// Follow a job
///
/// Server-sent events named `job`, with the job as data. The first event is its present state, the last
/// one its end.
#[utoipa::path(get, path = "/jobs/{job}/events", tag = "jobs",
    responses((status = 200, description = "The stream of events.", content_type = "text/event-stream",
        body = String)),
    extensions(("x-operation" = json!("item.view"))))]
async fn follow_job(
    State(app): State<App>,
    Who(caller): Who,
    secret: Secret,
    Names(job): Names<String>,
    _: Params<NoParams>,
) -> Done<Sse<impl Stream<Item = Sent>>> {
    let job = app.control.job(&caller, &job).await?.id;
    Ok(Sse::new(follow(app, secret, Some(job))).keep_alive(KeepAlive::default()))
}

/// Follow all jobs that you may see
///
/// Server-sent events named `job`, with the job as data. The first events are the jobs that are open
/// now.
#[utoipa::path(get, path = "/jobs/events", tag = "jobs",
    responses((status = 200, description = "The stream of events.", content_type = "text/event-stream",
        body = String)))]
async fn follow_jobs(
    State(app): State<App>,
    secret: Secret,
    _: Params<NoParams>,
) -> Sse<impl Stream<Item = Sent>> {
    Sse::new(follow(app, secret, None)).keep_alive(KeepAlive::default())
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AlertParams {
    /// Only those in this state.
    state: Option<AlertState>,
    /// Only those of this severity.
    severity: Option<Severity>,
    /// Only those of this rule, such as `backup_failed`; docs/operate/monitoring.md lists the rules.
    rule: Option<String>,
    /// Only those about this vault or something in it: its name or id.
    vault: Option<String>,
    /// Only those about this item: its name or id.
    item: Option<String>,
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before.
    page_token: Option<String>,
}

/// List the alerts that you may see, newest first
#[utoipa::path(get, path = "/alerts", tag = "alerts", params(AlertParams),
    responses((status = 200, description = "One page of the list.", body = Page<Alert>)))]
async fn list_alerts(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<AlertParams>,
) -> Done<Json<Page<Alert>>> {
    let AlertParams { state, severity, rule, vault, item, limit, page_token } = params;
    let rule = rule.map(|rule| rule.parse::<Rule>()).transpose();
    let rule = rule.map_err(|wrong| message!(REQUEST_INVALID, "rule: {reason}", reason = wrong))?;
    let which = AlertFilter { state, severity, rule, vault, item };
    Ok(Json(app.control.alerts(&caller, &which, &page(limit, page_token)?).await?))
}

/// Acknowledge an alert
#[utoipa::path(post, path = "/alerts/{alert}/acknowledge", tag = "alerts",
    responses((status = 200, description = "The changed object.", body = Alert)),
    extensions(("x-operation" = json!("alert.acknowledge"))))]
async fn acknowledge_alert(
    State(app): State<App>,
    Who(caller): Who,
    Names(alert): Names<AlertId>,
    _: Params<NoParams>,
) -> Done<Json<Alert>> {
    Ok(Json(app.control.set_alert(&caller, alert, AlertState::Acknowledged).await?))
}

/// Resolve an alert
#[utoipa::path(post, path = "/alerts/{alert}/resolve", tag = "alerts",
    responses((status = 200, description = "The changed object.", body = Alert)),
    extensions(("x-operation" = json!("alert.acknowledge"))))]
async fn resolve_alert(
    State(app): State<App>,
    Who(caller): Who,
    Names(alert): Names<AlertId>,
    _: Params<NoParams>,
) -> Done<Json<Alert>> {
    Ok(Json(app.control.set_alert(&caller, alert, AlertState::Resolved).await?))
}

/// Test whether alerts arrive by mail and webhook
///
/// Sends a test alert and waits for the confirmation of each recipient.
#[utoipa::path(post, path = "/alerts/test", tag = "alerts", request_body = Option<AlertTest>,
    responses((status = 200, description = "The result for each mailbox and webhook.", body = Page<ChannelTried>)),
    extensions(("x-operation" = json!("alert.test"))))]
async fn test_alerts(
    State(app): State<App>,
    Who(caller): Who,
    _: Params<NoParams>,
    BodyOrNone(request): BodyOrNone<AlertTest>,
) -> Done<Json<Page<ChannelTried>>> {
    let items = app.control.test_alerts(&caller, request).await?;
    Ok(Json(Page { items, next_page_token: None }))
}
