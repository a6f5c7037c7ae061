//! Spans of jobs and of their tasks: what each log line of a job carries, and how long parts took.
//!
//! They are of the highest level, so that no filter of lines removes what the lines carry.

use std::collections::HashMap;

use strongroom_api::{Job, TaskName, TaskState};
use tracing::{
    Span,
    field::{Empty, display},
};

use crate::{cause::Adopt, jobs::Event, model::JobDoc};

/// The span of a job.
pub(super) fn of(doc: &JobDoc, adopt: Adopt) -> Span {
    let Job { id, kind, vault, item, .. } = &doc.job;
    let span = tracing::error_span!(
        "job", job = %id, kind = %kind, vault = Empty, item = Empty, request = Empty
    );
    if let Some(vault) = vault {
        span.record("vault", display(vault));
    }
    if let Some(item) = item {
        span.record("item", display(item));
    }
    if let Some(cause) = &doc.cause {
        span.record("request", display(&cause.request));
        if let Some(trace) = &cause.trace {
            adopt(&span, trace);
        }
    }
    span
}

/// The spans of the tasks that are under way.
#[derive(Default)]
pub(super) struct Tasks(HashMap<TaskName, Span>);

impl Tasks {
    /// A task may have begun or ended.
    pub(super) fn hear(&mut self, event: &Event) {
        let Event::Task { name, state, .. } = event else { return };
        match state {
            TaskState::InProgress => {
                let begin = || tracing::error_span!("task", task = name.as_str());
                self.0.entry(name.clone()).or_insert_with(begin);
            }
            // It ends as the last handle to it goes.
            _ => drop(self.0.remove(name)),
        }
    }
}
