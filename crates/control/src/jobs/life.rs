//! The life of a job: a pure function from a job and an event to the job after it.
//!
//! ```text
//!             Started                 Finished
//!  queued ───────────────▶ in_progress ──────▶ completed
//!    ▲  │                   │ │   │ └────────▶ completed_with_warnings
//!    │  │ CancelAsked       │ │   │ Broke
//!    │  └────▶ cancelled    │ │   └──────────▶ failed
//!    │             ▲        │ │ CancelAsked
//!    │             │ Broke  │ └─▶ cancelling ──Finished─▶ completed (it was too late)
//!    │             └────────┼────────┘
//!    └─ Broke, Interrupted, Stopped ─┘ (if it is tried again)
//! ```
//!
//! The driver of a job writes the new state down before it acts on it. A final state never changes.
//! A job that was running when the server died gets [`Event::Interrupted`], one that an orderly stop
//! of the server ended [`Event::Stopped`]; every order can be given again, so it goes back to the queue.
//! Neither uses up one of its tries, and only deaths are counted: a job that kills its server ends.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use strongroom_api::{ErrorBody, Job, JobState, Progress, Report, Task, TaskName, TaskState};
use strongroom_base::{PointId, codes, message};

/// How often a job is tried again, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// How often it is tried at most if it fails in a way that may pass.
    pub attempts: u32,
    /// How long the first pause is; each is three times the one before, up to an hour.
    pub pause: Duration,
    /// How often the server may die while it runs before it is given up.
    pub interruptions: u32,
}

impl Retry {
    /// Not at all, unless the server dies.
    pub const NEVER: Self = Self { attempts: 1, pause: Duration::ZERO, interruptions: 5 };

    /// Three times in all, after one minute and after three.
    pub const USUAL: Self = Self { attempts: 3, pause: Duration::from_mins(1), interruptions: 10 };

    /// When it is begun again after a number of attempts.
    fn next(&self, now: Timestamp, attempt: u32) -> Timestamp {
        let times = 3_u32.saturating_pow(attempt.saturating_sub(1));
        let pause = self.pause.saturating_mul(times).min(Duration::from_hours(1));
        let pause = SignedDuration::try_from(pause).unwrap_or(SignedDuration::ZERO);
        now.checked_add(pause).unwrap_or(Timestamp::MAX)
    }
}

/// What happens to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It was begun.
    Started,
    /// A part of it came to another state.
    Task {
        /// Which.
        name: TaskName,
        /// Its state.
        state: TaskState,
        /// What it found or did.
        detail: Option<String>,
    },
    /// It came further.
    Progress(Progress),
    /// What it went through and wrote in all.
    Result(Progress),
    /// Something is not as good as it should be.
    Warning(ErrorBody),
    /// A recovery point was made.
    Point(PointId),
    /// All is done.
    Finished {
        /// What was done.
        report: Option<Report>,
    },
    /// It failed.
    Broke {
        /// Why.
        error: ErrorBody,
    },
    /// Somebody wants it stopped.
    CancelAsked {
        /// Who.
        by: String,
    },
    /// The server died while it ran, or has lost sight of it.
    Interrupted,
    /// The server was stopped in an orderly way while it ran.
    Stopped,
}

/// The job after an event; none if the event is not valid in its state, and nothing changes.
pub fn on(job: &Job, event: Event, retry: &Retry, now: Timestamp) -> Option<Job> {
    use JobState as S;
    let mut job = job.clone();
    match (job.state, event) {
        (S::Queued, Event::Started) => start(&mut job, now),
        (S::Queued, Event::CancelAsked { by }) => {
            job.error = Some(cancelled(&by));
            end(&mut job, S::Cancelled, TaskState::Cancelled, now);
        }
        (S::InProgress, Event::CancelAsked { by }) => {
            job.error = Some(cancelled(&by));
            job.state = S::Cancelling;
        }
        (S::InProgress | S::Cancelling, Event::Task { name, state, detail }) => {
            task(&mut job, name, state, detail, now);
        }
        (S::InProgress | S::Cancelling, Event::Progress(progress) | Event::Result(progress)) => {
            job.progress = Some(progress);
        }
        (S::InProgress | S::Cancelling, Event::Warning(warning)) => {
            if !job.warnings.contains(&warning) {
                job.warnings.push(warning);
            }
        }
        (S::InProgress | S::Cancelling, Event::Point(point)) => job.recovery_point = Some(point),
        // Cancelled too late: what is done is done, and is said to be.
        (S::InProgress | S::Cancelling, Event::Finished { report }) => {
            job.report = report;
            job.error = None;
            let worse = |task: &Task| {
                matches!(task.state, TaskState::Failed | TaskState::CompletedWithWarnings)
            };
            let warned = !job.warnings.is_empty() || job.tasks.iter().any(worse);
            let state = if warned { S::CompletedWithWarnings } else { S::Completed };
            end(&mut job, state, TaskState::Skipped, now);
        }
        (S::Cancelling, Event::Broke { .. } | Event::Interrupted | Event::Stopped) => {
            end(&mut job, S::Cancelled, TaskState::Cancelled, now);
        }
        (S::InProgress, Event::Broke { error }) => {
            let tries = job.current_try();
            let again = error.retryable && tries < retry.attempts;
            job.error = Some(error);
            if again {
                let at = retry.next(now, tries);
                requeue(&mut job, at);
            } else {
                end(&mut job, S::Failed, TaskState::Skipped, now);
            }
        }
        (S::InProgress, Event::Interrupted) => {
            job.error = Some(interrupted());
            job.interruptions = job.interruptions.saturating_add(1);
            if job.interruptions < retry.interruptions {
                requeue(&mut job, now);
            } else {
                end(&mut job, S::Failed, TaskState::Skipped, now);
            }
        }
        (S::InProgress, Event::Stopped) => {
            job.error = Some(interrupted());
            job.attempt = job.attempt.saturating_sub(1);
            requeue(&mut job, now);
        }
        (S::Queued | S::Cancelled | S::Completed | S::CompletedWithWarnings | S::Failed, _)
        | (S::InProgress | S::Cancelling, Event::Started)
        | (S::Cancelling, Event::CancelAsked { .. }) => return None,
    }
    Some(job)
}

fn cancelled(by: &str) -> ErrorBody {
    ErrorBody::from(message!(JOB_CANCELLED, "{by} cancelled the job", by))
}

fn interrupted() -> ErrorBody {
    ErrorBody::new(&codes::JOB_INTERRUPTED, codes::JOB_INTERRUPTED.meaning)
}

fn start(job: &mut Job, now: Timestamp) {
    job.state = JobState::InProgress;
    job.attempt = job.attempt.saturating_add(1);
    job.started.get_or_insert(now);
    job.not_before = None;
    job.progress = None;
    job.warnings.clear();
    for task in &mut job.tasks {
        task.state = TaskState::Pending;
        (task.started, task.ended, task.detail) = (None, None, None);
    }
}

fn requeue(job: &mut Job, at: Timestamp) {
    job.state = JobState::Queued;
    job.not_before = Some(at);
    job.progress = None;
}

/// The job has ended: its running tasks failed or were stopped with it, later tasks never run.
fn end(job: &mut Job, state: JobState, rest: TaskState, now: Timestamp) {
    job.state = state;
    job.ended = Some(now);
    job.not_before = None;
    for task in &mut job.tasks {
        match task.state {
            TaskState::Pending => task.state = rest,
            TaskState::InProgress => {
                task.state = match state {
                    JobState::Cancelled => TaskState::Cancelled,
                    JobState::Failed => TaskState::Failed,
                    _ => TaskState::Completed,
                };
                task.ended = Some(now);
            }
            _ => {}
        }
    }
    if let Some(progress) = &mut job.progress {
        progress.seconds_left = None;
    }
}

fn task(job: &mut Job, name: TaskName, state: TaskState, detail: Option<String>, now: Timestamp) {
    let index = job.tasks.iter().position(|task| task.name == name).unwrap_or_else(|| {
        job.tasks.push(Task {
            name,
            state: TaskState::Pending,
            started: None,
            ended: None,
            detail: None,
        });
        job.tasks.len().saturating_sub(1)
    });
    let Some(task) = job.tasks.get_mut(index) else { return };
    task.state = state;
    if state != TaskState::Pending && state != TaskState::Skipped {
        task.started.get_or_insert(now);
    }
    task.ended = (!matches!(state, TaskState::Pending | TaskState::InProgress)).then_some(now);
    if detail.is_some() {
        task.detail = detail;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use strongroom_api::{JobKind, Trigger};
    use strongroom_base::JobId;

    use super::*;

    fn job() -> Job {
        let task = |name| Task {
            name,
            state: TaskState::Pending,
            started: None,
            ended: None,
            detail: None,
        };
        Job {
            id: JobId::from_bytes([1; 16]),
            kind: JobKind::Backup,
            state: JobState::Queued,
            trigger: Trigger::Scheduled,
            requested_by: "system".to_owned(),
            subject: "web01".to_owned(),
            vault: None,
            item: None,
            host: None,
            tasks: [TaskName::Snapshot, TaskName::Transfer, TaskName::Validate].map(task).into(),
            progress: None,
            warnings: Vec::new(),
            error: None,
            attempt: 0,
            interruptions: 0,
            max_tries: Retry::USUAL.attempts,
            created: Timestamp::UNIX_EPOCH,
            not_before: None,
            started: None,
            ended: None,
            recovery_point: None,
            report: None,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).expect("a time")
    }

    fn broke(code: &'static strongroom_base::Code) -> Event {
        Event::Broke { error: ErrorBody::new(code, "it broke") }
    }

    fn run(events: &[Event]) -> Job {
        events.iter().enumerate().fold(job(), |job, (second, event)| {
            let now = at(i64::try_from(second).expect("few"));
            on(&job, event.clone(), &Retry::USUAL, now).expect("the event makes sense")
        })
    }

    fn state_of(name: TaskName, state: TaskState) -> Event {
        Event::Task { name, state, detail: None }
    }

    #[test]
    fn a_good_life() {
        let job = run(&[
            Event::Started,
            state_of(TaskName::Snapshot, TaskState::InProgress),
            state_of(TaskName::Snapshot, TaskState::Completed),
            state_of(TaskName::Transfer, TaskState::InProgress),
            Event::Finished { report: None },
        ]);
        assert_eq!(job.state, JobState::Completed);
        assert_eq!((job.started, job.ended), (Some(at(0)), Some(at(4))));
        let states: Vec<_> = job.tasks.iter().map(|task| task.state).collect();
        assert_eq!(states, [TaskState::Completed, TaskState::Completed, TaskState::Skipped]);
    }

    #[test]
    fn a_part_that_failed_makes_warnings() {
        let failed = state_of(TaskName::Transfer, TaskState::Failed);
        let job = run(&[Event::Started, failed, Event::Finished { report: None }]);
        assert_eq!(job.state, JobState::CompletedWithWarnings);
    }

    #[test]
    fn what_may_pass_is_tried_again_with_longer_pauses_and_not_for_ever() {
        let broke = broke(&codes::STORE_UNAVAILABLE);
        let once = run(&[Event::Started, broke.clone()]);
        assert_eq!((once.state, once.not_before), (JobState::Queued, Some(at(61))));
        let twice = run(&[Event::Started, broke.clone(), Event::Started, broke.clone()]);
        assert_eq!((twice.state, twice.not_before), (JobState::Queued, Some(at(183))));
        let events =
            [Event::Started, broke.clone(), Event::Started, broke.clone(), Event::Started, broke];
        assert_eq!(run(&events).state, JobState::Failed);
    }

    #[test]
    fn what_does_not_pass_fails_at_once() {
        let job = run(&[Event::Started, broke(&codes::KEY_WRONG)]);
        assert_eq!(job.state, JobState::Failed);
        assert_eq!(job.error.expect("an error").code.as_str(), "key.wrong");
    }

    #[test]
    fn cancelled_anywhere() {
        let ask = Event::CancelAsked { by: "ann".to_owned() };
        assert_eq!(run(std::slice::from_ref(&ask)).state, JobState::Cancelled);
        let stopped = [Event::Started, ask.clone(), broke(&codes::INTERRUPTED)];
        assert_eq!(run(&stopped).state, JobState::Cancelled);
        let late = run(&[Event::Started, ask.clone(), Event::Finished { report: None }]);
        assert_eq!((late.state, late.error), (JobState::Completed, None));
        assert_eq!(run(&[Event::Started, ask, Event::Interrupted]).state, JobState::Cancelled);
    }

    #[test]
    fn a_server_that_dies_again_and_again() {
        let mut events = Vec::new();
        for _ in 0..Retry::USUAL.interruptions {
            assert_ne!(run(&events).state, JobState::Failed);
            events.extend([Event::Started, Event::Interrupted]);
        }
        assert_eq!(run(&events).state, JobState::Failed);
    }

    #[test]
    fn stops_and_deaths_of_the_server_use_up_no_tries() {
        let mut events = Vec::new();
        for _ in 0..20 {
            events.extend([Event::Started, Event::Stopped]);
        }
        let stopped = run(&events);
        assert_eq!((stopped.state, stopped.attempt), (JobState::Queued, 0));
        assert_eq!(stopped.error.expect("why").code.as_str(), "job.interrupted");
        // One that a death had begun is stopped like any other.
        events.extend([Event::Started, Event::Interrupted, Event::Started, Event::Stopped]);
        assert_eq!(run(&events).state, JobState::Queued);
        for tried in 1..=Retry::USUAL.attempts {
            events.extend([Event::Started, broke(&codes::STORE_UNAVAILABLE)]);
            let job = run(&events);
            assert_eq!(job.current_try(), tried);
            assert_eq!(job.state.is_final(), tried == Retry::USUAL.attempts);
        }
        let ask = Event::CancelAsked { by: "ann".to_owned() };
        assert_eq!(run(&[Event::Started, ask, Event::Stopped]).state, JobState::Cancelled);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            Just(Event::Started),
            Just(state_of(TaskName::Transfer, TaskState::InProgress)),
            Just(state_of(TaskName::Transfer, TaskState::Failed)),
            Just(Event::Progress(Progress::default())),
            Just(Event::Warning(ErrorBody::new(&codes::VM_AGENT, "no agent"))),
            Just(Event::Finished { report: None }),
            Just(broke(&codes::STORE_UNAVAILABLE)),
            Just(broke(&codes::KEY_WRONG)),
            Just(Event::CancelAsked { by: "ann".to_owned() }),
            Just(Event::Interrupted),
            Just(Event::Stopped),
        ]
    }

    proptest! {
        /// Whatever comes: an end is an end, has its time, and leaves no part at work.
        #[test]
        fn ends_are_ends(events in proptest::collection::vec(event(), 0..40)) {
            let mut job = job();
            for (second, event) in events.into_iter().enumerate() {
                let now = at(i64::try_from(second).expect("few"));
                let Some(next) = on(&job, event, &Retry::USUAL, now) else { continue };
                prop_assert!(!job.state.is_final(), "{:?} became {:?}", job.state, next.state);
                prop_assert_eq!(next.state.is_final(), next.ended.is_some());
                prop_assert!(next.current_try() <= Retry::USUAL.attempts);
                prop_assert!(next.interruptions <= Retry::USUAL.interruptions);
                if next.state.is_final() {
                    prop_assert!(next.tasks.iter().all(|task| !matches!(
                        task.state, TaskState::Pending | TaskState::InProgress
                    )));
                    prop_assert!(next.state != JobState::Failed || next.error.is_some());
                }
                job = next;
            }
        }
    }
}
