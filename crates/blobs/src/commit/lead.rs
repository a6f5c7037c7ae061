//! The copy that leads, and a deadline for it.
//!
//! With other copies beside it, the committer lets a thread of its own write to it, and waits no longer than
//! [`Options::patience`] for each step: a disk that neither fails nor answers is like one that has failed. The thread
//! is left to itself then, with the copy: what it still does is of no interest, because the copy is noted as one that
//! lacks changes before any change is acknowledged without it. Without other copies nobody could take over, and the
//! committer writes by itself.

use std::{
    io,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Sender, bounded, unbounded};
use redb::WriteTransaction;
use strongroom_base::{lock, start_thread};

use crate::{
    engine::{Engine, Group, Shared, is_checkpoint_due},
    slots::Pending,
    state::Counters,
    store::{Options, StoreError},
};

type Job = Box<dyn FnOnce(&mut Engine) + Send>;

/// The copy that leads.
pub(crate) struct Lead {
    pub(crate) shared: Arc<Shared>,
    /// The id of the store.
    pub(crate) store: [u8; 16],
    pub(crate) counters: Counters,
    /// Whether another copy could lead.
    pub(crate) has_others: bool,
    options: Options,
    engine: Arc<Mutex<Engine>>,
    /// When changes began to wait for a checkpoint.
    oldest: Option<Duration>,
    /// Whether slots wait to be given back.
    is_releasing: bool,
    worker: Option<(Sender<Job>, JoinHandle<()>)>,
    /// Whether a step was not done in time.
    is_lost: bool,
}

/// A step that was begun. Its result comes when it is awaited.
pub(crate) struct Begun<R>(Result<Step<R>, StoreError>);

enum Step<R> {
    Done(R),
    Awaited(crossbeam_channel::Receiver<R>),
}

/// What a step leaves behind.
struct After {
    counters: Counters,
    oldest: Option<Duration>,
    is_releasing: bool,
}

impl After {
    fn of(engine: &Engine) -> Self {
        Self {
            counters: engine.counters,
            oldest: engine.oldest(),
            is_releasing: engine.is_releasing(),
        }
    }
}

impl Lead {
    pub(crate) fn new(engine: Engine, options: &Options) -> Self {
        let After { counters, oldest, is_releasing } = After::of(&engine);
        Self {
            shared: Arc::clone(&engine.shared),
            store: engine.store,
            counters,
            has_others: false,
            options: options.clone(),
            engine: Arc::new(Mutex::new(engine)),
            oldest,
            is_releasing,
            worker: None,
            is_lost: false,
        }
    }

    fn worker(&mut self) -> &Sender<Job> {
        let engine = &self.engine;
        let (jobs, _) = self.worker.get_or_insert_with(|| {
            let engine = Arc::clone(engine);
            let (jobs, waiting) = unbounded::<Job>();
            let thread = start_thread("blob-lead", move || {
                for job in waiting {
                    job(&mut lock(&engine));
                }
            });
            (jobs, thread)
        });
        jobs
    }

    /// Begins a step.
    fn begin<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Begun<(R, After)> {
        if self.is_lost {
            return Begun(Err(StoreError::Slow));
        }
        let step = move |engine: &mut Engine| {
            let result = work(engine);
            (result, After::of(engine))
        };
        if !self.has_others {
            return Begun(Ok(Step::Done(step(&mut lock(&self.engine)))));
        }
        let (sender, receiver) = bounded(1);
        let job: Job = Box::new(move |engine| {
            // Who leads may have given up waiting.
            drop(sender.send(step(engine)));
        });
        let sent = self.worker().send(job);
        Begun(sent.map(|()| Step::Awaited(receiver)).map_err(|_| StoreError::Ended))
    }

    /// Waits for a step, as long as it may take.
    fn end<R>(&mut self, begun: Begun<(R, After)>) -> Result<R, StoreError> {
        let (result, after) = match begun.0? {
            Step::Done(done) => done,
            Step::Awaited(receiver) => {
                receiver.recv_timeout(self.options.patience).map_err(|_| {
                    self.is_lost = true;
                    StoreError::Slow
                })?
            }
        };
        let After { counters, oldest, is_releasing } = after;
        (self.counters, self.oldest, self.is_releasing) = (counters, oldest, is_releasing);
        Ok(result)
    }

    fn ask<R: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Engine) -> R + Send + 'static,
    ) -> Result<R, StoreError> {
        let begun = self.begin(work);
        self.end(begun)
    }

    /// Makes room in the journal for a group, so that appending it fails only with the disk.
    pub(crate) fn prepare(&mut self, group: &Arc<Group>) -> Result<io::Result<()>, StoreError> {
        let group = Arc::clone(group);
        self.ask(move |engine| engine.prepare(&group))
    }

    /// Begins to make a group durable in the journal.
    pub(crate) fn begin_append(&mut self, group: &Arc<Group>) -> Appending {
        let group = Arc::clone(group);
        Appending(self.begin(move |engine| engine.append(&group)))
    }

    /// Waits until it is durable.
    pub(crate) fn end_append(&mut self, appending: Appending) -> Result<(), StoreError> {
        self.end(appending.0)?
    }

    /// Writes the slots of records that are durable and applied to `transaction`, and commits it.
    pub(crate) fn finish(
        &mut self,
        transaction: WriteTransaction,
        pending: Pending,
        counters: Counters,
    ) -> Result<(), StoreError> {
        self.ask(move |engine| engine.finish(transaction, pending, counters))?
    }

    /// Makes the data files and the state durable, and deletes the journal before them.
    pub(crate) fn checkpoint(&mut self) -> Result<(), StoreError> {
        self.ask(Engine::checkpoint)?
    }

    /// Drops `settler` when no slot and no file waits to be given back.
    pub(crate) fn settle(&mut self, settler: Sender<()>) -> Result<(), StoreError> {
        while self.is_releasing {
            self.release_step()?;
        }
        self.ask(move |engine| engine.settle(settler))?
    }

    /// Gives some slots back that no checkpoint uses any more.
    pub(crate) fn release_step(&mut self) -> Result<(), StoreError> {
        self.ask(Engine::release_step)?
    }

    /// Whether slots wait to be given back.
    pub(crate) const fn is_releasing(&self) -> bool {
        self.is_releasing
    }

    /// Whether changes wait for a checkpoint.
    pub(crate) const fn has_changes(&self) -> bool {
        self.oldest.is_some()
    }

    /// Whether it is time for a checkpoint.
    pub(crate) fn is_checkpoint_due(&self) -> bool {
        is_checkpoint_due(&self.shared, &self.options, self.oldest)
    }

    /// Lets the thread that writes do something else, and does not wait for it.
    #[cfg(test)]
    pub(crate) fn occupy(&mut self, job: Job) {
        self.has_others = true;
        self.worker().send(job).expect("the thread runs");
    }
}

/// A group that is being made durable.
pub(crate) struct Appending(Begun<(Result<(), StoreError>, After)>);

impl Drop for Lead {
    fn drop(&mut self) {
        if let Some((jobs, thread)) = self.worker.take() {
            drop(jobs);
            // One that does not answer may never end.
            if !self.is_lost {
                drop(thread.join());
            }
        }
    }
}
