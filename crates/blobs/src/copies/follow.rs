//! Following: a copy that takes the records that another one has decided.
//!
//! A [`Link`] carries groups of records one way and says when they are durable at its other end. What that end is, it
//! does not know; here it is a thread with an [`Engine`] of its own.

use std::{sync::Arc, thread::JoinHandle, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded, unbounded};
use strongroom_base::start_thread;

use super::hub::Hub;
use crate::{
    engine::{Engine, Group, Shared},
    map::ApplyError,
    numbers::narrow,
    pages::BLOCK,
    store::StoreError,
};

/// Groups that may wait for a follower that is still applying.
const QUEUE: usize = 16;
/// How long a follower sleeps before it looks after its folder.
const IDLE: Duration = Duration::from_secs(1);
/// How often a group is applied again after damaged cells were repaired.
const REPAIRS: usize = 64;

/// What a follower is asked.
pub(crate) enum Order {
    /// Make these records durable, say so, and apply them.
    Group(Arc<Group>),
    /// Make a checkpoint, and drop the sender. All records before are durable in every copy.
    Checkpoint(Sender<()>),
    /// Drop the sender when nothing waits to be given back.
    Settle(Sender<()>),
}

/// The way to a follower.
pub(crate) struct Link {
    orders: Sender<Order>,
    /// One for each group: whether it is durable.
    answers: Receiver<Result<(), Arc<StoreError>>>,
}

/// The follower's end of it.
pub(crate) struct Ends {
    pub(crate) orders: Receiver<Order>,
    pub(crate) answers: Sender<Result<(), Arc<StoreError>>>,
}

impl Link {
    /// A link, and its other end.
    pub(crate) fn new() -> (Self, Ends) {
        let (orders, to) = bounded(QUEUE);
        let (from, answers) = unbounded();
        (Self { orders, answers }, Ends { orders: to, answers: from })
    }

    /// Gives an order. One that has ended is heard of when its answer is awaited.
    pub(crate) fn order(&self, order: Order) {
        drop(self.orders.send(order));
    }

    /// Waits until the oldest group that has no answer yet is durable.
    pub(crate) fn durable(&self, patience: Duration) -> Result<(), Arc<StoreError>> {
        self.answers.recv_timeout(patience).unwrap_or_else(|error| {
            Err(Arc::new(match error {
                RecvTimeoutError::Timeout => StoreError::Slow,
                RecvTimeoutError::Disconnected => StoreError::Ended,
            }))
        })
    }
}

/// A copy of this store that follows, on a thread of its own.
pub(crate) struct Follower {
    pub(crate) shared: Arc<Shared>,
    pub(crate) link: Link,
    thread: JoinHandle<Option<Engine>>,
}

impl Follower {
    /// Lets a copy follow from where it stands.
    pub(crate) fn start(engine: Engine, hub: &Arc<Hub>) -> Self {
        let shared = Arc::clone(&engine.shared);
        let (link, ends) = Link::new();
        let hub = Arc::clone(hub);
        let thread = start_thread("blob-copy", move || follow(engine, &hub, &ends));
        Self { shared, link, thread }
    }

    /// Waits until it is durable, or says why it failed.
    pub(crate) fn durable(&self, patience: Duration) -> Result<(), Arc<StoreError>> {
        self.link.durable(patience).map_err(|error| self.shared.failure().unwrap_or(error))
    }

    /// Ends it after what it was given, and returns the thread that does so.
    pub(crate) fn retire(self) -> JoinHandle<Option<Engine>> {
        self.thread
    }

    /// Takes the copy back when it has applied all that it was given.
    pub(crate) fn into_engine(self) -> Result<Engine, Arc<StoreError>> {
        let Self { shared, link, thread } = self;
        drop(link);
        let engine = thread.join().ok().flatten();
        engine
            .filter(|engine| engine.shared.failure().is_none())
            .ok_or_else(|| shared.failure().unwrap_or_else(|| Arc::new(StoreError::Ended)))
    }
}

/// Follows until there are no orders any more, or the copy fails.
fn follow(mut engine: Engine, hub: &Hub, ends: &Ends) -> Option<Engine> {
    loop {
        let order = if engine.is_releasing() {
            ends.orders.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else {
            ends.orders.recv_timeout(IDLE)
        };
        let done = match order {
            Ok(order) => carry_out(&mut engine, hub, ends, order),
            Err(RecvTimeoutError::Disconnected) => return Some(engine),
            Err(RecvTimeoutError::Timeout) => engine
                .shared
                .is_in_place()
                .map_err(|source| StoreError::File { path: engine.shared.folder.clone(), source })
                .map_err(Arc::new),
        };
        let done = done.and_then(|()| engine.release_step().map_err(Arc::new));
        if let Err(error) = done {
            engine.shared.fail(error);
            return None;
        }
    }
}

fn carry_out(
    engine: &mut Engine,
    hub: &Hub,
    ends: &Ends,
    order: Order,
) -> Result<(), Arc<StoreError>> {
    match order {
        Order::Group(group) => {
            let appended = engine.append(&group).map_err(Arc::new);
            // Who leads may have given up waiting.
            drop(ends.answers.send(appended.clone()));
            appended?;
            apply(engine, hub, &group).map_err(Arc::new)
        }
        Order::Checkpoint(done) => {
            let made = engine.checkpoint().map_err(Arc::new);
            drop(done);
            made
        }
        Order::Settle(settler) => engine.settle(settler).map_err(Arc::new),
    }
}

/// Applies a group; cells that are damaged here are taken from another copy.
pub(crate) fn apply(engine: &mut Engine, hub: &Hub, group: &Group) -> Result<(), StoreError> {
    let mut tries = 0;
    loop {
        let outcome = engine.apply(&group.records);
        let Err(StoreError::Apply(ApplyError::Damaged { generation, offset })) = outcome else {
            return outcome;
        };
        tries += 1;
        let block = narrow(offset / BLOCK);
        if tries > REPAIRS || !hub.repair(&engine.shared, generation, block) {
            return outcome;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_that_does_not_answer_is_not_waited_for_for_ever() {
        let (link, ends) = Link::new();
        link.order(Order::Group(Arc::new(Group::new(1, Vec::new()))));
        let slow = link.durable(Duration::from_millis(10)).expect_err("has no answer");
        assert!(matches!(*slow, StoreError::Slow));
        ends.answers.send(Ok(())).expect("is awaited");
        link.durable(Duration::from_millis(10)).expect("is answered");
        drop(ends);
        link.order(Order::Group(Arc::new(Group::new(1, Vec::new()))));
        let ended = link.durable(Duration::from_mins(1)).expect_err("nobody is there");
        assert!(matches!(*ended, StoreError::Ended));
    }
}
