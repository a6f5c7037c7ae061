//! The committer's care for the copies: leaving one out that has failed, letting another lead, making one again, adding
//! and removing one.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use crossbeam_channel::{Receiver, Sender, bounded};
use strongroom_base::{lock, start_thread};

use super::{Committer, Message, is_room, lead::Lead, ticks};
use crate::{
    copies::{
        follow::Follower,
        hub::{StoreCopy, StoreCopyState},
        members::{CopyId, LeftOut, Member, Members, absolute},
        open::{new_member, reason},
        rebuild::{Built, Progress, Rebuild, catch_up},
    },
    engine::{Engine, Shared},
    store::{StoreError, file_error},
};

/// What is asked about copies.
pub(crate) enum CopyOrder {
    /// Make one in this folder.
    Add(PathBuf),
    /// Give the one in this folder up.
    Remove(PathBuf),
}

/// The copies of the store, and what is done about those that lack changes.
pub(super) struct Membership {
    pub(super) members: Members,
    /// Wakes the committer.
    wake: Sender<Message>,
    rebuild: Option<Running>,
    /// When a copy that was left out is looked for again.
    retries: BTreeMap<CopyId, Duration>,
    /// Copies that lack changes and were not where they were last.
    missing: BTreeSet<CopyId>,
    /// The first record of the group that is on its way.
    pub(super) unsure: Option<u64>,
    /// Threads of copies that were left out.
    retired: Vec<JoinHandle<Option<Engine>>>,
}

/// A rebuild on its thread.
struct Running {
    id: CopyId,
    progress: Arc<Progress>,
    cancel: Arc<AtomicBool>,
    built: Receiver<Result<Built, StoreError>>,
    thread: JoinHandle<()>,
}

/// Copies that have failed, and why.
type Failures = Vec<(CopyId, Arc<StoreError>)>;

impl Membership {
    pub(super) fn new(members: Members, missing: BTreeSet<CopyId>, wake: Sender<Message>) -> Self {
        Self {
            members,
            wake,
            rebuild: None,
            retries: BTreeMap::new(),
            missing,
            unsure: None,
            retired: Vec::new(),
        }
    }

    /// Ends a rebuild, and waits until its thread has ended.
    fn end_rebuild(&mut self) {
        if let Some(running) = self.rebuild.take() {
            running.cancel.store(true, SeqCst);
            drop(running.thread.join());
        }
    }
}

impl Committer {
    /// The copies that have every change; the first one leads.
    fn whole(&self) -> impl Iterator<Item = &Arc<Shared>> {
        std::iter::once(&self.lead.shared).chain(self.followers.iter().map(|one| &one.shared))
    }

    /// Whether what is left on the disk of a copy is needed for checkpoints and deletions.
    pub(super) fn is_tight(&self) -> bool {
        self.whole().any(|copy| copy.room() < self.options.reserve_size)
    }

    /// Before changes are refused for want of room: gives the journal's room back, and leaves copies out whose disk is
    /// full while that of another one is far from it.
    pub(super) fn make_room(&mut self) {
        let reserve = self.options.reserve_size;
        if !self.is_tight() {
            return;
        }
        // It holds what could be given back, until its thread has ended.
        if let Some(running) = &self.membership.rebuild {
            running.cancel.store(true, SeqCst);
        }
        if self.followers.is_empty() {
            return;
        }
        if self.lead.shared.journal_bytes.load(SeqCst) > reserve / 8 {
            self.try_checkpoint(None);
        }
        if !self.whole().any(|copy| copy.room() >= reserve.saturating_mul(2)) {
            return;
        }
        let full = || Arc::new(StoreError::Append(std::io::ErrorKind::StorageFull.into()));
        let tight = self.whole().filter(|copy| copy.room() < reserve);
        let failed = tight.map(|copy| (copy.id, full())).collect();
        self.leave_out_or_stop(failed);
    }

    /// Whether another copy can do what this one could not: its disk is not as full.
    pub(super) fn can_another_lead(&self, error: &std::io::Error) -> bool {
        let enough = self.options.reserve_size.max(self.options.segment_size).saturating_mul(2);
        let is_roomy = |one: &Follower| !is_room(error) || one.shared.room() >= enough;
        self.followers.iter().any(is_roomy)
    }

    /// Looks whether the folder of the leading copy is still there, if another one could lead.
    pub(super) fn check_place(&self) {
        let shared = &self.lead.shared;
        if !self.followers.is_empty()
            && let Err(error) = shared.is_in_place()
        {
            shared.fail(file_error(&shared.folder)(error));
        }
    }

    /// Leaves copies out that have failed meanwhile, and makes those again that can be.
    pub(super) fn look_after_copies(&mut self) {
        if lock(&self.hub.failure).is_some() {
            return;
        }
        let failure = |copy: &Arc<Shared>| Some((copy.id, copy.failure()?));
        let failed: Failures = self.whole().filter_map(failure).collect();
        self.leave_out_or_stop(failed);
        if !self.is_stopped() {
            self.take_built();
            self.rebuild_one();
        }
        if self.hub.renew.swap(false, SeqCst) && !self.is_stopped() {
            // An error is kept for the next change.
            drop(self.note_members());
        }
    }

    /// Leaves copies out, and makes that durable in all that are left: one where it fails is left out as well. An error
    /// says that none is left.
    pub(super) fn leave_out(&mut self, mut failed: Failures) -> Result<(), Arc<StoreError>> {
        if failed.is_empty() {
            return Ok(());
        }
        while !failed.is_empty() {
            let lead = self.lead.shared.id;
            for (id, error) in failed.drain(..) {
                self.drop_copy(id, error)?;
            }
            if self.lead.shared.id != lead
                && let Err(error) = self.find_chores()
            {
                failed.push((self.lead.shared.id, Arc::new(error.into())));
                continue;
            }
            failed = self.write_members();
        }
        self.publish_copies();
        Ok(())
    }

    /// Continues without a copy.
    fn drop_copy(&mut self, id: CopyId, error: Arc<StoreError>) -> Result<(), Arc<StoreError>> {
        if let Some(index) = self.followers.iter().position(|one| one.shared.id == id) {
            let follower = self.followers.remove(index);
            follower.shared.fail(Arc::clone(&error));
            // One that does not answer may never end.
            if !matches!(*error, StoreError::Slow) {
                self.membership.retired.push(follower.retire());
            }
            self.mark(id, &error);
            return Ok(());
        }
        if id != self.lead.shared.id {
            return Ok(());
        }
        // A rebuild that it is the source of ends as well, and a resynchronization of it: it may be made again soon.
        self.stop_resync();
        self.lead.shared.fail(Arc::clone(&error));
        while !self.followers.is_empty() {
            let follower = self.followers.remove(0);
            let next = follower.shared.id;
            match follower.into_engine() {
                Ok(engine) => {
                    self.mark(id, &error);
                    self.lead = Lead::new(engine, &self.options);
                    return Ok(());
                }
                Err(error) => self.mark(next, &error),
            }
        }
        Err(error)
    }

    /// Notes in memory that a copy lacks changes.
    pub(super) fn mark(&mut self, id: CopyId, error: &StoreError) {
        let since = self.membership.unsure.unwrap_or(self.lead.counters.next_record);
        let at = ticks(&*self.options.clock);
        let reason = reason(error);
        if let Some(member) = self.membership.members.get_mut(id) {
            member.left_out.get_or_insert(LeftOut { since, at, reason });
        }
        self.retry_later(id);
    }

    fn retry_later(&mut self, id: CopyId) {
        let now = self.options.clock.monotonic();
        let at = now.saturating_add(self.options.retry_interval);
        self.membership.retries.insert(id, at);
    }

    /// Makes durable in all whole copies which copies there are; returns those where that fails.
    fn write_members(&mut self) -> Failures {
        let members = &mut self.membership.members;
        members.number = members.number.saturating_add(1);
        let members = &self.membership.members;
        self.whole()
            .filter_map(|copy| {
                let written =
                    members.write(&copy.folder, copy.id).map_err(file_error(&copy.folder));
                Some((copy.id, Arc::new(written.err()?)))
            })
            .collect()
    }

    /// Writes which copies there are, and leaves those out where that fails.
    pub(super) fn note_members(&mut self) -> Result<(), StoreError> {
        let failed = self.write_members();
        self.leave_out(failed).map_err(|error| {
            self.hub.stop(Arc::clone(&error));
            StoreError::Copy(error)
        })?;
        self.publish_copies();
        Ok(())
    }

    /// Tells readers and the status which copies there are.
    pub(super) fn publish_copies(&self) {
        self.hub.set_copies(self.whole().cloned().collect());
        let running = self.membership.rebuild.as_ref();
        let row = |member: &Member| {
            let progress = running.filter(|running| running.id == member.id);
            let state = match &member.left_out {
                None if member.id == self.lead.shared.id => StoreCopyState::Leading,
                None => StoreCopyState::Healthy,
                Some(LeftOut { since, at, reason }) => StoreCopyState::LeftOut {
                    since: *since,
                    at: *at,
                    reason: reason.clone(),
                    is_missing: self.membership.missing.contains(&member.id),
                },
            };
            let copy = StoreCopy { path: member.path.clone(), state };
            (copy, progress.map(|running| Arc::clone(&running.progress)))
        };
        self.hub.set_board(self.membership.members.copies.iter().map(row).collect());
    }

    /// Begins to make a copy again that lacks changes, if one is there.
    fn rebuild_one(&mut self) {
        if self.membership.rebuild.is_some() {
            return;
        }
        self.membership.retired.retain(|thread| !thread.is_finished());
        let now = self.options.clock.monotonic();
        let is_due = |id: &CopyId| self.membership.retries.get(id).is_none_or(|at| now >= *at);
        let mut copies = self.membership.members.copies.iter();
        let next = copies.find(|member| member.left_out.is_some() && is_due(&member.id));
        // The others come when this one has ended.
        if let Some(id) = next.map(|member| member.id) {
            self.retry_later(id);
            self.start_rebuild(id, Progress::default());
            self.publish_copies();
        }
    }

    /// Looks for a copy on a thread of its own, because its disk may not answer, and makes it again if it is there.
    fn start_rebuild(&mut self, id: CopyId, progress: Progress) {
        let Some(member) = self.membership.members.get(id) else { return };
        let progress = Arc::new(progress);
        let cancel = Arc::new(AtomicBool::new(false));
        let rebuild = Rebuild {
            hub: Arc::clone(&self.hub),
            id,
            folder: member.path.clone(),
            members: self.membership.members.clone(),
            options: self.options.clone(),
            progress: Arc::clone(&progress),
            cancel: Arc::clone(&cancel),
        };
        let (sender, built) = bounded(1);
        let wake = self.membership.wake.clone();
        let thread = start_thread("blob-rebuild", move || {
            // The committer looks by itself if its queue is full, or if it does not wait for this any more.
            drop(sender.send(rebuild.run()));
            drop(wake.try_send(Message::Wake));
        });
        self.membership.rebuild = Some(Running { id, progress, cancel, built, thread });
    }

    /// Lets a copy follow that was made, or notes why it could not be.
    fn take_built(&mut self) {
        let built = self.membership.rebuild.as_ref().map(|running| running.built.try_recv());
        let Some(Ok(built)) = built else { return };
        let Some(running) = self.membership.rebuild.take() else { return };
        drop(running.thread.join());
        let is_missing = matches!(built, Err(StoreError::NoCopy { .. }));
        if is_missing {
            self.membership.missing.insert(running.id);
        } else {
            self.membership.missing.remove(&running.id);
        }
        let joined = built.and_then(|built| self.join(built));
        if let Err(error) = joined {
            // One that did not answer has its folder until it does: why it was left out is still why.
            let is_held = matches!(error, StoreError::InUse { .. });
            if !is_missing
                && !is_held
                && let Some(left_out) = self
                    .membership
                    .members
                    .get_mut(running.id)
                    .and_then(|one| one.left_out.as_mut())
            {
                left_out.reason = format!("it could not be made again: {}", reason(&error));
            }
            self.retry_later(running.id);
        }
        self.publish_copies();
    }

    fn join(&mut self, built: Built) -> Result<(), StoreError> {
        let Built { mut engine, mut tail, source } = built;
        let id = engine.shared.id;
        let mut catch_up_all = || {
            if source.shared().id != self.lead.shared.id
                || self.membership.members.get(id).is_none()
            {
                return Err(StoreError::Ended);
            }
            let end = self.lead.counters.next_record;
            while tail.next() < end {
                catch_up(&mut engine, &self.hub, &mut tail, end)?;
            }
            engine.checkpoint()?;
            engine.sweep_leftovers()
        };
        let caught_up = catch_up_all();
        drop(source);
        if caught_up.is_err() {
            engine.shared.state.gate.shut();
        }
        caught_up?;
        self.followers.push(Follower::start(engine, &self.hub));
        if let Some(member) = self.membership.members.get_mut(id) {
            member.left_out = None;
        }
        self.note_members()
    }

    /// Adds or removes a copy.
    pub(super) fn change_copies(&mut self, order: CopyOrder) -> Result<(), StoreError> {
        if let Some(error) = lock(&self.hub.failure).clone() {
            return Err(StoreError::Copy(error));
        }
        match order {
            CopyOrder::Add(path) => self.add_copy(&path),
            CopyOrder::Remove(path) => self.remove_copy(&path),
        }
    }

    fn add_copy(&mut self, path: &Path) -> Result<(), StoreError> {
        let members = &self.membership.members;
        let found = Members::read(path).ok().flatten();
        let known = found
            .filter(|(_, found)| found.store == members.store)
            .and_then(|(id, _)| members.get(id))
            .filter(|member| member.left_out.is_some())
            .map(|member| member.id);
        let id = if let Some(id) = known {
            // It may have moved.
            if let Some(member) = self.membership.members.get_mut(id) {
                member.path = absolute(path);
            }
            self.membership.retries.remove(&id);
            id
        } else {
            let old = members.at(path).cloned();
            if old.as_ref().is_some_and(|old| old.left_out.is_none()) {
                return Err(StoreError::Exists { path: path.to_owned() });
            }
            let new = new_member(path, &self.options)?;
            let mut members = members.clone();
            members.copies.retain(|member| Some(member.id) != old.as_ref().map(|old| old.id));
            let (id, path) = (new.id, new.path.clone());
            members.copies.push(new);
            members.write(&path, id).map_err(file_error(&path))?;
            self.membership.members = members;
            id
        };
        self.note_members()?;
        let is_begun = |running: &Running| running.progress.has_begun.load(SeqCst);
        if !self.membership.rebuild.as_ref().is_some_and(is_begun) {
            // It only looks for another copy.
            self.membership.end_rebuild();
            let has_begun = AtomicBool::new(true);
            self.start_rebuild(id, Progress { has_begun, ..Progress::default() });
            self.publish_copies();
        }
        Ok(())
    }

    fn remove_copy(&mut self, path: &Path) -> Result<(), StoreError> {
        let no_copy = || StoreError::NoCopy { path: path.to_owned() };
        let at = |member: &&Member| member.path == path || member.path == absolute(path);
        let member = self.membership.members.copies.iter().find(at).cloned().ok_or_else(no_copy)?;
        let id = member.id;
        let is_whole = member.left_out.is_none();
        if is_whole && self.followers.is_empty() {
            return Err(StoreError::LastCopy { path: path.to_owned() });
        }
        if self.membership.rebuild.as_ref().is_some_and(|running| running.id == id) {
            self.membership.end_rebuild();
        }
        // The others forget it first: then nothing that it has counts any more.
        if is_whole {
            let ended = vec![(id, Arc::new(StoreError::Ended))];
            self.leave_out(ended).map_err(StoreError::Copy)?;
        }
        self.membership.members.copies.retain(|member| member.id != id);
        self.note_members()?;
        // Its own file may say that it belongs to the store: this is noted there, if it can be.
        drop(self.membership.members.write(&member.path, id));
        Ok(())
    }

    /// Ends the threads of all copies, after what they were asked.
    pub(super) fn end_copies(&mut self) {
        self.membership.end_rebuild();
        for follower in self.followers.drain(..) {
            // One that has failed has ended.
            drop(follower.into_engine());
        }
        for thread in self.membership.retired.drain(..) {
            drop(thread.join());
        }
    }
}
