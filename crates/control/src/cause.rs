//! The cause of a job: the server gives it with the request, the job keeps it, and returns it when it runs.
//!
//! So the lines of a job's log and its spans can be found from the request that began it, even after a
//! restart of the server. What a trace is, is no business of the service.
//!
//! This module owns only that it is kept.

use std::future::Future;

use serde::{Deserialize, Serialize};

tokio::task_local! {
    static CAUSE: Cause;
}

/// What asked for a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cause {
    /// The request's id.
    pub request: String,
    /// Its place in a trace, as the tracer has written it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace: Option<String>,
}

impl Cause {
    /// All jobs that are begun by this work have this cause.
    pub async fn scope<T>(self, work: impl Future<Output = T>) -> T {
        CAUSE.scope(self, work).await
    }

    /// The cause of what is done now.
    pub(crate) fn current() -> Option<Self> {
        CAUSE.try_with(Clone::clone).ok()
    }
}

/// Makes a span the child of what a cause says of its trace.
pub type Adopt = fn(&tracing::Span, &str);
