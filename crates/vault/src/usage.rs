//! How much a vault holds, in all and for each item.
//!
//! This module owns the figures of a vault. It reads lists and, if asked, walks the trees; it changes nothing, and
//! must not know prices or quotas.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    io,
    ops::ControlFlow,
    sync::Arc,
};

use jiff::Timestamp;
use serde::Serialize;
use strongroom_base::{Cancel, Digest, PackId, VaultId};
use strongroom_format::{
    Manifest, names,
    pack::{PackKind, RecordKind},
};
use strongroom_image::Visitor;

use crate::{
    Vault, VaultError, error::Result, images::visit_images, index::Loaded, points::PointList,
};

/// What [`Vault::usage`] finds out.
#[derive(Clone, Copy, Debug, Default)]
pub struct UsageOptions {
    /// Also tell what each item needs alone and what it shares, and what reclaim could free.
    /// Costs a walk over all distinct tree nodes and a look-up for each distinct block.
    pub content: bool,
}

/// How much a vault holds. Byte counts are those of stored objects unless they say otherwise.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UsageReport {
    /// The vault.
    pub vault: VaultId,
    /// Visible recovery points.
    pub recovery_points: u64,
    /// Visible recovery points whose manifests are damaged; all other figures leave them out.
    pub damaged_recovery_points: u64,
    /// Deleted recovery points that reclaim has not removed yet.
    pub deleted_recovery_points: u64,
    /// Sizes of all disks of the newest point of every item: what the vault protects.
    pub protected_bytes: u64,
    /// Packs of blocks.
    pub data_packs: u64,
    /// Their bytes.
    pub data_pack_bytes: u64,
    /// Packs of tree nodes.
    pub node_packs: u64,
    /// Their bytes.
    pub node_pack_bytes: u64,
    /// Index objects.
    pub index_objects: u64,
    /// Their bytes.
    pub index_bytes: u64,
    /// All other objects: points, keys, notes.
    pub other_objects: u64,
    /// Their bytes.
    pub other_bytes: u64,
    /// Bytes of all objects of one copy of the vault.
    pub total_bytes: u64,
    /// Packs that reclaim has condemned and not removed yet.
    pub condemned_packs: u64,
    /// Their bytes.
    pub condemned_bytes: u64,
    /// What the content is used for, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<ContentUsage>,
    /// The items, by name.
    pub items: Vec<ItemUsage>,
}

/// What the records in the packs are used for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ContentUsage {
    /// Bytes of records that visible points of one item need.
    pub unique_bytes: u64,
    /// Bytes of records that visible points of several items need.
    pub shared_bytes: u64,
    /// Bytes of packs that no visible point needs: what reclaim could free at most.
    pub reclaimable_bytes: u64,
}

/// How much the vault holds of one item.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ItemUsage {
    /// The item's name.
    pub item: String,
    /// Its visible recovery points.
    pub recovery_points: u64,
    /// The time of the oldest.
    pub oldest: Timestamp,
    /// The time of the newest.
    pub newest: Timestamp,
    /// Disks of the newest point.
    pub disks: u64,
    /// Their sizes.
    pub protected_bytes: u64,
    /// Bytes that the backups of the visible points added when they ran.
    pub added_bytes: u64,
    /// Bytes of records that only this item needs, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub unique_bytes: Option<u64>,
    /// Bytes of records that it shares with other items, if that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shared_bytes: Option<u64>,
}

impl UsageReport {
    fn empty(vault: VaultId) -> Self {
        Self {
            vault,
            recovery_points: 0,
            damaged_recovery_points: 0,
            deleted_recovery_points: 0,
            protected_bytes: 0,
            data_packs: 0,
            data_pack_bytes: 0,
            node_packs: 0,
            node_pack_bytes: 0,
            index_objects: 0,
            index_bytes: 0,
            other_objects: 0,
            other_bytes: 0,
            total_bytes: 0,
            condemned_packs: 0,
            condemned_bytes: 0,
            content: None,
            items: Vec::new(),
        }
    }
}

impl Vault {
    /// Counts what the vault holds.
    pub fn usage(&self, options: UsageOptions, cancel: &Cancel) -> Result<UsageReport> {
        let mut report = UsageReport::empty(self.config.vault_id);
        self.count_objects(&mut report)?;
        self.count_points(&mut report)?;
        if cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        if options.content {
            // What is needed is only known where all points can be read.
            self.points(None)?;
            self.count_content(&mut report, cancel)?;
        }
        Ok(report)
    }

    fn count_objects(&self, report: &mut UsageReport) -> Result<()> {
        let condemned: HashSet<PackId> = self.condemned_packs()?.packs;
        self.store.list("", &mut |entry| {
            let add = |number: &mut u64, bytes: &mut u64| {
                *number = number.saturating_add(1);
                *bytes = bytes.saturating_add(entry.size);
            };
            let pack = names::parse_pack(&entry.key);
            match pack {
                Some((PackKind::Data, _)) => {
                    add(&mut report.data_packs, &mut report.data_pack_bytes);
                }
                Some((PackKind::Node, _)) => {
                    add(&mut report.node_packs, &mut report.node_pack_bytes);
                }
                None if entry.key.as_str().starts_with(names::INDEX) => {
                    add(&mut report.index_objects, &mut report.index_bytes);
                }
                None => add(&mut report.other_objects, &mut report.other_bytes),
            }
            if pack.is_some_and(|(_, id)| condemned.contains(&id)) {
                add(&mut report.condemned_packs, &mut report.condemned_bytes);
            }
            report.total_bytes = report.total_bytes.saturating_add(entry.size);
            ControlFlow::Continue(())
        })?;
        Ok(())
    }

    fn count_points(&self, report: &mut UsageReport) -> Result<()> {
        let deleted = self.point_names(None)?.deleted.len();
        report.deleted_recovery_points = u64::try_from(deleted).unwrap_or(u64::MAX);
        let mut items: BTreeMap<String, ItemUsage> = BTreeMap::new();
        let PointList { points, damaged } = self.list_points(None)?;
        report.damaged_recovery_points = u64::try_from(damaged.len()).unwrap_or(u64::MAX);
        for point in points {
            // Points come oldest first: the last one says what is protected.
            let sum = |of: fn(&strongroom_format::DiskRecord) -> u64| {
                point.disks.iter().fold(0_u64, |sum, disk| sum.saturating_add(of(disk)))
            };
            let item = items.entry(point.item.clone()).or_insert_with(|| ItemUsage {
                item: point.item.clone(),
                recovery_points: 0,
                oldest: point.time,
                newest: point.time,
                disks: 0,
                protected_bytes: 0,
                added_bytes: 0,
                unique_bytes: None,
                shared_bytes: None,
            });
            item.recovery_points = item.recovery_points.saturating_add(1);
            item.newest = point.time;
            item.disks = u64::try_from(point.disks.len()).unwrap_or(u64::MAX);
            item.protected_bytes = sum(|disk| disk.size_bytes);
            item.added_bytes = item.added_bytes.saturating_add(sum(|disk| disk.stored_bytes));
        }
        report.items = items.into_values().collect();
        let total = |of: fn(&ItemUsage) -> u64| {
            report.items.iter().fold(0_u64, |sum, item| sum.saturating_add(of(item)))
        };
        report.recovery_points = total(|item| item.recovery_points);
        report.protected_bytes = total(|item| item.protected_bytes);
        Ok(())
    }

    /// Walks every item's points and notes for each record of the index who needs it.
    fn count_content(&self, report: &mut UsageReport, cancel: &Cancel) -> Result<()> {
        self.sync()?;
        let loaded = self.index.loaded();
        let room = |loaded: &Loaded| {
            let len = usize::try_from(loaded.segment.len()).unwrap_or(usize::MAX);
            vec![Mark::default(); len]
        };
        let marks = loaded.iter().map(room).collect();
        let counts = vec![Count::default(); report.items.len()];
        let mut content =
            Content { vault: self, cancel, loaded, marks, counts, shared: 0, item: 0 };
        for number in 0..report.items.len() {
            let Some(item) = report.items.get(number).map(|item| item.item.clone()) else { break };
            content.item = number;
            content.add_points(&self.points(Some(&item))?)?;
        }
        let mut unique = 0_u64;
        for (item, count) in report.items.iter_mut().zip(&content.counts) {
            item.unique_bytes = Some(count.alone);
            item.shared_bytes = Some(count.shared);
            unique = unique.saturating_add(count.alone);
        }
        let needed = unique.saturating_add(content.shared);
        let packs = report.data_pack_bytes.saturating_add(report.node_pack_bytes);
        report.content = Some(ContentUsage {
            unique_bytes: unique,
            shared_bytes: content.shared,
            reclaimable_bytes: packs.saturating_sub(needed),
        });
        Ok(())
    }
}

/// Who needs a record: nobody, or the last item that was seen to, counted from 1, and whether
/// another was seen before.
#[derive(Clone, Copy, Default)]
struct Mark(u32);

impl Mark {
    const SHARED: u32 = 1 << 31;

    fn last(self) -> Option<usize> {
        usize::try_from(self.0 & !Self::SHARED).ok()?.checked_sub(1)
    }
}

/// Bytes that an item needs.
#[derive(Clone, Copy, Default)]
struct Count {
    alone: u64,
    shared: u64,
}

struct Content<'a> {
    vault: &'a Vault,
    cancel: &'a Cancel,
    loaded: Vec<Loaded>,
    /// For every record of every segment.
    marks: Vec<Vec<Mark>>,
    /// By item.
    counts: Vec<Count>,
    shared: u64,
    item: usize,
}

impl Content<'_> {
    fn add_points(&mut self, points: &[Manifest]) -> Result<()> {
        // Per disk, each point against the one before it: what they share is passed over.
        let mut last = HashMap::new();
        let vault = self.vault;
        points.iter().try_for_each(|point| visit_images(point, &mut last, vault, self))
    }

    /// Notes that the item needs a digest; whether that is new.
    fn mark(&mut self, digest: &Digest) -> Result<bool> {
        let vault = self.vault;
        let Some((segment, record, len, kind)) =
            self.find(digest).map_err(|error| vault.local_error(error))?
        else {
            return Ok(true);
        };
        let Some(mark) = self.marks.get_mut(segment).and_then(|marks| marks.get_mut(record)) else {
            return Ok(true);
        };
        let (before, item) = (*mark, self.item);
        if before.last() == Some(item) {
            return Ok(false);
        }
        let number = u32::try_from(item.saturating_add(1)).unwrap_or(0) & !Mark::SHARED;
        let shared = before.last().map_or(0, |_| Mark::SHARED);
        *mark = Mark(number | shared);
        if let Some(last) = before.last() {
            if before.0 & Mark::SHARED == 0 {
                if let Some(count) = self.counts.get_mut(last) {
                    count.alone = count.alone.saturating_sub(len);
                    count.shared = count.shared.saturating_add(len);
                }
                self.shared = self.shared.saturating_add(len);
            }
            if let Some(count) = self.counts.get_mut(item) {
                count.shared = count.shared.saturating_add(len);
            }
        } else if let Some(count) = self.counts.get_mut(item) {
            count.alone = count.alone.saturating_add(len);
        }
        if kind == RecordKind::BlockDelta
            && let Some(segment) = self.loaded.get(segment).map(|l| Arc::clone(&l.segment))
        {
            for base in segment.bases_of(digest).map_err(|error| vault.local_error(error))? {
                self.mark(&base)?;
            }
        }
        Ok(true)
    }

    /// The record that a reader would take: its segment, its number there, bytes and kind.
    fn find(&self, digest: &Digest) -> io::Result<Option<(usize, usize, u64, RecordKind)>> {
        let mut best = None;
        let mut found = Vec::new();
        for (number, Loaded { segment, alive }) in self.loaded.iter().enumerate().rev() {
            segment.find(digest, &mut found)?;
            for (record, raw) in found.drain(..) {
                let Some(entry) = raw.entry() else { continue };
                if alive.get(raw.row()) == Some(&true)
                    && let Ok(record) = usize::try_from(record)
                {
                    let place = (number, record, entry.stored_share(), entry.kind);
                    if entry.kind != RecordKind::BlockDelta {
                        return Ok(Some(place));
                    }
                    best = best.or(Some(place));
                }
            }
        }
        Ok(best)
    }
}

impl Visitor<VaultError> for Content<'_> {
    fn enter_node(&mut self, node: Digest) -> Result<bool> {
        if self.cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        self.mark(&node)
    }

    fn block(&mut self, block: Digest) -> Result<()> {
        self.mark(&block).map(drop)
    }
}
