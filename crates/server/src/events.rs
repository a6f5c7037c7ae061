//! Jobs as they go, as server-sent events.
//!
//! A stream first sends the present state and then every change. It subscribes to changes before it reads
//! the state, so that it misses none. A client that is too slow gets the present state again. Rights are
//! checked again and again: a stream ends with the token that opened it.

use std::{collections::HashSet, convert::Infallible, pin::pin, time::Duration};

use axum::response::sse::Event;
use futures::{Stream, StreamExt as _, stream};
use strongroom_api::{Job, JobState};
use strongroom_base::JobId;
use strongroom_control::{
    PageRequest,
    jobs::JobFilter,
    rights::{Caller, Operation, Target},
};
use tokio::sync::{broadcast, mpsc};

use crate::{answer::Done, extract::Secret, state::App};

/// What a stream gives; it cannot fail, it ends.
pub(crate) type Sent = Result<Event, Infallible>;

/// How often rights are looked at again.
const RIGHTS: Duration = Duration::from_secs(30);

/// One who follows.
struct Follower {
    app: App,
    secret: Secret,
    /// One job, or all.
    only: Option<JobId>,
    /// Open jobs that were sent: what becomes of them is sent too.
    open: HashSet<JobId>,
    to: mpsc::Sender<Event>,
}

/// Nobody listens any more, or may.
struct Over;

/// The stream of one who follows a job, or all of them.
pub(crate) fn follow(app: App, secret: Secret, only: Option<JobId>) -> impl Stream<Item = Sent> {
    let (to, from) = mpsc::channel(64);
    let follower = Follower { app, secret, only, open: HashSet::new(), to };
    let work = stream::once(async move {
        // That it has ended is no error.
        follower.run().await.err();
        None
    });
    let events = stream::unfold(from, |mut from| async move {
        from.recv().await.map(|event| (Some(event), from))
    });
    // The worker lives in the stream: it ends when the follower goes away.
    stream::select(work, events).filter_map(|event| async move { event.map(Ok) })
}

fn sees(caller: &Caller, job: &Job) -> bool {
    let target = Target::of(job);
    let view = match target {
        Target::Item(..) => Operation::ViewItem,
        Target::Vault(_) => Operation::ViewVault,
        Target::Host(_) => Operation::ViewHost,
        Target::Server => Operation::ViewServer,
    };
    caller.may(view, target)
}

impl Follower {
    async fn run(mut self) -> Result<(), Over> {
        let mut changes = self.app.control.job_events();
        let mut caller = self.caller().await?;
        self.tell_all(&caller).await?;
        let mut stop = self.app.stop.clone();
        let mut stop = pin!(async move { stop.wait_for(|stop| *stop).await.is_ok() });
        let mut rights = tokio::time::interval(RIGHTS);
        rights.tick().await;
        loop {
            tokio::select! {
                _ = &mut stop => return Err(Over),
                _ = rights.tick() => caller = self.caller().await?,
                change = changes.recv() => match change {
                    Ok(job) => self.send(&caller, &job).await?,
                    Err(broadcast::error::RecvError::Lagged(_)) => self.tell_all(&caller).await?,
                    Err(broadcast::error::RecvError::Closed) => return Err(Over),
                },
            }
        }
    }

    async fn caller(&self) -> Result<Caller, Over> {
        self.app.control.caller(&self.secret.0).await.map_err(|_| Over)
    }

    /// How things are now.
    async fn tell_all(&mut self, caller: &Caller) -> Result<(), Over> {
        for job in self.present(caller).await.map_err(|failure| {
            tracing::warn!(
                code = failure.code().as_str(),
                "the present state of jobs cannot be read"
            );
            Over
        })? {
            self.send(caller, &job).await?;
        }
        Ok(())
    }

    async fn present(&self, caller: &Caller) -> Done<Vec<Job>> {
        let control = &self.app.control;
        if let Some(only) = self.only {
            return Ok(vec![control.job(caller, &only.to_string()).await?]);
        }
        let mut jobs = Vec::new();
        for state in [JobState::Queued, JobState::InProgress, JobState::Cancelling] {
            let which = JobFilter { state: Some(state), ..JobFilter::default() };
            let mut at = PageRequest { limit: Some(1000), token: None };
            loop {
                let page = control.jobs(caller, &which, &at).await?;
                jobs.extend(page.items);
                at.token = page.next_page_token;
                if at.token.is_none() {
                    break;
                }
            }
        }
        let found: HashSet<JobId> = jobs.iter().map(|job| job.id).collect();
        for ended in self.open.difference(&found) {
            if let Ok(job) = control.job(caller, &ended.to_string()).await {
                jobs.push(job);
            }
        }
        Ok(jobs)
    }

    async fn send(&mut self, caller: &Caller, job: &Job) -> Result<(), Over> {
        if self.only.is_some_and(|only| only != job.id) || !sees(caller, job) {
            return Ok(());
        }
        let ended = job.state.is_final();
        if ended {
            self.open.remove(&job.id);
        } else {
            self.open.insert(job.id);
        }
        let event = Event::default().event("job").json_data(job).map_err(|_| Over)?;
        self.to.send(event).await.map_err(|_| Over)?;
        if ended && self.only.is_some() { Err(Over) } else { Ok(()) }
    }
}
