//! What every point needs that is visible, or locked in spite of a deletion note: from the roots of
//! its images down to the blocks.
//!
//! Two steps. The first goes over distinct nodes, each point against the one before it, and marks
//! what is lost and every node above it. Only if something is, the second goes down the marked
//! nodes of every point to say which bytes are lost.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::Duration,
};

use jiff::Timestamp;
use strongroom_base::{BLOCK_SIZE_U64, Digest, PackId, PointId, Recently, Stage};
use strongroom_format::{DiskRecord, Manifest, names, pack::PackKind};
use strongroom_image::{Image, Node};
use strongroom_reports::{
    CopyState, DamagedDisk, DamagedObject, DamagedPoint, LostRange, ObjectKind, UnsoundCopy,
};

use super::{
    Look, VerifyProgress,
    packs::{Verified, present_packs},
    reading::Reading,
    report::{MAX_NAMED, MAX_RANGES},
};
use strongroom_vault::{
    VaultError,
    audit::{CONFIGURATION, images},
};

use crate::Result;

/// Nodes whose verdict is kept: shared subtrees of several disks are walked once.
const SEEN: usize = 400_000;
/// Lost blocks that are kept by name.
const MAX_LOST: usize = 500_000;

/// Most walks: what is not decided then is said to be open.
const ROUNDS: u32 = 8;

/// Follows all points and reports what they lack. What is not found is looked for again as long as
/// packs vanish meanwhile, as it may have been moved.
pub(super) fn verify(
    look: &Look<'_>,
    reading: &Reading<'_>,
    verified: &Verified,
    mut points: Vec<Manifest>,
    locked: &HashMap<PointId, Timestamp>,
) -> Result<()> {
    points.sort_by(|a, b| (&a.item, a.time, a.id).cmp(&(&b.item, b.time, b.id)));
    let mut points: Vec<_> = points.into_iter().map(|point| (point, Verdict::default())).collect();
    let mut packs = reading.present();
    let clock = reading.vault.clock();
    for round in 0..ROUNDS {
        reading.forget_unindexed();
        look.inspector.report().records_without_base = reading.judge_baseless()?;
        let mut walk = Walk::new(look, reading, verified);
        match walk.all(&mut points) {
            Err(VaultError::Interrupted) => return Ok(()),
            other => other?,
        }
        let open = points.iter().any(|(_, verdict)| verdict.is_open());
        let (needs_index, sources) = (reading.needs_unindexed(), reading.vault.index().sources());
        if !open {
            return walk.report(&points);
        }
        // Reclaim moves content and backups add index objects: look at the vault as it is now. A
        // point may have been published after the index objects were listed, and before the points
        // were.
        reading.vault.sync()?;
        let now = present_packs(look)?;
        reading.set_present(now.iter().copied());
        let names = reading.vault.audit().point_names()?;
        let visible: HashSet<_> = names.visible.into_values().flatten().collect();
        let hidden: HashSet<_> = names.deleted.into_iter().map(|(_, point)| point).collect();
        let (before, time) = (points.len(), clock.now());
        points.retain(|(point, _)| {
            let is_locked = || locked.get(&point.id).is_some_and(|until| *until > time);
            visible.contains(&point.id) || hidden.contains(&point.id) && is_locked()
        });
        let other_index = sources != reading.vault.index().sources();
        let moved = packs.iter().any(|pack| !now.contains(pack)) || before != points.len();
        let changed = match round {
            0 => moved || other_index || packs != now,
            // What is only added brings nothing back that was there before.
            _ => moved || needs_index && other_index,
        };
        packs = now;
        if !changed {
            return walk.report(&points);
        }
        if round > 0 {
            clock.sleep(Duration::from_millis(100 << round));
        }
    }
    let mut report = look.inspector.report();
    report.recovery_points = u64::try_from(points.len()).unwrap_or(u64::MAX);
    report.undecided = true;
    Ok(())
}

/// What the first step says of a point.
#[derive(Default)]
struct Verdict {
    /// Whether it was walked, and found whole: then it stays so.
    whole: bool,
    disks: Vec<bool>,
    configuration_lost: bool,
}

impl Verdict {
    fn is_damaged(&self) -> bool {
        self.configuration_lost || self.disks.contains(&true)
    }

    fn is_open(&self) -> bool {
        !self.whole
    }
}

struct Walk<'a> {
    look: &'a Look<'a>,
    reading: &'a Reading<'a>,
    /// Whether all packs were read, not only a sample.
    verified: bool,
    /// Nodes walked lately, and whether something below them is lost.
    seen: Recently<Digest, bool>,
    /// What is lost, and nodes with something lost below them.
    marked: HashSet<Digest>,
    lost_blocks: u64,
    lost_nodes: u64,
    /// There are more lost blocks than are kept by name.
    overflow: bool,
    /// Packs that are needed and not there, with how much of them is needed.
    missing: BTreeMap<PackId, (PackKind, u64)>,
}

/// A place in a tree: the level, 0 for blocks, and the first block there or below.
#[derive(Clone, Copy)]
struct Place {
    level: u8,
    first: u64,
}

impl Place {
    fn child(self, slot: u8) -> Self {
        let level = self.level.saturating_sub(1);
        let into = u64::from(slot) << (8 * u32::from(level));
        Self { level, first: self.first.saturating_add(into) }
    }

    fn blocks(self) -> u64 {
        1 << (8 * u32::from(self.level))
    }
}

fn image(disk: &DiskRecord) -> Result<Image> {
    Image::new(disk.size_bytes, disk.root)
        .map_err(|_| VaultError::Bug("a manifest with an impossible size was taken for good"))
}

impl<'a> Walk<'a> {
    fn new(look: &'a Look<'a>, reading: &'a Reading<'a>, verified: &Verified) -> Self {
        Self {
            look,
            reading,
            verified: !verified.sampled,
            seen: Recently::new(SEEN),
            marked: HashSet::new(),
            lost_blocks: 0,
            lost_nodes: 0,
            overflow: false,
            missing: BTreeMap::new(),
        }
    }

    /// Walks the points that were not found whole yet.
    fn all(&mut self, points: &mut [(Manifest, Verdict)]) -> Result<()> {
        let mut last: BTreeMap<(String, String), Image> = BTreeMap::new();
        let total = u64::try_from(points.len()).unwrap_or(0);
        for ((point, found), done) in points.iter_mut().zip(1..) {
            if !found.is_open() {
                continue;
            }
            let mut verdict = Verdict::default();
            let needed_before = self.reading.needs_unindexed();
            self.reading.forget_unindexed();
            for (name, new) in images(point)? {
                let old = last.insert((point.item.clone(), name.to_owned()), new);
                // Trees of different depth have few places in common.
                let old = old.filter(|old| old.depth() == new.depth());
                let old = old.map_or(Digest::HOLE, |old| old.root());
                let top = Place { level: new.depth(), first: 0 };
                let lost = self.at(top, (old, new.root()), new.blocks())?;
                if name == CONFIGURATION {
                    verdict.configuration_lost = lost;
                } else {
                    verdict.disks.push(lost);
                }
            }
            verdict.whole = !verdict.is_damaged() && !self.reading.needs_unindexed();
            if needed_before {
                self.reading.need_unindexed();
            }
            *found = verdict;
            let (bytes_done, bytes_total) = (0, 0);
            let stage = Stage::Points;
            (self.look.progress)(VerifyProgress { stage, done, total, bytes_done, bytes_total });
        }
        Ok(())
    }

    /// Whether something is lost here or below. Calls itself for the children, at most four deep.
    fn at(&mut self, place: Place, (old, new): (Digest, Digest), blocks: u64) -> Result<bool> {
        if new.is_hole() {
            return Ok(false);
        }
        if old == new && !(self.overflow && place.level == 0) {
            return Ok(self.marked.contains(&new));
        }
        if place.level == 0 {
            return self.block(new);
        }
        if let Some(verdict) = self.seen.get(&new) {
            return Ok(verdict);
        }
        if self.look.cancel.is_cancelled() {
            return Err(VaultError::Interrupted);
        }
        let node = self.reading.node(new)?.filter(|node| fits(node, place, blocks));
        let lost = if let Some(node) = node {
            let old = if old.is_hole() { None } else { self.reading.node(old)? };
            let mut lost = false;
            for (slot, child) in node.iter() {
                let old = old.as_ref().map_or(Digest::HOLE, |old| old.get(slot));
                lost |= self.at(place.child(slot), (old, child), blocks)?;
            }
            lost
        } else {
            self.lost_nodes = self.lost_nodes.saturating_add(1);
            self.blame(&new)?;
            true
        };
        if lost {
            self.marked.insert(new);
        }
        self.seen.put(new, lost);
        Ok(lost)
    }

    /// Whether a block is lost.
    fn block(&mut self, block: Digest) -> Result<bool> {
        if self.reading.is_there(&block, self.verified)? {
            return Ok(false);
        }
        if self.overflow || self.marked.len() >= MAX_LOST {
            self.overflow = true;
            self.lost_blocks = self.lost_blocks.saturating_add(1);
        } else if self.marked.insert(block) {
            self.lost_blocks = self.lost_blocks.saturating_add(1);
            self.blame(&block)?;
        }
        Ok(true)
    }

    /// Notes which missing pack is to blame for a loss.
    fn blame(&mut self, digest: &Digest) -> Result<()> {
        for (kind, pack) in self.reading.packs_of(digest)? {
            if !self.reading.is_present(&pack) {
                let (_, records) = self.missing.entry(pack).or_insert((kind, 0));
                *records = records.saturating_add(1);
            }
        }
        Ok(())
    }

    fn report(&mut self, points: &[(Manifest, Verdict)]) -> Result<()> {
        for (pack, (kind, records)) in std::mem::take(&mut self.missing) {
            self.report_missing(kind, &pack, records);
        }
        {
            let mut report = self.look.inspector.report();
            let count = u64::try_from(points.len()).unwrap_or(u64::MAX);
            report.recovery_points = count;
            report.lost_blocks = self.lost_blocks;
            report.lost_nodes = self.lost_nodes;
            report.index_incomplete = self.reading.needs_unindexed();
        }
        for (point, verdict) in points.iter().filter(|(_, verdict)| verdict.is_damaged()) {
            let named = {
                let mut report = self.look.inspector.report();
                report.damaged_recovery_points = report.damaged_recovery_points.saturating_add(1);
                report.damaged_points.len() < MAX_NAMED
            };
            if !named {
                continue;
            }
            let mut disks = Vec::new();
            for (disk, lost) in point.disks.iter().zip(&verdict.disks) {
                if *lost {
                    disks.push(self.disk(disk)?);
                }
            }
            self.look.inspector.report().damaged_points.push(DamagedPoint {
                item: Some(point.item.clone()),
                recovery_point: point.id,
                time: Some(point.time),
                configuration_lost: verdict.configuration_lost,
                disks,
            });
        }
        Ok(())
    }

    fn report_missing(&self, kind: PackKind, pack: &PackId, records: u64) {
        let copies = self.look.inspector.copies.names().iter().map(|copy| UnsoundCopy {
            copy: copy.clone(),
            state: CopyState::Missing,
            reason: "recovery points need it, and it is not there".to_owned(),
        });
        self.look.inspector.damaged(DamagedObject {
            object: names::pack(kind, pack).to_string(),
            kind: match kind {
                PackKind::Data => ObjectKind::DataPack,
                PackKind::Node => ObjectKind::NodePack,
            },
            copies: copies.collect(),
            good_copies: 0,
            repaired: false,
            readable_records: Some(0),
            lost_records: Some(records),
        });
    }

    /// Which bytes of a disk are lost.
    fn disk(&self, disk: &DiskRecord) -> Result<DamagedDisk> {
        let image = image(disk)?;
        let mut damaged = DamagedDisk {
            disk: disk.name.clone(),
            lost_bytes: 0,
            ranges: Vec::new(),
            complete: true,
        };
        self.descend(Place { level: image.depth(), first: 0 }, image.root(), &image, &mut damaged)?;
        Ok(damaged)
    }

    fn descend(
        &self,
        place: Place,
        digest: Digest,
        image: &Image,
        damaged: &mut DamagedDisk,
    ) -> Result<()> {
        // Where not all lost blocks are known by name, it is enough to name the first ranges.
        let enough = self.overflow && !damaged.complete;
        let marked = self.marked.contains(&digest) || (self.overflow && place.level == 0);
        if digest.is_hole() || !marked || enough {
            return Ok(());
        }
        if place.level == 0 {
            let lost =
                self.marked.contains(&digest) || !self.reading.is_there(&digest, self.verified)?;
            if lost {
                add_range(place, image, damaged);
            }
            return Ok(());
        }
        match self.reading.node(digest)?.filter(|node| fits(node, place, image.blocks())) {
            None => add_range(place, image, damaged),
            Some(node) => {
                for (slot, child) in node.iter() {
                    self.descend(place.child(slot), child, image, damaged)?;
                }
            }
        }
        Ok(())
    }
}

/// Whether everything in a node begins before the disk's end.
fn fits(node: &Node, place: Place, blocks: u64) -> bool {
    node.iter().last().is_some_and(|(slot, _)| place.child(slot).first < blocks)
}

fn add_range(place: Place, image: &Image, damaged: &mut DamagedDisk) {
    let offset = place.first.saturating_mul(BLOCK_SIZE_U64);
    let end =
        offset.saturating_add(place.blocks().saturating_mul(BLOCK_SIZE_U64)).min(image.size());
    let length = end.saturating_sub(offset);
    damaged.lost_bytes = damaged.lost_bytes.saturating_add(length);
    let full = damaged.ranges.len() >= MAX_RANGES;
    match damaged.ranges.last_mut() {
        Some(last) if last.offset.saturating_add(last.length) == offset => {
            last.length = last.length.saturating_add(length);
        }
        _ if full => damaged.complete = false,
        _ => damaged.ranges.push(LostRange { offset, length }),
    }
}
