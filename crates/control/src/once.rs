//! Requests that bear an idempotency key: that one was carried out is written down with what it changes.
//!
//! Both are in one transaction, so that a request is never carried out twice, whenever the server
//! dies. Every transaction that writes ends with [`note`]; outside of [`once`] it does nothing.

use std::{cell::Cell, future::Future};

use strongroom_base::JobId;
use strongroom_catalog::{Stored, Tx};

use crate::{error::Result, model::RequestDoc};

/// The request that is carried out.
struct Request {
    /// The id of its [`RequestDoc`], which is written down already.
    key: String,
    /// The job that it has begun.
    job: Cell<Option<JobId>>,
}

tokio::task_local! {
    static REQUEST: Request;
}

/// Carries a request out whose [`RequestDoc`] is written down.
pub async fn once<T>(key: String, work: impl Future<Output = T>) -> T {
    REQUEST.scope(Request { key, job: Cell::new(None) }, work).await
}

/// The request has begun a job.
pub(crate) fn began(job: JobId) {
    // Nothing is to be noted of a request without a key.
    REQUEST.try_with(|request| request.job.set(Some(job))).ok();
}

/// Writes down that the request is carried out, with what it changes.
pub(crate) async fn note(tx: &mut Tx) -> Result<()> {
    let request = REQUEST.try_with(|request| (request.key.clone(), request.job.get()));
    let Ok((key, job)) = request else { return Ok(()) };
    if let Some(Stored { mut doc, version }) = tx.get::<RequestDoc>(&key).await? {
        (doc.carried_out, doc.job) = (true, job);
        tx.update(&doc, version).await?;
    }
    Ok(())
}
