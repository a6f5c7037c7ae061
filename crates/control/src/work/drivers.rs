//! Who drives which job: a place for each job at work, and the tasks that drive them.
//!
//! A place is taken before the catalog says that the job has begun, and is free when its [`Slot`] is
//! dropped, in whatever way its task ends. So a job that is at work in the catalog and has no place
//! here is one that nobody drives, and is begun again ([`Control::recover`]).

use std::{collections::HashMap, sync::Arc};

use strongroom_api::ErrorBody;
use strongroom_base::{Cancel, JobId, message};
use tokio::task::{Id, JoinError, JoinSet};

use crate::{
    jobs::{Claim, Event},
    service::{Control, Running},
};

/// The place of a job that is driven.
pub(super) struct Slot {
    control: Arc<Control>,
    id: JobId,
    /// Raised when the job is to be left.
    pub(super) cancel: Cancel,
}

impl Slot {
    /// Takes the place of a job; none if it is driven already.
    pub(super) fn take(control: &Arc<Control>, id: JobId, claim: Claim) -> Option<Self> {
        let cancel = Cancel::new();
        let mut running = control.running();
        if running.contains_key(&id) {
            return None;
        }
        running.insert(id, Running { claim, cancel: cancel.clone() });
        drop(running);
        Some(Self { control: Arc::clone(control), id, cancel })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.control.running().remove(&self.id);
        self.control.wake.notify_one();
    }
}

/// The tasks that drive jobs.
#[derive(Debug, Default)]
pub(crate) struct Drivers {
    tasks: JoinSet<()>,
    jobs: HashMap<Id, JobId>,
}

impl Drivers {
    /// Drives a job.
    pub(super) fn drive(&mut self, job: JobId, work: impl Future<Output = ()> + Send + 'static) {
        let task = self.tasks.spawn(work);
        self.jobs.insert(task.id(), job);
    }

    /// How many are at work.
    pub(super) fn len(&self) -> usize {
        self.tasks.len()
    }

    /// Looks after those that have ended.
    pub(super) async fn reap(&mut self, control: &Control) {
        while let Some(ended) = self.tasks.try_join_next_with_id() {
            self.ended(control, ended).await;
        }
    }

    /// Waits for all of them.
    pub(super) async fn wait(&mut self, control: &Control) {
        while let Some(ended) = self.tasks.join_next_with_id().await {
            self.ended(control, ended).await;
        }
    }

    /// One has ended. If it panicked, so has its job, which it could not say itself.
    async fn ended(&mut self, control: &Control, ended: Result<(Id, ()), JoinError>) {
        let error = match ended {
            Ok((task, ())) => {
                self.jobs.remove(&task);
                return;
            }
            Err(error) => error,
        };
        let Some(job) = self.jobs.remove(&error.id()) else { return };
        tracing::error!(%job, %error, "the driver of a job ended unexpectedly");
        let words = message!(
            BUG,
            "the task of the job ended unexpectedly: {error}",
            error = error.to_string()
        );
        let event = Event::Broke { error: ErrorBody::from(words) };
        control.note(job, event).await;
    }
}
