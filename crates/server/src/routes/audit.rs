//! The log of who did what.

use std::{io, sync::Arc};

use axum::{Json, body::Body, extract::State, http::header, response::IntoResponse};
use bytes::Bytes;
use futures::stream;
use serde::Deserialize;
use strongroom_api::{AuditEntry, AuditVerified, Page};
use strongroom_control::{Control, rights::Caller};
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

use crate::{
    answer::{Done, Failure},
    extract::{Params, Who, number, page},
    state::App,
};

pub(super) fn routes() -> OpenApiRouter<App> {
    OpenApiRouter::new()
        .routes(routes!(list_audit))
        .routes(routes!(export_audit))
        .routes(routes!(verify_audit))
}

/// Which entries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct AuditParams {
    /// Only entries with sequence numbers below this.
    before: Option<u64>,
    /// Maximum number of entries on a page: 1 to 1000; 100 if not given.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u16>,
    /// The `next_page_token` of the page before; instead of `before`.
    page_token: Option<String>,
}

/// List the audit log, newest first
#[utoipa::path(get, path = "/audit", tag = "audit", params(AuditParams),
    responses((status = 200, description = "One page of the list.", body = Page<AuditEntry>)),
    extensions(("x-operation" = json!("audit.view"))))]
async fn list_audit(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<AuditParams>,
) -> Done<Json<Page<AuditEntry>>> {
    let limit = page(params.limit, None)?.limit.unwrap_or(100);
    let before = match (params.before, params.page_token) {
        (before, None) => number("before", before)?,
        (None, Some(token)) => Some(token.parse().map_err(|_| {
            Failure::new(&strongroom_base::codes::REQUEST_PAGE_TOKEN, "the token is no number")
        })?),
        (Some(_), Some(_)) => {
            return Err(Failure::invalid(
                "the parameters: before and page_token exclude each other",
            ));
        }
    };
    let items = app.control.audit_entries(&caller, before, limit).await?;
    let more = items.last().filter(|last| items.len() == limit && last.seq > 1);
    let next_page_token = more.map(|last| last.seq.to_string());
    Ok(Json(Page { items, next_page_token }))
}

/// Where an export begins.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct ExportParams {
    /// The sequence number of the first entry; 1 if not given.
    from: Option<u64>,
}

/// Export the audit log from a sequence number on, in order
///
/// One JSON object per line. If the log cannot be read to its end, the answer is cut off.
#[utoipa::path(get, path = "/audit/export", tag = "audit", params(ExportParams),
    responses((status = 200, description = "The entries, one JSON object per line.", content_type = "application/x-ndjson",
        body = String)),
    extensions(("x-operation" = json!("audit.view"))))]
async fn export_audit(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<ExportParams>,
) -> Done<impl IntoResponse> {
    let from = number("from", params.from)?.unwrap_or(1);
    // Whether it may be read is said before the answer begins.
    let first = app.control.audit_from(&caller, from).await?;
    let lines = stream::try_unfold(Some(first), move |entries| {
        let (control, caller) = (app.control.clone(), caller.clone());
        async move {
            let Some(entries) = entries.filter(|entries| !entries.is_empty()) else {
                return Ok::<_, io::Error>(None);
            };
            let text = lines(&entries)?;
            let next = after(&control, &caller, &entries).await?;
            Ok(Some((Bytes::from(text), next)))
        }
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)))
}

fn lines(entries: &[AuditEntry]) -> io::Result<String> {
    let mut text = String::new();
    for entry in entries {
        text.push_str(&serde_json::to_string(entry).map_err(io::Error::other)?);
        text.push('\n');
    }
    Ok(text)
}

async fn after(
    control: &Arc<Control>,
    caller: &Caller,
    entries: &[AuditEntry],
) -> io::Result<Option<Vec<AuditEntry>>> {
    let Some(last) = entries.last() else { return Ok(None) };
    let next = control.audit_from(caller, last.seq.saturating_add(1)).await;
    next.map(Some).map_err(|error| {
        let body = error.body();
        tracing::error!(code = body.code.as_str(), message = body.message, "an export broke off");
        io::Error::other(body.message)
    })
}

/// What is known of the log elsewhere.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct VerifyParams {
    /// The sequence number of an entry that you have kept elsewhere.
    seq: Option<u64>,
    /// The hash of that entry.
    #[param(pattern = "^[0-9a-f]{64}$")]
    hash: Option<String>,
}

/// Verify the hash chain of the whole audit log
#[utoipa::path(get, path = "/audit/verify", tag = "audit", params(VerifyParams),
    responses((status = 200, description = "Whether the chain is intact.", body = AuditVerified)),
    extensions(("x-operation" = json!("audit.view"))))]
async fn verify_audit(
    State(app): State<App>,
    Who(caller): Who,
    Params(params): Params<VerifyParams>,
) -> Done<Json<AuditVerified>> {
    let head = match (number("seq", params.seq)?, params.hash) {
        (None, None) => None,
        (Some(seq), Some(hash)) => {
            if hash.parse::<strongroom_base::Digest>().is_err() {
                return Err(Failure::invalid("the parameters: hash is no hash"));
            }
            Some((seq, hash))
        }
        _ => return Err(Failure::invalid("the parameters: seq and hash belong together")),
    };
    Ok(Json(app.control.verify_audit(&caller, head).await?))
}
