//! What a job tells while it runs, and what becomes of it.

use strongroom_api::{self as api, ErrorBody};
use strongroom_base::Cancel;
use strongroom_orders::Watch;
use tokio::sync::mpsc;

use crate::{error::ControlError, jobs::Event};

/// What a job did, or why it failed.
pub(crate) type Outcome = Result<Option<api::Report>, Box<ErrorBody>>;

/// What a running job tells.
#[derive(Clone)]
pub(crate) struct Teller(pub(super) mpsc::UnboundedSender<Event>);

impl Teller {
    /// Something happened.
    pub(crate) fn tell(&self, event: Event) {
        // Nobody listens any more only when the job has ended.
        self.0.send(event).ok();
    }

    /// A watch whose events go here.
    pub(crate) fn watch(&self, cancel: &Cancel) -> Watch {
        let teller = self.clone();
        Watch::new(cancel.clone(), move |event| {
            teller.tell(Event::Task { name: event.task, state: event.state, detail: event.detail });
        })
    }
}

impl From<ControlError> for Box<ErrorBody> {
    fn from(error: ControlError) -> Self {
        Self::new(error.body())
    }
}
