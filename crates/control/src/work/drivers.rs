//! Who drives which job: one owner of all jobs at work, which others only send messages to.
//!
//! ```text
//!  dispatch ────────── take, drive ─▶ ┌───────┐ ◀─ it has ended ── the tasks that drive jobs
//!  cancel_job, recover ──── cancel ─▶ │ owner │
//!                                     └───────┘ ─▶ the jobs at work, published for all readers
//! ```
//!
//! The [`Owner`] lives in the task that runs the service, beside its rounds, and ends with it: then so do
//! the tasks of the jobs. A job has its place before the catalog says that it has begun. So there is no moment
//! at which a cancel finds neither a job that waits nor a place; and a job that is at work in the
//! catalog and has no place is one that nobody drives, which is begun again by `Control::recover`.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::Arc,
};

use strongroom_base::{Cancel, JobId};
use tokio::{
    sync::{Mutex, Notify, mpsc, oneshot, watch},
    task::{Id, JoinError, JoinSet},
};

use crate::jobs::Claim;

/// Work that is driven.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// What is done if the work panics.
pub(super) type Broke = Box<dyn FnOnce(String) -> Work + Send>;

/// Which jobs are at work, and what they take.
pub(crate) type AtWork = BTreeMap<JobId, Claim>;

/// What the owner is asked.
enum Ask {
    /// A place for a job; nothing comes back if it has one.
    Take { id: JobId, claim: Claim, taken: oneshot::Sender<Cancel> },
    /// The work of a job that has a place, which ends with it.
    Drive { id: JobId, work: Work, broke: Broke },
    /// The place is not needed after all.
    Free(JobId),
    /// The job is to be left.
    Cancel(JobId),
    /// So are all, and those that come.
    Stop,
}

/// The way to the owner.
pub(crate) struct Drivers {
    asks: mpsc::UnboundedSender<Ask>,
    /// Held by the owner while it listens.
    inbox: Mutex<mpsc::UnboundedReceiver<Ask>>,
    at_work: watch::Sender<Arc<AtWork>>,
    /// Notified when a place has become free.
    pub(super) freed: Notify,
}

impl Default for Drivers {
    fn default() -> Self {
        let (asks, inbox) = mpsc::unbounded_channel();
        let at_work = watch::channel(Arc::default()).0;
        Self { asks, inbox: Mutex::new(inbox), at_work, freed: Notify::new() }
    }
}

impl Drivers {
    /// Which jobs are at work.
    pub(crate) fn at_work(&self) -> Arc<AtWork> {
        Arc::clone(&self.at_work.borrow())
    }

    /// Cancels a job, if it is at work. Never too early: it had its place before anybody could see that it
    /// has begun.
    pub(crate) fn cancel(&self, id: JobId) {
        self.ask(Ask::Cancel(id));
    }

    /// Cancels all jobs, and those that come.
    pub(super) fn stop(&self) {
        self.ask(Ask::Stop);
    }

    /// Takes the place of a job; none if it has one already.
    pub(super) async fn take(&self, id: JobId, claim: Claim) -> Option<Place<'_>> {
        let (taken, answer) = oneshot::channel();
        self.ask(Ask::Take { id, claim, taken });
        let cancel = answer.await.ok()?;
        Some(Place { drivers: self, id, cancel, is_driven: false })
    }

    fn ask(&self, ask: Ask) {
        // It cannot fail: the other end is a field, too.
        self.asks.send(ask).ok();
    }
}

/// The place of a job that is not driven yet; free again when it is dropped.
pub(super) struct Place<'a> {
    drivers: &'a Drivers,
    id: JobId,
    /// Raised when the job is to be left.
    pub(super) cancel: Cancel,
    is_driven: bool,
}

impl Place<'_> {
    /// Drives the job. If the work panics, `broke` says so.
    pub(super) fn drive(mut self, work: Work, broke: Broke) {
        self.is_driven = true;
        self.drivers.ask(Ask::Drive { id: self.id, work, broke });
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.is_driven {
            self.drivers.ask(Ask::Free(self.id));
        }
    }
}

/// A job that has a place.
struct Running {
    cancel: Cancel,
    /// Once it is driven, and has not panicked.
    broke: Option<Broke>,
}

/// The one that owns the jobs at work.
pub(super) struct Owner {
    drivers: Arc<Drivers>,
    running: BTreeMap<JobId, Running>,
    tasks: JoinSet<()>,
    jobs: HashMap<Id, JobId>,
    is_stopping: bool,
}

impl Owner {
    /// One that has no jobs.
    pub(super) fn new(drivers: &Arc<Drivers>) -> Self {
        Self {
            drivers: Arc::clone(drivers),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
            jobs: HashMap::new(),
            is_stopping: false,
        }
    }

    /// Listens while something is done that asks.
    pub(super) async fn beside<T>(&mut self, done: impl Future<Output = T>) -> T {
        let drivers = Arc::clone(&self.drivers);
        let mut inbox = drivers.inbox.lock().await;
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                Some(ask) = inbox.recv() => self.hear(ask),
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
                done = &mut done => return done,
            }
        }
    }

    /// Listens until no job is driven.
    pub(super) async fn until_idle(&mut self) {
        let drivers = Arc::clone(&self.drivers);
        let mut inbox = drivers.inbox.lock().await;
        loop {
            tokio::select! {
                biased;
                Some(ask) = inbox.recv() => self.hear(ask),
                ended = self.tasks.join_next_with_id() => match ended {
                    Some(ended) => self.ended(ended),
                    None => return,
                },
            }
        }
    }

    fn hear(&mut self, ask: Ask) {
        match ask {
            Ask::Take { id, claim, taken } => {
                if self.drivers.at_work().contains_key(&id) {
                    return;
                }
                let cancel = Cancel::new();
                if self.is_stopping {
                    cancel.cancel();
                }
                // The caller may be gone by now.
                if taken.send(cancel.clone()).is_ok() {
                    self.running.insert(id, Running { cancel, broke: None });
                    self.publish(|at_work| at_work.insert(id, claim));
                }
            }
            Ask::Drive { id, work, broke } => {
                // It has one, unless it is of an owner that is gone.
                if let Some(running) = self.running.get_mut(&id) {
                    running.broke = Some(broke);
                    self.spawn(id, work);
                }
            }
            Ask::Free(id) => self.free(id),
            Ask::Cancel(id) => {
                if let Some(running) = self.running.get(&id) {
                    running.cancel.cancel();
                }
            }
            Ask::Stop => {
                self.is_stopping = true;
                for running in self.running.values() {
                    running.cancel.cancel();
                }
            }
        }
    }

    fn spawn(&mut self, id: JobId, work: Work) {
        let task = self.tasks.spawn(work);
        self.jobs.insert(task.id(), id);
    }

    /// A task has ended. If it panicked, its job says so before its place is free.
    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (task, error) = match ended {
            Ok((task, ())) => (task, None),
            Err(error) => (error.id(), Some(error)),
        };
        let Some(id) = self.jobs.remove(&task) else { return };
        let broke = self.running.get_mut(&id).and_then(|running| running.broke.take());
        if let (Some(error), Some(broke)) = (error, broke) {
            tracing::error!(job = %id, %error, "the driver of a job ended unexpectedly");
            self.spawn(id, broke(error.to_string()));
        } else {
            self.free(id);
        }
    }

    fn free(&mut self, id: JobId) {
        if self.running.remove(&id).is_some() {
            self.publish(|at_work| at_work.remove(&id));
            self.drivers.freed.notify_one();
        }
    }

    fn publish(&self, change: impl FnOnce(&mut AtWork) -> Option<Claim>) {
        self.drivers.at_work.send_modify(|at_work| {
            change(Arc::make_mut(at_work));
        });
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        // Its tasks end with it.
        for id in std::mem::take(&mut self.running).into_keys() {
            self.publish(|at_work| at_work.remove(&id));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};

    use strongroom_api::JobKind;

    use super::*;

    const CLAIM: Claim = Claim { kind: JobKind::Backup, host: None, vault: None, store: None };

    fn job(number: u8) -> JobId {
        JobId::from_bytes([number; 16])
    }

    fn nothing(_: String) -> Work {
        Box::pin(async {})
    }

    /// Work that ends when it is cancelled, and counts that; or when it has waited for long.
    fn until(cancel: Cancel, heard: &Arc<AtomicU32>) -> Work {
        let heard = Arc::clone(heard);
        Box::pin(async move {
            for _ in 0..10_000 {
                if cancel.is_cancelled() {
                    heard.fetch_add(1, SeqCst);
                    return;
                }
                tokio::task::yield_now().await;
            }
        })
    }

    /// A cancel comes when a job has a place and is not driven yet: while it is written down that it begins.
    #[tokio::test]
    async fn a_cancel_between_the_place_and_the_work_is_heard() {
        let drivers = Arc::new(Drivers::default());
        let mut owner = Owner::new(&drivers);
        let heard = Arc::new(AtomicU32::new(0));
        let begins = async {
            let place = drivers.take(job(1), CLAIM).await.expect("a place");
            drivers.cancel(job(1));
            tokio::task::yield_now().await;
            let cancel = place.cancel.clone();
            place.drive(until(cancel, &heard), Box::new(nothing));
        };
        owner.beside(begins).await;
        owner.until_idle().await;
        assert!(heard.load(SeqCst) == 1 && drivers.at_work().is_empty());
    }

    #[tokio::test]
    async fn a_job_has_one_place_which_is_free_if_it_is_not_driven() {
        let drivers = Arc::new(Drivers::default());
        let mut owner = Owner::new(&drivers);
        let begins = async {
            let place = drivers.take(job(1), CLAIM).await.expect("a place");
            assert!(drivers.at_work().contains_key(&job(1)));
            assert!(drivers.take(job(1), CLAIM).await.is_none());
            drop(place);
            drivers.take(job(1), CLAIM).await.expect("it is free again");
        };
        owner.beside(begins).await;
        owner.until_idle().await;
        assert!(drivers.at_work().is_empty());
    }

    #[tokio::test]
    async fn all_are_stopped_and_so_are_those_that_come() {
        let drivers = Arc::new(Drivers::default());
        let mut owner = Owner::new(&drivers);
        let heard = Arc::new(AtomicU32::new(0));
        let begins = async {
            let early = drivers.take(job(1), CLAIM).await.expect("a place");
            drivers.stop();
            let late = drivers.take(job(2), CLAIM).await.expect("a place");
            for place in [early, late] {
                let cancel = place.cancel.clone();
                place.drive(until(cancel, &heard), Box::new(nothing));
            }
        };
        owner.beside(begins).await;
        owner.until_idle().await;
        assert!(heard.load(SeqCst) == 2 && drivers.at_work().is_empty());
    }

    #[tokio::test]
    async fn a_panic_is_said_before_the_place_is_free() {
        let drivers = Arc::new(Drivers::default());
        let mut owner = Owner::new(&drivers);
        let said = Arc::new(AtomicBool::new(false));
        let (at_work, heard) = (Arc::clone(&drivers), Arc::clone(&said));
        let broke = move |_| -> Work {
            let is_at_work = at_work.at_work().contains_key(&job(1));
            Box::pin(async move { heard.store(is_at_work, SeqCst) })
        };
        let begins = async {
            let place = drivers.take(job(1), CLAIM).await.expect("a place");
            place.drive(Box::pin(async { panic!("a defect") }), Box::new(broke));
        };
        owner.beside(begins).await;
        owner.until_idle().await;
        assert!(said.load(SeqCst) && drivers.at_work().is_empty());
    }

    #[tokio::test]
    async fn with_the_owner_its_jobs_end() {
        let drivers = Arc::new(Drivers::default());
        let mut owner = Owner::new(&drivers);
        let begins = async {
            let place = drivers.take(job(1), CLAIM).await.expect("a place");
            place.drive(Box::pin(std::future::pending()), Box::new(nothing));
        };
        owner.beside(begins).await;
        drop(owner);
        assert!(drivers.at_work().is_empty());
        let mut next = Owner::new(&drivers);
        assert!(next.beside(drivers.take(job(1), CLAIM)).await.is_some());
    }
}
