//! Recovery points: listing, reading, deleting.
//!
//! A point is visible while its manifest exists and no deletion note does. Deleting writes the
//! note; reclaim removes both later, with what only this point needed. A void in the manifest's
//! place keeps an expired writer from publishing under that name, for ever (`voids.rs`).
//!
//! This module owns which points a vault shows. It must not know why a point is deleted, or how its data is kept.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    ops::ControlFlow,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use strongroom_base::{PointId, lock};
use strongroom_format::{
    Manifest,
    names::{self, ItemKey},
    sealed::{self, SealedKind},
};
use strongroom_objects::{Entry, Key};

use crate::{Vault, VaultError, error::Result, read::is_damage, together::ask, voids::Named};

#[cfg(test)]
pub(crate) mod tests;

/// What a deletion note says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct DeletionNote {
    /// When the deletion was asked for.
    pub(crate) time: Timestamp,
    /// From which host.
    pub(crate) host: String,
}

/// Points as far as they can be read.
#[derive(Debug, Default)]
pub struct PointList {
    /// By item name, then in the order in which they were made, which their ids show whatever the
    /// clocks said. The last of an item is its latest.
    pub points: Vec<Manifest>,
    /// Points that exist and of which nothing can be read, in the order of their ids.
    pub damaged: Vec<DamagedManifest>,
}

/// A point of which nothing can be read, because its manifest is damaged.
#[derive(Debug)]
pub struct DamagedManifest {
    /// The point.
    pub point: PointId,
    /// Its item; none if nothing else of the item can be read.
    pub item: Option<String>,
    /// The name of its manifest.
    pub object: String,
    /// How it is damaged.
    pub error: VaultError,
}

impl DamagedManifest {
    /// As the error of who needs this point.
    pub fn into_error(self) -> VaultError {
        VaultError::PointDamaged { point: self.point, source: Box::new(self.error) }
    }
}

/// A point and its manifest, or why that cannot be read.
type ReadPoint = (ItemKey, PointId, Result<Manifest>);

/// The names of all points.
#[derive(Clone, Debug, Default)]
pub struct PointNames {
    /// Names of visible points, by item, oldest first. Some may be voids: reading tells.
    pub visible: BTreeMap<ItemKey, Vec<PointId>>,
    /// Points with a deletion note; their manifests may be gone already.
    pub deleted: Vec<(ItemKey, PointId)>,
    /// Size and date of the visible points' objects.
    listed: HashMap<(ItemKey, PointId), (u64, Timestamp)>,
}

impl PointNames {
    /// What two lists show.
    pub(crate) fn new(points: &[Entry], deleted: &[Entry]) -> Self {
        let deleted = deleted.iter().filter_map(|entry| names::parse_point(&entry.key));
        let mut names = Self { deleted: deleted.collect(), ..Self::default() };
        let hidden: HashSet<_> = names.deleted.iter().copied().collect();
        for entry in points {
            if let Some((item, point)) = names::parse_point(&entry.key)
                && !hidden.contains(&(item, point))
            {
                names.visible.entry(item).or_default().push(point);
                names.listed.insert((item, point), (entry.size, entry.modified));
            }
        }
        names
    }

    /// Those of one item.
    pub(crate) fn of(&self, item: ItemKey) -> Self {
        let visible =
            self.visible.get_key_value(&item).map(|(item, points)| (*item, points.clone()));
        let listed = self.listed.iter().filter(|((of, _), _)| *of == item);
        Self {
            visible: visible.into_iter().collect(),
            deleted: self.deleted.iter().copied().filter(|(of, _)| *of == item).collect(),
            listed: listed.map(|(point, about)| (*point, *about)).collect(),
        }
    }

    /// A visible point's object as the list shows it.
    fn entry(&self, item: ItemKey, point: PointId) -> Option<Entry> {
        let (size, modified) = *self.listed.get(&(item, point))?;
        Some(Entry { key: names::point(item, point), size, modified })
    }
}

impl Vault {
    /// Lists the names under `points/` and `deleted/`, of one item or of all. In whatever order: who
    /// relies on a point reads its manifest after both lists (decision 0004).
    pub(crate) fn point_names(&self, item: Option<ItemKey>) -> Result<PointNames> {
        let prefix = |base: &str| match item {
            Some(item) => format!("{base}{item}/"),
            None => base.to_owned(),
        };
        let (mut points, mut deleted) = (Vec::new(), Vec::new());
        self.together(vec![
            ask(&mut points, || self.list(&prefix(names::POINTS))),
            ask(&mut deleted, || self.list(&prefix(names::DELETED))),
        ])?;
        Ok(PointNames::new(&points, &deleted))
    }

    /// As [`Self::point_names`] of an item, but of those only that are not older than `since`.
    fn point_names_since(&self, item: ItemKey, since: PointId) -> Result<PointNames> {
        let before = u128::from_be_bytes(since.to_bytes()).saturating_sub(1);
        let before = PointId::from_bytes(before.to_be_bytes());
        let list = |base: &str, after: &Key| -> Result<Vec<Entry>> {
            let mut entries = Vec::new();
            let prefix = format!("{base}{item}/");
            self.store.list_between(&prefix, Some(after), None, &mut |entry| {
                entries.push(entry);
                ControlFlow::Continue(())
            })?;
            entries.sort_by(|a, b| a.key.cmp(&b.key));
            Ok(entries)
        };
        let (mut points, mut deleted) = (Vec::new(), Vec::new());
        self.together(vec![
            ask(&mut points, || list(names::POINTS, &names::point(item, before))),
            ask(&mut deleted, || list(names::DELETED, &names::deleted(item, before))),
        ])?;
        Ok(PointNames::new(&points, &deleted))
    }

    /// The names among which the newest points of an item are. Where the store lists by name, those
    /// that are older than the newest that this host remembers are left out, unless there is no
    /// other; the flag says whether they were.
    pub(crate) fn newest_names(&self, item: ItemKey) -> Result<(PointNames, bool)> {
        if self.store.lists_by_name()
            && let Some(since) = self.remembered_newest(item)
        {
            let names = self.point_names_since(item, since)?;
            if names.visible.contains_key(&item) {
                return Ok((names, true));
            }
        }
        Ok((self.point_names(Some(item))?, false))
    }

    /// The manifests of all visible points of an item, or of all items; by item name, then in the
    /// order in which they were made. Fails if one of them cannot be read: for callers that must not miss any.
    pub fn points(&self, item: Option<&str>) -> Result<Vec<Manifest>> {
        let PointList { points, damaged } = self.list_points(item)?;
        damaged.into_iter().next().map_or(Ok(points), |damaged| Err(damaged.into_error()))
    }

    /// The visible points of an item, or of all items. One that is damaged does not hide the others.
    pub fn list_points(&self, item: Option<&str>) -> Result<PointList> {
        let key = item.map(|item| self.item_key(item)).transpose()?;
        let names = match self.names_at_opening(key) {
            Some(names) => names,
            None => self.point_names(key)?,
        };
        let mut wanted = self.locked_in_spite(&names, key)?;
        let visible = names.visible.iter();
        wanted.extend(
            visible.flat_map(|(item, points)| points.iter().map(move |point| (*item, *point))),
        );
        let mut points = Vec::with_capacity(wanted.len());
        let mut unreadable = Vec::new();
        let mut items: HashMap<ItemKey, String> = HashMap::new();
        for (item, point, manifest) in self.read_manifests(&wanted, &names)? {
            match manifest {
                Ok(manifest) => {
                    items.entry(item).or_insert_with(|| manifest.item.clone());
                    points.push(manifest);
                }
                Err(error) => unreadable.push((item, point, error)),
            }
        }
        points.sort_by(|a, b| (&a.item, a.id).cmp(&(&b.item, b.id)));
        unreadable.sort_by_key(|(_, point, _)| *point);
        items.extend(key.zip(item.map(str::to_owned)));
        let damaged = unreadable.into_iter().map(|(folder, point, error)| DamagedManifest {
            point,
            item: items.get(&folder).cloned(),
            object: names::point(folder, point).to_string(),
            error,
        });
        let list = PointList { points, damaged: damaged.collect() };
        match item {
            Some(item) if list.points.is_empty() && list.damaged.is_empty() => {
                Err(VaultError::ItemNotFound { item: item.to_owned() })
            }
            _ => Ok(list),
        }
    }

    /// Reads manifests, several at once where each costs a round trip. Points that vanish
    /// meanwhile are left out. Fails if the store does; that one is damaged is the answer for that
    /// one.
    fn read_manifests(
        &self,
        wanted: &[(ItemKey, PointId)],
        names: &PointNames,
    ) -> Result<Vec<ReadPoint>> {
        let threads = if self.store.is_local() { 1 } else { 32 };
        let next = AtomicUsize::new(0);
        let results = Mutex::new(Vec::with_capacity(wanted.len()));
        std::thread::scope(|scope| {
            let work = || {
                while let Some((item, point)) = wanted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let read = self.listed_manifest(*item, *point, names);
                    let manifest = match read.transpose() {
                        None => continue,
                        Some(Err(error)) if !is_damage(&error) => Err(error),
                        Some(read) => Ok((*item, *point, read)),
                    };
                    let failed = manifest.is_err();
                    lock(&results).push(manifest);
                    if failed {
                        next.store(wanted.len(), Ordering::Relaxed);
                    }
                }
            };
            for _ in 1..threads.min(wanted.len()) {
                scope.spawn(work);
            }
            work();
        });
        let results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
        results.into_iter().collect()
    }

    /// The manifest of a point as a list shows it: the one that is kept on this host, if it is that.
    /// For who wants to know what there is, and relies on nothing.
    fn listed_manifest(
        &self,
        item: ItemKey,
        point: PointId,
        names: &PointNames,
    ) -> Result<Option<Manifest>> {
        let Some((kept, entry)) = self.kept.as_ref().zip(names.entry(item, point)) else {
            return self.manifest(item, point);
        };
        if let Some(bytes) = kept.get(&entry)
            && let Ok(Named::Point(manifest)) = self.open_named(item, point, bytes)
        {
            return Ok(Some(*manifest));
        }
        let bytes = self.store.get(&entry.key, sealed::MAX_SEALED);
        if let Ok(bytes) = bytes
            && let Ok(Named::Point(manifest)) = self.open_named(item, point, bytes.clone())
        {
            kept.put(&entry, &bytes);
            return Ok(Some(*manifest));
        }
        // Whatever is the matter with it.
        self.manifest(item, point)
    }

    /// Reads one manifest; none if there is no such point.
    pub(crate) fn manifest(&self, item: ItemKey, point: PointId) -> Result<Option<Manifest>> {
        Ok(match self.named(item, point)? {
            Named::Point(manifest) => Some(*manifest),
            Named::Void | Named::Nothing => None,
        })
    }

    /// One visible point of an item, or one that is locked in spite of its deletion note.
    pub fn point(&self, item: &str, point: PointId) -> Result<Manifest> {
        self.find_one(item, point, |key, names| {
            Ok(self.locked_in_spite(names, Some(key))?.contains(&(key, point)))
        })
    }

    /// One visible point of an item, for a new point to build upon. A deletion note rules it out,
    /// whatever any lock says: a reclaim may count the lock as expired.
    pub fn parent_point(&self, item: &str, point: PointId) -> Result<Manifest> {
        self.find_one(item, point, |_, _| Ok(false))
    }

    /// One point of an item, even if it has a deletion note: until a reclaim removes it, it can be
    /// restored by a user who knows its id.
    pub fn restorable_point(&self, item: &str, point: PointId) -> Result<Manifest> {
        self.find_one(item, point, |_, _| Ok(true))
    }

    /// Reads a point that is visible, or that `hidden` knows to count although it is not.
    fn find_one(
        &self,
        item: &str,
        point: PointId,
        hidden: impl FnOnce(ItemKey, &PointNames) -> Result<bool>,
    ) -> Result<Manifest> {
        let key = self.item_key(item)?;
        let missing = || VaultError::PointNotFound { item: item.to_owned(), point };
        let names = self.point_names(Some(key))?;
        let visible = names.visible.get(&key).is_some_and(|points| points.contains(&point));
        let known = visible || (names.deleted.contains(&(key, point)) && hidden(key, &names)?);
        if !known {
            return Err(missing());
        }
        match self.manifest(key, point) {
            Err(error) if is_damage(&error) => {
                Err(VaultError::PointDamaged { point, source: Box::new(error) })
            }
            read => read?.ok_or_else(missing),
        }
    }

    /// The newest point of an item that is visible or locked, if there is one: the one whose backup
    /// began last. Fails if that one cannot be read: a caller that asks for the newest must not get
    /// another unawares.
    pub fn latest(&self, item: &str) -> Result<Option<Manifest>> {
        let key = self.item_key(item)?;
        let mut names = match self.names_at_opening(Some(key)) {
            Some(names) => names,
            None => self.point_names(Some(key))?,
        };
        let locked = self.locked_in_spite(&names, Some(key))?;
        let visible = names.visible.entry(key).or_default();
        visible.extend(locked.into_iter().map(|(_, point)| point));
        visible.sort_unstable();
        let (newest, damaged) = self.newest_of(item, key, names)?;
        damaged.into_iter().next().map_or(Ok(newest), |damaged| Err(damaged.into_error()))
    }

    /// The newest visible point of an item that can be read, if there is one, and those newer ones
    /// that cannot, newest first. For who builds upon it: no point with a deletion note is among them.
    pub fn newest_readable(&self, item: &str) -> Result<(Option<Manifest>, Vec<DamagedManifest>)> {
        let key = self.item_key(item)?;
        self.newest_of(item, key, self.point_names(Some(key))?)
    }

    /// As [`Self::newest_readable`], among names that were listed before.
    pub(crate) fn newest_among(
        &self,
        item: &str,
        key: ItemKey,
        (names, is_part): (PointNames, bool),
    ) -> Result<(Option<Manifest>, Vec<DamagedManifest>)> {
        let (newest, damaged) = self.newest_of(item, key, names)?;
        if newest.is_none() && is_part {
            return self.newest_readable(item);
        }
        Ok((newest, damaged))
    }

    fn newest_of(
        &self,
        item: &str,
        key: ItemKey,
        mut names: PointNames,
    ) -> Result<(Option<Manifest>, Vec<DamagedManifest>)> {
        let mut damaged = Vec::new();
        // Ids of an item ascend in the order in which its backups began, whatever the clocks.
        for point in names.visible.remove(&key).unwrap_or_default().into_iter().rev() {
            match self.manifest(key, point) {
                Ok(Some(manifest)) => return Ok((Some(manifest), damaged)),
                Ok(None) => {}
                Err(error) if is_damage(&error) => {
                    let object = names::point(key, point).to_string();
                    let item = Some(item.to_owned());
                    damaged.push(DamagedManifest { point, item, object, error });
                }
                Err(error) => return Err(error),
            }
        }
        Ok((None, damaged))
    }

    /// The newest visible point of an item whose id is of this moment (milliseconds since 1970) or
    /// later and that `is_it` knows by its manifest. Those that are damaged are passed over. An id
    /// is never of an earlier moment than its backup, by the clock of its host.
    pub fn find_point(
        &self,
        item: &str,
        since: u64,
        is_it: impl Fn(&Manifest) -> bool,
    ) -> Result<Option<Manifest>> {
        let key = self.item_key(item)?;
        let mut names = self.point_names(Some(key))?;
        let newest_first = names.visible.remove(&key).unwrap_or_default().into_iter().rev();
        for point in newest_first.take_while(|point| point.millis() >= since) {
            match self.manifest(key, point) {
                Ok(Some(manifest)) if is_it(&manifest) => return Ok(Some(manifest)),
                Ok(_) => {}
                Err(error) if is_damage(&error) => {
                    tracing::warn!(%error, %point, "passed over");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// A new id for a point: of this moment.
    pub(crate) fn new_point(&self) -> PointId {
        PointId::generate(&*self.options.clock, &*self.options.entropy)
    }

    /// The newest point of an item that is not older than `fresh`, if there is one: then a clock was
    /// ahead or jumped back, and `fresh` would not be the newest.
    pub(crate) fn point_after(&self, item: ItemKey, fresh: PointId) -> Result<Option<PointId>> {
        let prefix = format!("{}{item}/", names::POINTS);
        let mut newest = None;
        self.store.list_between(&prefix, Some(&names::point(item, fresh)), None, &mut |entry| {
            newest = newest.max(names::parse_point(&entry.key).map(|(_, point)| point));
            ControlFlow::Continue(())
        })?;
        Ok(newest)
    }

    /// An id after that of another point.
    pub(crate) fn new_point_after(&self, newest: PointId) -> PointId {
        let fresh = self.new_point();
        // The upper 48 bits are milliseconds.
        let (newest, fresh) =
            (u128::from_be_bytes(newest.to_bytes()), u128::from_be_bytes(fresh.to_bytes()));
        let later = (newest >> 80).saturating_add(1).max(fresh >> 80).min(0xffff_ffff_ffff) << 80;
        PointId::from_bytes((later | (fresh & ((1 << 80) - 1))).to_be_bytes())
    }

    /// Deletes a point: it is no longer visible, and reclaim may remove it. One that is locked is
    /// refused, by this host's clock and by the store's, whichever is behind.
    pub fn delete_point(&self, item: &str, point: PointId, host: &str) -> Result<()> {
        self.delete_point_at(item, point, host, None)
    }

    /// As [`Self::delete_point`], but whether it is locked is judged by this time, if it is given.
    pub fn delete_point_at(
        &self,
        item: &str,
        point: PointId,
        host: &str,
        now: Option<Timestamp>,
    ) -> Result<()> {
        let manifest = self.point(item, point)?;
        self.check_unlocked(&manifest, now)?;
        let note = DeletionNote { time: self.options.clock.now(), host: host.to_owned() };
        let plain =
            serde_json::to_vec(&note).map_err(|_| VaultError::Bug("a note without text"))?;
        let name = names::deleted(self.item_key(item)?, point);
        self.put_sealed(SealedKind::Deleted, &name, &plain)?;
        Ok(())
    }
}
