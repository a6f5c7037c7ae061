//! Opening a store: which copies are there, which of them are right, and making them equal.
//!
//! A copy that is present and counted on by the newest `copies.json` has every acknowledged change. After a crash some
//! have more: the one with the most records leads, and the others get what they lack from its journal.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::{Arc, atomic::Ordering::SeqCst},
};

use super::{
    follow,
    hub::Hub,
    members::{CopyId, LeftOut, Member, Members, absolute},
};
use crate::{
    commit::ticks,
    engine::{Engine, Group},
    journal::Tail,
    replication::Role,
    store::{Options, StoreError, file_error},
};

/// Bytes of a journal that are applied at once.
const STEP: usize = 4 << 20;

/// The copies that have every change, equal and with a checkpoint.
pub(crate) struct Opened {
    pub(crate) lead: Engine,
    pub(crate) followers: Vec<Engine>,
    pub(crate) members: Members,
    /// Copies that lack changes and were not found.
    pub(crate) missing: BTreeSet<CopyId>,
}

/// What was found in folders.
#[derive(Default)]
struct Found {
    folders: BTreeMap<CopyId, PathBuf>,
    /// Those with the greatest number.
    newest: Option<Members>,
    /// Whether a copy knows an older one.
    is_uneven: bool,
    /// Folders that were named and have no copy.
    empty: Vec<PathBuf>,
    /// Why a folder could not be looked at.
    error: Option<StoreError>,
}

impl Found {
    fn look(&mut self, folder: &Path, is_named: bool) -> Result<(), StoreError> {
        let (id, members) = match Members::read(folder) {
            Ok(Some(found)) => found,
            Ok(None) if is_named => {
                self.empty.push(folder.to_owned());
                return Ok(());
            }
            Ok(None) => return Ok(()),
            // A copy that does not know which one it is counts as missing.
            Err(error) => {
                self.error.get_or_insert(file_error(folder)(error));
                return Ok(());
            }
        };
        let path = folder.to_owned();
        if self.newest.as_ref().is_some_and(|newest| newest.store != members.store) {
            // A disk of another store may be where a copy was.
            return if is_named { Err(StoreError::OtherStore { path }) } else { Ok(()) };
        }
        match self.folders.get(&id) {
            Some(other) if absolute(other) != absolute(folder) => {
                return if is_named { Err(StoreError::SameCopy { path }) } else { Ok(()) };
            }
            Some(_) => return Ok(()),
            None => {}
        }
        let whole = |members: &Members| -> BTreeSet<CopyId> {
            members.whole().map(|member| member.id).collect()
        };
        let is_split =
            |newest: &Members| newest.number == members.number && whole(newest) != whole(&members);
        if self.newest.as_ref().is_some_and(is_split) {
            return Err(StoreError::Split { path });
        }
        self.folders.insert(id, path);
        let is_newer = |newest: &Members| members.number > newest.number;
        self.is_uneven |=
            self.newest.as_ref().is_some_and(|newest| members.number != newest.number);
        if self.newest.as_ref().is_none_or(is_newer) {
            self.newest = Some(members);
        }
        Ok(())
    }

    /// Looks at the folders that are named, and at those that a copy knows.
    fn all(folder: &Path, options: &Options) -> Result<Self, StoreError> {
        let mut found = Self::default();
        for path in std::iter::once(folder).chain(options.copies.iter().map(PathBuf::as_path)) {
            found.look(path, true)?;
        }
        let mut number = None;
        while let Some(newest) = &found.newest
            && number != Some(newest.number)
        {
            number = Some(newest.number);
            let known: Vec<Member> = newest.copies.clone();
            for member in known {
                if !found.folders.contains_key(&member.id) {
                    found.look(&member.path, false)?;
                }
            }
        }
        Ok(found)
    }
}

/// Opens the copies of a store.
pub(crate) fn open(folder: &Path, options: &Options) -> Result<Opened, StoreError> {
    let mut found = Found::all(folder, options)?;
    let Some(newest) = found.newest.clone() else {
        return found.error.take().map_or_else(|| alone(folder, options), Err);
    };
    let is_unknown = |(id, path): &(&CopyId, &PathBuf)| {
        newest.get(**id).is_none() && options.copies.contains(path)
    };
    if let Some((_, path)) = found.folders.iter().find(is_unknown) {
        // It was removed.
        return Err(StoreError::CopyStale { path: path.clone() });
    }
    let mut members = newest.clone();
    for member in &mut members.copies {
        if let Some(path) = found.folders.get(&member.id) {
            member.path = absolute(path);
        }
    }
    let mut failed: Vec<(CopyId, String)> = Vec::new();
    let mut present = Vec::new();
    for member in members.whole() {
        if found.folders.contains_key(&member.id) {
            present.push(member.clone());
        } else if is_without(member, options) {
            failed.push((member.id, "the store was opened without it".to_owned()));
        } else {
            return Err(StoreError::CopyMissing { path: member.path.clone() });
        }
    }
    let mut engines = Vec::new();
    let mut first_error = None;
    for member in present {
        match Engine::open(&member.path, member.id, options) {
            Ok(engine) => engines.push(engine),
            Err(error @ StoreError::InUse { .. }) => return Err(error),
            Err(error) => {
                failed.push((member.id, reason(&error)));
                first_error.get_or_insert(error);
            }
        }
    }
    let stale = || StoreError::CopyStale { path: folder.to_owned() };
    let (lead, followers) =
        equal(engines, &mut failed).ok_or_else(|| first_error.take().unwrap_or_else(stale))?;
    let missing = members.copies.iter().map(|member| member.id);
    let missing = missing.filter(|id| !found.folders.contains_key(id)).collect();
    let mut opened = Opened { lead, followers, members, missing };
    opened.add(&found, folder, options)?;
    let is_changed = found.is_uneven || opened.members != newest;
    opened.note(failed, is_changed, options)?;
    opened.name_new(&found)?;
    Ok(opened)
}

fn is_without(member: &Member, options: &Options) -> bool {
    options.without.iter().any(|path| *path == member.path || absolute(path) == member.path)
}

/// A store that knows of no copies has one.
fn alone(folder: &Path, options: &Options) -> Result<Opened, StoreError> {
    let lead = Engine::open(folder, CopyId::new(&*options.entropy), options)?;
    let members = Members::new(lead.store, lead.shared.id, folder);
    let missing = BTreeSet::new();
    let mut opened = Opened { lead, followers: Vec::new(), members, missing };
    let found = Found { empty: options.copies.clone(), ..Found::default() };
    opened.add(&found, folder, options)?;
    opened.note(Vec::new(), true, options)?;
    opened.name_new(&found)?;
    Ok(opened)
}

/// The copy with the most records, and the others with the same.
fn equal(
    mut engines: Vec<Engine>,
    failed: &mut Vec<(CopyId, String)>,
) -> Option<(Engine, Vec<Engine>)> {
    let most = engines.iter().map(|engine| engine.counters.next_record).max()?;
    let index = engines.iter().position(|engine| engine.counters.next_record == most)?;
    let lead = engines.remove(index);
    let mut followers = Vec::new();
    for mut engine in engines {
        match catch_up(&mut engine, &lead) {
            Ok(()) => followers.push(engine),
            Err(error) => {
                engine.shared.fail(StoreError::Ended);
                failed.push((engine.shared.id, reason(&error)));
            }
        }
    }
    Some((lead, followers))
}

fn catch_up(engine: &mut Engine, lead: &Engine) -> Result<(), StoreError> {
    let end = lead.counters.next_record;
    let mut tail = Tail::new(&lead.shared.journal(), lead.store, engine.counters.next_record);
    let hub = Hub::default();
    hub.set_copies(vec![Arc::clone(&lead.shared)]);
    while tail.next() < end {
        let first = tail.next();
        let group = Group::new(first, tail.read(end, STEP)?);
        engine.append(&group)?;
        follow::apply(engine, &hub, &group)?;
    }
    Ok(())
}

impl Opened {
    /// Takes folders that were named and are empty for copies to be made.
    fn add(&mut self, found: &Found, folder: &Path, options: &Options) -> Result<(), StoreError> {
        for path in found.empty.iter().filter(|path| absolute(path) != absolute(folder)) {
            if self.members.at(path).is_none() {
                let new = new_member(path, options)?;
                self.members.copies.push(new);
            }
        }
        Ok(())
    }

    /// Says in the folders of copies that are to be made which ones they are: they are empty otherwise.
    fn name_new(&self, found: &Found) -> Result<(), StoreError> {
        for path in &found.empty {
            let is_new = |left_out: &LeftOut| left_out.since == 0;
            if let Some(member) = self.members.at(path)
                && member.left_out.as_ref().is_some_and(is_new)
            {
                self.members.write(path, member.id).map_err(file_error(path))?;
            }
        }
        Ok(())
    }

    /// Makes checkpoints, and notes what has changed in all copies that are left.
    fn note(
        &mut self,
        mut failed: Vec<(CopyId, String)>,
        mut is_changed: bool,
        options: &Options,
    ) -> Result<(), StoreError> {
        loop {
            is_changed |= !failed.is_empty();
            let since = self.lead.counters.next_record;
            let at = ticks(&*options.clock);
            for (id, reason) in failed.drain(..) {
                if let Some(member) = self.members.get_mut(id) {
                    member.left_out.get_or_insert(LeftOut { since, at, reason });
                }
            }
            if is_changed {
                self.members.number = self.members.number.saturating_add(1);
            }
            for engine in std::iter::once(&mut self.lead).chain(&mut self.followers) {
                let ready = ready(engine, &self.members, is_changed);
                if let Err(error) = ready {
                    let text = reason(&error);
                    engine.shared.fail(error);
                    failed.push((engine.shared.id, text));
                }
            }
            if failed.is_empty() {
                return Ok(());
            }
            self.followers.retain(|engine| engine.shared.failure().is_none());
            if let Some(error) = self.lead.shared.failure() {
                if self.followers.is_empty() {
                    return Err(StoreError::Copy(error));
                }
                self.lead = self.followers.remove(0);
            }
        }
    }
}

/// Writes what a copy must know, and makes a checkpoint: the end of its old journal may be torn, and nothing is written
/// behind it.
fn ready(engine: &mut Engine, members: &Members, is_changed: bool) -> Result<(), StoreError> {
    let folder = engine.shared.folder.clone();
    if is_changed {
        members.write(&folder, engine.shared.id).map_err(file_error(&folder))?;
    }
    if members.standing_at_opening().role != Role::Alone {
        // Another server may ask for what the journal has.
        engine.shared.wanted.store(0, SeqCst);
    }
    engine.checkpoint()?;
    engine.sweep_leftovers()
}

/// A copy that is to be made in a folder that is empty or does not exist.
pub(crate) fn new_member(folder: &Path, options: &Options) -> Result<Member, StoreError> {
    use std::os::unix::fs::DirBuilderExt as _;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(file_error(folder))?;
    if std::fs::read_dir(folder).map_err(file_error(folder))?.next().is_some() {
        return Err(StoreError::Exists { path: folder.to_owned() });
    }
    let id = CopyId::new(&*options.entropy);
    let at = ticks(&*options.clock);
    let left_out = LeftOut { since: 0, at, reason: "it is being made".to_owned() };
    Ok(Member { id, path: absolute(folder), left_out: Some(left_out) })
}

/// An error with its causes.
pub(crate) fn reason(error: &StoreError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

/// Copies that follow, each on its thread.
pub(crate) fn start(followers: Vec<Engine>, hub: &Arc<Hub>) -> Vec<follow::Follower> {
    followers.into_iter().map(|engine| follow::Follower::start(engine, hub)).collect()
}
