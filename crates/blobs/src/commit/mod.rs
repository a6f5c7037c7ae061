//! The committer: the one thread that changes the store.
//!
//! It takes all changes that wait, decides each against the state as the earlier ones of the group left it, gives their
//! records to the copies that follow, makes them durable by one `fdatasync`, waits until they are durable in every
//! copy, writes the slots, commits the state without durability, and replies. Between groups it makes checkpoints and
//! does background work in small steps.
//!
//! After an error that leaves open what is on the disk a copy is left out, and another one leads. With the last one the
//! store stops: it reads, and refuses changes until it is opened again. A want of room is none: the group is refused,
//! and the next may succeed.

mod lead;
mod members;
mod replicate;

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use redb::{ReadableDatabase as _, ReadableTable as _, WriteTransaction};

use self::{lead::Lead, members::Membership};
pub(crate) use self::{
    members::CopyOrder,
    replicate::{ReplicationOrder, Resynced, RoleOrder},
};
use crate::{
    change::{Change, Done},
    copies::{
        follow::{Follower, Order},
        hub::Hub,
        members::CopyId,
        open::{Opened, start},
    },
    decide::{Decider, Moment, Undecided},
    engine::{Engine, Group},
    leftovers::Leftovers,
    map::{ApplyError, Chores},
    numbers::narrow,
    pages::BLOCK,
    record::{Op, Record},
    refusal::Refusal,
    replication::Session,
    rows::{Ticks, keys},
    slots::Pending,
    state::{Counters, EPOCHS, EpochUse, NAMES, StateError},
    store::{Options, StoreError},
};

/// The most changes of a group.
const MAX_GROUP: usize = 256;
/// The most data of a group, in bytes, unless its first change has more.
const MAX_GROUP_BYTES: usize = 8 << 20;
/// Rows that one step of background work looks at.
const STEP: u32 = 256;
/// How often a group is tried again after damage was repaired.
const REPAIRS: u32 = 256;
/// How long the committer sleeps before it looks at the clock.
const IDLE: Duration = Duration::from_secs(1);

/// Called once with the result of a change.
pub(crate) type Reply = Box<dyn FnOnce(Result<Done, Refusal>) + Send>;

/// What the committer is asked.
pub(crate) enum Message {
    Change(Box<Change>, Reply),
    Checkpoint(Sender<()>),
    Settle(Sender<()>),
    Copy(CopyOrder, Sender<Result<(), StoreError>>),
    Replication(ReplicationOrder),
    /// Look after the copies: a rebuild has ended.
    Wake,
    /// Occupy the thread that writes to the leading copy.
    #[cfg(test)]
    Occupy(Box<dyn FnOnce(&mut Engine) + Send>),
    Close,
}

/// What becomes a record.
enum Work {
    Change(Box<Change>, Reply),
    Merge {
        generation: u64,
        epoch: u32,
    },
    Empty {
        container: u64,
    },
    /// Give back what is behind a row that nobody needs.
    GiveBack {
        key: Vec<u8>,
    },
}

/// How one try of a group went.
enum Attempt {
    /// The records are durable and applied.
    Done(Vec<Result<Done, Refusal>>),
    /// One change cannot be applied; the others are tried again without it.
    Without(usize, Refusal),
    /// Another copy leads, or damage was repaired: it is tried again.
    Again,
    /// None is applied, and the store continues.
    Refused(Refusal),
}

/// A group that is decided, and applied to a transaction.
struct Decided {
    records: Vec<Record>,
    results: Vec<Result<Done, Refusal>>,
    pending: Pending,
    chores: Chores,
    counters: Counters,
}

/// A group that is applied to a transaction and not durable yet.
struct Prepared {
    records: Arc<Group>,
    pending: Pending,
    chores: Chores,
    counters: Counters,
}

/// The thread's own state.
pub(crate) struct Committer {
    hub: Arc<Hub>,
    lead: Lead,
    followers: Vec<Follower>,
    membership: Membership,
    options: Options,
    waiting: Receiver<Message>,
    /// Epochs to merge.
    ended: BTreeSet<(u64, u32)>,
    /// Deleted containers to empty.
    doomed: BTreeSet<u64>,
    leftovers: Leftovers,
    settlers: Vec<Sender<()>>,
    /// The resynchronization that is at work: meanwhile the leading copy takes no records.
    resync: Option<Arc<Session>>,
}

impl Committer {
    /// A committer of copies that are equal.
    pub(crate) fn new(
        hub: Arc<Hub>,
        opened: Opened,
        options: Options,
        (sender, waiting): (Sender<Message>, Receiver<Message>),
    ) -> Result<Self, StoreError> {
        let Opened { lead, followers, members, missing } = opened;
        // Once: when another copy leads later, the senders of uploads are still there.
        let leftovers = Leftovers::at_opening(&lead.shared.state.database)?;
        let followers = start(followers, &hub);
        let lead = Lead::new(lead, &options);
        let mut committer = Self {
            hub,
            lead,
            followers,
            membership: Membership::new(members, missing, sender),
            options,
            waiting,
            ended: BTreeSet::new(),
            doomed: BTreeSet::new(),
            leftovers,
            settlers: Vec::new(),
            resync: None,
        };
        committer.begin_standing();
        committer.find_chores()?;
        committer.publish_copies();
        committer.look_after_copies();
        Ok(committer)
    }

    /// Finds the background work that the leading copy's state names.
    fn find_chores(&mut self) -> Result<(), StateError> {
        let transaction = self.lead.shared.state.database.begin_read()?;
        self.ended.clear();
        for row in transaction.open_table(EPOCHS)?.iter()? {
            let (key, kind) = row?;
            if EpochUse::from_number(kind.value()) == EpochUse::Gone {
                self.ended.insert(key.value());
            }
        }
        self.doomed.clear();
        let names = transaction.open_table(NAMES)?;
        for row in names.range(b"d".as_slice()..b"e".as_slice())? {
            let (key, _) = row?;
            let id = key.value().get(1..).and_then(|id| id.try_into().ok());
            self.doomed.extend(id.map(u64::from_be_bytes));
        }
        Ok(())
    }

    /// Works until the store is closed.
    pub(crate) fn run(&mut self) {
        while let Some(message) = self.next_message() {
            let mut group = Vec::new();
            let end = match message {
                Message::Change(change, reply) => {
                    let len = change.data_len();
                    group.push(Work::Change(change, reply));
                    self.gather(&mut group, len)
                }
                other => Some(other),
            };
            self.look_for_leftovers();
            group.extend(self.next_chore());
            self.commit(group);
            self.release_step();
            self.look_after_copies();
            if self.lead.is_checkpoint_due() {
                self.try_checkpoint(None);
            }
            match end {
                Some(Message::Checkpoint(done)) => self.try_checkpoint(Some(&done)),
                Some(Message::Settle(settler)) => self.settlers.push(settler),
                Some(Message::Copy(order, reply)) => {
                    // Who asked waits for it.
                    let _sent = reply.send(self.change_copies(order));
                }
                Some(Message::Replication(order)) => self.replicate(order),
                #[cfg(test)]
                Some(Message::Occupy(job)) => self.lead.occupy(job),
                Some(Message::Close) => break,
                Some(Message::Change(..) | Message::Wake) | None => {}
            }
        }
        self.try_checkpoint(None);
        self.end_copies();
    }

    /// The next message; [`Message::Wake`] if there is other work, or after a while.
    fn next_message(&mut self) -> Option<Message> {
        let received = if self.has_chores() {
            self.waiting.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        } else if self.settlers.is_empty() || self.is_stopped() || !self.lead.has_changes() {
            self.answer_settlers();
            self.waiting.recv_timeout(IDLE)
        } else {
            // What the work gave back is free after a checkpoint.
            self.try_checkpoint(None);
            return Some(Message::Wake);
        };
        match received {
            Ok(message) => Some(message),
            Err(RecvTimeoutError::Timeout) => {
                self.check_place();
                Some(Message::Wake)
            }
            Err(RecvTimeoutError::Disconnected) => None,
        }
    }

    fn answer_settlers(&mut self) {
        for settler in std::mem::take(&mut self.settlers) {
            for follower in &self.followers {
                follower.link.order(Order::Settle(settler.clone()));
            }
            self.lead.has_others = !self.followers.is_empty();
            if let Err(error) = self.lead.settle(settler) {
                self.lead.shared.fail(error);
            }
        }
    }

    /// Takes what waits already; returns the first message that is no change.
    fn gather(&self, group: &mut Vec<Work>, mut len: usize) -> Option<Message> {
        while group.len() < MAX_GROUP && len < MAX_GROUP_BYTES {
            match self.waiting.try_recv() {
                Ok(Message::Change(change, reply)) => {
                    len = len.saturating_add(change.data_len());
                    group.push(Work::Change(change, reply));
                }
                Ok(other) => return Some(other),
                Err(_) => return None,
            }
        }
        None
    }

    fn is_stopped(&self) -> bool {
        self.lead.shared.state.gate.is_shut()
    }

    fn has_chores(&self) -> bool {
        let has_work = self.decides()
            && (!self.ended.is_empty() || !self.doomed.is_empty() || !self.leftovers.is_empty());
        (has_work || self.lead.is_releasing()) && !self.is_stopped()
    }

    /// The newest ended epoch comes first: what has no later reader is dropped and not moved.
    fn next_chore(&mut self) -> Option<Work> {
        if self.is_stopped() || !self.decides() {
            return None;
        }
        if let Some(key) = self.leftovers.next() {
            return Some(Work::GiveBack { key });
        }
        let merge = self.ended.last().map(|&(generation, epoch)| Work::Merge { generation, epoch });
        merge.or_else(|| self.doomed.first().map(|&container| Work::Empty { container }))
    }

    /// Finds leftovers, now and then.
    fn look_for_leftovers(&mut self) {
        if self.is_stopped() || !self.decides() {
            return;
        }
        let (clock, database) = (&*self.options.clock, &self.lead.shared.state.database);
        if let Err(error) = self.leftovers.look(database, clock.monotonic(), ticks(clock)) {
            self.lead.shared.fail(StoreError::from(error));
        }
    }

    fn commit(&mut self, mut group: Vec<Work>) {
        let mut tries = 0_u32;
        while !group.is_empty() {
            match self.attempt_or_replace(&group, tries) {
                Attempt::Done(results) => {
                    for (work, result) in std::mem::take(&mut group).into_iter().zip(results) {
                        work.reply(result);
                    }
                }
                Attempt::Without(index, refusal) => {
                    if index < group.len() {
                        group.remove(index).reply(Err(refusal));
                    }
                }
                Attempt::Again => tries = tries.saturating_add(1),
                Attempt::Refused(refusal) => {
                    for work in std::mem::take(&mut group) {
                        work.reply(Err(refusal.clone()));
                    }
                }
            }
        }
    }

    /// One try of a group. If the copy that leads fails, another one leads then.
    fn attempt_or_replace(&mut self, group: &[Work], tries: u32) -> Attempt {
        if !self.decides() {
            return Attempt::Refused(Refusal::NotPrimary { role: self.hub.standing().role });
        }
        if self.is_stopped() {
            self.look_after_copies();
            return if self.is_stopped() {
                Attempt::Refused(Refusal::Stopped)
            } else {
                Attempt::Again
            };
        }
        self.make_room();
        self.attempt(group, tries).unwrap_or_else(|error| {
            let failed = vec![(self.lead.shared.id, Arc::new(error))];
            self.leave_out_or_stop(failed).map_or(Attempt::Again, Attempt::Refused)
        })
    }

    /// Leaves copies out. If none is left, the store stops, and nobody knows whether the last records are durable.
    fn leave_out_or_stop(&mut self, failed: Vec<(CopyId, Arc<StoreError>)>) -> Option<Refusal> {
        let error = self.leave_out(failed).err()?;
        self.hub.stop(error);
        Some(Refusal::NotDurable)
    }

    /// An error says that the copy that leads has failed, and that no copy has the records.
    fn attempt(&mut self, group: &[Work], tries: u32) -> Result<Attempt, StoreError> {
        let transaction = self.lead.shared.state.begin(false)?;
        let decided = match self.decide(group, tries, &transaction)? {
            Ok(decided) => decided,
            Err(attempt) => return Ok(attempt),
        };
        if decided.records.is_empty() {
            transaction.abort().map_err(StateError::from)?;
            return Ok(Attempt::Done(decided.results));
        }
        let records = Arc::new(Group::new(self.lead.counters.next_record, decided.records));
        let prepared = Prepared {
            records,
            pending: decided.pending,
            chores: decided.chores,
            counters: decided.counters,
        };
        let refusal = self.make_durable(transaction, prepared)?;
        Ok(refusal.map_or(Attempt::Done(decided.results), Attempt::Refused))
    }

    /// Makes a group durable in all copies, and what it does to the leading one. A refusal says that it is not, or that
    /// nobody knows; an error, that another copy is to lead, and that no copy has the records.
    fn make_durable(
        &mut self,
        transaction: WriteTransaction,
        prepared: Prepared,
    ) -> Result<Option<Refusal>, StoreError> {
        let Prepared { records, pending, chores, counters } = prepared;
        self.lead.has_others = !self.followers.is_empty();
        if let Err(error) = self.lead.prepare(&records)? {
            transaction.abort().map_err(StateError::from)?;
            if self.can_another_lead(&error) {
                return Err(StoreError::Append(error));
            }
            return Ok(Some(Refusal::Full));
        }
        self.membership.unsure = Some(records.first);
        for follower in &self.followers {
            follower.link.order(Order::Group(Arc::clone(&records)));
        }
        let appending = self.lead.begin_append(&records);
        let mut failed: Vec<(CopyId, Arc<StoreError>)> = Vec::new();
        for follower in &self.followers {
            let durable = follower.durable(self.options.patience);
            failed.extend(durable.err().map(|error| (follower.shared.id, error)));
        }
        let appended = self.lead.end_append(appending);
        let applied = appended.and_then(|()| self.lead.finish(transaction, pending, counters));
        match applied {
            Ok(()) => self.note(&records.records, chores),
            Err(error) => failed.push((self.lead.shared.id, Arc::new(error))),
        }
        // The others know of it before the change is answered.
        let stopped = self.leave_out_or_stop(failed);
        self.membership.unsure = None;
        if stopped.is_none() {
            self.publish_position();
        }
        Ok(stopped)
    }

    /// Decides each change, and applies its record to the transaction; the next one sees that.
    fn decide(
        &self,
        group: &[Work],
        tries: u32,
        transaction: &WriteTransaction,
    ) -> Result<Result<Decided, Attempt>, StoreError> {
        let now = ticks(&*self.options.clock);
        let mut counters = self.lead.counters;
        let mut applier = Engine::applier(&self.lead.shared, transaction, counters.checkpoint)?;
        let (mut records, mut results) = (Vec::new(), Vec::new());
        let is_tight = self.is_tight();
        for (index, work) in group.iter().enumerate() {
            if is_tight && work.data_len() > 0 {
                results.push(Err(Refusal::Full));
                continue;
            }
            let stamp = counters.stamp.saturating_add(1).max(now.0);
            let decider = Decider {
                applier: &applier,
                moment: Moment { now, stamp },
                next_generation: counters.next_generation,
                entropy: &*self.options.entropy,
            };
            let (ops, done) = match work.decide(&decider) {
                Ok(decision) => decision,
                Err(Undecided::Refused(refusal)) => {
                    results.push(Err(refusal));
                    continue;
                }
                Err(Undecided::Failed(error)) => match self.alone(error, tries)? {
                    Some(refusal) => {
                        results.push(Err(refusal));
                        continue;
                    }
                    None => return Ok(Err(Attempt::Again)),
                },
            };
            let record = Record { stamp, ops };
            if let Err(error) = applier.apply(&record) {
                let refusal = self.alone(error, tries)?;
                let without = |refusal| Attempt::Without(index, refusal);
                return Ok(Err(refusal.map_or(Attempt::Again, without)));
            }
            counters = counters.after(&record);
            records.push(record);
            results.push(Ok(done));
        }
        let (pending, chores) = (applier.pending, applier.chores);
        Ok(Ok(Decided { records, results, pending, chores, counters }))
    }

    /// What one change is refused with when it fails alone; `None` if it is to be tried again, because damage was
    /// repaired. Other errors are the copy's.
    fn alone(&self, error: ApplyError, tries: u32) -> Result<Option<Refusal>, StoreError> {
        match error {
            ApplyError::Damaged { generation, offset } => {
                let block = narrow(offset / BLOCK);
                let lead = &self.lead.shared;
                let is_right = tries < REPAIRS && self.hub.repair(lead, generation, block);
                // A copy that cannot be repaired because it fails is replaced first.
                let is_final = !is_right && lead.failure().is_none();
                Ok(is_final.then_some(Refusal::Damaged { offset }))
            }
            ApplyError::Room(error) if is_room(&error) => Ok(Some(Refusal::Full)),
            other => Err(StoreError::Apply(other)),
        }
    }

    /// Remembers the background work that a group has made or done.
    fn note(&mut self, records: &[Record], chores: Chores) {
        self.ended.extend(chores.ended);
        for merged in &chores.merged {
            self.ended.remove(merged);
        }
        for op in records.iter().flat_map(|record| &record.ops) {
            let (key, is_new) = match op {
                Op::Put { key, .. } => (key, true),
                Op::Remove { key } => (key, false),
                _ => continue,
            };
            let id = key.strip_prefix(b"d").and_then(|id| id.try_into().ok());
            match id.map(u64::from_be_bytes) {
                Some(id) if is_new => {
                    self.doomed.insert(id);
                }
                Some(id) => {
                    self.doomed.remove(&id);
                }
                None => {}
            }
        }
    }

    /// Makes a checkpoint in each copy; `done` is dropped by each when it is made.
    fn try_checkpoint(&mut self, done: Option<&Sender<()>>) {
        if self.is_stopped() {
            return;
        }
        // The copies make theirs at the same time. All records before are durable in each of them.
        for follower in &self.followers {
            let done = done.cloned().unwrap_or_else(|| bounded(0).0);
            follower.link.order(Order::Checkpoint(done));
        }
        self.lead.has_others = !self.followers.is_empty();
        if let Err(error) = self.lead.checkpoint() {
            self.lead.shared.fail(error);
            self.look_after_copies();
        }
    }

    /// Gives some slots of the leading copy back.
    fn release_step(&mut self) {
        self.lead.has_others = !self.followers.is_empty();
        if !self.is_stopped()
            && let Err(error) = self.lead.release_step()
        {
            self.lead.shared.fail(error);
        }
    }
}

impl Work {
    fn reply(self, result: Result<Done, Refusal>) {
        if let Self::Change(_, reply) = self {
            reply(result);
        }
    }

    fn data_len(&self) -> usize {
        match self {
            Self::Change(change, _) => change.data_len(),
            _ => 0,
        }
    }

    fn decide(&self, decider: &Decider<'_, '_, '_>) -> Result<(Vec<Op>, Done), Undecided> {
        match self {
            Self::Change(change, _) => decider.decide(change),
            Self::Merge { generation, epoch } => {
                let merge = Op::Merge { generation: *generation, epoch: *epoch, limit: STEP };
                Ok((vec![merge], Done::default()))
            }
            Self::Empty { container } => {
                let mut ops = decider.some_of_container(*container, STEP)?;
                if ops.is_empty() {
                    ops.push(Op::Remove { key: keys::doomed(*container) });
                }
                Ok((ops, Done::default()))
            }
            Self::GiveBack { key } => Ok((decider.give_back(key)?, Done::default())),
        }
    }
}

/// Whether an error is a want of room.
fn is_room(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

/// The clock's moment.
pub(crate) fn ticks(clock: &dyn strongroom_base::Clock) -> Ticks {
    Ticks(u64::try_from(clock.now().as_nanosecond() / 100).unwrap_or(0))
}
