//! The committer's part in geo-redundancy: which part the server plays, and records that another server has decided.

use std::sync::Arc;

use crossbeam_channel::{Sender, bounded};

use super::{Committer, Prepared, REPAIRS, lead::Lead};
use crate::{
    engine::{Engine, Group, Shared},
    leftovers::Leftovers,
    map::ApplyError,
    record::Record,
    refusal::Refusal,
    replication::{
        Batch, Era, Position, Role, ServerId, Session, Standing, TakeError, has_history, switch,
    },
    state::{Counters, State},
    store::StoreError,
};

/// What is asked about the part of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RoleOrder {
    /// Become the primary of two servers, or be alone again.
    Pair(bool),
    /// A primary that waits is still the primary.
    Confirm,
    /// Another server has this epoch.
    Fence(u64),
    /// Become the primary of the next epoch.
    Promote,
    /// Become the secondary of the server of this epoch.
    Follow(u64),
}

/// What is asked, and where the answer goes.
pub(crate) enum ReplicationOrder {
    Role(RoleOrder, Sender<Result<Standing, StoreError>>),
    Take(Batch, Sender<Result<Position, TakeError>>),
    /// Make a checkpoint, give back what can be given back, and take no records until the resynchronization ends.
    /// Answer: the copy, and what lets it be written.
    BeginResync(Sender<Result<BegunResync, StoreError>>),
    /// Continue with a new state of the leading copy, or with the old one.
    EndResync(Arc<Session>, Option<Box<Resynced>>, Sender<Result<Position, StoreError>>),
}

/// The leading copy, and what lets it be written while it takes no records.
pub(crate) type BegunResync = (Arc<Shared>, Arc<Session>);

/// A new state of the leading copy, which is open under another name and whole.
pub(crate) struct Resynced {
    /// The copy that it is of.
    pub(crate) of: Arc<Shared>,
    pub(crate) state: State,
    pub(crate) counters: Counters,
    pub(crate) eras: Vec<Era>,
    pub(crate) lock: crate::engine::FolderLock,
}

impl Committer {
    /// The part that the server has when the store is opened.
    pub(super) fn begin_standing(&self) {
        let standing = self.membership.members.standing_at_opening();
        self.hub.set_standing(standing);
        self.hub.set_eras(self.membership.members.eras.clone());
        self.hub.want((standing.role != Role::Alone).then_some(0));
        self.publish_position();
    }

    /// Whether this server decides changes.
    pub(super) fn decides(&self) -> bool {
        self.hub.standing().role.decides()
    }

    /// Says what is durable in all copies and applied.
    pub(super) fn publish_position(&self) {
        let Counters { next_record, stamp, .. } = self.lead.counters;
        let era = self.membership.members.eras.last().map(|era| (era.epoch, era.server));
        self.hub.set_position(Position { next_record, stamp, era });
    }

    /// Carries an order out. Who asked waits for the answer, or has gone.
    pub(super) fn replicate(&mut self, order: ReplicationOrder) {
        match order {
            ReplicationOrder::Role(order, reply) => drop(reply.send(self.change_role(order))),
            ReplicationOrder::Take(batch, reply) => drop(reply.send(self.take(batch))),
            ReplicationOrder::BeginResync(reply) => {
                // Without a receiver nobody would end it.
                let begun = self.begin_resync();
                if reply.send(begun).is_err() {
                    self.stop_resync();
                }
            }
            ReplicationOrder::EndResync(session, resynced, reply) => {
                drop(reply.send(self.end_resync(&session, resynced)));
            }
        }
    }

    fn change_role(&mut self, order: RoleOrder) -> Result<Standing, StoreError> {
        if self.is_stopped() {
            return Err(StoreError::Ended);
        }
        let old = self.hub.standing();
        let wrong = || StoreError::WrongRole { role: old.role };
        let epoch = old.epoch;
        let (role, epoch) = match (order, old.role) {
            (RoleOrder::Pair(true), Role::Alone) => (Role::Primary, epoch.saturating_add(1)),
            // From here on it decides what another server has decided before.
            (RoleOrder::Pair(false), Role::Secondary | Role::Fenced) => {
                (Role::Alone, epoch.saturating_add(1))
            }
            (RoleOrder::Pair(false), _) => (Role::Alone, epoch),
            (RoleOrder::Confirm, Role::Waiting) => (Role::Primary, epoch),
            (RoleOrder::Fence(other), Role::Primary | Role::Waiting) if other > epoch => {
                (Role::Fenced, epoch)
            }
            (RoleOrder::Confirm, Role::Primary) | (RoleOrder::Fence(_), _) => return Ok(old),
            (RoleOrder::Promote, Role::Secondary) if self.resync.is_none() => {
                (Role::Primary, epoch.saturating_add(1))
            }
            (RoleOrder::Follow(other), Role::Fenced) => (Role::Secondary, other),
            (RoleOrder::Follow(other), Role::Secondary) if other > epoch => {
                (Role::Secondary, other)
            }
            _ => return Err(wrong()),
        };
        let server = old.server.unwrap_or_else(|| ServerId::new(&*self.options.entropy));
        let standing = Standing { role, epoch, server: Some(server) };
        if standing.role.decides() {
            self.stop_resync();
            self.drop_unfinished_resync()?;
        }
        self.membership.members.set_standing(standing);
        if role.decides() && epoch > old.epoch {
            let first = self.lead.counters.next_record;
            self.membership.members.eras.push(Era { epoch, server, first });
        }
        self.note_members()?;
        self.hub.set_eras(self.membership.members.eras.clone());
        self.publish_position();
        if standing.role.decides() && !old.role.decides() {
            self.leftovers = Leftovers::at_opening(&self.lead.shared.state.database)?;
            self.find_chores()?;
        }
        let behind = self.lead.counters.next_record.saturating_sub(1);
        match role {
            Role::Alone => self.hub.want(None),
            // From here on the other server may follow.
            Role::Primary if old.role != Role::Waiting => self.hub.want(Some(behind)),
            _ => {}
        }
        self.hub.set_standing(standing);
        Ok(standing)
    }

    /// Ends a resynchronization that is at work: the old state may be written from now on.
    pub(super) fn stop_resync(&mut self) {
        if let Some(session) = self.resync.take() {
            session.end();
        }
    }

    /// What a resynchronization has left must not outlive the state that it was begun with.
    fn drop_unfinished_resync(&self) -> Result<(), StoreError> {
        switch::abandon(&self.lead.shared.folder)
    }

    /// Takes records that the primary has decided.
    fn take(&mut self, batch: Batch) -> Result<Position, TakeError> {
        if self.hub.standing().role != Role::Secondary || self.resync.is_some() {
            return Err(TakeError::NotSecondary);
        }
        if batch.store.0 != self.lead.store || batch.first != self.lead.counters.next_record {
            return Err(TakeError::Position);
        }
        let failed = |error: StoreError| TakeError::Store(Arc::new(error));
        if !has_history(&batch.eras, &self.hub.position()) {
            return Err(TakeError::Position);
        }
        self.learn(batch.eras).map_err(failed)?;
        if batch.records.is_empty() {
            return Ok(self.hub.position());
        }
        self.drop_unfinished_resync().map_err(failed)?;
        let group = Arc::new(Group::new(batch.first, batch.records));
        let end = group.records.iter().fold(batch.first, |end, _| end.saturating_add(1));
        let mut tries = 0_u32;
        // A copy that leads after another one has failed may have the records already.
        while self.lead.counters.next_record < end {
            if self.is_stopped() {
                self.look_after_copies();
                if self.is_stopped() {
                    return Err(failed(StoreError::Ended));
                }
            }
            self.make_room();
            if self.is_tight() && group.records.iter().any(Record::has_data) {
                return Err(TakeError::Refused(Refusal::Full));
            }
            match self.take_group(&group, tries) {
                Ok(None) => {}
                Ok(Some(refusal)) => return Err(TakeError::Refused(refusal)),
                // Nothing of it is durable: these are no records of this state.
                Err(StoreError::Apply(ApplyError::Generation { .. })) => {
                    return Err(TakeError::Position);
                }
                Err(error) => {
                    let failed = vec![(self.lead.shared.id, Arc::new(error))];
                    if let Some(refusal) = self.leave_out_or_stop(failed) {
                        return Err(TakeError::Refused(refusal));
                    }
                    self.publish_position();
                }
            }
            tries = tries.saturating_add(1);
        }
        self.hub.want(Some(self.lead.counters.next_record.saturating_sub(1)));
        Ok(self.hub.position())
    }

    /// Notes who decided the history that this server takes from now on.
    fn learn(&mut self, eras: Vec<Era>) -> Result<(), StoreError> {
        if self.membership.members.eras != eras {
            self.membership.members.eras.clone_from(&eras);
            self.note_members()?;
            self.hub.set_eras(eras);
            self.publish_position();
        }
        Ok(())
    }

    /// One try. It may leave the group to another one.
    fn take_group(
        &mut self,
        group: &Arc<Group>,
        tries: u32,
    ) -> Result<Option<Refusal>, StoreError> {
        let shared = Arc::clone(&self.lead.shared);
        let transaction = shared.state.begin(false)?;
        let (pending, chores) = {
            let counters = self.lead.counters;
            let mut applier = Engine::applier(&shared, &transaction, counters.checkpoint)?;
            for record in &group.records {
                if let Err(error) = applier.apply(record) {
                    // After the last try damage that is found again is refused.
                    return self.alone(error, tries.min(REPAIRS));
                }
            }
            (applier.pending, applier.chores)
        };
        let counters = group.records.iter().fold(self.lead.counters, Counters::after);
        let records = Arc::clone(group);
        self.make_durable(transaction, Prepared { records, pending, chores, counters })
    }

    /// No slot of the present state waits to be given back, so that none is that the new one may use.
    fn begin_resync(&mut self) -> Result<BegunResync, StoreError> {
        let role = self.hub.standing().role;
        if role != Role::Secondary || self.resync.is_some() {
            return Err(StoreError::WrongRole { role });
        }
        if self.is_stopped() {
            return Err(StoreError::Ended);
        }
        self.lead.checkpoint()?;
        // The same numbers of generations may have other files soon.
        let (settler, settled) = bounded(0);
        self.lead.settle(settler)?;
        // It is dropped when nothing waits any more.
        let _settled = settled.recv();
        self.lead.checkpoint()?;
        let session = Arc::clone(self.resync.insert(Arc::default()));
        Ok((Arc::clone(&self.lead.shared), session))
    }

    fn end_resync(
        &mut self,
        session: &Arc<Session>,
        resynced: Option<Box<Resynced>>,
    ) -> Result<Position, StoreError> {
        if !self.resync.as_ref().is_some_and(|current| Arc::ptr_eq(current, session)) {
            return Err(StoreError::Ended);
        }
        self.resync = None;
        let Some(resynced) = resynced else { return Ok(self.hub.position()) };
        let Resynced { of, state, counters, eras, lock } = *resynced;
        if of.id != self.lead.shared.id || self.is_stopped() {
            return Err(StoreError::Ended);
        }
        // The other copies have another history from now on. They know that before the state is another one.
        let others: Vec<_> = self.followers.iter().map(|one| one.shared.id).collect();
        let ended = others.into_iter().map(|id| (id, Arc::new(StoreError::Ended))).collect();
        self.leave_out(ended).map_err(StoreError::Copy)?;
        of.fail(StoreError::Ended);
        let folder = of.folder.clone();
        switch::mark(&folder)?;
        switch::replace(&folder)?;
        let shared = Arc::new(Shared::new(of.id, &folder, state, lock));
        let mut engine = Engine::new(shared, self.lead.store, counters, &self.options);
        engine.recover()?;
        engine.checkpoint()?;
        switch::unmark(&folder)?;
        engine.sweep_leftovers()?;
        self.lead = Lead::new(engine, &self.options);
        self.publish_copies();
        self.publish_position();
        // After a crash before this the old eras do not fit the new state, which is resynchronized once more.
        self.learn(eras)?;
        Ok(self.hub.position())
    }
}
