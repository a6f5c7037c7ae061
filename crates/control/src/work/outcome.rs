//! The events of a running job, and its outcome.

use strongroom_api::{self as api, ErrorBody};
use strongroom_base::Cancel;
use strongroom_orders::Watch;
use tokio::sync::mpsc;

use crate::{error::ControlError, jobs::Event};

/// What a job did, or why it failed.
pub(crate) type Outcome = Result<Option<api::Report>, Box<ErrorBody>>;

/// Where a running job's events go.
#[derive(Clone)]
pub(crate) struct JobEvents(pub(super) mpsc::UnboundedSender<Event>);

impl JobEvents {
    /// Something happened.
    pub(crate) fn send(&self, event: Event) {
        // The receiver goes only when the job has ended.
        self.0.send(event).ok();
    }

    /// A watch whose events go here.
    pub(crate) fn watch(&self, cancel: &Cancel) -> Watch {
        let events = self.clone();
        Watch::new(cancel.clone(), move |event| {
            events.send(Event::Task { name: event.task, state: event.state, detail: event.detail });
        })
    }
}

impl From<ControlError> for Box<ErrorBody> {
    fn from(error: ControlError) -> Self {
        Self::new(error.body())
    }
}
