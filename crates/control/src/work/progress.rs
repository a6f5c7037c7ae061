//! The progress of jobs: in memory, sent to subscribers, rarely written down.

use std::{collections::HashMap, sync::MutexGuard, time::Duration};

use strongroom_api::{Job, JobState, Progress};
use strongroom_base::{JobId, Snapshot, Things, lock};

use crate::{jobs::Event, model::JobDoc, service::Control};

/// How often it is written down.
const STORE: Duration = Duration::from_secs(30);

/// How far each job at work has come.
pub(crate) type Known = HashMap<JobId, Far>;

/// How far a job has come.
#[derive(Debug)]
pub(crate) struct Far {
    progress: Progress,
    /// When it was written down last.
    stored: Duration,
    /// Whether that is the result, which later ticks do not change.
    is_result: bool,
}

/// What a job has gone through and written, now that it is done: all that there was to do.
pub(super) fn result(of: Snapshot, stored_bytes: u64) -> Event {
    let total = if of.things == Things::Bytes { of.total_bytes } else { 0 };
    Event::Result(Progress {
        done_bytes: total,
        total_bytes: total,
        stored_bytes,
        bytes_per_second: 0,
        seconds_left: None,
    })
}

impl Control {
    fn progress(&self) -> MutexGuard<'_, Known> {
        lock(&self.progress)
    }

    /// A job has come further.
    pub(super) async fn progressed(&self, id: JobId, now: Progress) {
        let at = self.clock.monotonic();
        let is_due = {
            let mut known = self.progress();
            let far = known.entry(id).or_insert_with(|| Far {
                progress: now,
                stored: at,
                is_result: false,
            });
            if far.is_result {
                return;
            }
            far.progress = now;
            let is_due = at.saturating_sub(far.stored) >= STORE;
            if is_due {
                far.stored = at;
            }
            is_due
        };
        if is_due {
            self.note(id, Event::Progress(now)).await;
        } else if self.job_events.receiver_count() > 0 {
            // Only listeners get it; that it cannot be read now is no matter.
            if let Ok(Some(found)) = self.catalog.get::<JobDoc>(&id.to_string()).await {
                let _listeners = self.job_events.send(self.as_it_is(found.doc.job)).unwrap_or(0);
            }
        }
    }

    /// What a job has done: it is written down with its next event.
    pub(super) fn has_result(&self, id: JobId, progress: Progress) {
        let stored = self.clock.monotonic();
        self.progress().insert(id, Far { progress, stored, is_result: true });
    }

    /// How far a job has come, as far as this server knows.
    pub(crate) fn progress_of(&self, id: JobId) -> Option<Progress> {
        self.progress().get(&id).map(|far| far.progress)
    }

    /// A job begins again or has ended.
    pub(crate) fn forget_progress(&self, id: JobId) {
        self.progress().remove(&id);
    }

    /// A job as it is now: with how far it has come.
    pub(crate) fn as_it_is(&self, mut job: Job) -> Job {
        if matches!(job.state, JobState::InProgress | JobState::Cancelling)
            && let Some(progress) = self.progress_of(job.id)
        {
            job.progress = Some(progress);
        }
        job
    }
}
